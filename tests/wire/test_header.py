"""The header: round trips, any bytes at all, and that the vectorised codec says what the scalar one says."""

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from host_sdk.wire.errors import FrameError, LocalProtocolError
from host_sdk.wire.header import (
    HEADER_DTYPE,
    Header,
    check_length,
    classify_headers,
    decode_header,
    gather_headers,
    scalar_header,
    vector_header,
)
from host_sdk.wire.links.base import FrameBatch
from host_sdk.wire.schema import HEADER_SIZE, MAX_MESSAGE, DropReason, Opcode, Status
from tests.wire.outcome import outcome
from tests.wire.strategies import headers, unsigned

INFER = Header(Opcode.INFER, 1, length=10, fragment_size=4)  # three fragments


def batch_of(pdus: list[bytes], gap: int = 3) -> FrameBatch:
    """Return PDUs as they lie in a ring: one behind the other, with rubbish in between and behind."""
    memory, starts = bytearray(b"\x01" * HEADER_SIZE), []
    for pdu in pdus:
        starts.append(len(memory))
        memory += pdu + b"\xee" * gap
    return FrameBatch(
        np.frombuffer(bytes(memory), np.uint8),
        np.array(starts, np.int64),
        np.array([len(pdu) for pdu in pdus], np.int64),
        np.arange(len(pdus), dtype=np.uint64),
    )


def scalar_reason(pdu: bytes, smallest: int) -> int:
    result = outcome(decode_header, pdu, smallest)
    return int(result.reason if isinstance(result, FrameError) else DropReason.ACCEPTED)


@given(headers())
def test_encoding_and_decoding_give_the_header_back(header: Header) -> None:
    header = replace(header, length=5, fragment=0, fragment_size=max(5, header.fragment_size))
    assert decode_header(header.encode() + b"abcde") == header


@given(headers())
def test_numpy_view_has_what_the_scalar_codec_writes(header: Header) -> None:
    (element,) = np.frombuffer(header.encode(), HEADER_DTYPE)
    assert scalar_header(element) == header
    assert vector_header(header).tobytes() == header.encode()
    names = ("status", "retry_after") if header.is_reply else ("deadline",)
    for name in (*("opcode", "request", "session", "length", "credits", "fragment"), *names):
        assert int(element[name]) == getattr(header, name)


@given(st.binary(max_size=80), st.sampled_from([0, 46]))
@example(b"", 0)
@example(b"\x01" * 31, 46)
def test_any_bytes_are_a_header_or_one_documented_error(data: bytes, smallest: int) -> None:
    header = outcome(decode_header, data, smallest)
    if isinstance(header, FrameError):
        assert isinstance(header.reason, DropReason)
        assert header.reason is not DropReason.ACCEPTED
    else:
        assert header.encode() == data[:HEADER_SIZE]
        assert len(data) >= HEADER_SIZE + header.payload_size >= HEADER_SIZE


@st.composite
def pdus(draw: st.DrawFn) -> bytes:
    """PDUs that are nearly good: bounds met, missed by one, and bytes changed."""
    size = draw(st.sampled_from([0, 1, 4, 16, 0xFFFF]))
    length = draw(st.sampled_from([0, 1, 3, 4, 5, 8, 9, 20, 0x10000, 0xFFFFFFFF]))
    fragment = draw(st.sampled_from([0, 1, 2, 3, 5, 0xFFFF]))
    header = replace(draw(headers()), length=length, fragment=fragment, fragment_size=size)
    honest = max(0, min(size, length - fragment * size))
    payload = bytes(max(0, min(honest, 64) + draw(st.sampled_from([0, 0, 0, -1, 1, 9, 14]))))
    pdu = bytearray(header.encode() + payload)
    for index, value in draw(st.lists(st.tuples(st.integers(0, HEADER_SIZE - 1), unsigned(8)), max_size=2)):
        pdu[index] = value
    return bytes(pdu[: draw(st.sampled_from([len(pdu), len(pdu), 31, 32, 0]))])


@given(st.lists(pdus() | st.binary(max_size=70), max_size=12), st.sampled_from([0, 46]))
def test_vectorised_and_scalar_checks_give_the_same_reason(drawn: list[bytes], smallest: int) -> None:
    batch = batch_of(drawn)
    reasons = classify_headers(gather_headers(batch), batch.lengths, smallest)
    assert reasons.tolist() == [scalar_reason(pdu, smallest) for pdu in drawn]


@given(st.lists(pdus(), min_size=1, max_size=8))
def test_gathered_headers_are_those_of_the_frames(drawn: list[bytes]) -> None:
    batch = batch_of(drawn)
    gathered = gather_headers(batch)
    for pdu, element in zip(drawn, gathered, strict=True):
        if len(pdu) >= HEADER_SIZE:
            assert element.tobytes() == pdu[:HEADER_SIZE]


def test_a_short_frame_at_the_very_end_of_the_memory_is_truncated() -> None:
    pdu = replace(INFER, length=0).encode()
    memory = np.frombuffer(pdu + pdu[:5], np.uint8)
    batch = FrameBatch(memory, np.array([0, 32]), np.array([32, 5]), np.zeros(2, np.uint64))
    reasons = classify_headers(gather_headers(batch), batch.lengths, 0)
    assert reasons.tolist() == [DropReason.ACCEPTED, DropReason.TRUNCATED]


@pytest.mark.parametrize(
    ("pdu", "smallest", "reason"),
    [
        (INFER.encode() + bytes(4), 0, DropReason.ACCEPTED),
        (replace(INFER, fragment=2).encode() + bytes(2), 0, DropReason.ACCEPTED),
        (INFER.encode()[:31], 0, DropReason.TRUNCATED),
        (INFER.encode() + bytes(3), 0, DropReason.TRUNCATED),
        (INFER.encode() + bytes(5), 0, DropReason.TRAILING_BYTES),
        (INFER.encode() + bytes(14), 46, DropReason.ACCEPTED),  # Ethernet's padding
        (INFER.encode() + bytes(14), 0, DropReason.TRAILING_BYTES),  # there is none in UDP
        (INFER.encode() + bytes(15), 46, DropReason.TRAILING_BYTES),
        (b"\x02" + INFER.encode()[1:] + bytes(4), 0, DropReason.BAD_VERSION),
        (b"\x02" + INFER.encode()[1:31], 0, DropReason.TRUNCATED),  # too short comes before everything
        (b"\x00" + replace(INFER, fragment=3).encode()[1:], 0, DropReason.BAD_VERSION),  # version before fragment
        (replace(INFER, fragment=3).encode(), 0, DropReason.BAD_FRAGMENT),
        (replace(INFER, fragment_size=0).encode(), 0, DropReason.BAD_FRAGMENT),
        (replace(INFER, length=0).encode(), 0, DropReason.ACCEPTED),
        (replace(INFER, length=0, fragment=1).encode(), 0, DropReason.BAD_FRAGMENT),
        (replace(INFER, length=8, fragment=2).encode(), 0, DropReason.BAD_FRAGMENT),
    ],
)
def test_frames_and_the_reason_they_fall_under(pdu: bytes, smallest: int, reason: DropReason) -> None:
    batch = batch_of([pdu])
    assert scalar_reason(pdu, smallest) == reason
    assert classify_headers(gather_headers(batch), batch.lengths, smallest).tolist() == [reason]


@pytest.mark.parametrize(
    ("length", "size", "fragments", "last"),
    [
        (0, 1, 1, 0),
        (1, 1, 1, 1),
        (8, 4, 2, 4),
        (9, 4, 3, 1),
        (1 << 24, 544, 30841, 256),
        (0xFFFFFFFF, 0xFFFF, 65537, 0xFFFF),
    ],
)
def test_fragments_of_a_message(length: int, size: int, fragments: int, last: int) -> None:
    header = Header(Opcode.INFER, 1, length=length, fragment_size=size)
    assert header.fragments == fragments
    assert replace(header, fragment=fragments - 1).payload_size == last


@pytest.mark.parametrize(
    "name", [field.name for field in fields(Header) if field.name not in ("status", "retry_after")]
)
def test_a_value_that_does_not_fit_is_our_own_error(name: str) -> None:
    for value in (-1, 1 << 64):
        header = replace(INFER, **{name: value})
        with pytest.raises(LocalProtocolError, match="out of range"):
            header.encode()


@pytest.mark.parametrize("name", ["status", "retry_after"])
def test_a_reply_value_that_does_not_fit_is_our_own_error(name: str) -> None:
    header = replace(Header(Opcode.RESULT, 1), **{name: 1 << 16})
    with pytest.raises(LocalProtocolError, match="out of range"):
        header.encode()


def test_length_is_bounded_by_the_protocol_or_by_less() -> None:
    check_length(MAX_MESSAGE)
    check_length(100, 100)
    for length, limit in ((MAX_MESSAGE + 1, MAX_MESSAGE), (101, 100)):
        with pytest.raises(FrameError) as caught:
            check_length(length, limit)
        assert caught.value.reason is Status.TOO_LARGE
