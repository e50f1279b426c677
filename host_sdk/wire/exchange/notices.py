"""Notices that a requester sends, each in one PDU."""

from host_sdk.wire.header import Header
from host_sdk.wire.message import Message, encode_message, fragment_frames
from host_sdk.wire.schema import HEADER_SIZE, MIN_MTU, Flag, Opcode


def notice(opcode: Opcode, about: Header, body: bytes = b"") -> bytes:
    """Return the PDU of a notice about a request, whose header with its id is given."""
    # Of a CANCEL the flag says what the answer CANCELLED shall have; any other has a CRC.
    crc = about.flags & Flag.CRC if opcode == Opcode.CANCEL else Flag.CRC
    header = Header(opcode, about.request, crc | about.flags & Flag.ONCE, about.session, priority=about.priority)
    (pdu,) = fragment_frames(*encode_message(Message(header, body), MIN_MTU - HEADER_SIZE))
    return pdu
