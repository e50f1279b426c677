"""The golden frames, in both directions, and against the document and an independent CRC."""

import re
from dataclasses import replace
from pathlib import Path

import msgpack
import numpy as np
import pytest

from host_sdk.wire.errors import FrameError
from host_sdk.wire.exchange.reassembly import Reassembler, Whole
from host_sdk.wire.header import HEADER_DTYPE, classify_headers, decode_header, gather_headers, scalar_header
from host_sdk.wire.links.base import FrameBatch
from host_sdk.wire.message import Message, decode_message, encode_message, fragment_frames, message_crc
from host_sdk.wire.schema import CRC_SIZE, ETHERTYPE, HEADER_SIZE, MAX_FRAGMENT_SIZE, DropReason, Flag, Status
from tests.wire.crc import crc32c
from tests.wire.golden import DISCOVER, ETHERNET, GOLDEN, INFER_FRAGMENTED, PADDING, SEALED_INFER, Golden

DOCUMENT = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")

each = pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: golden.name)
with_crc = pytest.mark.parametrize(
    "golden", [golden for golden in GOLDEN if golden.header.flags & Flag.CRC], ids=lambda golden: golden.name
)


def documented() -> dict[str, list[bytes]]:
    """Return the frames in the document, by heading: what stands left of the explanations."""
    chapter = DOCUMENT.split("## 14. Golden frames")[1]
    frames: dict[str, list[bytes]] = {}
    for heading, text in re.findall(r"^### (.*?)\n(.*?)(?=^### |\Z)", chapter, re.DOTALL | re.MULTILINE):
        blocks = re.findall(r"```text\n(.*?)```", text, re.DOTALL)
        frames[heading] = [
            bytes.fromhex("".join(re.split(r"\s{4,}|(?<=[0-9a-f]) {2,}", line)[0] for line in block.splitlines()))
            for block in blocks
        ]
    return frames


def reassemble(pdus: list[bytes]) -> tuple[bytes, Whole]:
    reassembler, whole = Reassembler(), None
    for pdu in pdus:
        assert whole is None
        whole = reassembler.add(1, decode_header(pdu), pdu[HEADER_SIZE:], 0)
    assert whole is not None
    return whole.payload, whole


def test_bitwise_crc_has_the_published_check_value() -> None:
    assert crc32c(b"123456789") == 0xE3069283


def test_the_document_has_the_same_frames() -> None:
    expected = {golden.name: golden.data for golden in GOLDEN}
    expected["The same in an Ethernet frame"] = [bytes.fromhex(ETHERNET) + DISCOVER.data[0] + bytes.fromhex(PADDING)]
    expected["INFER, sealed"] = [SEALED_INFER]
    assert documented() == expected


@each
def test_decoding_gives_exactly_the_stated_fields(golden: Golden) -> None:
    decoded = [decode_header(pdu) for pdu in golden.data]
    assert decoded == [replace(golden.header, fragment=index) for index in range(len(golden.pdus))]
    payload, whole = reassemble(golden.data)
    assert whole.wire_bytes == sum(map(len, golden.data))
    message = decode_message(decoded[-1], payload)
    assert message == Message(decoded[-1], golden.body, golden.extensions, golden.trailer)


@each
def test_encoding_gives_exactly_the_bytes(golden: Golden) -> None:
    bare = replace(golden.header, length=0, fragment_size=MAX_FRAGMENT_SIZE)  # set by encoding
    message = Message(bare, golden.body, golden.extensions, golden.trailer)
    header, payload = encode_message(message, golden.header.fragment_size)
    assert header == golden.header
    assert [pdu.hex() for pdu in fragment_frames(header, payload)] == [pdu.hex() for pdu in golden.data]


@each
def test_the_numpy_view_agrees_with_the_scalar_codec(golden: Golden) -> None:
    memory = np.frombuffer(b"".join(golden.data), np.uint8)
    lengths = np.array([len(pdu) for pdu in golden.data], np.int64)
    starts = np.concatenate(([0], np.cumsum(lengths)[:-1])).astype(np.int64)
    headers = gather_headers(FrameBatch(memory, starts, lengths, np.ones(len(lengths), np.uint64)))
    assert headers.dtype == HEADER_DTYPE
    assert classify_headers(headers, lengths, 0).tolist() == [DropReason.ACCEPTED] * len(lengths)
    assert [scalar_header(header) for header in headers] == [decode_header(pdu) for pdu in golden.data]


@each
def test_bodies_in_msgpack_say_what_is_stated(golden: Golden) -> None:
    if golden.content:
        assert msgpack.unpackb(golden.body) == golden.content
        assert msgpack.packb(golden.content) == golden.body


@with_crc
def test_the_crc_is_that_of_the_bitwise_implementation(golden: Golden) -> None:
    payload, _ = reassemble(golden.data)
    header = bytearray(golden.data[-1][:HEADER_SIZE])
    header[23] = 0  # credits
    header[24:26] = b"\0\0"  # fragment
    expected = crc32c(payload[:-CRC_SIZE] + bytes(header))
    assert int.from_bytes(payload[-CRC_SIZE:], "big") == expected
    assert message_crc(payload[:-CRC_SIZE], golden.header) == expected


@with_crc
def test_every_bit_but_those_of_fragment_and_credits_is_covered(golden: Golden) -> None:
    payload, _ = reassemble(golden.data)
    for bit in range(8 * len(payload)):
        damaged = bytearray(payload)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(FrameError, match="BAD_CRC"):
            decode_message(golden.header, bytes(damaged))
    for name in ("request", "session", "pipeline", "priority", "status" if golden.header.is_reply else "deadline"):
        with pytest.raises(FrameError, match="BAD_CRC"):
            decode_message(replace(golden.header, **{name: getattr(golden.header, name) ^ 1}), payload)
    decode_message(replace(golden.header, credits=99, fragment=0), payload)


def test_ethernet_padding_is_passed_over() -> None:
    frame = bytes.fromhex(ETHERNET) + DISCOVER.data[0] + bytes.fromhex(PADDING)
    assert len(frame) == 60  # the smallest Ethernet frame, without its check sequence
    assert int.from_bytes(frame[12:14], "big") == ETHERTYPE
    assert decode_header(frame[14:], smallest=46) == DISCOVER.header
    with pytest.raises(FrameError) as caught:
        decode_header(frame[14:], smallest=0)
    assert caught.value.reason is DropReason.TRAILING_BYTES


@each
def test_a_byte_less_and_a_byte_more_are_no_frame(golden: Golden) -> None:
    for pdu in golden.data:
        for length in range(len(pdu)):
            with pytest.raises(FrameError, match="TRUNCATED"):
                decode_header(pdu[:length])
        with pytest.raises(FrameError, match="TRAILING_BYTES"):
            decode_header(pdu + b"\0")


def test_fragments_of_the_other_message_do_not_fit() -> None:
    first, second = INFER_FRAGMENTED.data
    reassembler = Reassembler()
    assert reassembler.add(1, decode_header(first), first[HEADER_SIZE:], 0) is None
    other = replace(decode_header(second), deadline=1)
    with pytest.raises(FrameError) as caught:
        reassembler.add(1, other, second[HEADER_SIZE:], 0)
    assert caught.value.reason is Status.FRAGMENT_CONFLICT
