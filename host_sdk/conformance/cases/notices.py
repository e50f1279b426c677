"""GRANT, RESEND and UNKNOWN; and notices that nothing can be made of."""

import struct

from host_sdk.conformance.case import NotApplicableError, Section
from host_sdk.conformance.cases.fragments import CLASSES
from host_sdk.conformance.cases.window import notice, resend
from host_sdk.conformance.frames import CRC, ONCE, Frame, Reply, arrived_body, message
from host_sdk.conformance.patterns import Mask, MaskedBytes, Pattern
from host_sdk.conformance.rig import Rig
from host_sdk.wire.schema import ARRIVED, REPLY_BIT, Opcode

SECTION = Section("notices")
case = SECTION.case
_UNASKED = 32  # fragments of a message outside sessions that may be under way


def _made(rig: Rig, kind: str) -> Frame:
    """Return a request with a name in GRANTED."""
    if kind == "CONTROL":
        return rig.control("identity", note=bytes(64))
    return rig.infer(rig.open(), once=kind == "once INFER")


GRANTED = {kind: kind for kind in ("datagram INFER", "once INFER", "CONTROL")}


def _grant(rig: Rig, frame: Frame) -> tuple[Reply, int, int, int]:
    """Return the next GRANT about a request, and its window, its base and the bits behind it."""
    found = rig.expect(Pattern(opcode=Opcode.GRANT, request=frame.request))
    if len(found.body) < ARRIVED.size:
        raise rig.fail(f"a body of at least {ARRIVED.size} bytes", found.body.hex())
    opcode, _, window, base = struct.unpack_from(">BBHI", found.body)
    rig.check(opcode == frame.opcode, f"a GRANT about opcode {frame.opcode:#04x}", f"{opcode:#04x}")
    rig.check(window >= 1, "a window of at least 1", window)
    bits = found.body[ARRIVED.size :]
    return found, window, base, int.from_bytes(bits.ljust(128, b"\0"), "big")


@case("N-116", "a second copy of a fragment of a {} that is not whole gets a GRANT that says what is there", GRANTED)
def grant_duplicate(rig: Rig, kind: str) -> None:
    frame = _made(rig, kind)
    pieces = rig.pieces(frame, 4)
    rig.send(pieces[0], pieces[2])
    rig.send(pieces[0])
    _, _, base, bits = _grant(rig, frame)
    rig.check(base == 1, "base 1", base)
    rig.check(bits >> 1022 == 0b01, "the bit of fragment 2 and not that of fragment 1", f"{bits >> 1016:#010b}")
    rig.send(*pieces[1:])
    rig.answer(frame)


@case("N-116", "the last fragment of a {} before others gets a GRANT", GRANTED)
def grant_last(rig: Rig, kind: str) -> None:
    frame = _made(rig, kind)
    pieces = rig.pieces(frame, 4)
    rig.send(pieces[-1])
    _, _, base, bits = _grant(rig, frame)
    rig.check(base == 0, "base 0", base)
    rig.check(bits == 1 << 1024 - len(pieces), "the bit of the last fragment alone", f"{bits >> 1008:#018b}")
    rig.send(*pieces[:-1])
    rig.answer(frame)


@case("N-116", "a quarter of the fragments that may be under way of a {} gets a GRANT", GRANTED)
def grant_quarter(rig: Rig, kind: str) -> None:
    frame = _made(rig, kind)
    quarter = _UNASKED // 4
    if frame.session:
        quarter = -(-rig.last_session.opened["fragments"] // 4)
    pieces = rig.pieces(frame, 8) if quarter < 8 else _bytewise(frame, quarter + 1)
    rig.send(*pieces[:quarter])
    _, _, base, _ = _grant(rig, frame)
    rig.check(base <= quarter, f"base {quarter} or less", base)
    rig.send(*pieces[quarter:])
    rig.answer(frame)


def _bytewise(frame: Frame, least: int) -> list[bytes]:
    pieces = message(frame, 1)
    if len(pieces) < least or len(pieces) > 4 * least + 1024:
        raise NotApplicableError(f"{len(pieces)} bytes are no {least} fragments, or far more")
    return pieces


@case("N-118", "a GRANT about a {} has flag ONCE exactly when that has", GRANTED)
def grant_flags(rig: Rig, kind: str) -> None:
    frame = _made(rig, kind)
    pieces = rig.pieces(frame, 4)
    rig.send(pieces[-1])
    pattern = Pattern(opcode=Opcode.GRANT, request=frame.request, flags=Mask(frame.flags & ONCE, ONCE))
    found = rig.expect(Pattern(opcode=Opcode.GRANT, request=frame.request))
    rig.check(pattern.matches(found), str(pattern), f"flags {found.flags:#06x}")
    rig.check(found.session == frame.session, f"session {frame.session:#x}", f"{found.session:#x}")
    rig.check(found.payload[:1] == bytes([frame.opcode]), "the opcode of the message", found.payload[:1].hex())
    rig.send(*pieces[:-1])
    rig.answer(frame)


@case("N-117", "a RESEND about a datagram request gets UNKNOWN")
def resend_datagram(rig: Rig) -> None:
    frame = rig.infer(rig.open())
    rig.right(rig.ask(frame))
    rig.put(resend(frame))
    rig.expect(Pattern(opcode=Opcode.UNKNOWN, request=frame.request, session=frame.session))


@case("N-117", "a RESEND about a CONTROL gets UNKNOWN")
def resend_control(rig: Rig) -> None:
    frame = rig.control("identity")
    rig.ask(frame)
    rig.put(notice(Opcode.RESEND, frame, arrived_body(Opcode.CONTROLLED, 0, 32)))
    rig.expect(Pattern(opcode=Opcode.UNKNOWN, request=frame.request))


@case("N-117", "a RESEND in a session that is not open gets UNKNOWN, {}", CLASSES)
def resend_no_session(rig: Rig, once: bool) -> None:
    frame = Frame(Opcode.INFER, b"", rig.number(), CRC | (ONCE if once else 0), 0x1234_5678)
    rig.put(resend(frame))
    wanted = Mask(ONCE if once else 0, ONCE)
    rig.expect(Pattern(opcode=Opcode.UNKNOWN, request=frame.request, session=frame.session, flags=wanted))


@case("N-117", "a RESEND in another peer's session gets UNKNOWN, and no answer of that")
def resend_others(rig: Rig) -> None:
    frame = rig.infer(rig.open(), once=True)
    rig.right(rig.ask(frame))
    rig.put(resend(frame), port=rig.second)
    rig.expect(Pattern(opcode=Opcode.UNKNOWN, request=frame.request), rig.second)
    rig.expect_none(Pattern(opcode=Opcode.RESULT), rig.second)


@case("N-117", "a RESEND gets the fragments of a long answer that are missing, and no others")
def resend_missing(rig: Rig) -> None:
    size = 544
    if len(rig.work.answer) <= 3 * size:
        raise NotApplicableError(f"the pipeline's answers of {len(rig.work.answer)} bytes are no four fragments")
    frame = rig.infer(rig.open(fragment_size=size), once=True)
    reply = rig.right(rig.ask(frame))
    bitmap = bytes([0b0100_0000])  # of base 1: fragment 2 is there
    rig.put(notice(Opcode.RESEND, frame, arrived_body(Opcode.RESULT, 1, 3, bitmap)))
    pattern = Pattern(opcode=Opcode.RESULT, request=frame.request)
    found = {rig.expect(pattern).fragment for _ in range(2)}
    rig.check(found == {1, 3}, f"fragments 1 and 3 of {reply.fragments}", sorted(found))
    rig.expect_none(pattern)


@case("N-114 N-115", "of a long answer no more fragments come unasked than its session's `fragments`")
def unasked(rig: Rig) -> None:
    size = 544
    if len(rig.work.answer) <= 3 * size:
        raise NotApplicableError(f"the pipeline's answers of {len(rig.work.answer)} bytes are no four fragments")
    frame = rig.put(rig.infer(rig.open(fragment_size=size, fragments=2), once=True))
    pattern = Pattern(opcode=Opcode.RESULT, request=frame.request)
    found = {rig.expect(pattern).fragment for _ in range(2)}
    rig.check(found == {0, 1}, "fragments 0 and 1", sorted(found))
    rig.expect_none(pattern)
    rig.put(resend(frame, base=2, window=1))
    rig.check(rig.expect(pattern).fragment == 2, "fragment 2", "another")
    rig.expect_none(Pattern(opcode=Opcode.RESULT, request=frame.request, fragment=range(3, 0xFFFF)))


_MEANINGLESS: dict[str, Frame] = {
    "CANCEL in no session": Frame(Opcode.CANCEL, b"", 7, CRC | ONCE, 0x1234_5678),
    "SETTLE in no session": Frame(Opcode.SETTLE, b"", 7, CRC | ONCE, 0x1234_5678),
    "RESEND without a body": Frame(Opcode.RESEND, b"", 7, CRC | ONCE, 0x1234_5678),
    "a notice of opcode 0x23": Frame(0x23, b"what", 7, CRC, 0x1234_5678),
    "a notice of opcode 0x3f": Frame(0x3F, b"", 7, 0),
    "a notice with flag 0x8000": Frame(Opcode.CANCEL, b"", 7, 0x8000, 0x1234_5678),
    "a notice too short for its extensions": Frame(Opcode.SETTLE, b"", 7, 4),
}


@case("N-100", "nothing is replied to {}", _MEANINGLESS)
def meaningless(rig: Rig, frame: Frame) -> None:
    frame = frame.but(request=rig.number())
    rig.put(frame)
    rig.expect_none(Pattern(request=frame.request))


@case("N-100", "nothing is replied to a notice with a wrong CRC")
def broken_notice(rig: Rig) -> None:
    frame = rig.infer(rig.open(), once=True)
    rig.send(*message(resend(frame), spoil_crc=True))
    rig.expect_none(Pattern(request=frame.request))


@case("N-100", "nothing is replied to a CANCEL of a datagram request unheard of")
def cancel_unheard(rig: Rig) -> None:
    frame = rig.infer(rig.open())
    rig.put(notice(Opcode.CANCEL, frame))
    rig.expect_none(Pattern(opcode=(Opcode.CANCEL | REPLY_BIT, Opcode.RESULT), request=frame.request))


@case("N-116", "a GRANT about no fragment but the last has base 0, and names INFER")
def grant_body(rig: Rig) -> None:
    frame = rig.infer(rig.open())
    pieces = rig.pieces(frame, 4)
    rig.send(pieces[-1])
    body = MaskedBytes(bytes([Opcode.INFER, 0, 0, 0, 0, 0, 0, 0]), b"\xff\0\0\0\xff\xff\xff\xff")
    rig.expect(Pattern(opcode=Opcode.GRANT, request=frame.request, payload=body))
    rig.send(*pieces[:-1])
    rig.answer(frame)
