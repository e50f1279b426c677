import io
import os
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dpkt
import pytest

from host_sdk.lab.lab import Lab
from host_sdk.lab.topology import default_mac
from host_sdk.wire.errors import ClosedError, LinkError
from tests.rig.labs import echo_topology, eventually, exchange, mac_bytes, needs_lab, on_node

pytestmark = needs_lab

HOST, N1, N2 = (mac_bytes(default_mac(index)) for index in range(3))
BROADCAST = b"\xff" * 6

# Sends numbered frames as fast as it can: COUNT of them, SIZE bytes of payload, of this EtherType.
BURST = """
import socket, sys
count, size, ethertype = (int(argument) for argument in sys.argv[1:])
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as link:
    link.bind(("eth0", 0))
    head = bytes.fromhex("020000000099") + link.getsockname()[4] + ethertype.to_bytes(2, "big")
    for number in range(count):
        link.send(head + number.to_bytes(4, "big") + bytes(size - 4))
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab.up(echo_topology()) as lab:
        yield lab


def read(path: Path) -> tuple[list[float], list[bytes]]:
    """Read a capture with dpkt; return timestamps in s and frames."""
    with path.open("rb") as file:
        records = list(dpkt.pcap.Reader(io.BytesIO(file.read())))
    return [float(time) for time, _ in records], [bytes(frame) for _, frame in records]


def test_every_frame_is_in_the_file_once_and_in_order(lab: Lab, tmp_path: Path) -> None:
    payloads = [bytes([number]) * (46 + 100 * number) for number in range(14)]
    with lab.tap(tmp_path / "lab.pcap") as tap:
        exchange(lab, [(destination, payload) for payload in payloads for destination in (N1, N2)], answers=1)
        report = tap.stop()
    expected = []
    for payload in payloads:
        for node in (N1, N2):
            expected.append(node + HOST + b"\x88\xb5" + payload)
            expected.append(HOST + node + b"\x88\xb5" + payload)
    times, frames = read(tmp_path / "lab.pcap")
    assert frames == expected
    assert times == sorted(times)
    assert (report.frames, report.dropped) == (len(expected), 0)


def test_a_broadcast_is_in_the_file_once(lab: Lab, tmp_path: Path) -> None:
    payload = b"who is there?".ljust(46, b"\0")
    with lab.tap(tmp_path / "lab.pcap"):
        exchange(lab, [(BROADCAST, payload)], answers=2)
    _, frames = read(tmp_path / "lab.pcap")
    assert frames[0] == BROADCAST + HOST + b"\x88\xb5" + payload
    assert sorted(frames[1:]) == [HOST + node + b"\x88\xb5" + payload for node in (N1, N2)]


@pytest.mark.parametrize("size", [46, 1500])
def test_a_burst_is_in_the_file_or_counted(lab: Lab, tmp_path: Path, size: int) -> None:
    count = 100_000
    tap = lab.tap(tmp_path / "lab.pcap")
    on_node(lab, "host", BURST, str(count), str(size), str(0x88B5))
    report = tap.stop()
    assert report == tap.stop()  # a second call says the same
    _, frames = read(tmp_path / "lab.pcap")
    numbers = [int.from_bytes(frame[14:18], "big") for frame in frames]
    assert len(numbers) == report.frames
    assert report.frames + report.dropped == count
    assert numbers == sorted(set(numbers))
    assert {len(frame) for frame in frames} == {14 + size}


def test_frames_that_the_ring_has_no_room_for_are_counted(lab: Lab, tmp_path: Path) -> None:
    count = 100_000  # of 1514 bytes: more than twice the ring
    tap = lab.tap(tmp_path / "lab.pcap")
    os.kill(tap.pid, signal.SIGSTOP)
    on_node(lab, "host", BURST, str(count), "1500", str(0x88B5))
    os.kill(tap.pid, signal.SIGCONT)
    report = tap.stop()
    _, frames = read(tmp_path / "lab.pcap")
    assert len(frames) == report.frames
    assert report.dropped > 0
    assert report.frames + report.dropped == count


@pytest.mark.parametrize(("ethertype", "expected"), [(0x88B5, 3), (0x88B6, 5), (None, 8)])
def test_frames_of_other_types_are_left_out(lab: Lab, tmp_path: Path, ethertype: int | None, expected: int) -> None:
    with lab.tap(tmp_path / "lab.pcap", ethertype=ethertype) as tap:
        on_node(lab, "host", BURST, "3", "46", str(0x88B5))
        on_node(lab, "host", BURST, "5", "46", str(0x88B6))
    assert tap.stop().frames == expected


def test_an_empty_capture_is_a_file_all_the_same(lab: Lab, tmp_path: Path) -> None:
    lab.tap(tmp_path / "lab.pcap").stop()
    header = struct.unpack("=IHHiIII", (tmp_path / "lab.pcap").read_bytes())
    assert header == (0xA1B23C4D, 2, 4, 0, 0, 262144, 1)


# /usr/sbin is not on every user's PATH.
TCPDUMP = shutil.which("tcpdump", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


@pytest.mark.skipif(TCPDUMP is None, reason="tcpdump is not installed")
def test_tcpdump_reads_the_file(lab: Lab, tmp_path: Path) -> None:
    with lab.tap(tmp_path / "lab.pcap"):
        exchange(lab, [(N1, b"hello".ljust(46, b"\0"))], answers=1)
    result = subprocess.run(
        [str(TCPDUMP), "-e", "-n", "-t", "--nano", "-r", str(tmp_path / "lab.pcap")],
        capture_output=True,
        text=True,
        check=True,
    )
    heads = [line for line in result.stdout.splitlines() if not line.startswith("\t")]
    assert [line.partition(", ethertype")[0] for line in heads] == [
        f"{default_mac(0)} > {default_mac(1)}",
        f"{default_mac(1)} > {default_mac(0)}",
    ]
    assert all("0x88b5" in line and "length 60" in line for line in heads)


def test_scapy_reads_the_file(lab: Lab, tmp_path: Path) -> None:
    scapy = pytest.importorskip("scapy.utils", reason="the rig extra is not installed (scapy)")
    with lab.tap(tmp_path / "lab.pcap"):
        exchange(lab, [(N2, b"hello".ljust(46, b"\0"))], answers=1)
    with scapy.RawPcapReader(str(tmp_path / "lab.pcap")) as reader:
        assert reader.nano
        assert [frame[:12] for frame, _ in reader] == [N2 + HOST, HOST + N2]


def test_a_capture_ends_complete_when_the_lab_ends(tmp_path: Path) -> None:
    with Lab.up(echo_topology(count=1)) as lab:
        tap = lab.tap(tmp_path / "lab.pcap")
        exchange(lab, [(N1, bytes(46))] * 20, answers=1)
        os.kill(lab.status().keeper.pid, signal.SIGKILL)
        report = tap.stop()
    assert report.frames == 40
    assert len(read(tmp_path / "lab.pcap")[1]) == 40


def test_a_capture_ends_complete_when_its_owner_is_killed(lab: Lab, tmp_path: Path) -> None:
    code = (
        "import os, pathlib, signal, sys\n"
        "from host_sdk.lab.lab import Lab\n"
        "tap = Lab.find(sys.argv[1]).tap(pathlib.Path(sys.argv[2]))\n"
        "print(tap.pid, flush=True)\n"
        "signal.pause()\n"
    )
    arguments = [sys.executable, "-c", code, lab.name, str(tmp_path / "lab.pcap")]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        pid = int(process.stdout.readline())
        exchange(lab, [(N1, bytes(46))] * 5, answers=1)
        process.kill()
    assert eventually(lambda: not Path(f"/proc/{pid}").exists())
    assert len(read(tmp_path / "lab.pcap")[1]) == 10


def test_a_tap_of_a_lab_that_has_ended_is_refused(tmp_path: Path) -> None:
    with Lab.up(echo_topology(count=1)) as lab:
        pass
    with pytest.raises(ClosedError):
        lab.tap(tmp_path / "lab.pcap")


def test_a_capture_that_was_killed_is_an_error(lab: Lab, tmp_path: Path) -> None:
    tap = lab.tap(tmp_path / "lab.pcap")
    os.kill(tap.pid, signal.SIGKILL)
    with pytest.raises(LinkError, match="not complete"):
        tap.stop()
