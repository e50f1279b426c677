"""Frames of the suite: made field by field, so that every rule can be broken on purpose, and read without belief.

Nothing here knows the exchange: a frame is what a case says it is, and a reply is what its bytes are.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgpack

from host_sdk.wire.message import Trailer, pdu_crc
from host_sdk.wire.schema import (
    CRC_SIZE,
    EXTENSION,
    EXTENSION_BLOCK,
    HEADER_SIZE,
    REFUSED_HEADER,
    REPLY_HEADER,
    REQUEST_HEADER,
    TRAILER,
    VERSION,
    Flag,
    Opcode,
)

_HEADER = struct.Struct(REQUEST_HEADER.struct_format)
CRC, TRAILED, EXTENDED, ONCE = int(Flag.CRC), int(Flag.TRAILER), int(Flag.EXTENSION), int(Flag.ONCE)


@dataclass(frozen=True, slots=True)
class Frame:
    """One PDU, or a message that is cut into some. Any value that fits its field will do.

    Attributes:
        payload: Bytes behind the header.
        length: That the header states; None: of the payload.
        fragment_size: That the header states; None: of the payload, at least 1.
        deadline: µs; the last four bytes of the header.
    """

    opcode: int
    payload: bytes = b""
    request: int = 0
    flags: int = 0
    session: int = 0
    pipeline: int = 0
    priority: int = 0
    credits: int = 0
    fragment: int = 0
    length: int | None = None
    fragment_size: int | None = None
    deadline: int = 0
    version: int = VERSION

    def encode(self) -> bytes:
        """Return the PDU: header and payload as they are, without a CRC of its own."""
        size = len(self.payload)
        return (
            _HEADER.pack(
                self.version,
                self.opcode,
                self.flags,
                self.session,
                self.request,
                size if self.length is None else self.length,
                self.pipeline,
                self.priority,
                self.credits,
                self.fragment,
                max(1, size) if self.fragment_size is None else self.fragment_size,
                self.deadline,
            )
            + self.payload
        )

    def but(self, **fields: Any) -> "Frame":
        """Return the frame with other fields."""
        return replace(self, **fields)


def message(frame: Frame, size: int | None = None, *, spoil_crc: bool = False) -> list[bytes]:
    """Return the PDUs of a message.

    Args:
        frame: Its payload is the message without CRC; with flag CRC one is added.
        size: Bytes of a fragment; None: those of the frame, or all in one.
        spoil_crc: Let the CRC be wrong.
    """
    crc = CRC_SIZE if frame.flags & CRC else 0
    length = len(frame.payload) + crc
    chosen = size or frame.fragment_size or max(1, length)
    whole = frame.but(length=length, fragment_size=chosen, fragment=0)
    payload = frame.payload
    if crc:
        covered = whole.but(credits=0).encode()
        payload += (pdu_crc(covered) ^ (0x8000_0001 if spoil_crc else 0)).to_bytes(CRC_SIZE, "big")
    cuts = range(0, max(1, length), chosen)
    return [whole.but(payload=payload[at : at + chosen], fragment=index).encode() for index, at in enumerate(cuts)]


def control_body(operation: str, **arguments: Any) -> bytes:
    """Return the body of a CONTROL."""
    packed: bytes = msgpack.packb({"op": operation, **arguments})
    return packed


def arrived_body(opcode: int, base: int, window: int, bitmap: bytes = b"") -> bytes:
    """Return the body of a RESEND, or of a GRANT."""
    return struct.pack(">BBHI", opcode, 0, window, base) + bitmap


@dataclass(frozen=True, slots=True)
class Reply:
    """A PDU that came, or a whole message that was joined from some; ``data`` is the PDU, or the first of them.

    A PDU too short for a header has version -1.
    """

    data: bytes
    payload: bytes
    version: int = -1
    opcode: int = -1
    flags: int = 0
    session: int = 0
    request: int = 0
    length: int = 0
    pipeline: int = 0
    priority: int = 0
    credits: int = 0
    fragment: int = 0
    fragment_size: int = 0
    status: int = 0
    retry_after: int = 0

    @classmethod
    def parse(cls, data: bytes) -> "Reply":
        """Read a PDU; whatever it is, there is a reply."""
        if len(data) < HEADER_SIZE:
            return cls(data, b"")
        values = _HEADER.unpack_from(data)
        *fields, last = values
        names = [field.name for field in REPLY_HEADER.fields]
        reply = cls(data, b"", **dict(zip(names, (*fields, last >> 16, last & 0xFFFF), strict=True)))
        return replace(reply, payload=data[HEADER_SIZE : HEADER_SIZE + reply._here])

    @property
    def fragments(self) -> int:
        """Fragments of the message, at least 1."""
        return max(1, -(-self.length // max(1, self.fragment_size)))

    @property
    def excess(self) -> int:
        """Bytes behind the fragment that the header speaks of; negative where some are missing."""
        return len(self.data) - HEADER_SIZE - self._here

    @property
    def _here(self) -> int:
        """Bytes of the fragment that the header speaks of."""
        return max(0, min(self.fragment_size, self.length - self.fragment * self.fragment_size))

    @property
    def body(self) -> bytes:
        """The body of a whole message, without extension block, trailer and CRC."""
        behind = (CRC_SIZE if self.flags & CRC else 0) + (TRAILER.size if self.flags & TRAILED else 0)
        before = int.from_bytes(self.payload[: EXTENSION_BLOCK.size], "big") if self.flags & EXTENDED else 0
        return self.payload[before : len(self.payload) - behind]

    @property
    def refused_header(self) -> bytes:
        """The header that a refusal repeats, where its first extension is one; else nothing."""
        begin = EXTENSION_BLOCK.size + EXTENSION.size
        head = self.payload[EXTENSION_BLOCK.size : begin]
        repeats = self.flags & EXTENDED and head == struct.pack(EXTENSION.struct_format, REFUSED_HEADER, HEADER_SIZE)
        return self.payload[begin : begin + HEADER_SIZE] if repeats else b""

    @property
    def trailer(self) -> Trailer | None:
        """The trailer of a whole message, where its flags and length have room for one."""
        end = len(self.payload) - (CRC_SIZE if self.flags & CRC else 0)
        if not self.flags & TRAILED or end < TRAILER.size:
            return None
        return Trailer.decode(self.payload[end - TRAILER.size : end])

    @property
    def sound(self) -> bool:
        """Whether a whole message ends in its CRC, or has none."""
        if not self.flags & CRC:
            return True
        if len(self.payload) < CRC_SIZE:
            return False
        header = bytearray(self.data[:HEADER_SIZE])
        header[23] = header[24] = header[25] = 0  # credits and fragment are not covered
        expected = pdu_crc(bytes(header) + self.payload[:-CRC_SIZE])
        return expected == int.from_bytes(self.payload[-CRC_SIZE:], "big")

    def unpacked(self) -> dict[str, Any]:
        """Return the map in the body; empty where there is none."""
        try:
            value = msgpack.unpackb(self.body)
        except (ValueError, msgpack.exceptions.UnpackException):
            return {}
        return value if isinstance(value, dict) else {}


def join(parts: Sequence[Reply]) -> Reply:
    """Return the message of all its fragments."""
    ordered = sorted(parts, key=lambda part: part.fragment)
    return replace(ordered[0], payload=b"".join(part.payload for part in ordered))


def opcode_name(opcode: int) -> str:
    """Return an opcode's name, or its number."""
    return next((known.name for known in Opcode if known == opcode), f"opcode {opcode:#04x}")
