"""Taps inside a node: what they show, what they cost nobody, and that a writer that is behind is told of."""

import signal
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from host_sdk.capture import node as node_module
from host_sdk.capture.analysis import Analysis, histories
from host_sdk.capture.explain import outcome
from host_sdk.capture.file import CaptureFile
from host_sdk.capture.frames import format_peer
from host_sdk.capture.heads import shown_peers
from host_sdk.capture.history import Kind
from host_sdk.capture.node import CapturedLink, NodeCapture, parse_taps
from host_sdk.capture.packet import CapturedPacket, Direction
from host_sdk.capture.sightings import Sighting, Sightings
from host_sdk.capture.tapped import TappedLink
from host_sdk.capture.writer import Target
from host_sdk.client import NapuClient
from host_sdk.operations import Timeout
from host_sdk.results import Inference
from host_sdk.wire.errors import ConfigError
from host_sdk.wire.links.base import BROADCAST, SEALED_PEER
from host_sdk.wire.links.memory import MemoryLink, MemorySwitch
from host_sdk.wire.links.udp import UdpLink
from host_sdk.wire.schema import DropReason, Opcode
from tests.rig.frames import INFER, Pdu
from tests.rig.nodes import node_process, stop, within
from tests.rig.packages import tensor_package
from tests.rig.tiny_models import doubler

SMALL, LONG = 4, 3000


def sightings(path: Path, *ports: int) -> list[Sighting]:
    with CaptureFile(path) as capture:
        return list(Sightings(capture, ports))


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int], int]:
    """A node with all taps: small requests on the fast path, long ones, refused ones, and frames that are none."""
    folder = tmp_path_factory.mktemp("captured")
    path = folder / "node.pcapng"
    bodies = np.arange(40 * SMALL, dtype=np.float32).reshape(40, SMALL)
    with node_process(folder, "--capture", str(path), "--name", "n1") as node:
        with node.client(request=30.0, control=30.0) as client:
            client.control("pipeline.install", package=tensor_package("small", doubler((1, SMALL)), batch=8))
            client.control("pipeline.install", package=tensor_package("long", doubler((1, LONG)), batch=8))
            assert all(isinstance(answer, Inference) for answer in client.infer_many("small", bodies))
            for _ in range(3):
                client.infer("long", np.ones(LONG, np.float32))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.sendto(b"runt", node.host_port)
            stranger.sendto(b"\x09" + bytes(39), node.host_port)
            stranger.settimeout(10)
            stranger.sendto(Pdu(INFER, b"x", 5, session=99).encode(), node.host_port)
            assert stranger.recv(2000)
        counters = node.hardware()
        port = node.host_port[1]
        assert stop(node.process) == 0
    return path, counters, port


def test_every_frame_is_at_its_taps(captured: tuple[Path, dict[str, int], int]) -> None:
    path, counters, _ = captured
    with CaptureFile(path) as capture:
        packets, names = list(capture), [interface.name for interface in capture.interfaces]
        statistics = capture.statistics
    assert names == ["n1:in", "n1:classified", "n1:dla", "n1:out"]
    counts = [sum(packet.interface == index for packet in packets) for index in range(4)]
    # The counters were asked for by the last of two frames, so what went out after them is its answer.
    assert counts[0] == counts[1] == counters["link_rx_frames"]
    assert counts[2] == 43
    assert [statistics[index].received for index in range(4)] == counts
    assert [statistics[index].dropped for index in range(4)] == [0] * 4
    directions = {0: Direction.INBOUND, 1: Direction.INBOUND, 2: Direction.INBOUND, 3: Direction.OUTBOUND}
    assert all(packet.direction is directions[packet.interface] for packet in packets)
    incoming = {packet.packet_id for packet in packets if packet.interface == 0}
    assert {packet.packet_id for packet in packets if packet.interface == 2} <= incoming
    assert [packet.data for packet in packets if packet.interface == 0] == [
        packet.data for packet in packets if packet.interface == 1
    ]


def test_verdicts_are_there_by_name(captured: tuple[Path, dict[str, int], int]) -> None:
    path, counters, _ = captured
    with CaptureFile(path) as capture:
        classified = [packet for packet in capture if packet.interface == 1]
    dropped = [packet for packet in classified if packet.verdicts[0] != b"\0"]
    assert [(packet.verdicts[0][0], packet.comments) for packet in dropped] == [
        (DropReason.TRUNCATED, ("dropped: TRUNCATED",)),
        (DropReason.BAD_VERSION, ("dropped: BAD_VERSION",)),
    ]
    assert counters["frames_truncated"] == counters["frames_bad_version"] == 1


def test_the_file_says_what_node_it_was(captured: tuple[Path, dict[str, int], int]) -> None:
    path, _, port = captured
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with CaptureFile(path) as capture:
        said = capture.metadata()
    assert said["node"]["name"] == "n1"
    assert said["udp_ports"] == [port]
    assert len(said["firmware"]["digest"]) == 64
    assert {entry["name"] for entry in said["pipelines"]} >= {"small", "long"}
    assert said["configuration"]["frames_captured"] == "yes"
    assert said["seeds"] == {"faults": 0}


def test_the_capture_explains_the_requests(captured: tuple[Path, dict[str, int], int]) -> None:
    found = [entry for entry in histories(sightings(captured[0]), Analysis()) if entry.opcode == Opcode.INFER]
    assert len(found) == 44
    assert sorted(map(outcome, found)) == ["answered"] * 43 + ["refused"]
    assert all(history.counts[Kind.BEGAN] == (outcome(history) == "answered") for history in found)
    assert {history.fragments for history in found} == {1, 9}


def test_a_node_that_is_killed_leaves_what_it_had_written(tmp_path: Path) -> None:
    path = tmp_path / "node.pcapng"
    with node_process(tmp_path, "--capture", str(path), "--taps", "in", "--capture-snap", "60") as node:
        begun = path.stat().st_size
        with node.client() as client:
            client.control("identity")
        assert within(20, lambda: path.stat().st_size > begun)
        node.process.send_signal(signal.SIGKILL)
        node.process.wait()
        port = node.host_port[1]
    found = sightings(path, port)  # the file is cut off, at the end of a block
    assert [seen.tap for seen in found] == ["in"] * len(found)
    assert found[0].opcode == Opcode.CONTROL
    assert {len(seen.payload) for seen in found if seen.length} == {0}  # 60 bytes are the headers


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--taps", "in,middle"), "no tap is called 'middle'"),
        (("--capture-files", "3", "--capture-size", "0"), "needs the size"),
    ],
)
def test_a_capture_that_cannot_be_made_is_a_sentence(tmp_path: Path, options: tuple[str, ...], why: str) -> None:
    with pytest.raises(AssertionError, match=why), node_process(tmp_path, "--capture", str(tmp_path / "x"), *options):
        pass


# ---- the client's side, behind damage of known seed ----------------------------------------------------------------

FAULTS = "loss=8%,duplicate=3%,reorder=5%"


def test_every_transmission_of_a_requester_behind_a_bad_wire_is_found(tmp_path: Path) -> None:
    """The requester counts its own transmissions; the capture at its link has to come to the same."""
    path, count = tmp_path / "client.pcap", 300
    bodies = np.arange(count * SMALL, dtype=np.float32).reshape(count, SMALL)
    options = ("--faults-in", FAULTS, "--faults-out", FAULTS, "--fault-seed", "5")
    with node_process(tmp_path, *options) as node:
        link = TappedLink(UdpLink("127.0.0.1", 0), path)
        with NapuClient(link, node.address, timeout=Timeout(request=30.0, control=30.0)) as client:
            client.control("pipeline.install", package=tensor_package("small", doubler((1, SMALL)), batch=8))
            answers = list(client.infer_many("small", bodies))
        port = node.host_port[1]
    assert all(isinstance(answer, Inference) for answer in answers)
    again = sum(answer.transmissions - 1 for answer in answers if isinstance(answer, Inference))
    found = [entry for entry in histories(sightings(path, port), Analysis()) if entry.opcode == Opcode.INFER]
    assert len(found) == count
    assert {outcome(history) for history in found} == {"answered"}
    assert again > count * 0.08
    assert sum(history.counts[Kind.RETRANSMITTED] for history in found) == again


# ---- a writer that is behind ---------------------------------------------------------------------------------------


@pytest.fixture
def ends() -> Iterator[tuple[MemoryLink, MemoryLink]]:
    switch = MemorySwitch()
    yield (links := (switch.attach(), switch.attach()))
    for link in links:
        link.close()


def send(link: MemoryLink, to: int, count: int, size: int = 200) -> None:
    buffers = link.allocate(count)
    for index in range(count):
        start = int(buffers.starts[index])
        buffers.memory[start : start + size] = index
        buffers.lengths[index], buffers.peers[index] = size, to
    assert link.send(buffers) == count


def test_what_the_writer_had_no_room_for_is_counted_in_the_file(
    tmp_path: Path, ends: tuple[MemoryLink, MemoryLink], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = ends
    gate, entered = threading.Event(), threading.Event()
    write = NodeCapture._write

    def slow(self: NodeCapture, passed: object) -> None:
        entered.set()
        assert gate.wait(30)
        write(self, passed)  # type: ignore[arg-type]

    monkeypatch.setattr(NodeCapture, "_write", slow)
    monkeypatch.setattr(node_module, "MAX_WAITING", 5000)
    capture = NodeCapture(Target(tmp_path / "x.pcapng"), here, "n", ("in", "out"), lambda: 9)
    link = CapturedLink(here, capture)
    for round_number in range(4):
        send(there, here.address, 20)
        assert len(link.receive()) == 20
        if round_number == 0:
            assert entered.wait(30)
    gate.set()
    capture.close()
    with CaptureFile(tmp_path / "x.pcapng") as found:
        packets = list(found)
        statistics = found.statistics[0]
    assert statistics.received == 80
    assert statistics.dropped == 80 - len(packets) == 40
    assert [packet.lost for packet in packets] == [0] * 40


def test_frames_are_copied_before_the_link_takes_its_memory_back(
    tmp_path: Path, ends: tuple[MemoryLink, MemoryLink]
) -> None:
    here, there = ends
    capture = NodeCapture(Target(tmp_path / "x.pcapng", snap=100), here, "n", parse_taps("out,in"), lambda: 9)
    link = CapturedLink(here, capture)
    for size in (60, 1400):
        send(there, here.address, 3, size)
        batch = link.receive()
        out = link.allocate(3)
        for index in range(3):
            start, size = int(out.starts[index]), int(batch.lengths[index])
            out.memory[start : start + size] = batch.pdu(index)
            out.lengths[index], out.peers[index] = size, there.address
        assert link.send(out) == 3
        out.memory[:] = 0xFF
    capture.close()
    with CaptureFile(tmp_path / "x.pcapng") as found:
        packets = list(found)
    expected = [(0, index, 60) for index in range(3)] + [(1, index, 60) for index in range(3)]
    expected += [(0, index, 86) for index in range(3)] + [(1, index, 86) for index in range(3)]

    def shape(packet: CapturedPacket) -> tuple[int, int, int]:
        (value,) = set(packet.data[14:])
        return packet.interface, value, len(packet.data) - 14

    assert list(map(shape, packets)) == expected
    assert [packet.length for packet in packets] == [74] * 6 + [1414] * 6


def test_lists_of_taps() -> None:
    assert parse_taps("out,in") == ("in", "out")
    with pytest.raises(ConfigError):
        parse_taps("")


@pytest.mark.parametrize("udp", [False, True])
def test_peers_behind_a_seal_are_shown_by_their_key(udp: bool) -> None:
    key = (1 << 62) + 0x1122334455
    peers = np.array([0x0A00_0001_88B5, SEALED_PEER | key, BROADCAST], np.uint64)
    shown = [format_peer(peer, udp=udp) for peer in shown_peers(peers, udp=udp).tolist()]
    if udp:
        assert shown == ["10.0.0.1:34997", "240.17.34.51:17493", "255.255.255.255:34997"]
    else:
        assert shown == ["0a:00:00:01:88:b5", "0a:11:22:33:44:55", "ff:ff:ff:ff:ff:ff"]
