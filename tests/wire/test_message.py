"""Messages: round trips of every part, any bytes at all, and what cannot be encoded."""

import struct
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from host_sdk.wire.errors import FrameError, LocalProtocolError
from host_sdk.wire.header import Header
from host_sdk.wire.message import (
    Extension,
    Message,
    Trailer,
    check_message,
    decode_message,
    encode_message,
    fragment_frames,
    fragment_size_for,
    message_crc,
)
from host_sdk.wire.schema import (
    HEADER_SIZE,
    MAX_EXTENSION_BLOCK,
    MAX_MESSAGE,
    MIN_MTU,
    TRAILER,
    Flag,
    Opcode,
    Status,
)
from tests.wire.outcome import outcome
from tests.wire.strategies import headers, messages, trailers, unsigned

INFER = Header(Opcode.INFER, 1)
RESULT = Header(Opcode.RESULT, 1)
TRAILER_OF_ONES = Trailer((1,) * 6, (1,) * 6, 1, 1, 1, 1)
REFUSALS = {Status.UNSUPPORTED_FLAG, Status.BAD_CRC, Status.MALFORMED}


def refusal(header: Header, payload: bytes) -> object:
    with pytest.raises(FrameError) as caught:
        decode_message(header, payload)
    return caught.value.reason


@given(messages(), st.integers(1, 0xFFFF))
def test_encoding_and_decoding_give_the_message_back(message: Message, fragment_size: int) -> None:
    header, payload = encode_message(message, fragment_size)
    assert header.length == len(payload)
    decoded = decode_message(header, payload)
    assert (decoded.body, decoded.extensions, decoded.trailer) == (message.body, message.extensions, message.trailer)
    flags = Flag(header.flags)
    assert bool(flags & Flag.EXTENSION) == bool(message.extensions)
    assert flags & Flag.CRC == message.header.flags & Flag.CRC
    if header.is_reply:
        assert bool(flags & Flag.TRAILER) == (message.trailer is not None)
    else:
        assert flags & Flag.TRAILER == message.header.flags & Flag.TRAILER
    unchanged = {"flags": 0, "length": 0, "fragment": 0, "fragment_size": 1}
    assert replace(header, **unchanged) == replace(message.header, **unchanged)
    check_message(message, fragment_size)


@given(messages(), st.integers(1, 500))
def test_fragments_are_cut_at_multiples_of_their_size(message: Message, fragment_size: int) -> None:
    header, payload = encode_message(message, fragment_size)
    pdus = list(fragment_frames(header, payload))
    assert len(pdus) == header.fragments == max(1, -(-len(payload) // fragment_size))
    assert b"".join(pdu[HEADER_SIZE:] for pdu in pdus) == payload
    assert all(len(pdu) == HEADER_SIZE + fragment_size for pdu in pdus[:-1])


@given(trailers)
def test_trailer_round_trip(trailer: Trailer) -> None:
    assert Trailer.decode(trailer.encode()) == trailer
    assert len(trailer.encode()) == TRAILER.size


@given(headers(), st.binary(max_size=300), st.sampled_from([0, 1, 2, 3, 4, 5, 6, 7, None]))
@example(replace(INFER, flags=1), b"abc", None)
@example(replace(RESULT, flags=2), bytes(63), None)
def test_any_bytes_are_a_message_or_one_documented_status(header: Header, payload: bytes, flags: int | None) -> None:
    header = replace(header, length=len(payload), flags=header.flags if flags is None else flags)
    message = outcome(decode_message, header, payload)
    if isinstance(message, FrameError):
        assert message.reason in REFUSALS
    else:
        assert len(message.body) <= len(payload)


@given(unsigned(32), st.binary(max_size=100))
@example(16, struct.pack(">HH", 1, 9) + bytes(8))
@example(1024, bytes(1020))
@example(1028, bytes(1024))
def test_any_extension_block_is_one_or_malformed(size: int, rest: bytes) -> None:
    payload = size.to_bytes(4, "big") + rest
    header = replace(INFER, flags=Flag.EXTENSION, length=len(payload))
    message = outcome(decode_message, header, payload)
    if isinstance(message, FrameError):
        assert message.reason is Status.MALFORMED
    else:
        assert 4 <= size <= min(MAX_EXTENSION_BLOCK, len(payload))
        assert size % 4 == 0
        assert message.body == payload[size:]
        assert sum(4 + len(entry.value) + -len(entry.value) % 4 for entry in message.extensions) == size - 4


@pytest.mark.parametrize(
    ("header", "payload", "status"),
    [
        (replace(INFER, flags=0x10), b"", Status.UNSUPPORTED_FLAG),
        (replace(INFER, flags=0x8001), b"", Status.BAD_CRC),  # no room for a CRC, which is looked at before the flags
        (replace(INFER, flags=Flag.CRC), b"abc", Status.BAD_CRC),
        (replace(INFER, flags=Flag.CRC), b"abcd", Status.BAD_CRC),
        (replace(RESULT, flags=Flag.TRAILER), bytes(63), Status.MALFORMED),
        (replace(INFER, flags=Flag.EXTENSION), bytes(3), Status.MALFORMED),
        (replace(INFER, flags=Flag.EXTENSION), b"\0\0\0\0", Status.MALFORMED),  # a block smaller than its own size
        (replace(INFER, flags=Flag.EXTENSION), b"\0\0\0\6\0\0", Status.MALFORMED),  # no multiple of 4
        (replace(INFER, flags=Flag.EXTENSION), b"\0\0\0\x0c\0\1\0\0", Status.MALFORMED),  # more than there is
        (replace(INFER, flags=Flag.EXTENSION), b"\0\0\0\x08\0\1\0\1", Status.MALFORMED),  # a value behind its end
        (replace(INFER, flags=Flag.EXTENSION), (1028).to_bytes(4, "big") + bytes(1024), Status.MALFORMED),
        (replace(RESULT, flags=6), b"\0\0\0\x44" + bytes(64), Status.MALFORMED),  # a block that runs into the trailer
    ],
)
def test_messages_that_contradict_themselves(header: Header, payload: bytes, status: Status) -> None:
    assert refusal(header, payload) is status


def test_the_trailer_flag_of_a_request_announces_nothing() -> None:
    assert decode_message(replace(INFER, flags=Flag.TRAILER), b"abc") == Message(
        replace(INFER, flags=Flag.TRAILER), b"abc"
    )


def test_unknown_extensions_and_the_value_of_padding_are_passed_over() -> None:
    payload = bytes.fromhex("0000000c beef 0001 41 ffffff") + b"body"
    message = decode_message(replace(INFER, flags=Flag.EXTENSION), payload)
    assert message.extensions == (Extension(0xBEEF, b"A"),)
    assert message.body == b"body"


@pytest.mark.parametrize(
    ("message", "fragment_size", "text"),
    [
        (Message(INFER, bytes(MAX_MESSAGE + 1)), 1468, "at most"),
        (Message(replace(INFER, flags=Flag.CRC), bytes(MAX_MESSAGE - 3)), 1468, "at most"),
        (Message(INFER, bytes(65537)), 1, "65536 fragments"),
        (Message(INFER, b""), 0, "fragments of 0 bytes"),
        (Message(INFER, b""), 0x10000, "fragments of 65536 bytes"),
        (Message(replace(INFER, priority=256)), 1468, "out of range"),
        (Message(INFER, extensions=(Extension(1, bytes(1017)),)), 1468, "at most 1024"),
        (Message(INFER, extensions=(Extension(1 << 16, b""),)), 1468, "out of range"),
        (Message(INFER, extensions=(Extension(1, bytes(1 << 16)),)), 1468, "out of range"),
        (Message(INFER, trailer=TRAILER_OF_ONES), 1468, "only replies"),
        (Message(RESULT, trailer=replace(TRAILER_OF_ONES, energy_nj=1 << 32)), 1468, "out of range"),
        (Message(RESULT, trailer=replace(TRAILER_OF_ONES, measured_ns=(1,) * 5)), 1468, "out of range"),
    ],
)
def test_what_cannot_be_encoded_is_our_own_error(message: Message, fragment_size: int, text: str) -> None:
    for refuse in (encode_message, check_message):
        with pytest.raises(LocalProtocolError, match=text):
            refuse(message, fragment_size)


def test_the_largest_of_everything_can_be_encoded() -> None:
    header, payload = encode_message(Message(replace(INFER, flags=Flag.CRC), bytes(MAX_MESSAGE - 4)), 544)
    assert header.length == len(payload) == MAX_MESSAGE
    header, _ = encode_message(Message(INFER, bytes(65536)), 1)
    assert header.fragments == 65536
    full = Extension(1, bytes(MAX_EXTENSION_BLOCK - 8))
    assert decode_message(*encode_message(Message(INFER, extensions=(full,)), 1468)).extensions == (full,)


def test_fragment_size_leaves_room_for_the_header() -> None:
    assert fragment_size_for(1500) == 1468
    assert fragment_size_for(MIN_MTU) == 544
    assert fragment_size_for(1 << 20) == 0xFFFF


def test_a_flag_that_was_damaged_is_a_wrong_crc_and_no_unknown_flag() -> None:
    header, payload = encode_message(Message(replace(INFER, flags=Flag.CRC), b"body"), 100)
    assert refusal(replace(header, flags=header.flags | 0x4000), payload) is Status.BAD_CRC
    unknown = replace(header, flags=header.flags | 0x4000)
    sound = payload[:-4] + message_crc(payload[:-4], unknown).to_bytes(4, "big")
    assert refusal(unknown, sound) is Status.UNSUPPORTED_FLAG
