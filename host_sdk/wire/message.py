"""Messages: extensions, body, trailer and CRC in one, and how it is cut into fragments. Pure: no I/O, no clock."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from host_sdk.wire.errors import FrameError, LocalProtocolError
from host_sdk.wire.header import Header, check_length
from host_sdk.wire.schema import (
    CRC_SIZE,
    EXTENSION,
    EXTENSION_BLOCK,
    HEADER_SIZE,
    KNOWN_FLAGS,
    MAX_EXTENSION_BLOCK,
    MAX_FRAGMENT_SIZE,
    TRAILER,
    Flag,
    Status,
)

_TRAILER = struct.Struct(TRAILER.struct_format)
_EXTENSION = struct.Struct(EXTENSION.struct_format)
_BLOCK = struct.Struct(EXTENSION_BLOCK.struct_format)
_CRC = struct.Struct(">I")
MAX_FRAGMENTS = 1 << 16  # as many as the index counts
LONG = 1 << 14  # bytes from which on to copy a message takes longer than to look at it where it is


@dataclass(frozen=True, slots=True)
class Trailer:
    """What an answer says of how it was made.

    Attributes:
        measured_ns: Stage to ns as the emulator took, in the order of schema.STAGES.
        modelled_ns: Stage to ns as the profile's hardware would take.
        energy_nj: Modelled energy in nJ.
        batch_size: Requests that shared the DLA invocation.
        firmware_epoch: Boots of the firmware, modulo 65536.
        model_digest: First 8 bytes of the model's SHA-256, as a number.
    """

    measured_ns: tuple[int, ...]
    modelled_ns: tuple[int, ...]
    energy_nj: int
    batch_size: int
    firmware_epoch: int
    model_digest: int

    def encode(self) -> bytes:
        """Return the trailer's bytes.

        Raises:
            LocalProtocolError: A value does not fit its field.
        """
        try:
            return _TRAILER.pack(
                *self.measured_ns,
                *self.modelled_ns,
                self.energy_nj,
                self.batch_size,
                self.firmware_epoch,
                self.model_digest,
            )
        except struct.error as error:
            raise LocalProtocolError(f"trailer value out of range: {error}") from None

    @classmethod
    def decode(cls, data: bytes | memoryview) -> "Trailer":
        """Return the trailer in exactly its bytes."""
        values = _TRAILER.unpack(data)
        stages = (len(values) - 4) // 2
        return cls(values[:stages], values[stages : 2 * stages], *values[2 * stages :])


@dataclass(frozen=True, slots=True)
class Extension:
    """An optional part of a message; a receiver passes over types that it does not know."""

    type: int
    value: bytes


@dataclass(frozen=True, slots=True)
class Message:
    """A whole message: the header that its fragments share, and its parts.

    ``header.length`` and ``header.fragment`` are set by encoding and mean nothing before.
    """

    header: Header
    body: bytes = b""
    extensions: tuple[Extension, ...] = ()
    trailer: Trailer | None = field(default=None)


def covered_header(header: Header) -> bytes:
    """Return the header's bytes as the CRC covers them: with fragment and credits as 0."""
    return replace(header, fragment=0, credits=0).encode()


def message_crc(payload: bytes | NDArray[np.uint8], header: Header) -> int:
    """Return the CRC-32C over a message's bytes without its CRC, then over its header."""
    return crc_of(payload, covered_header(header))


def crc_of(payload: bytes | NDArray[np.uint8], covered: bytes) -> int:
    """Return the same with the header's bytes as :func:`covered_header` gives them."""
    crc: int = google_crc32c.extend(google_crc32c.value(payload), covered)
    return crc


def pdu_crc(pdu: bytes) -> int:
    """Return :func:`message_crc` of a message of one PDU, without its CRC, whose ``fragment`` and ``credits`` are 0."""
    crc: int = google_crc32c.extend(google_crc32c.value(pdu[HEADER_SIZE:]), pdu[:HEADER_SIZE])
    return crc


def crc_is_right(pdu: bytes) -> bool:
    """Return whether a message of one PDU, whose ``fragment`` and ``credits`` are 0, ends in its CRC."""
    return pdu_crc(pdu[:-CRC_SIZE]) == int.from_bytes(pdu[-CRC_SIZE:], "big")


def batch_crcs(
    headers: NDArray[np.void], memory: NDArray[np.uint8], starts: NDArray[np.int64], sizes: NDArray[np.int64]
) -> NDArray[np.uint32]:
    """Return :func:`message_crc` of many messages; two library calls each, since CRCs do not vectorise.

    Args:
        headers: HEADER_DTYPE [n].
        memory: uint8 [m], in which the messages lie.
        starts: int64 [n], where each begins.
        sizes: int64 [n], its bytes without its CRC.
    """
    covered = headers.copy()
    covered["fragment"] = covered["credits"] = 0
    raw, ends = covered.tobytes(), (starts + sizes).tolist()
    value, extend = google_crc32c.value, google_crc32c.extend
    crcs = [
        extend(value(memory[start:end]), raw[at : at + HEADER_SIZE])
        for start, end, at in zip(starts.tolist(), ends, range(0, len(raw), HEADER_SIZE), strict=True)
    ]
    return np.array(crcs, np.uint32)


def crcs_of(pdus: NDArray[np.uint8], end: int) -> NDArray[np.uint32]:
    """Return :func:`message_crc` of whole messages of one PDU each, whose ``fragment`` and ``credits`` are 0.

    Args:
        pdus: uint8 [n, m].
        end: Bytes of each that the CRC covers.
    """
    size, value, extend = pdus.shape[1], google_crc32c.value, google_crc32c.extend
    if size > LONG:
        return np.array([extend(value(pdu[HEADER_SIZE:end]), pdu[:HEADER_SIZE].tobytes()) for pdu in pdus], np.uint32)
    raw = pdus.tobytes()
    crcs = [
        extend(value(raw[at + HEADER_SIZE : at + end]), raw[at : at + HEADER_SIZE]) for at in range(0, len(raw), size)
    ]
    return np.array(crcs, np.uint32)


def encode_extensions(extensions: tuple[Extension, ...]) -> bytes:
    """Return the extension block that a message with flag EXTENSION begins with.

    Raises:
        LocalProtocolError: A value does not fit, or the block is too long.
    """
    parts = []
    for extension in extensions:
        padding = -len(extension.value) % 4
        try:
            head = _EXTENSION.pack(extension.type, len(extension.value))
        except struct.error as error:
            raise LocalProtocolError(f"extension value out of range: {error}") from None
        parts.append(head + extension.value + bytes(padding))
    block = b"".join(parts)
    size = _BLOCK.size + len(block)
    if size > MAX_EXTENSION_BLOCK:
        raise LocalProtocolError(f"{size} bytes of extensions; at most {MAX_EXTENSION_BLOCK} fit")
    return _BLOCK.pack(size) + block


def _decode_extensions(payload: bytes) -> tuple[tuple[Extension, ...], int]:
    if len(payload) < _BLOCK.size:
        raise FrameError(Status.MALFORMED, "no room for the extension block that a flag announces")
    (size,) = _BLOCK.unpack_from(payload)
    if not _BLOCK.size <= size <= min(len(payload), MAX_EXTENSION_BLOCK) or size % 4:
        raise FrameError(Status.MALFORMED, f"extension block of {size} bytes")
    extensions, at = [], _BLOCK.size
    while at < size:
        if size - at < _EXTENSION.size:
            raise FrameError(Status.MALFORMED, "extension block ends within an extension")
        kind, length = _EXTENSION.unpack_from(payload, at)
        at += _EXTENSION.size
        if length > size - at:
            raise FrameError(Status.MALFORMED, f"extension {kind} of {length} bytes overruns its block")
        extensions.append(Extension(kind, payload[at : at + length]))
        at += length + -length % 4
    return tuple(extensions), size


def encode_message(message: Message, fragment_size: int) -> tuple[Header, bytes]:
    """Return the header that the fragments share and the message's bytes, CRC included.

    Which parts there are follows from the message; only the CRC follows from ``header.flags``. A request keeps
    its TRAILER flag, which asks for one.

    Raises:
        LocalProtocolError: A value does not fit, or the message is too long.
    """
    header, parts = _lay_out(message, fragment_size)
    payload = b"".join(parts)
    if header.flags & Flag.CRC:
        payload += _CRC.pack(message_crc(payload, header))
    return header, payload


def check_message(message: Message, fragment_size: int) -> None:
    """Refuse what :func:`encode_message` would, without copying the body.

    Raises:
        LocalProtocolError: A value does not fit, or the message is too long.
    """
    _lay_out(message, fragment_size)


def _lay_out(message: Message, fragment_size: int) -> tuple[Header, list[bytes]]:
    """Return the header that the fragments share, and the parts of the message without its CRC."""
    if not 1 <= fragment_size <= MAX_FRAGMENT_SIZE:
        raise LocalProtocolError(f"fragments of {fragment_size} bytes; choose 1 to {MAX_FRAGMENT_SIZE}")
    flags = message.header.flags & (Flag.CRC | Flag.TRAILER | Flag.ONCE)
    parts = []
    if message.extensions:
        flags |= Flag.EXTENSION
        parts.append(encode_extensions(message.extensions))
    parts.append(message.body)
    if message.header.is_reply:
        flags = flags | Flag.TRAILER if message.trailer else flags & ~Flag.TRAILER
    elif message.trailer:
        raise LocalProtocolError("only replies have trailers; in a request, flag TRAILER asks for one")
    if message.trailer:
        parts.append(message.trailer.encode())
    length = sum(map(len, parts)) + (CRC_SIZE if flags & Flag.CRC else 0)
    try:
        check_length(length)
    except FrameError as error:
        raise LocalProtocolError(str(error)) from None
    header = replace(message.header, flags=int(flags), length=length, fragment=0, fragment_size=fragment_size)
    if header.fragments > MAX_FRAGMENTS:
        raise LocalProtocolError(f"{length} bytes need more than {MAX_FRAGMENTS} fragments of {fragment_size}")
    header.encode()
    return header, parts


def check_flags(flags: int) -> None:
    """Refuse flags that this version does not know.

    Raises:
        FrameError: With status UNSUPPORTED_FLAG.
    """
    if flags & ~KNOWN_FLAGS:
        raise FrameError(Status.UNSUPPORTED_FLAG, f"flags {flags & ~KNOWN_FLAGS:#06x}")


def is_bare(header: Header) -> bool:
    """Return whether a message has flag ONCE and no CRC: where there should be one, the flag CRC was damaged."""
    return header.flags & (Flag.ONCE | Flag.CRC) == Flag.ONCE


def decode_message(header: Header, payload: bytes) -> Message:
    """Take a reassembled message apart.

    Args:
        header: The header of any of its fragments.
        payload: Its bytes, ``header.length`` of them.

    Raises:
        FrameError: With status BAD_CRC, UNSUPPORTED_FLAG or MALFORMED.
    """
    end = len(payload)
    if header.flags & Flag.CRC:  # first, so that a damaged flag is not taken for one that nobody knows
        end -= CRC_SIZE
        if end < 0:
            raise FrameError(Status.BAD_CRC, "no room for the CRC that a flag announces")
        (crc,) = _CRC.unpack_from(payload, end)
        if crc != message_crc(payload[:end] if end < LONG else np.frombuffer(payload, np.uint8, end), header):
            raise FrameError(Status.BAD_CRC, f"message of {len(payload)} bytes")
    check_flags(header.flags)
    trailer = None
    if header.is_reply and header.flags & Flag.TRAILER:
        end -= TRAILER.size
        if end < 0:
            raise FrameError(Status.MALFORMED, "no room for the trailer that a flag announces")
        trailer = Trailer.decode(payload[end : end + TRAILER.size])
    extensions: tuple[Extension, ...] = ()
    begin = 0
    if header.flags & Flag.EXTENSION:
        extensions, begin = _decode_extensions(payload[:end])
    return Message(header, payload[begin:end], extensions, trailer)


def fragment_frames(header: Header, payload: bytes) -> Iterator[bytes]:
    """Cut an encoded message into the PDUs that carry it, in order."""
    for index in range(header.fragments):
        begin = index * header.fragment_size
        yield replace(header, fragment=index).encode() + payload[begin : begin + header.fragment_size]


def fragment_size_for(mtu: int) -> int:
    """Return the largest fragment size for a link's MTU in bytes."""
    return min(mtu - HEADER_SIZE, MAX_FRAGMENT_SIZE)
