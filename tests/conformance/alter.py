"""Ways to alter frames on their way, for devices that are wrong on purpose."""

from collections.abc import Callable, Iterable
from typing import Any

import msgpack

from host_sdk.conformance.frames import CRC, Reply
from host_sdk.wire.message import pdu_crc
from host_sdk.wire.schema import HEADER_SIZE, REPLY_HEADER, Opcode
from tests.conformance.device import Alter

PLACES = {field.name: (offset, field.width) for field, offset in REPLY_HEADER.placed()} | {"deadline": (28, 4)}


def field(pdu: bytes, name: str) -> int:
    """Return a field of a PDU; 0 where it is too short."""
    at, width = PLACES[name]
    return int.from_bytes(pdu[at : at + width], "big")


def with_fields(pdu: bytes, **values: int) -> bytes:
    """Return a PDU with other values in its header, and the CRC that belongs to them where it is a whole message."""
    raw = bytearray(pdu)
    for name, value in values.items():
        at, width = PLACES[name]
        raw[at : at + width] = value.to_bytes(width, "big")
    return with_crc(bytes(raw)) if single(pdu) else bytes(raw)


def single(pdu: bytes) -> bool:
    """Return whether a PDU is a whole message."""
    return len(pdu) == HEADER_SIZE + field(pdu, "length")


def with_crc(pdu: bytes) -> bytes:
    """Return a whole message with the CRC that it should have, where its flag says that it has one."""
    if not field(pdu, "flags") & CRC or len(pdu) < HEADER_SIZE + 4:
        return pdu
    covered = bytearray(pdu[:-4])
    covered[23] = covered[24] = covered[25] = 0
    return pdu[:-4] + pdu_crc(bytes(covered)).to_bytes(4, "big")


def with_body(pdu: bytes, body: bytes) -> bytes:
    """Return a whole message of another body, without trailer."""
    crc = field(pdu, "flags") & CRC
    raw = pdu[:HEADER_SIZE] + body + bytes(4 * crc)
    return with_fields(raw[:16] + (len(raw) - HEADER_SIZE).to_bytes(4, "big") + raw[20:])


def with_keys(pdu: bytes, **values: Any) -> bytes:
    """Return a whole message with other values in the map of its body; None takes a key out."""
    if not single(pdu):
        return pdu
    kept = {**Reply.parse(pdu).unpacked(), **values}
    return with_body(pdu, msgpack.packb({key: value for key, value in kept.items() if value is not None}))


def on(when: Callable[[bytes], bool], make: Callable[[bytes], bytes | Iterable[bytes] | None]) -> Alter:
    """Return an alteration of the PDUs that are meant: another one, several, or None for its loss."""

    def alter(peer: int, pdu: bytes) -> list[tuple[int, bytes]]:
        if not when(pdu):
            return [(peer, pdu)]
        made = make(pdu)
        several = () if made is None else (made,) if isinstance(made, bytes) else made
        return [(peer, each) for each in several]

    return alter


def of(*opcodes: int, **fields: int) -> Callable[[bytes], bool]:
    """Return what is true of PDUs with one of some opcodes, and these fields."""

    def check(pdu: bytes) -> bool:
        right = not opcodes or field(pdu, "opcode") in opcodes
        return right and all(field(pdu, name) == value for name, value in fields.items())

    return check


def lost(_pdu: bytes) -> None:
    """Lose a PDU."""


def refusals(pdu: bytes) -> bool:
    """Return whether a PDU refuses a request."""
    return field(pdu, "opcode") < Opcode.WORKING and field(pdu, "status") != 0
