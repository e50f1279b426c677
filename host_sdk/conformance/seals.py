"""Sealed frames, made by hand around a key, so that every part of the seal can be wrong."""

import struct

from host_sdk.conformance.frames import Reply
from host_sdk.wire.schema import HEADER_SIZE, SEAL, SEAL_TAG_SIZE, Flag
from host_sdk.wire.sealed.keys import SealKey

_SEAL = struct.Struct(SEAL.struct_format)
_CLEAR = HEADER_SIZE + SEAL.size
SEALED = int(Flag.SEALED)


def sealed(key: SealKey, pdu: bytes, sequence: int) -> bytes:
    """Return a PDU sealed with a key under a sequence."""
    header = pdu[:2] + (int.from_bytes(pdu[2:4], "big") | SEALED).to_bytes(2, "big") + pdu[4:HEADER_SIZE]
    clear, plain = header + _SEAL.pack(key.number, sequence), pdu[HEADER_SIZE:]
    out = bytearray(len(plain) + SEAL_TAG_SIZE)
    key.seal([(sequence, memoryview(plain), memoryview(clear), memoryview(out))])
    return clear + bytes(out)


def with_seal(pdu: bytes, number: int, sequence: int) -> bytes:
    """Return a sealed PDU with another key or sequence in its seal."""
    return pdu[:HEADER_SIZE] + _SEAL.pack(number, sequence) + pdu[_CLEAR:]


def sequence_of(reply: Reply) -> int:
    """Return the sequence in the seal of a reply."""
    return int(_SEAL.unpack_from(reply.data, HEADER_SIZE)[1])


def opened(key: SealKey, reply: Reply) -> Reply | None:
    """Return what is in a sealed reply; None where it was not made with the responder's half of the key."""
    if not reply.flags & SEALED or len(reply.data) < _CLEAR + SEAL_TAG_SIZE:
        return None
    number, sequence = _SEAL.unpack_from(reply.data, HEADER_SIZE)
    cipher = reply.data[_CLEAR:]
    out = bytearray(len(cipher) - SEAL_TAG_SIZE)
    if number != key.number:
        return None
    if key.open([(sequence, memoryview(cipher), memoryview(reply.data[:_CLEAR]), memoryview(out))]):
        return None
    flags = (reply.flags & ~SEALED).to_bytes(2, "big")
    return Reply.parse(reply.data[:2] + flags + reply.data[4:HEADER_SIZE] + bytes(out))
