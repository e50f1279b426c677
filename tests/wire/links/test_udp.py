"""What only the UDP link does."""

import os
import socket
from pathlib import Path

import pytest

from host_sdk.wire.errors import ConfigError, InterfaceError, LinkError, LinkPrivilegeError, MtuError
from host_sdk.wire.links.base import BROADCAST
from host_sdk.wire.links.udp import UdpLink
from host_sdk.wire.schema import UDP_PORT
from tests.rig.netns import run_unprivileged
from tests.rig.wires import assert_quiet, closing, collect, fill, send

HOST = "127.0.0.1"


def test_addresses() -> None:
    with closing(UdpLink(HOST, 0)) as (link,):
        assert link.parse_address("192.0.2.7:80") == (0xC0000207 << 16 | 80)
        assert link.parse_address("192.0.2.7") == (0xC0000207 << 16 | UDP_PORT)
        assert link.parse_address("localhost:7") == (0x7F000001 << 16 | 7)
        assert link.format_address(0xC0000207 << 16 | 80) == "192.0.2.7:80"
        assert link.format_address(link.address).startswith("127.0.0.1:")
        for wrong in ("", ":80", "192.0.2.7:", "192.0.2.7:x", "192.0.2.7:0", "192.0.2.7:65536", "two..dots:1"):
            with pytest.raises(ConfigError):
                link.parse_address(wrong)


def test_a_plain_socket_is_a_peer() -> None:
    with closing(UdpLink(HOST, 0)) as (link,), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain:
        plain.bind((HOST, 0))
        plain.settimeout(1)
        plain.sendto(b"question", (HOST, link.address & 0xFFFF))
        [(peer, pdu)] = collect(link, 1)
        assert pdu == b"question"
        assert peer == link.parse_address(f"{HOST}:{plain.getsockname()[1]}")
        send(link, [b"answer", b""], peer)
        assert plain.recvfrom(100) == (b"answer", (HOST, link.address & 0xFFFF))
        assert plain.recv(100) == b""
        plain.sendto(b"", (HOST, link.address & 0xFFFF))
        assert collect(link, 1) == [(peer, b"")]


def test_the_largest_datagram_passes_over_loopback() -> None:
    with closing(UdpLink(HOST, 0, mtu=65507), UdpLink(HOST, 0, mtu=65507)) as (one, two):
        large = [bytes([number]) * 65507 for number in range(8)]
        assert send(one, large, two.address) == 8
        assert [pdu for _, pdu in collect(two, 8)] == large


def test_datagrams_larger_than_the_mtu_are_dropped_and_counted() -> None:
    with closing(UdpLink(HOST, 0, mtu=9000), UdpLink(HOST, 0, mtu=600)) as (one, two):
        assert send(one, [b"a" * 600, b"b" * 601, b"c" * 9000, b"d"], two.address) == 4
        assert [pdu for _, pdu in collect(two, 2)] == [b"a" * 600, b"d"]
        assert two.statistics().rx_drops == {"too_large": 2}
        assert two.statistics().rx_frames == 2


def test_a_peer_that_is_gone_does_not_break_the_link() -> None:
    with closing(UdpLink(HOST, 0), UdpLink(HOST, 0), UdpLink(HOST, 0)) as (one, two, gone):
        gone.close()
        for _ in range(5):
            assert send(one, [b"x"] * 10, gone.address) == 10
            assert len(one.receive()) == 0
            send(one, [b"y"], two.address)
            assert [pdu for _, pdu in collect(two, 1)] == [b"y"]


def test_refused_datagrams_are_counted_and_the_others_go() -> None:
    with closing(UdpLink(HOST, 0), UdpLink(HOST, 0)) as (one, two):
        batch = one.allocate(5)
        fill(batch, [b"a", b"b", b"c", b"d", b"e"], two.address)
        batch.peers[1] = one.parse_address("192.0.2.8:9")  # from loopback to elsewhere: the kernel refuses
        batch.peers[3] = 0x7F000001 << 16  # port 0
        batch.peers[4] = one.parse_address("192.0.2.8:9")
        assert one.send(batch) == 2
        assert [pdu for _, pdu in collect(two, 2)] == [b"a", b"c"]
        drops = one.statistics().tx_drops
        assert sum(drops.values()) == 3
        assert (one.statistics().tx_frames, one.statistics().tx_bytes) == (2, 2)


def test_broadcast_without_peers_is_counted() -> None:
    with closing(UdpLink(HOST, 0)) as (link,):
        assert send(link, [b"who"], BROADCAST) == 0
        assert link.statistics().tx_drops == {"no_peers": 1}
        assert_quiet(link)


def test_broadcast_goes_on_when_one_peer_cannot_be_reached() -> None:
    with closing(UdpLink(HOST, 0)) as (two,):
        peers = ["192.0.2.8:9", two.format_address(two.address)]
        with closing(UdpLink(HOST, 0, peers=peers)) as (one,):
            assert send(one, [b"who"], BROADCAST) == 1
            assert collect(two, 1) == [(one.address, b"who")]
            assert sum(one.statistics().tx_drops.values()) == 1


def test_what_cannot_be_opened_says_why() -> None:
    with closing(UdpLink(HOST, 0)) as (link,):
        port = link.address & 0xFFFF
        with pytest.raises(LinkError, match=rf"UDP port {port} of 127\.0\.0\.1 is taken; choose another, as in udp:"):
            UdpLink(HOST, port)
    with pytest.raises(InterfaceError, match=r"no interface here has the address 192\.0\.2\.1;"):
        UdpLink("192.0.2.1", 0)
    with pytest.raises(ConfigError, match=r"host 'two\.\.dots' has no IPv4 address"):
        UdpLink("two..dots", 0)
    with pytest.raises(ConfigError, match="'::1' is not an address"):
        UdpLink(HOST, 0, peers=["::1"])
    with pytest.raises(ConfigError, match="number up to 65535"):
        UdpLink(HOST, 65536)
    for mtu in (575, 65508):
        with pytest.raises(MtuError, match=f"PDUs of 576 to 65507 bytes, not {mtu}"):
            UdpLink(HOST, 0, mtu=mtu)


def test_a_reserved_port_says_so() -> None:
    reserved = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) - 1
    if os.geteuid() != 0 or reserved < 1:
        pytest.skip("needs root, to become a user who may not have a reserved port")

    def body() -> None:
        with pytest.raises(LinkPrivilegeError, match=f"UDP port {reserved} is reserved; use one from 1024 on"):
            UdpLink(HOST, reserved)

    run_unprivileged(body, namespaces=False)
