"""Which link is opened, and what is said about it."""

import pytest

from host_sdk.wire.errors import ConfigError, InterfaceError, LinkError, MtuError
from host_sdk.wire.links.auto import SPECS, default_interface, open_link, probe
from host_sdk.wire.links.base import BROADCAST
from host_sdk.wire.links.udp import UdpLink
from host_sdk.wire.schema import UDP_PORT
from tests.rig.netns import Namespace, bridge, run_unprivileged, veth
from tests.rig.wires import closing, collect, needs_root, send


def test_unknown_specs_are_answered_with_the_known_ones() -> None:
    for spec in ("", "xdp", "packet", "packet:", "auto:", "udp:", "tcp:eth0", "XDP:eth0"):
        with pytest.raises(ConfigError, match="is not a link; write one of auto, auto:IFACE") as caught:
            open_link(spec)
        assert all(known in str(caught.value) for known in SPECS)
    for spec in ("udp:127.0.0.1:x", "udp:127.0.0.1:65536"):
        with pytest.raises(ConfigError, match=f"a UDP port is a number up to 65535; try udp:127.0.0.1:{UDP_PORT}"):
            open_link(spec)


def test_udp_by_text() -> None:
    with closing(UdpLink("127.0.0.1", 0)) as (peer,):
        text = peer.format_address(peer.address)
        choice = open_link("udp:127.0.0.1", port=0, peers=[text])
        with closing(choice.link) as (link,):
            assert choice.reason == f"udp:{link.format_address(link.address)} was asked for."
            send(link, [b"who"], BROADCAST)
            assert collect(peer, 1) == [(link.address, b"who")]
        with pytest.raises(LinkError, match="taken"):
            open_link(f"udp:{text}")
    with closing(open_link("udp", port=0).link) as (link,):
        assert link.format_address(link.address).startswith("0.0.0.0:")
        free = link.address & 0xFFFF
    with closing(open_link(f"udp:127.0.0.1:{free}").link) as (link,):
        assert link.address == 0x7F000001 << 16 | free


@needs_root
class TestOnInterfaces:
    def test_auto_takes_xdp_where_it_works(self) -> None:
        with Namespace() as here, Namespace() as there:
            veth(here, "eth0", there, "eth0")
            for spec in ("auto", "auto:eth0"):
                with here.entered():
                    choice = open_link(spec)
                with closing(choice.link):
                    assert choice.link.kind == "xdp"
                    assert choice.reason == "xdp:eth0 is the fastest link."

    def test_auto_takes_packet_where_xdp_does_not_work_and_says_why(self) -> None:
        with Namespace() as here, Namespace() as there:
            veth(here, "eth0", there, "eth0", 9000)
            with here.entered():
                choice = open_link("auto:eth0")
            with closing(choice.link):
                assert choice.link.kind == "packet"
                assert choice.link.mtu == 9000
                assert choice.reason.startswith("packet:eth0 is the fastest link that works here (xdp: interface eth0")
                assert "3400" in choice.reason
            with here.entered(), pytest.raises(MtuError):
                open_link("xdp:eth0")

    def test_auto_takes_udp_where_there_is_no_ethernet(self) -> None:
        with Namespace() as here, here.entered():
            assert default_interface() is None
            choice = open_link("auto", port=0)
            with closing(choice.link):
                assert choice.link.kind == "udp"
                assert "no Ethernet interface is up" in choice.reason

    def test_explicit_kinds_are_what_was_asked_for(self) -> None:
        with Namespace() as here, Namespace() as there:
            veth(here, "eth0", there, "eth0")
            for spec, reason in (
                ("packet:eth0", "packet:eth0 was asked for."),
                ("xdp:eth0", "xdp:eth0 (native mode) was asked for."),
            ):
                with here.entered():
                    choice = open_link(spec)
                with closing(choice.link):
                    assert choice.link.kind == spec.partition(":")[0]
                    assert choice.reason == reason

    def test_an_interface_that_was_named_must_be_there(self) -> None:
        with Namespace() as here, here.entered():
            for spec in ("auto:eth0", "xdp:eth0", "packet:eth0"):
                with pytest.raises(InterfaceError, match="no interface 'eth0'; interfaces that exist: lo"):
                    open_link(spec)

    def test_two_ethertypes_share_an_interface(self) -> None:
        with Namespace() as here, Namespace() as there:
            veth(here, "eth0", there, "eth0")
            opened = []
            for namespace in (here, there):
                with namespace.entered():
                    opened.append(open_link("xdp:eth0", ethertype=0x88B5).link)
                    opened.append(open_link("packet:eth0", ethertype=0x88B6).link)
            with closing(*opened) as (one, other_one, two, other_two):
                send(one, [b"x" * 64], two.address)
                send(other_one, [b"y" * 64], other_two.address)
                assert [pdu for _, pdu in collect(two, 1)] == [b"x" * 64]
                assert [pdu for _, pdu in collect(other_two, 1)] == [b"y" * 64]

    def test_of_several_interfaces_the_default_route_decides(self) -> None:
        with Namespace() as here, Namespace() as there:
            veth(here, "lan0", there, "lan0")
            veth(here, "lan1", there, "lan1")
            with here.entered():
                first = default_interface()
                assert first is not None
                assert first.name == "lan0"
            with here.ip() as ip:
                ip.addr("add", index=here.index("lan1"), address="192.0.2.2", prefixlen=24)
                ip.route("add", dst="default", gateway="192.0.2.1")
            with here.entered():
                routed = default_interface()
                assert routed is not None
                assert routed.name == "lan1"

    def test_probe_tries_everything_and_leaves_nothing(self) -> None:
        with Namespace() as here, Namespace() as there:
            veth(here, "eth0", there, "eth0")
            for _ in range(2):
                with here.entered():
                    probes = probe("eth0")
                assert [(one.kind, one.usable) for one in probes] == [("xdp", True), ("packet", True), ("udp", True)]
                assert probes[0].reason == "native mode, PDUs of up to 1500 bytes"
            with here.entered():
                missing = probe("eth9")
            assert [one.usable for one in missing] == [False, False, True]
            assert "interfaces that exist: lo, eth0" in missing[0].reason

    def test_probe_finds_generic_mode_on_a_bridge(self) -> None:
        with Namespace() as here, Namespace() as there:
            veth(here, "port0", there, "eth0")
            bridge(here, "br0", ["port0"])
            with here.entered():
                probes = probe("br0")
            assert probes[0] == ("xdp", True, "generic mode, PDUs of up to 1500 bytes")


def test_without_root_auto_takes_packet_and_says_why() -> None:
    def body() -> None:
        here, there = Namespace(), Namespace()
        veth(here, "eth0", there, "eth0")
        with here.entered():
            choice = open_link("auto:eth0")
        with closing(choice.link):
            assert choice.link.kind == "packet"
            assert choice.reason.startswith("packet:eth0 is the fastest link that works here (xdp: ")
            assert "sudo" in choice.reason or "ulimit" in choice.reason

    try:
        run_unprivileged(body)
    except PermissionError as error:
        pytest.skip(f"no user namespaces for ordinary users here: {error}")
