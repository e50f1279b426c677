"""The header of a PDU as plain fields: the checks of the codec, without its objects, for captures of many frames."""

import struct
from typing import NamedTuple

from host_sdk.wire.header import Header
from host_sdk.wire.schema import HEADER_SIZE, REPLY_BIT, REQUEST_HEADER, VERSION

_HEADER = struct.Struct(REQUEST_HEADER.struct_format)
_PADDED = 46  # bytes up to which Ethernet pads


class Fields(NamedTuple):
    """The fields of a header, in its order; ``tail`` is the deadline of a request, or status and retry_after."""

    version: int
    opcode: int
    flags: int
    session: int
    request: int
    length: int
    pipeline: int
    priority: int
    credits: int
    fragment: int
    fragment_size: int
    tail: int

    @property
    def is_reply(self) -> bool:
        """Whether the PDU answers another."""
        return bool(self.opcode & REPLY_BIT)

    @property
    def fragments(self) -> int:
        """Number of fragments of the message; 1 for an empty one."""
        return max(1, -(-self.length // self.fragment_size))

    @property
    def payload_size(self) -> int:
        """Bytes of the message in this fragment."""
        return min(self.fragment_size, self.length - self.fragment * self.fragment_size)

    @property
    def status(self) -> int:
        """The status of a reply; 0 of a request."""
        return self.tail >> 16 if self.opcode & REPLY_BIT else 0

    @property
    def header(self) -> Header:
        """The same as the codec has it."""
        common = (self.opcode, self.request, self.flags, self.session, self.length, self.pipeline, self.priority)
        place = (self.credits, self.fragment, self.fragment_size)
        if self.is_reply:
            return Header(*common, *place, status=self.tail >> 16, retry_after=self.tail & 0xFFFF)
        return Header(*common, *place, deadline=self.tail)

    def encode(self) -> bytes:
        """Return the 32 bytes of the header."""
        return _HEADER.pack(*self)

    def covered(self) -> bytes:
        """Return them as a CRC covers them: with fragment and credits as 0."""
        return _HEADER.pack(*self[:8], 0, 0, *self[10:])


def header_of(pdu: bytes) -> Fields | None:
    """Return the header of a PDU; None where it has none that makes sense, as the codec has it."""
    size = len(pdu)
    if size < HEADER_SIZE:
        return None
    fields = Fields._make(_HEADER.unpack_from(pdu))
    step, length, begin = fields.fragment_size, fields.length, fields.fragment * fields.fragment_size
    if fields.version != VERSION or step == 0 or (begin and begin >= length) or (fields.fragment and not length):
        return None
    expected = HEADER_SIZE + min(step, length - begin)
    return fields if size == expected or expected < size <= _PADDED else None


def unpadded(pdu: bytes) -> bytes:
    """Return a PDU without Ethernet's padding."""
    fields = header_of(pdu) if len(pdu) <= _PADDED else None
    return pdu[: HEADER_SIZE + fields.payload_size] if fields else pdu
