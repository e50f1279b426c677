"""Devices that say something wrong: each alters what it sends in one way."""

from collections.abc import Callable

from host_sdk.conformance.frames import CRC, EXTENDED, ONCE, TRAILED
from host_sdk.wire.links.base import BROADCAST
from host_sdk.wire.message import pdu_crc
from host_sdk.wire.schema import HEADER_SIZE, TRAILER, Opcode, Status
from tests.conformance.alter import (
    field,
    lost,
    of,
    on,
    refusals,
    single,
    with_body,
    with_crc,
    with_fields,
    with_keys,
)
from tests.conformance.device import Alter

_REPLIES = of()
_RESULT, _GRANT = of(Opcode.RESULT), of(Opcode.GRANT)
_OPENED, _CLOSED = of(Opcode.OPENED, status=0), of(Opcode.CLOSED)


def _set(when: Callable[[bytes], bool], **values: int) -> Alter:
    return on(when, lambda pdu: with_fields(pdu, **values))


def _keys(when: Callable[[bytes], bool], **values: object) -> Alter:
    return on(when, lambda pdu: with_keys(pdu, **values))


def _cut_crc(pdu: bytes) -> bytes:
    raw = bytearray(pdu[:-4])
    raw[2:4] = (field(pdu, "flags") & ~CRC).to_bytes(2, "big")
    raw[16:20] = (field(pdu, "length") - 4).to_bytes(4, "big")
    return bytes(raw)


def _always_crc(pdu: bytes) -> bytes:
    if not single(pdu) or field(pdu, "flags") & CRC:
        return pdu
    raw = bytearray(pdu + bytes(4))
    raw[2:4] = (field(pdu, "flags") | CRC).to_bytes(2, "big")
    raw[16:20] = (field(pdu, "length") + 4).to_bytes(4, "big")
    return with_crc(bytes(raw))


def _crc_over_credits(pdu: bytes) -> bytes:
    if not single(pdu) or not field(pdu, "flags") & CRC:
        return pdu
    return pdu[:-4] + pdu_crc(pdu[:-4]).to_bytes(4, "big")


def _without_trailer(pdu: bytes) -> bytes:
    flags = field(pdu, "flags")
    crc = 4 * (flags & CRC)
    raw = pdu[: len(pdu) - crc - TRAILER.size] + bytes(crc)
    return with_fields(raw, flags=flags & ~TRAILED, length=len(raw) - HEADER_SIZE)


def _twice(pdu: bytes) -> tuple[bytes, bytes]:
    return pdu, pdu


def _everybody(peer: int, pdu: bytes) -> list[tuple[int, bytes]]:
    return [(BROADCAST, pdu)] if peer < BROADCAST else [(peer, pdu)]


def _other_digest(pdu: bytes) -> bytes:
    crc = 4 * (field(pdu, "flags") & CRC)
    at = len(pdu) - crc - 8
    return with_crc(pdu[:at] + bytes(8) + pdu[at + 8 :])


def _base_0(pdu: bytes) -> bytes:
    at = HEADER_SIZE + 4
    return with_crc(pdu[:at] + bytes(4) + pdu[at + 4 :])


def _other_opcode(pdu: bytes) -> bytes:
    return with_crc(pdu[:HEADER_SIZE] + bytes([Opcode.CLOSE]) + pdu[HEADER_SIZE + 1 :])


def _first_half(pdu: bytes) -> bytes:
    crc = 4 * (field(pdu, "flags") & CRC)
    return with_body(pdu, pdu[HEADER_SIZE : HEADER_SIZE + (len(pdu) - HEADER_SIZE - crc) // 2])


def _status(old: Status, new: Status) -> Alter:
    return _set(lambda pdu: refusals(pdu) and field(pdu, "status") == old, status=new)


def _trailed(pdu: bytes) -> bool:
    return field(pdu, "opcode") == Opcode.RESULT and bool(field(pdu, "flags") & TRAILED) and single(pdu)


def _extended(pdu: bytes) -> bool:
    return bool(field(pdu, "flags") & EXTENDED)


def _without_extensions(pdu: bytes) -> bytes:
    return with_body(with_fields(pdu, flags=field(pdu, "flags") & ~EXTENDED), b"")


# By name: the rules that each breaks, and what becomes of what the device sends.
TOLD: dict[str, tuple[str, Alter]] = {
    "replies of version 2": ("N-010", on(_REPLIES, lambda pdu: b"\x02" + pdu[1:])),
    "CLOSED with another opcode": ("N-018", _set(_CLOSED, opcode=0x85)),
    "replies without their request id": ("N-019", _set(_OPENED, request=1)),
    "priority 0 in every reply": ("N-019", _set(_REPLIES, priority=0)),
    "CLOSED without its session": ("N-020", _set(_CLOSED, session=0)),
    "RESULT without its session": ("N-020", _set(_RESULT, session=0)),
    "a pipeline in OPENED": ("N-013", _set(_OPENED, pipeline=1)),
    "retry_after without BUSY": ("N-013", _set(of(status=0), retry_after=5)),
    "a session in ANNOUNCE": ("N-013", _set(of(Opcode.ANNOUNCE), session=5)),
    "no CRC at all": ("N-036", on(single, lambda pdu: _cut_crc(pdu) if field(pdu, "flags") & CRC else pdu)),
    "a CRC always": ("N-036", on(single, _always_crc)),
    "a wrong CRC": ("N-046", on(single, lambda pdu: pdu[:-1] + bytes([pdu[-1] ^ field(pdu, "flags") & CRC]))),
    "a CRC over the credits": ("N-046", on(_REPLIES, _crc_over_credits)),
    "no trailer": ("N-044", on(_trailed, _without_trailer)),
    "the trailer of another model": ("N-044", on(_trailed, _other_digest)),
    "flag TRAILER in refusals": ("N-045", on(refusals, lambda p: with_fields(p, flags=field(p, "flags") | TRAILED))),
    "RESULT without flag ONCE": ("N-098", on(_RESULT, lambda p: with_fields(p, flags=field(p, "flags") & ~ONCE))),
    "every RESULT with flag ONCE": ("N-098", on(_RESULT, lambda p: with_fields(p, flags=field(p, "flags") | ONCE))),
    "refusals of 600 bytes": ("N-053", on(refusals, lambda pdu: with_body(pdu, b"x" * 600))),
    "refusals in Latin-1": ("N-053", on(refusals, lambda pdu: with_body(pdu, b"\xe4h"))),
    "refusals without the header that they are about": ("N-146", on(_extended, _without_extensions)),
    "every reply twice": ("N-099", on(_REPLIES, _twice)),
    "no CLOSED when there was no session": ("N-061", on(of(Opcode.CLOSED, status=48, flags=CRC), lost)),
    "a byte behind every PDU": ("N-002", on(_REPLIES, lambda pdu: pdu + b"\0" * 47)),
    "replies to everybody": ("N-006", _everybody),
    "RESULT from pipeline 0": ("N-077", _set(_RESULT, pipeline=0)),
    "half of the outputs": ("N-076", on(of(Opcode.RESULT, status=0), _first_half)),
    "no GRANT": ("N-116", on(_GRANT, lost)),
    "GRANT with base 0": ("N-116", on(_GRANT, _base_0)),
    "GRANT about another opcode": ("N-116", on(_GRANT, _other_opcode)),
    "GRANT without flag ONCE": ("N-118", on(_GRANT, lambda p: with_fields(p, flags=field(p, "flags") & ~ONCE))),
    "no UNKNOWN": ("N-117", on(of(Opcode.UNKNOWN), lost)),
    "WORKING in place of UNKNOWN": ("N-117", _set(of(Opcode.UNKNOWN), opcode=Opcode.WORKING)),
    "BUSY without retry_after": ("N-067", _set(of(status=Status.BUSY), retry_after=0)),
    "BUSY in silence": ("N-103", on(of(status=Status.BUSY), lost)),
    "OPENED with credits 0": ("N-059", _keys(_OPENED, credits=0)),
    "OPENED with a window of 100": ("N-059", _keys(_OPENED, window=100)),
    "OPENED without max_message": ("N-059", _keys(_OPENED, max_message=None)),
    "OPENED with session 0": ("N-059", _set(_OPENED, session=0)),
    "OPENED without padding": ("N-107", _keys(_OPENED, padding=None)),
    "`next` that is `base`": ("N-119", on(_OPENED, lambda p: with_keys(p, next=field(p, "request")))),
    "ANNOUNCE without mtu": ("N-055", _keys(of(Opcode.ANNOUNCE), mtu=None)),
    "ANNOUNCE with a status": ("N-055", _set(of(Opcode.ANNOUNCE), status=19)),
    "BAD_CRC in silence": ("N-048", on(of(status=Status.BAD_CRC), lost)),
    "BAD_CRC as MALFORMED": ("N-047 N-048", _status(Status.BAD_CRC, Status.MALFORMED)),
    "UNSUPPORTED_FLAG in silence": ("N-034", on(of(status=Status.UNSUPPORTED_FLAG), lost)),
    "MALFORMED as BAD_CRC": ("N-039 N-043", _status(Status.MALFORMED, Status.BAD_CRC)),
    "unknown opcodes in silence": ("N-052", on(of(status=Status.UNKNOWN_OPCODE), lost)),
    "TOO_LARGE as MALFORMED": ("N-038", _status(Status.TOO_LARGE, Status.MALFORMED)),
    "FRAGMENT_CONFLICT in silence": ("N-031", on(of(status=Status.FRAGMENT_CONFLICT), lost)),
    "REASSEMBLY_TIMEOUT in silence": ("N-033", on(of(status=Status.REASSEMBLY_TIMEOUT), lost)),
    "UNKNOWN_SESSION as INTERNAL": ("N-062 N-065", _status(Status.UNKNOWN_SESSION, Status.INTERNAL)),
    "UNKNOWN_PIPELINE as INTERNAL": ("N-070", _status(Status.UNKNOWN_PIPELINE, Status.INTERNAL)),
    "WRONG_SIZE as MALFORMED": ("N-072", _status(Status.WRONG_SIZE, Status.MALFORMED)),
    "BAD_ARGUMENT as OK": ("N-058 N-082", _status(Status.BAD_ARGUMENT, Status.OK)),
    "control that is MALFORMED as BAD_ARGUMENT": ("N-080", _status(Status.MALFORMED, Status.BAD_ARGUMENT)),
    "UNKNOWN_OPERATION as BAD_ARGUMENT": ("N-081", _status(Status.UNKNOWN_OPERATION, Status.BAD_ARGUMENT)),
    "BAD_PIPELINE without a sentence": ("N-084", on(of(status=Status.BAD_PIPELINE), lambda pdu: with_body(pdu, b""))),
    "DEADLINE_EXCEEDED as OK": ("N-078", _status(Status.DEADLINE_EXCEEDED, Status.OK)),
    "CANCELLED in silence": ("N-105 N-106", on(of(status=Status.CANCELLED), lost)),
    "a reboot for nothing": ("N-142", on(of(Opcode.CONTROLLED), lambda p: with_keys(p, reboot=1))),
}
