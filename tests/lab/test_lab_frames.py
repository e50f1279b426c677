from dataclasses import replace
from pathlib import Path

import pytest

from host_sdk.lab.lab import Lab
from host_sdk.lab.topology import default_mac
from host_sdk.wire.errors import ConfigError
from tests.rig.labs import echo_topology, exchange, mac_bytes, needs_lab, on_node

pytestmark = needs_lab

HOST, N1, N2 = (mac_bytes(default_mac(index)) for index in range(3))
BROADCAST = b"\xff" * 6

# Listens on every protocol for a while and prints how many frames there were.
LISTEN = """
import select, socket
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as link:
    link.bind(("eth0", 3))
    frames = 0
    while select.select([link], [], [], 1.0)[0]:
        link.recv(65536)
        frames += 1
    print(frames)
"""


@pytest.mark.parametrize("mtu", [1500, 3400, 9000])
def test_frames_as_large_as_the_mtu_cross_the_switch(mtu: int) -> None:
    payload = bytes(range(256)) * (mtu // 256) + bytes(mtu % 256)
    with Lab.up(echo_topology(mtu=mtu)) as lab:
        answers = exchange(lab, [(N1, payload), (N2, payload)], answers=1)
    assert answers == [[HOST + N1 + b"\x88\xb5" + payload], [HOST + N2 + b"\x88\xb5" + payload]]


@pytest.mark.parametrize("mtu", [1500, 3400])
def test_one_cable_joins_the_host_and_the_only_appliance(mtu: int, tmp_path: Path) -> None:
    payload = bytes(range(256)) * (mtu // 256) + bytes(mtu % 256)
    topology = replace(echo_topology(count=1, mtu=mtu), cabling="direct")
    with Lab.up(topology) as lab:
        assert exchange(lab, [(N1, payload)], answers=1) == [[HOST + N1 + b"\x88\xb5" + payload]]
        with pytest.raises(ConfigError, match="has no switch to capture at"):
            lab.tap(tmp_path / "nothing.pcap")
    assert not (tmp_path / "nothing.pcap").exists()


def test_a_broadcast_reaches_all() -> None:
    payload = b"who is there?".ljust(46, b"\0")
    with Lab.up(echo_topology(count=5)) as lab:
        ((*answers,),) = exchange(lab, [(BROADCAST, payload)], answers=5)
    macs = [mac_bytes(default_mac(index)) for index in range(1, 6)]
    assert sorted(answers) == [HOST + mac + b"\x88\xb5" + payload for mac in macs]


def test_the_kernel_sends_nothing_of_its_own() -> None:
    with Lab.up(echo_topology(count=1)) as lab:
        assert on_node(lab, "host", LISTEN) == "0\n"
