"""Being found: answers to those who ask who is there, and a beacon at boot."""

from firmware.hal import Letter
from host_sdk.wire.header import Header
from host_sdk.wire.links.base import BROADCAST
from host_sdk.wire.message import Message
from host_sdk.wire.schema import REPLY_BIT, Flag, Opcode, Status


def beacon(identity: bytes) -> Letter:
    """Return the unsolicited ANNOUNCE, to everybody, with request 0; the body is the encoded identity."""
    return Letter(BROADCAST, Message(Header(opcode=Opcode.ANNOUNCE, request=0, flags=int(Flag.CRC)), identity))


def reply(letter: Letter, status: Status, body: bytes) -> Letter:
    """Return the answer to a letter: to the same peer, with what a reply repeats of its request."""
    asked = letter.message.header
    header = Header(
        opcode=asked.opcode | REPLY_BIT,
        request=asked.request,
        flags=asked.flags & Flag.CRC,
        session=asked.session,
        priority=asked.priority,
        status=status,
    )
    return Letter(letter.peer, Message(header, body))
