"""What becomes of a link when its interface changes under it, and what it says when it cannot be opened."""

import resource
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from pyroute2.netlink.exceptions import NetlinkError

from host_sdk.wire.errors import ConfigError, InterfaceError, LinkError, LinkPrivilegeError, MtuError
from host_sdk.wire.links.base import Link
from host_sdk.wire.links.mmsg import MessageSocket
from host_sdk.wire.links.packet import PacketLink
from host_sdk.wire.links.xdp import XdpLink
from tests.rig.netns import Namespace, run_unprivileged, veth
from tests.rig.wires import (
    SECOND,
    assert_quiet,
    bridged_wire,
    closing,
    collect,
    fill,
    needs_root,
    open_in,
    send,
)

ROOT = Path(__file__).parents[3]
Kind = Callable[[str], Link]
KINDS = [pytest.param(XdpLink, id="xdp"), pytest.param(PacketLink, id="packet")]
pytestmark = needs_root


@pytest.fixture
def ends() -> Iterator[tuple[Namespace, Namespace]]:
    """Two namespaces that a veth pair connects, eth0 to eth0."""
    with Namespace() as left, Namespace() as right:
        veth(left, "eth0", right, "eth0")
        yield left, right


def use(link: Link) -> None:
    """Poll as an owner does who never waits."""
    for _ in range(1000):
        link.receive()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("notice", [lambda link: link.wait(5 * SECOND), use], ids=["wait", "receive"])
class TestChangesUnderARunningLink:
    def test_removed(self, ends: tuple[Namespace, Namespace], kind: Kind, notice: Callable[[Link], None]) -> None:
        left, right = ends
        with closing(open_in(left, kind, "eth0")) as (link,):
            right.delete("eth0")
            with pytest.raises(InterfaceError, match="interface eth0 was removed"):
                notice(link)
            with pytest.raises(InterfaceError, match="interface eth0 was removed"):
                send(link, [b"x" * 64], 2)

    def test_down(self, ends: tuple[Namespace, Namespace], kind: Kind, notice: Callable[[Link], None]) -> None:
        left, _ = ends
        with closing(open_in(left, kind, "eth0")) as (link,):
            left.set("eth0", state="down")
            with pytest.raises(InterfaceError, match="eth0 is down; `ip link set dev eth0 up`"):
                notice(link)

    def test_renamed(self, ends: tuple[Namespace, Namespace], kind: Kind, notice: Callable[[Link], None]) -> None:
        left, _ = ends
        with closing(open_in(left, kind, "eth0")) as (link,):
            left.set("eth0", state="down")
            left.set("eth0", ifname="lan7")
            with pytest.raises(InterfaceError, match="interface eth0 is called lan7 now"):
                notice(link)

    def test_mtu_shrunk(self, ends: tuple[Namespace, Namespace], kind: Kind, notice: Callable[[Link], None]) -> None:
        left, _ = ends
        with closing(open_in(left, kind, "eth0")) as (link,):
            left.set("eth0", mtu=900)
            with pytest.raises(MtuError, match="now 900, was 1500"):
                notice(link)
            link.close()
            with closing(open_in(left, kind, "eth0")) as (again,):
                assert again.mtu == 900

    def test_another_mac_address(
        self, ends: tuple[Namespace, Namespace], kind: Kind, notice: Callable[[Link], None]
    ) -> None:
        left, _ = ends
        with closing(open_in(left, kind, "eth0")) as (link,):
            left.set("eth0", address="02:00:00:00:00:77")
            with pytest.raises(InterfaceError, match="another MAC address"):
                notice(link)

    def test_changes_elsewhere_are_no_concern(
        self, ends: tuple[Namespace, Namespace], kind: Kind, notice: Callable[[Link], None]
    ) -> None:
        left, right = ends
        with closing(open_in(left, kind, "eth0"), open_in(right, kind, "eth0")) as (link, peer):
            veth(left, "other0", left, "other1")
            left.set("other0", mtu=1000)
            left.delete("other1")
            timer = threading.Timer(0.05, send, (peer, [b"x" * 64], link.address))
            timer.start()
            notice(link)
            assert len(collect(link, 1)) == 1
            timer.join()


@pytest.mark.parametrize("kind", KINDS)
class TestOneLink:
    def test_a_wait_that_is_under_way_notices(self, ends: tuple[Namespace, Namespace], kind: Kind) -> None:
        left, right = ends
        with closing(open_in(left, kind, "eth0")) as (link,):
            timer = threading.Timer(0.05, right.delete, ("eth0",))
            timer.start()
            # The kernel takes an interface down before it removes it, and says so each time.
            with pytest.raises(InterfaceError, match="removed|is down"):
                link.wait(None)
            timer.join()

    def test_works_again_when_reopened_after_down(self, ends: tuple[Namespace, Namespace], kind: Kind) -> None:
        left, right = ends
        with closing(open_in(left, kind, "eth0"), open_in(right, kind, "eth0")) as (link, peer):
            left.set("eth0", state="down")
            with pytest.raises(InterfaceError):
                send(link, [b"x" * 64], peer.address)
            left.set("eth0", state="up")
            link.close()
            with closing(open_in(left, kind, "eth0")) as (again,):
                send(again, [b"x" * 64], peer.address)
                assert collect(peer, 1) == [(again.address, b"x" * 64)]

    def test_frames_for_others_are_counted_and_dropped(self, ends: tuple[Namespace, Namespace], kind: Kind) -> None:
        left, right = ends
        with closing(open_in(left, kind, "eth0"), open_in(right, kind, "eth0")) as (link, peer):
            send(peer, [b"x" * 64], 0x0200_0000_0099)
            assert collect(link, 1, 20_000_000) == []
            send(peer, [b"m" * 64], 0x0180_C200_0001)
            send(peer, [b"y" * 64], link.address)
            assert collect(link, 1) == [(peer.address, b"y" * 64)]
            assert link.statistics().rx_drops == {"not_for_us": 2}
            assert link.statistics().rx_frames == 1

    def test_other_ethertypes_pass_by(self, ends: tuple[Namespace, Namespace], kind: Kind) -> None:
        left, right = ends
        with closing(open_in(left, kind, "eth0")) as (link,), right.entered():
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
                raw.bind(("eth0", 0))
                raw.send(link.address.to_bytes(6, "big") + bytes(6) + b"\x88\xb6" + b"x" * 50)
                raw.send(link.address.to_bytes(6, "big") + bytes(6) + b"\x88\xb5" + b"y" * 7)
            assert collect(link, 1) == [(0, b"y" * 7)]
            assert_quiet(link)

    def test_missing_interface_lists_those_that_exist(self, ends: tuple[Namespace, Namespace], kind: Kind) -> None:
        with pytest.raises(InterfaceError, match="no interface 'eth7'; interfaces that exist: lo, eth0"):
            open_in(ends[0], kind, "eth7")
        with pytest.raises(InterfaceError, match="no interface 'a name too long for any'"):
            open_in(ends[0], kind, "a name too long for any")

    def test_down_interface_says_how_to_bring_it_up(self, ends: tuple[Namespace, Namespace], kind: Kind) -> None:
        ends[0].set("eth0", state="down")
        with pytest.raises(InterfaceError, match="`ip link set dev eth0 up`"):
            open_in(ends[0], kind, "eth0")

    def test_loopback_is_not_ethernet(self, ends: tuple[Namespace, Namespace], kind: Kind) -> None:
        with pytest.raises(InterfaceError, match="does not carry Ethernet frames; use udp"):
            open_in(ends[0], kind, "lo")

    def test_small_mtu(self, ends: tuple[Namespace, Namespace], kind: Kind) -> None:
        ends[0].set("eth0", mtu=500)
        with pytest.raises(MtuError, match="MTU 500, the protocol needs 576; `ip link set dev eth0 mtu 1500`"):
            open_in(ends[0], kind, "eth0")


def test_packet_counts_frames_that_the_socket_has_no_room_for(ends: tuple[Namespace, Namespace]) -> None:
    left, right = ends
    with closing(open_in(left, PacketLink, "eth0"), open_in(right, PacketLink, "eth0")) as (link, peer):
        total = 0
        while not link.statistics().rx_drops and total < 100_000:
            total += send(peer, [b"x" * 1500] * 64, link.address)
        received = len(collect(link, total, 50_000_000))
        assert link.statistics().rx_drops == {"kernel_ring_full": total - received}


def test_packet_counts_pdus_that_outgrew_the_mtu(ends: tuple[Namespace, Namespace]) -> None:
    left, right = ends
    with closing(open_in(left, PacketLink, "eth0"), open_in(right, PacketLink, "eth0")) as (link, peer):
        left.set("eth0", mtu=1000)
        sent = [b"a" * 1000, b"b" * 1001, b"c" * 64, b"d" * 1500]
        assert send(link, sent, peer.address) == 2
        assert link.statistics().tx_drops == {"too_large": 2}
        assert link.statistics().tx_bytes == 1064
        assert [pdu for _, pdu in collect(peer, 2)] == [sent[0], sent[2]]


def test_packet_drops_frames_larger_than_its_mtu(ends: tuple[Namespace, Namespace]) -> None:
    left, right = ends
    left.set("eth0", mtu=1400)
    with closing(open_in(left, PacketLink, "eth0"), open_in(right, PacketLink, "eth0")) as (link, peer):
        left.set("eth0", mtu=1500)
        send(peer, [b"x" * 1401, b"y" * 1400], link.address)
        assert collect(link, 1) == [(peer.address, b"y" * 1400)]
        assert link.statistics().rx_drops == {"too_large": 1}


def test_xdp_counts_what_a_lost_carrier_costs_and_goes_on(ends: tuple[Namespace, Namespace]) -> None:
    left, right = ends
    with closing(open_in(left, XdpLink, "eth0")) as (link,):
        right.set("eth0", state="down")
        assert send(link, [b"x" * 64] * 10, 2) == 10
        assert link.statistics().tx_drops == {"interface_busy": 10}
        right.set("eth0", state="up")
        with closing(open_in(right, XdpLink, "eth0")) as (peer,):
            send(link, [b"y" * 64] * 10, peer.address)
            assert [pdu for _, pdu in collect(peer, 10)] == [b"y" * 64] * 10
            assert link.statistics().tx_drops == {"interface_busy": 10}


def test_packet_counts_frames_that_a_slow_interface_has_no_room_for(
    ends: tuple[Namespace, Namespace],
) -> None:
    left, right = ends
    slow_down(left, queue_bytes=20_000)
    with closing(open_in(left, PacketLink, "eth0"), open_in(right, PacketLink, "eth0")) as (link, peer):
        taken = send(link, [b"x" * 1000] * 64, peer.address)
        assert 0 < taken < 64
        assert link.statistics().tx_drops == {"queue_full": 64 - taken}
        assert link.statistics().tx_frames == taken
        assert len(collect(peer, taken)) == taken


def test_messages_are_dropped_when_the_socket_stays_full(ends: tuple[Namespace, Namespace]) -> None:
    left, right = ends
    slow_down(left, queue_bytes=1_000_000)
    with left.entered():
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
        sock.bind(("eth0", 0))
    with sock, closing(open_in(right, PacketLink, "eth0")) as (peer,):
        messages = MessageSocket(sock, np.dtype("V20"), 1014)
        frame = b"\xff" * 6 + bytes(6) + b"\x88\xb5" + b"x" * 1000
        batch = messages.allocate(64)
        fill(batch, [frame] * 64, 0)
        address = struct.pack("=HHiHBB8s", 17, 0, left.index("eth0"), 0, 0, 6, b"\xff" * 6)
        messages.tx.addresses[:] = np.frombuffer(address, "V20")
        taken = messages.send(batch.lengths)
        assert 0 < taken < 64
        assert messages.counted.tx_drops == {"queue_full": 64 - taken}
        assert messages.counted.tx_bytes == taken * 1014
        assert len(collect(peer, taken)) == taken


def slow_down(namespace: Namespace, queue_bytes: int) -> None:
    """Let an interface send 100 kB in a second, and queue no more than so many bytes."""
    with namespace.ip() as ip:
        try:
            ip.tc("add", "tbf", namespace.index("eth0"), rate=100_000, burst=4000, limit=queue_bytes)
        except NetlinkError as error:
            pytest.skip(f"this kernel has no tbf: {error}")


def test_xdp_counts_frames_that_find_no_buffer(ends: tuple[Namespace, Namespace]) -> None:
    left, right = ends

    def small(interface: str) -> Link:
        return XdpLink(interface, umem_size=256 * 2048)

    with closing(open_in(left, small, "eth0"), open_in(right, XdpLink, "eth0")) as (link, peer):
        assert link.capacity == 64
        for _ in range(4):
            send(peer, [b"x" * 64] * 64, link.address)
        assert len(collect(link, 256, 50_000_000)) == 128
        drops = link.statistics().rx_drops
        assert sum(drops.values()) == 128
        assert set(drops) <= {"rx_fill_ring_empty", "rx_ring_full"}
        send(peer, [b"y" * 64], link.address)
        assert collect(link, 1) == [(peer.address, b"y" * 64)]


@pytest.mark.parametrize(("mtu", "mode"), [(1500, "native"), (3400, "native"), (3824, "generic")])
def test_xdp_mode_by_mtu(mtu: int, mode: str) -> None:
    with bridged_wire(XdpLink, XdpLink, PacketLink, mtu=mtu) as wire:
        assert isinstance(wire.one, XdpLink)
        assert wire.one.mode == mode
        assert wire.one.mtu == mtu
        large = [bytes([number]) * mtu for number in range(64)]
        for source, target in ((wire.one, wire.two), (wire.two, wire.one), (wire.three, wire.one)):
            send(source, large, target.address)
            assert collect(target, 64) == [(source.address, pdu) for pdu in large]


def test_xdp_says_which_mtu_works() -> None:
    with Namespace() as left, Namespace() as right:
        veth(left, "eth0", right, "eth0", 9000)
        with pytest.raises(MtuError, match=r"MTU 9000, .* 3824 .* 3400; `ip link set dev eth0 mtu 3400`.*packet:eth0"):
            open_in(left, XdpLink, "eth0")
        for namespace in (left, right):
            namespace.set("eth0", mtu=3824)
        with pytest.raises(MtuError, match="no XDP in native mode at MTU 3824; on veth 3400 works"):
            open_in(left, lambda name: XdpLink(name, mode="native"), "eth0")


def test_xdp_leaves_an_interface_to_its_first_owner(ends: tuple[Namespace, Namespace]) -> None:
    owner = open_in(ends[0], XdpLink, "eth0")
    with closing(owner), pytest.raises(LinkError, match=r"has an XDP program already.*packet:eth0"):
        open_in(ends[0], XdpLink, "eth0")
    with closing(open_in(ends[0], XdpLink, "eth0")):
        pass


def test_xdp_has_no_such_queue(ends: tuple[Namespace, Namespace]) -> None:
    with pytest.raises(LinkError, match="no receive queue 9"):
        open_in(ends[0], lambda name: XdpLink(name, queue=9), "eth0")
    with pytest.raises(ConfigError, match="UMEM of 1024 bytes is too small"):
        open_in(ends[0], lambda name: XdpLink(name, umem_size=1024), "eth0")
    with closing(open_in(ends[0], XdpLink, "eth0")):
        pass  # the failures before left nothing attached


def test_xdp_program_ends_with_its_process(ends: tuple[Namespace, Namespace]) -> None:
    left, right = ends
    script = textwrap.dedent("""
        import time
        from host_sdk.wire.links.xdp import XdpLink
        link = XdpLink("eth0")
        print("open", flush=True)
        time.sleep(60)
    """)
    with left.entered():
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=ROOT)
    with process:
        assert process.stdout
        assert process.stdout.readline() == b"open\n"
        with pytest.raises(LinkError, match="XDP program already"):
            open_in(left, XdpLink, "eth0")
        process.kill()
    deadline = time.monotonic() + 5
    while True:  # the kernel takes the socket apart after the process has ended
        try:
            link = open_in(left, XdpLink, "eth0")
            break
        except LinkError:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    with closing(link, open_in(right, XdpLink, "eth0")) as (link, peer):
        send(peer, [b"x" * 64], link.address)
        assert len(collect(link, 1)) == 1


def test_the_memory_limit_is_explained() -> None:
    def body() -> None:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (1 << 20, 1 << 20))
        namespace = Namespace()
        veth(namespace, "eth0", namespace, "eth1")
        with pytest.raises(LinkPrivilegeError, match=r"locked memory .* 8192 KiB; raise it \(`ulimit -l`"):
            open_in(namespace, XdpLink, "eth0")

    unprivileged(body)


def test_packet_works_without_root_in_a_user_namespace() -> None:
    def body() -> None:
        left, right = Namespace(), Namespace()
        veth(left, "eth0", right, "eth0")
        with closing(open_in(left, PacketLink, "eth0"), open_in(right, PacketLink, "eth0")) as (one, two):
            assert two.capacity >= 64, "a socket buffer of the ordinary size is too small"
            burst = [bytes([number % 256]) * 1500 for number in range(two.capacity)]
            assert send(one, burst, two.address) == len(burst)
            assert collect(two, len(burst)) == [(one.address, pdu) for pdu in burst]
        with pytest.raises(LinkPrivilegeError, match=r"CAP_BPF with CAP_NET_ADMIN .*sudo.*packet:eth0"):
            open_in(left, lambda name: XdpLink(name, umem_size=512 << 10), "eth0")

    unprivileged(body)


def unprivileged(body: Callable[[], None]) -> None:
    try:
        run_unprivileged(body)
    except PermissionError as error:
        pytest.skip(f"no user namespaces for ordinary users here: {error}")
