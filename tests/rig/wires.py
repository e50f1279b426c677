"""Pairs of links of every kind for tests, and the few things that tests do with links."""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from host_sdk.wire.links.base import FrameBatch, Link
from host_sdk.wire.links.memory import MemorySwitch
from host_sdk.wire.links.packet import PacketLink
from host_sdk.wire.links.udp import UdpLink
from host_sdk.wire.links.xdp import XdpLink
from tests.rig.netns import Namespace, bridge, veth

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces")

SECOND = 1_000_000_000
QUIET = 30_000_000  # ns in which a frame that is on its way would have come


@dataclass
class Wire:
    """Three links that reach each other."""

    one: Link
    two: Link
    three: Link


@contextlib.contextmanager
def memory_wire() -> Iterator[Wire]:
    switch = MemorySwitch()
    with closing(*(switch.attach() for _ in range(3))) as links:
        yield Wire(*links)


@contextlib.contextmanager
def udp_wire() -> Iterator[Wire]:
    with closing(UdpLink("127.0.0.1", 0), UdpLink("127.0.0.1", 0)) as (two, three):
        peers = [link.format_address(link.address) for link in (two, three)]
        with closing(UdpLink("127.0.0.1", 0, peers=peers)) as (one,):
            yield Wire(one, two, three)


@contextlib.contextmanager
def bridged_wire(*kinds: Callable[[str], Link], mtu: int = 1500) -> Iterator[Wire]:
    """Connect three namespaces by a bridge in a fourth; every node's interface is eth0."""
    with contextlib.ExitStack() as stack:
        switch = stack.enter_context(Namespace())
        nodes = [stack.enter_context(Namespace()) for _ in kinds]
        for number, node in enumerate(nodes):
            veth(switch, f"port{number}", node, "eth0", mtu)
        bridge(switch, "br0", [f"port{number}" for number in range(len(nodes))])
        links = [open_in(node, kind, "eth0") for node, kind in zip(nodes, kinds, strict=True)]
        yield Wire(*stack.enter_context(closing(*links)))


def xdp_wire() -> contextlib.AbstractContextManager[Wire]:
    return bridged_wire(XdpLink, XdpLink, XdpLink)


def generic_wire() -> contextlib.AbstractContextManager[Wire]:
    def generic(interface: str) -> Link:
        return XdpLink(interface, mode="generic")

    return bridged_wire(generic, generic, generic)


def packet_wire() -> contextlib.AbstractContextManager[Wire]:
    return bridged_wire(PacketLink, PacketLink, PacketLink)


def mixed_wire() -> contextlib.AbstractContextManager[Wire]:
    return bridged_wire(XdpLink, PacketLink, XdpLink)


WIRES = [
    pytest.param(memory_wire, id="memory"),
    pytest.param(udp_wire, id="udp"),
    pytest.param(packet_wire, id="packet", marks=needs_root),
    pytest.param(xdp_wire, id="xdp", marks=needs_root),
    pytest.param(generic_wire, id="xdp-generic", marks=needs_root),
    pytest.param(mixed_wire, id="xdp-packet", marks=needs_root),
]


def open_in(namespace: Namespace, kind: Callable[[str], Link], interface: str) -> Link:
    """Open a link inside a namespace."""
    with namespace.entered():
        return kind(interface)


@contextlib.contextmanager
def closing(*links: Link) -> Iterator[tuple[Link, ...]]:
    """Close links at the end."""
    with contextlib.ExitStack() as stack:
        for link in links:
            stack.callback(link.close)
        yield links


def fill(batch: FrameBatch, pdus: list[bytes], peer: int) -> None:
    """Write PDUs into an allocated batch."""
    for index, pdu in enumerate(pdus):
        start = int(batch.starts[index])
        batch.memory[start : start + len(pdu)] = np.frombuffer(pdu, np.uint8)
    batch.lengths[:] = [len(pdu) for pdu in pdus]
    batch.peers[:] = peer


def send(link: Link, pdus: list[bytes], peer: int) -> int:
    """Send PDUs to one peer in as few batches as the link allows and return how many it took."""
    taken = 0
    while pdus:
        batch = link.allocate(len(pdus))
        assert len(batch), "the link has no buffer for one frame"
        fill(batch, pdus[: len(batch)], peer)
        taken += link.send(batch)
        pdus = pdus[len(batch) :]
    return taken


def collect(link: Link, count: int, patience_ns: int = SECOND) -> list[tuple[int, bytes]]:
    """Receive ``count`` frames, or fewer where none comes for a while; return sender and PDU of each."""
    frames: list[tuple[int, bytes]] = []
    while len(frames) < count and link.wait(patience_ns):
        batch = link.receive()
        frames += [(int(batch.peers[index]), batch.pdu(index).tobytes()) for index in range(len(batch))]
    return frames


def assert_quiet(link: Link) -> None:
    """Nothing comes to a link."""
    assert collect(link, 1, QUIET) == []
