"""Files that are complete, bounded, and say what they lost."""

import stat
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from host_sdk.capture.blocks import packet_blocks
from host_sdk.capture.file import CaptureFile
from host_sdk.capture.frames import CapturedFrames, packet_ids
from host_sdk.capture.packet import CapturedPacket, Direction, Interface, InterfaceStatistics
from host_sdk.capture.pcapng import packet_block
from host_sdk.capture.writer import CaptureWriter, Target
from host_sdk.wire.errors import CaptureError, ConfigError
from host_sdk.wire.header import Header, vector_header

PACKETS = st.lists(
    st.builds(
        CapturedPacket,
        interface=st.just(3),
        time_ns=st.integers(0, (1 << 63) - 1),
        data=st.binary(max_size=70),
        length=st.integers(0, 0xFFFF),
        direction=st.sampled_from([Direction.INBOUND, Direction.OUTBOUND]),
        packet_id=st.integers(0, (1 << 64) - 1),
    ),
    min_size=1,
    max_size=20,
)


@given(PACKETS)
def test_blocks_of_a_batch_are_those_of_each_packet(packets: list[CapturedPacket]) -> None:
    ids = np.array([packet.packet_id for packet in packets], np.uint64)
    blocks, ends = packet_blocks(3, CapturedFrames.of(packets), ids)
    singles = [packet_block(packet) for packet in packets]
    assert blocks.tobytes() == b"".join(singles)
    assert ends.tolist() == np.cumsum([len(single) for single in singles]).tolist()


def test_what_is_put_before_a_frame_counts() -> None:
    packet = CapturedPacket(0, 5, b"body!", 900, Direction.INBOUND, 1)
    heads = np.frombuffer(b"head", np.uint8).reshape(1, 4)
    blocks, _ = packet_blocks(0, CapturedFrames.of([packet]), np.array([1], np.uint64), heads=heads)
    assert blocks.tobytes() == packet_block(CapturedPacket(0, 5, b"headbody!", 904, Direction.INBOUND, 1))


def frames(count: int, size: int = 1000, first: int = 0) -> CapturedFrames:
    return CapturedFrames.of(
        [CapturedPacket(0, first + index, bytes([index % 256]) * size, size) for index in range(count)]
    )


def read(path: Path) -> tuple[list[CapturedPacket], dict[int, InterfaceStatistics], dict[str, object]]:
    with CaptureFile(path) as capture:
        return list(capture), capture.statistics, capture.metadata()


def writer(target: Target, metadata: dict[str, object] | None = None) -> CaptureWriter:
    return CaptureWriter(target, [Interface("a"), Interface("b")], metadata or {}, lambda: 77)


def test_losses_are_told_at_the_next_frame_and_in_the_end(tmp_path: Path) -> None:
    made = writer(Target(tmp_path / "x.pcapng"), {"lab": 1})
    made.write(0, frames(2))
    made.lost(0, 5)
    made.lost(0, 1)
    made.filtered(0, 7)
    made.write(1, frames(1))
    made.write(0, frames(3))
    made.lost(1, 4)
    made.close()
    made.close()
    packets, statistics, metadata = read(tmp_path / "x.pcapng")
    assert [(packet.interface, packet.lost) for packet in packets] == [(0, 0), (0, 0), (1, 0), (0, 6), (0, 0), (0, 0)]
    assert statistics == {0: InterfaceStatistics(18, 6, 5), 1: InterfaceStatistics(5, 4, 1)}
    assert metadata == {"lab": 1}
    assert (made.counts[0].received, made.counts[0].written, made.counts[0].filtered_out) == (18, 5, 7)


def test_a_snap_length_keeps_the_length(tmp_path: Path) -> None:
    made = writer(Target(tmp_path / "x.pcapng", snap=60))
    made.write(0, frames(2))
    made.write(0, frames(1, size=10))
    made.close()
    packets, _, _ = read(tmp_path / "x.pcapng")
    assert [(len(packet.data), packet.length) for packet in packets] == [(60, 1000), (60, 1000), (10, 10)]


def test_a_ring_keeps_the_last_files_each_complete_and_bounded(tmp_path: Path) -> None:
    made = writer(Target(tmp_path / "x.pcapng", files=3, file_bytes=65536), {"lab": "metadata"})
    for begin in range(0, 1000, 50):
        made.write(0, frames(50, first=begin))
    made.close()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert [path.name for path in made.paths] == names
    assert len(names) == 3
    times: list[int] = []
    for name in names:
        assert (tmp_path / name).stat().st_size <= 65536
        packets, statistics, metadata = read(tmp_path / name)
        assert metadata == {"lab": "metadata"}
        times += [packet.time_ns for packet in packets]
    assert times == list(range(1000 - len(times), 1000))
    assert len(times) > 120
    assert statistics[0].received == 1000
    assert (made.counts[0].written, made.counts[0].dropped) == (1000, 0)


def test_a_file_that_is_full_counts_what_it_has_no_room_for(tmp_path: Path) -> None:
    made = writer(Target(tmp_path / "x.pcapng", file_bytes=65536))
    for _ in range(4):
        made.write(0, frames(50))
    made.close()
    assert made.full
    packets, statistics, _ = read(tmp_path / "x.pcapng")
    assert (tmp_path / "x.pcapng").stat().st_size <= 65536
    assert statistics[0] == InterfaceStatistics(200, 200 - len(packets), len(packets))
    assert 0 < len(packets) < 70


def test_a_frame_that_no_file_of_a_ring_has_room_for_is_lost_and_the_next_is_not(tmp_path: Path) -> None:
    made = writer(Target(tmp_path / "x.pcapng", files=2, file_bytes=65536))
    made.write(0, frames(1, size=66000))
    made.write(0, frames(1, size=100))
    made.close()
    packets, _, _ = read(made.paths[-1])
    assert [(packet.length, packet.lost) for packet in packets] == [(100, 1)]


def test_a_private_file_is_the_owners(tmp_path: Path) -> None:
    writer(Target(tmp_path / "x.pcapng", private=True)).close()
    assert stat.S_IMODE((tmp_path / "x.pcapng").stat().st_mode) == 0o600


def test_targets_that_are_none(tmp_path: Path) -> None:
    for wrong in ({"files": 2}, {"file_bytes": 10}, {"snap": -1}, {"files": 0}):
        with pytest.raises(ConfigError):
            Target(tmp_path / "x", **wrong)
    with pytest.raises(ConfigError, match="cannot be written"):
        writer(Target(tmp_path / "nowhere" / "x"))
    with pytest.raises(CaptureError, match="too small"):
        writer(Target(tmp_path / "x", file_bytes=65536), {"long": "x" * 40000})


def test_a_packet_id_is_the_messages_and_no_others() -> None:
    base = {"opcode": 0x10, "request": 5, "session": 9}
    headers = [Header(**base, fragment=1), Header(**base, credits=3)]
    headers += [Header(**{**base, name: value}) for name, value in (("opcode", 0x90), ("request", 6), ("session", 8))]
    ids = packet_ids(np.array([1] * 5, np.uint64), np.concatenate([vector_header(header) for header in headers]))
    assert ids[0] == ids[1]
    assert len(set(ids.tolist())) == 4
    assert packet_ids(np.array([2], np.uint64), vector_header(headers[0]))[0] not in ids
