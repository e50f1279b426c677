"""The door beside a link: who gets in, and which way answers go."""

import socket
from collections.abc import Callable, Iterator
from contextlib import closing as closed

import pytest

from host_sdk.wire.errors import InterfaceError
from host_sdk.wire.links.base import LOCAL_PEER
from host_sdk.wire.links.classic_bpf import answer_filter, open_tap
from host_sdk.wire.links.door import DoorLink
from host_sdk.wire.links.ethernet import parse_mac
from host_sdk.wire.links.packet import PacketLink
from host_sdk.wire.links.xdp import XdpLink
from host_sdk.wire.schema import ETHERTYPE
from tests.rig.netns import Namespace
from tests.rig.switched import Switched, switched
from tests.rig.wires import assert_quiet, closing, collect, fill, needs_root, open_in, send

pytestmark = needs_root
CALLER = 0x024E_0000_0001
TYPE = ETHERTYPE.to_bytes(2, "big")


@pytest.fixture(params=[PacketLink, XdpLink], ids=["packet", "xdp"])
def door(request: pytest.FixtureRequest, lab: Switched) -> Iterator[DoorLink]:
    kind: Callable[[str], PacketLink | XdpLink] = request.param
    with closing(open_in(lab.places["node"], lambda name: DoorLink(kind(name), ETHERTYPE), "eth0")) as (link,):
        assert isinstance(link, DoorLink)
        yield link


@pytest.fixture(scope="module")
def lab() -> Iterator[Switched]:
    with switched("host", "node") as made:
        yield made


@pytest.fixture
def caller(lab: Switched) -> Iterator[socket.socket]:
    """A process beside the node, which gets what is sent to CALLER."""
    with lab.places["node"].entered(), closed(open_tap("eth0", answer_filter(CALLER, ETHERTYPE))) as tap:
        tap.settimeout(5)
        yield tap


def frame(destination: int, source: int, payload: bytes, ethertype: bytes = TYPE) -> bytes:
    return destination.to_bytes(6, "big") + source.to_bytes(6, "big") + ethertype + payload


def test_who_asks_beside_the_node_gets_in_and_is_answered(door: DoorLink, caller: socket.socket) -> None:
    caller.send(frame(door.address, CALLER, b"who is there? " * 4))
    assert collect(door, 1) == [(LOCAL_PEER | CALLER, b"who is there? " * 4)]
    assert door.format_address(LOCAL_PEER | CALLER) == "02:4e:00:00:00:01"
    assert send(door, [b"the node " * 8], LOCAL_PEER | CALLER) == 1
    assert caller.recv(2000) == frame(CALLER, door.address, b"the node " * 8)
    counted = door.statistics()
    assert (counted.rx_frames, counted.tx_frames, counted.rx_bytes, counted.tx_bytes) == (1, 1, 56, 72)


def test_nobody_else_gets_in(door: DoorLink, caller: socket.socket) -> None:
    for stranger in (
        frame(door.address, door.address, b"s" * 60),  # a client on the same interface
        frame(door.address, 0x0000_5E00_0001, b"m" * 60),  # a maker's address
        frame(door.address, 0x034E_0000_0001, b"g" * 60),  # a group
        frame(door.address ^ 1, CALLER, b"o" * 60),  # for another station
        frame(door.address ^ 1 << 40, CALLER, b"p" * 60),
        frame(0xFFFF_FFFF_FFFF, CALLER, b"b" * 60),
        frame(door.address, CALLER, b"e" * 60, b"\x88\xb6"),
    ):
        caller.send(stranger)
    assert_quiet(door)
    send(door, [b"z" * 60], CALLER)  # its own frames do not come back
    assert_quiet(door)


def test_from_the_wire_an_address_is_only_an_address(lab: Switched, door: DoorLink) -> None:
    with lab.places["host"].entered(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as wire:
        wire.bind(("eth0", 0))
        wire.send(frame(door.address, CALLER, b"x" * 60))
    assert collect(door, 1) == [(CALLER, b"x" * 60)]


def test_a_batch_for_both_sides_is_parted(lab: Switched, door: DoorLink, caller: socket.socket) -> None:
    with lab.places["host"].entered():
        host = PacketLink("eth0")
    with closing(host):
        caller.send(frame(door.address, CALLER, b"?" * 60))
        assert len(collect(door, 1)) == 1
        pdus = [bytes([65 + index]) * (50 + index) for index in range(5)]
        batch = door.allocate(5)
        fill(batch, pdus, 0)
        batch.peers[:] = [LOCAL_PEER | CALLER, host.address, LOCAL_PEER | CALLER, host.address, host.address]
        assert door.send(batch) == 5
        assert [caller.recv(2000)[14:] for _ in range(2)] == [pdus[0], pdus[2]]
        assert collect(host, 3) == [(door.address, pdus[index]) for index in (1, 3, 4)]


def test_a_busy_link_looks_at_its_door_too(lab: Switched, door: DoorLink, caller: socket.socket) -> None:
    with lab.places["host"].entered():
        host = PacketLink("eth0")
    with closing(host):
        caller.send(frame(door.address, CALLER, b"?" * 60))
        for _ in range(200):  # there is always a frame from the wire
            send(host, [b"w" * 60], door.address)
            assert door.wait(5_000_000_000)
            batch = door.receive()
            if len(batch) and int(batch.peers[0]) & LOCAL_PEER:
                return
        pytest.fail("who waits at the door was not let in")


def test_a_door_of_an_interface_that_goes_is_shut_with_it() -> None:
    with Namespace() as namespace:
        with namespace.ip() as ip:
            ip.link("add", ifname="eth0", kind="veth", peer={"ifname": "eth9"})
        for name in ("eth0", "eth9"):
            namespace.set(name, state="up")
        with closing(open_in(namespace, lambda name: DoorLink(PacketLink(name), ETHERTYPE), "eth0")) as (link,):
            assert link.address != parse_mac("00:00:00:00:00:00")
            namespace.delete("eth0")
            with pytest.raises(InterfaceError, match="removed"):
                link.wait(5_000_000_000)
