"""pcapng: golden bytes from the draft's text, foreign files, hostile ones."""

import contextlib
import io
import json
import shutil
import struct
import subprocess
from pathlib import Path

import dpkt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from host_sdk.capture.file import CaptureFile
from host_sdk.capture.packet import CapturedPacket, Direction, Interface, InterfaceStatistics
from host_sdk.capture.pcapng import PcapngReader, file_head, metadata_block, packet_block, statistics_block
from host_sdk.wire.errors import CaptureError

# Written from the text of draft-ietf-opsawg-pcapng, not by the writer.
SECTION = "0a0d0d0a 28000000 4d3c2b1a 0100 0000 ffffffffffffffff 0400 0400 6e617075 0000 0000 28000000"
INTERFACE = "01000000 28000000 0100 0000 00000400 0200 0300 62723000 0900 0100 09000000 0000 0000 28000000"
CUSTOM = "ad0b0000 28000000 d97e0000 6e6170752d636170747572652f310a 7b2261223a317d 0000 28000000"
PACKET = (
    "06000000 5c000000 00000000 47979417 15cd5b07 05000000 40000000 0102030405 000000"
    "0200 0400 01000000"  # flags: inbound
    "0400 0800 0700000000000000"  # 7 lost
    "0500 0800 efcdab8967452301"  # packet id
    "0700 0200 0001 0000"  # verdict of the hardware: 1
    "0100 0300 62616400"  # comment
    "0000 0000 5c000000"
)
TIME_NS = 0x17949747_075BCD15
GOLDEN = CapturedPacket(0, TIME_NS, b"\1\2\3\4\5", 64, Direction.INBOUND, 0x0123456789ABCDEF, 7, {0: b"\1"}, ("bad",))


def golden_bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace(" ", ""))


def read(content: bytes) -> tuple[list[CapturedPacket], PcapngReader]:
    reader = PcapngReader(io.BytesIO(content))
    return list(reader), reader


def test_blocks_are_written_as_the_text_says() -> None:
    head = file_head([Interface("br0", snap=262144)])
    assert head == golden_bytes(SECTION) + golden_bytes(INTERFACE)
    assert metadata_block({"a": 1}) == golden_bytes(CUSTOM)
    assert packet_block(GOLDEN) == golden_bytes(PACKET)


def test_what_was_written_is_read() -> None:
    lo = Interface("lo", 228, 96, "UDP")
    content = file_head([Interface("br0"), lo])
    other = CapturedPacket(1, 5, b"", 1000, Direction.OUTBOUND)
    content += packet_block(GOLDEN) + packet_block(other)
    content += statistics_block(1, 9, 3, InterfaceStatistics(received=8, dropped=2, filtered=6))
    content += metadata_block({"lab": {"nodes": 2}, "seeds": [1]})
    packets, reader = read(content)
    assert packets == [GOLDEN, other]
    assert reader.interfaces == [Interface("br0"), lo]
    assert reader.metadata == {"lab": {"nodes": 2}, "seeds": [1]}
    assert reader.statistics == {1: InterfaceStatistics(8, 2, 6)}


def test_big_endian_sections_ticks_of_binary_fractions_and_unknown_blocks_are_read() -> None:
    section = bytes.fromhex("0a0d0d0a 0000001c 1a2b3c4d 0001 0000 ffffffffffffffff 0000001c".replace(" ", ""))
    # if_tsresol 0x8a: 2^-10 s; if_tsoffset: 100 s.
    described = bytes.fromhex(
        "00000001 0000002c 0065 0000 00000000 0009 0001 8a000000 000e 0008 0000000000000064 0000 0000 0000002c".replace(
            " ", ""
        )
    )
    unknown = bytes.fromhex("00000004 00000010 00000000 00000010".replace(" ", ""))
    packet = bytes.fromhex(
        "00000006 00000024 00000000 00000000 00000200 00000001 00000009 aa000000 00000024".replace(" ", "")
    )
    packets, reader = read(section + described + unknown + packet)
    assert packets == [CapturedPacket(0, 100_500_000_000, b"\xaa", 9)]
    assert reader.interfaces == [Interface("", 101)]


def test_sections_number_their_interfaces_anew() -> None:
    first, second = file_head([Interface("a")]), file_head([Interface("b")])
    packets, _ = read(first + packet_block(GOLDEN) + second + packet_block(GOLDEN))
    assert [packet.interface for packet in packets] == [0, 1]


HEAD = file_head([Interface("br0")])
HOSTILE = {
    "nothing": b"",
    "junk": b"junk",
    "no byte order": golden_bytes("0a0d0d0a 1c000000 00000000 0100 0000 ffffffffffffffff 1c000000"),
    "a version of the future": golden_bytes("0a0d0d0a 1c000000 4d3c2b1a 0200 0000 ffffffffffffffff 1c000000"),
    "ends in a head": HEAD + b"\6\0\0\0\x20",
    "ends in a block": HEAD + golden_bytes(PACKET)[:-1],
    "a length that would be read for ever": HEAD + struct.pack("<II", 6, 0xFFFFFFF0),
    "a length of nothing": HEAD + struct.pack("<II", 6, 8),
    "lengths that differ": HEAD + golden_bytes(PACKET)[:-4] + struct.pack("<I", 88),
    "an interface that is not": file_head([]) + golden_bytes(PACKET),
    "a packet beyond its block": HEAD + struct.pack("<8I", 6, 36, 0, 0, 0, 5, 5, 0) + struct.pack("<I", 36),
    "an option beyond its block": HEAD + struct.pack("<7IHHI", 6, 36, 0, 0, 0, 0, 0, 1, 60, 36),
    "a flag of one byte": HEAD + struct.pack("<7IHHII", 6, 40, 0, 0, 0, 0, 0, 2, 1, 0, 40),
    "metadata that is no JSON": HEAD + golden_bytes(CUSTOM).replace(b'{"a":1}', b'{"a":1,'),
    "metadata that is a list": HEAD + golden_bytes(CUSTOM).replace(b'{"a":1}', b"[1,2,3]"),
    "interfaces without end": file_head([Interface("x")] * 1025),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bytes_are_one_error(name: str) -> None:
    with pytest.raises(CaptureError):
        read(HOSTILE[name])


WHOLE = (
    file_head([Interface("br0")])
    + metadata_block({"seed": 7})
    + golden_bytes(PACKET)
    + statistics_block(0, 9, 3, InterfaceStatistics(8, 2, 6))
)


@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), max_size=6), st.integers(0, 40))
def test_any_damage_is_read_or_is_one_error(damage: list[tuple[int, int]], cut: int) -> None:
    content = bytearray(WHOLE[: len(WHOLE) - cut])
    for place, value in damage:
        if place < len(content):
            content[place] = value
    with contextlib.suppress(CaptureError):
        read(bytes(content))


def test_metadata_has_a_bound() -> None:
    with pytest.raises(CaptureError, match="at most"):
        metadata_block({"a": "x" * 1024 * 1024})
    with pytest.raises(CaptureError, match="JSON"):
        metadata_block({"a": b"bytes"})


@pytest.mark.parametrize("nanoseconds", [True, False])
@pytest.mark.parametrize("order", ["<", ">"])
def test_pcap_files_are_read_too(tmp_path: Path, order: str, nanoseconds: bool) -> None:
    magic = 0xA1B23C4D if nanoseconds else 0xA1B2C3D4
    head = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 65535, 1)
    (tmp_path / "a.pcap").write_bytes(head + struct.pack(order + "4I", 10, 999, 3, 64) + b"abc")
    with CaptureFile(tmp_path / "a.pcap") as capture:
        assert list(capture) == [CapturedPacket(0, 10_000_000_999 if nanoseconds else 10_000_999_000, b"abc", 64)]


@pytest.mark.parametrize("content", [b"", b"\x4d\x3c\xb2\xa1", HEAD + b"\0", bytes(100)])
def test_a_file_that_is_no_capture_is_a_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(CaptureError, match="x cannot be read as a capture"), CaptureFile(tmp_path / "x") as capture:
        list(capture)


def test_metadata_is_found_before_the_packets_are_read(tmp_path: Path) -> None:
    (tmp_path / "ours.pcapng").write_bytes(FILE)
    with CaptureFile(tmp_path / "ours.pcapng") as capture:
        assert capture.metadata() == {"seed": 7}
        assert len(list(capture)) == 1
        assert capture.statistics == {1: InterfaceStatistics(8, 3, 5)}


def test_a_file_that_was_cut_off_says_what_came_before(tmp_path: Path) -> None:
    (tmp_path / "cut.pcapng").write_bytes(FILE[:-1])
    with CaptureFile(tmp_path / "cut.pcapng") as capture:
        assert capture.metadata() == {}
        assert [interface.name for interface in capture.all_interfaces()] == ["br0", "napu1:in"]
        packets = iter(capture)
        assert next(packets).packet_id == 77
        with pytest.raises(CaptureError, match="within a block"):
            next(packets)


def test_a_file_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match=r"nothing\.pcapng"):
        CaptureFile(tmp_path / "nothing.pcapng")


FRAME = bytes.fromhex("0200000000010200000000020800") + bytes(46)
FILE = (
    file_head([Interface("br0", snap=262144), Interface("napu1:in")])
    + packet_block(
        CapturedPacket(1, 1_700_000_000_123_456_789, FRAME, 1514, Direction.INBOUND, 77, 3, {0: b"\1"}, ("TRUNCATED",))
    )
    + statistics_block(1, 1_700_000_001_000_000_000, 1_700_000_000_000_000_000, InterfaceStatistics(8, 3, 5))
    + metadata_block({"seed": 7})
)


def test_dpkt_reads_our_files() -> None:
    reader = dpkt.pcapng.Reader(io.BytesIO(FILE))
    ((time, frame),) = reader
    assert bytes(frame) == FRAME
    assert abs(round(time * 10**9) - 1_700_000_000_123_456_789) < 500  # dpkt gives a float


def test_tshark_reads_our_files(tmp_path: Path) -> None:
    if shutil.which("tshark") is None:
        pytest.skip("tshark is not installed")
    (tmp_path / "ours.pcapng").write_bytes(FILE)
    names = ("time_epoch", "len", "cap_len", "interface_name", "packet_id", "drop_count", "packet_flags_direction")
    fields = [f"frame.{name}" for name in names] + ["frame.comment"]
    command = ["tshark", "-n", "-r", str(tmp_path / "ours.pcapng"), "-T", "json"]
    command += [part for field in fields for part in ("-e", field)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found, metadata = json.loads(done.stdout)  # it shows a custom block as a record of its own
    assert "frame.time_epoch" not in metadata["_source"]["layers"]
    values = {name: entry[0] for name, entry in found["_source"]["layers"].items()}
    assert values["frame.time_epoch"] == "1700000000.123456789"
    assert (values["frame.len"], values["frame.cap_len"]) == ("1514", str(len(FRAME)))
    assert values["frame.interface_name"] == "napu1:in"
    assert int(values["frame.packet_id"], 0) == 77
    assert int(values["frame.drop_count"]) == 3
    assert int(values["frame.packet_flags_direction"], 0) == 1
    assert values["frame.comment"] == "TRUNCATED"


def test_capinfos_reads_our_files(tmp_path: Path) -> None:
    if shutil.which("capinfos") is None:
        pytest.skip("capinfos is not installed")
    (tmp_path / "ours.pcapng").write_bytes(FILE)
    done = subprocess.run(["capinfos", str(tmp_path / "ours.pcapng")], capture_output=True, text=True, check=True)
    assert "pcapng" in done.stdout
    assert "Name = br0" in done.stdout
    assert "Number of stat entries = 1" in done.stdout
