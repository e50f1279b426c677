"""Everything that a node can be sent and should not be: each kind by name, in bytes made by hand.

After every one of them the next good request is answered, the counter that names the fault has risen, and the frames
received are the sum of what became of them.
"""

import base64
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.rig import frames
from tests.rig.bench import JPEG, Bench, running_bench
from tests.rig.frames import (
    CLOSE,
    CONTROL,
    CRC_FLAG,
    DISCOVER,
    EXTENSION_FLAG,
    INFER,
    OPEN,
    REPLY,
    Pdu,
    Wire,
    message,
    next_request,
)
from tests.rig.packages import padded_jpeg


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with running_bench(tmp_path_factory.mktemp("node")) as running:
        yield running


@pytest.fixture
def bench(shared: Bench) -> Iterator[Bench]:
    shared.check()
    yield shared
    shared.check()


# ---- frames that are none --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 31, 32, 500])
def test_truncated_frame(bench: Bench, size: int) -> None:
    bench.drops(bench.infer().encode()[:size], "truncated")


@pytest.mark.parametrize("count", [1, 14, 100])
def test_trailing_bytes(bench: Bench, count: int) -> None:
    bench.drops(bench.infer(JPEG[:600]).encode() + bytes(count), "trailing_bytes")


def test_oversized_frame_is_lost_before_the_dataplane(bench: Bench) -> None:
    with bench.counts(link_rx_too_large=1):
        bench.wire.send(bench.infer(bytes(9000)).encode())
        assert bench.wire.quiet()


@pytest.mark.parametrize("version", [0, 2, 255])
def test_wrong_version(bench: Bench, version: int) -> None:
    bench.drops(bench.infer(version=version).encode(), "bad_version")


@pytest.mark.parametrize("opcode", [INFER | REPLY, OPEN | REPLY, DISCOVER | REPLY, 0xFF])
def test_reply_opcode(bench: Bench, opcode: int) -> None:
    bench.drops(Pdu(opcode, b"reply", next_request()).encode(), "not_a_request")


@pytest.mark.parametrize(
    "fields",
    [
        {"fragment_size": 0},
        {"fragment": 1},
        {"fragment": 0xFFFF},
        {"fragment": 3, "length": 3000, "fragment_size": 1000},
        {"length": 0, "fragment": 1, "fragment_size": 1},
    ],
)
def test_impossible_fragment(bench: Bench, fields: dict[str, Any]) -> None:
    bench.drops(bench.infer(**fields).encode(), "bad_fragment")


def test_length_longer_than_any_message(bench: Bench) -> None:
    pdu = bench.infer(JPEG, length=0xFFFF_FFFF, fragment_size=len(JPEG))
    bench.refuses(pdu, frames.TOO_LARGE, "too_large", "at most 1048576 are taken")


# ---- messages that contradict themselves -----------------------------------------------------------------------------


@pytest.mark.parametrize("opcode", [0x00, 0x05, 0x0F, 0x11, 0x7F])
def test_unknown_opcode(bench: Bench, opcode: int) -> None:
    bench.refuses(Pdu(opcode, b"x", next_request()), frames.UNKNOWN_OPCODE, "unknown_opcode", f"opcode {opcode:#04x}")


@pytest.mark.parametrize("opcode", [INFER, CONTROL, OPEN])
@pytest.mark.parametrize("flags", [0x0010, 0x8000])
def test_unknown_flag(bench: Bench, opcode: int, flags: int) -> None:
    pdu = Pdu(opcode, b"x", next_request(), flags, session=bench.session)
    bench.refuses(pdu, frames.UNSUPPORTED_FLAG, "unsupported_flag", f"{flags:#06x}")


def test_bad_crc_in_one_fragment(bench: Bench) -> None:
    (data,) = message(bench.infer(flags=CRC_FLAG), spoil_crc=True)
    with bench.counts(answers_bad_crc=1, inferences=0):
        bench.wire.send(data)
        assert bench.wire.receive().status == frames.BAD_CRC


def test_bad_crc_over_many_fragments(bench: Bench) -> None:
    datagrams = message(bench.infer(flags=CRC_FLAG), 200, spoil_crc=True)
    assert len(datagrams) >= 5
    with bench.counts(answers_bad_crc=1, frames_accepted=len(datagrams) + 1, inferences=0):
        bench.wire.send(*datagrams)
        assert bench.wire.receive().status == frames.BAD_CRC


@pytest.mark.parametrize("position", [0, 5, 20, 30, 40, 700])
def test_a_flipped_bit_anywhere_is_never_an_answer(bench: Bench, position: int) -> None:
    pdu = bench.infer(flags=CRC_FLAG)
    data = bytearray(message(pdu)[0])
    data[position] ^= 0x04
    bench.wire.send(bytes(data))
    assert all(reply.status != frames.OK for reply in bench.wire.pending())


@pytest.mark.parametrize("flags", [CRC_FLAG, CRC_FLAG | EXTENSION_FLAG])
def test_no_room_for_the_crc(bench: Bench, flags: int) -> None:
    pdu = bench.infer(b"abc", flags=flags)
    with bench.counts(answers_bad_crc=1):
        bench.wire.send(pdu.encode())
        assert bench.wire.receive().status == frames.BAD_CRC


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"\0\0\0",
        struct.pack(">I", 0),
        struct.pack(">I", 5) + b"x",
        struct.pack(">I", 2048) + bytes(2044),
        struct.pack(">IHH", 8, 1, 1),
        struct.pack(">IHH", 8, 1, 0xFFFF),
    ],
    ids=["none", "short", "size 0", "unaligned", "too long", "overrun by 1", "overrun"],
)
def test_broken_extension_block(bench: Bench, block: bytes) -> None:
    pdu = bench.infer(block[:1300], flags=EXTENSION_FLAG)
    bench.refuses(pdu, frames.MALFORMED, "malformed", "extension")


def test_unknown_extensions_are_passed_over(bench: Bench) -> None:
    block = struct.pack(">IHH", 16, 0x7777, 5) + b"hello" + bytes(3)
    pdu = bench.infer(block + JPEG, flags=EXTENSION_FLAG)
    bench.wire.send(pdu.encode())
    assert bench.wire.answer(pdu.request).status == frames.OK


# ---- sessions, pipelines, bodies -------------------------------------------------------------------------------------


def test_unknown_pipeline(bench: Bench) -> None:
    for handle in (0, 1, bench.handles["digits"] + 256, 0xFFFF):
        bench.refuses(bench.infer(pipeline=handle), frames.UNKNOWN_PIPELINE, "unknown_pipeline")


def test_unknown_session(bench: Bench) -> None:
    for session in (0, 1, bench.session ^ 0x10000, 0xFFFF_FFFF):
        bench.refuses(bench.infer(session=session), frames.UNKNOWN_SESSION, "unknown_session")


def test_somebody_elses_session(bench: Bench) -> None:
    with Wire(bench.node.host_port) as other:
        pdu = bench.infer()
        other.send(pdu.encode())
        assert other.answer(pdu.request).status == frames.UNKNOWN_SESSION
        assert other.ask(Pdu(CLOSE, session=bench.session)).status == frames.UNKNOWN_SESSION


def test_a_session_that_was_closed(bench: Bench) -> None:
    session = bench.wire.open()
    assert bench.wire.ask(Pdu(CLOSE, session=session)).status == frames.OK
    bench.refuses(bench.infer(session=session), frames.UNKNOWN_SESSION, "unknown_session")
    bench.refuses(Pdu(CLOSE, b"", next_request(), session=session), frames.UNKNOWN_SESSION, "unknown_session")


@pytest.mark.parametrize("size", [0, 1, 255, 257, 1400])
def test_tensor_of_the_wrong_size(bench: Bench, size: int) -> None:
    pdu = bench.infer(bytes(size), pipeline=bench.handles["raw"])
    bench.refuses(pdu, frames.WRONG_SIZE, "wrong_size")


def test_media_longer_than_the_pipeline_takes(bench: Bench) -> None:
    pdu = bench.infer(padded_jpeg(JPEG, 270_000))
    with bench.counts(answers_too_large=1):
        bench.wire.send(*message(pdu))
        assert bench.wire.answer(pdu.request).status == frames.TOO_LARGE


@pytest.mark.parametrize("body", [b"", b"\0", b"GIF89a" + bytes(50), JPEG[:200], b"\xff\xd8" + bytes(300)])
def test_jpeg_that_is_none(bench: Bench, body: bytes) -> None:
    bench.refuses(bench.infer(body), frames.UNDECODABLE, "undecodable")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_png_decompression_bomb(bench: Bench) -> None:
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 6, 0, 0, 0)  # 14 GB when decoded
    body = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100_000)))
    before = bench.node.resident_bytes()
    bench.refuses(bench.infer(body), frames.UNDECODABLE, "undecodable", "image of 60000x60000 pixels")
    assert bench.node.resident_bytes() - before < 1 << 26


def test_jpeg_decompression_bomb(bench: Bench) -> None:
    at = JPEG.index(b"\xff\xc0") + 5
    body = JPEG[:at] + struct.pack(">HH", 65_000, 65_000) + JPEG[at + 4 :]
    before = bench.node.resident_bytes()
    bench.refuses(bench.infer(body), frames.UNDECODABLE, "undecodable", "image of 65000x65000 pixels")
    assert bench.node.resident_bytes() - before < 1 << 26


def test_png_that_breaks_an_assertion_within_its_decoder(bench: Bench) -> None:
    """A palette with transparency behind the pixels: the conversion asserts a palette that is not there."""
    body = base64.b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAABgAAAAUAQMAAACte2/AAAAADElEQVR4nGNgoC4AAABQAAHzMPcqAAAAA1BMVEUAAACnej3aAAAA"
        "AXRSTlMAQObYZgAAAAxJREFUeJxjYKAuAAAAUAAB8zD3KgAAAABJRU5ErkJggg=="
    )
    bench.refuses(bench.infer(body), frames.UNDECODABLE, "undecodable", "damaged")


def test_jpeg_of_thousands_of_scans(bench: Bench) -> None:
    """2048x2048 pixels in 60 kB, of which every 17 bytes ask for one more pass over all of them."""

    def segment(marker: int, data: bytes) -> bytes:
        return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data

    body = b"\xff\xd8" + segment(0xDB, b"\0" + b"\1" * 64)
    body += segment(0xC2, struct.pack(">BHHB", 8, 2048, 2048, 1) + bytes([1, 0x11, 0]))
    body += segment(0xC4, b"\x00\x01" + bytes(15) + b"\x00") + segment(0xC4, b"\x10\x01" + bytes(15) + b"\xe0")
    body += segment(0xDA, bytes([1, 1, 0, 0, 0, 0])) + bytes(2048 * 2048 // 64 // 8)
    body += (segment(0xDA, bytes([1, 1, 0, 1, 63, 0])) + bytes(8)) * 3000
    pdu = bench.infer(body)
    with bench.counts(answers_undecodable=1):
        bench.wire.send(*message(pdu))
        assert "more than 100 scans" in bench.wire.answer(pdu.request).text
