"""``napu capture`` in a lab: at the switch, at a node's link, under load, and ended with Ctrl-C."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from host_sdk.capture.file import CaptureFile
from host_sdk.capture.packet import CapturedPacket, Direction
from host_sdk.lab.lab import Lab
from host_sdk.lab.topology import default_mac
from tests.lab.test_lab_tap import BURST
from tests.rig.labs import echo_topology, exchange, mac_bytes, needs_lab, on_node

pytestmark = needs_lab
HOST, N1 = mac_bytes(default_mac(0)), mac_bytes(default_mac(1))
FRAME = bytes.fromhex("0110" + "00" * 30) + bytes(100)  # an INFER by its header
OTHER = bytes.fromhex("0102" + "00" * 30) + bytes(14)  # an OPEN


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab.up(echo_topology(count=1)) as lab:
        yield lab


@contextmanager
def capturing(lab: Lab, path: Path, *options: str) -> Iterator[dict[str, int]]:
    """Run ``napu capture`` around what is done; what it reported is in the dictionary afterwards."""
    command = [sys.executable, "-m", "host_sdk.cli.main", "capture", str(path), "--lab", lab.name, "--json", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        assert "capturing at" in said, said + process.stderr.read()
        report: dict[str, int] = {}
        yield report
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    report |= json.loads(output)


def read(path: Path) -> list[CapturedPacket]:
    with CaptureFile(path) as capture:
        return list(capture)


def test_frames_at_the_switch_and_what_lab_it_was(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "x.pcapng"
    with capturing(lab, path) as report:
        exchange(lab, [(N1, FRAME)] * 5, answers=1)
    packets = read(path)
    ask, answer = N1 + HOST + b"\x88\xb5" + FRAME, HOST + N1 + b"\x88\xb5" + FRAME
    assert [packet.data for packet in packets] == [ask, answer] * 5
    assert [packet.time_ns for packet in packets] == sorted(packet.time_ns for packet in packets)
    ids = [packet.packet_id for packet in packets]
    assert ids == [ids[0], ids[1]] * 5  # copies of one message; the echo comes from another
    assert ids[0] != ids[1]
    assert (report["written"], report["dropped"], report["received"]) == (10, 0, 10)
    with CaptureFile(path) as capture:
        said = capture.metadata()
        assert capture.all_interfaces()[0].name == f"{lab.name}:br0"
    assert said["lab"]["name"] == lab.name
    assert [node["address"] for node in said["lab"]["nodes"]] == [default_mac(0), default_mac(1)]
    assert said["appliances"] == []  # echo nodes do not say what they are


def test_a_nodes_link_shows_which_way_frames_went(lab: Lab, tmp_path: Path) -> None:
    with capturing(lab, tmp_path / "x.pcapng", "--at", "n1", "--snap", "40"):
        exchange(lab, [(N1, FRAME)], answers=1)
    packets = read(tmp_path / "x.pcapng")
    assert [packet.direction for packet in packets] == [Direction.INBOUND, Direction.OUTBOUND]
    assert [(len(packet.data), packet.length) for packet in packets] == [(40, 14 + len(FRAME))] * 2


def test_a_filter_keeps_others_out_and_counts_them(lab: Lab, tmp_path: Path) -> None:
    with capturing(lab, tmp_path / "x.pcapng", "--filter", "opcode=OPEN peer=" + default_mac(0)) as report:
        exchange(lab, [(N1, FRAME), (N1, OTHER)], answers=1)
    assert [packet.data[14:16] for packet in read(tmp_path / "x.pcapng")] == [b"\x01\x02"] * 2
    assert (report["written"], report["filtered_out"], report["dropped"]) == (2, 2, 0)


@pytest.mark.parametrize("options", [(), ("--files", "2", "--file-size", "1000000")], ids=["one", "ring"])
def test_under_load_nothing_is_lost_silently(lab: Lab, tmp_path: Path, options: tuple[str, ...]) -> None:
    count = 60_000
    with capturing(lab, tmp_path / "x.pcapng", "--all", *options) as report:
        on_node(lab, "host", BURST, str(count), "1500", str(0x88B5))
    assert report["received"] == count
    assert report["written"] + report["dropped"] == count
    packets: list[CapturedPacket] = []
    for path in report["files"]:  # type: ignore[attr-defined]
        packets += read(Path(path))
        with CaptureFile(Path(path)) as capture:
            list(capture)
            statistics = capture.statistics[0]
    assert (statistics.received, statistics.dropped) == (count, report["dropped"])
    numbers = [int.from_bytes(packet.data[14:18], "big") for packet in packets]
    assert numbers == sorted(set(numbers))
    if not options:
        assert len(numbers) == report["written"]
        # What is missing is told before the frame behind it, or after the last one.
        assert sum(packet.lost for packet in packets) <= report["dropped"]


def test_a_capture_of_what_is_not_there_is_a_sentence(lab: Lab, tmp_path: Path) -> None:
    for options in (("--at", "nobody"), ("--filter", "colour=red"), ("--files", "2")):
        command = [sys.executable, "-m", "host_sdk.cli.main", "capture", str(tmp_path / "x"), "--lab", lab.name]
        done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=60)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
