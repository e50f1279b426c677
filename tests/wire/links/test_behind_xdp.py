"""A packet link beside an xdp link of the same interface sees nothing, and knows why."""

import subprocess
import sys

import pytest

from host_sdk.wire.links.interface import has_xdp_program
from host_sdk.wire.links.packet import PacketLink
from host_sdk.wire.links.xdp import XdpLink
from tests.rig.netns import Namespace, veth
from tests.rig.wires import needs_root, open_in


@needs_root
@pytest.mark.parametrize("mode", ["native", "generic"])
def test_a_packet_link_says_that_it_is_behind_a_program(mode: str) -> None:
    here, there = Namespace(), Namespace()
    veth(here, "a", there, "b")
    first = open_in(here, PacketLink, "a")
    assert isinstance(first, PacketLink)
    assert not first.behind_xdp
    xdp = open_in(here, lambda name: XdpLink(name, mode=mode), "a")  # type: ignore[arg-type]
    second = open_in(here, PacketLink, "a")
    other = open_in(there, PacketLink, "b")
    assert isinstance(second, PacketLink)
    assert isinstance(other, PacketLink)
    assert (second.behind_xdp, other.behind_xdp) == (True, False)
    xdp.close()
    third = open_in(here, PacketLink, "a")
    assert isinstance(third, PacketLink)
    assert not third.behind_xdp
    for link in (first, second, third, other):
        link.close()


def test_an_interface_that_is_not_there_has_no_program() -> None:
    assert not has_xdp_program(1 << 30)


@needs_root
def test_a_command_says_why_nobody_may_answer() -> None:
    here, there = Namespace(), Namespace()
    veth(here, "a", there, "b")
    xdp = open_in(here, XdpLink, "a")
    command = [sys.executable, "-m", "host_sdk.cli.main", "discover", "--link", "packet:a"]
    with here.entered():
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 3
    assert "nobody answered" in out
    assert "an XDP program runs on this interface" in err
    assert "--link packet:IFACE" in err
    xdp.close()
