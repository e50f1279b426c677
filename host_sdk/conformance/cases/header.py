"""The header: versions, directions, what a reply repeats, and fields without a meaning."""

from collections.abc import Callable

from host_sdk.conformance.case import Section
from host_sdk.conformance.frames import CRC, Frame, message
from host_sdk.conformance.patterns import Mask, Pattern, described
from host_sdk.conformance.rig import Rig
from host_sdk.wire.schema import REPLY_BIT, Opcode, Status

SECTION = Section("header")
case = SECTION.case
Make = Callable[[Rig], Frame]


def _close(rig: Rig) -> Frame:
    return Frame(Opcode.CLOSE, b"", rig.number(), CRC, session=0x1234_5678)


def _discover(rig: Rig) -> Frame:
    return Frame(Opcode.DISCOVER, b"", rig.number(), CRC)


def _refused(rig: Rig) -> Frame:
    return Frame(Opcode.INFER, b"x", rig.number(), CRC, session=0x1234_5678)


def _inference(rig: Rig) -> Frame:
    rig.work  # noqa: B018 - not applicable without
    return rig.infer(rig.open())


KINDS: dict[str, Make] = {
    "DISCOVER": _discover,
    "OPEN": lambda rig: rig.opening(),
    "CLOSE": _close,
    "CONTROL": lambda rig: rig.control("identity"),
    "INFER": _inference,
    "an INFER that is refused": _refused,
    "an unknown opcode": lambda rig: Frame(0x55, b"", rig.number(), CRC),
}


def _end(rig: Rig, frame: Frame) -> None:
    """Close what an OPEN has opened."""
    if frame.opcode == Opcode.OPEN:
        rig.open(frame=frame)


@case("N-010 N-018", "the reply to {} is of version 1 and has its opcode with bit 7", KINDS)
def reply_opcode(rig: Rig, make: Make) -> None:
    frame = rig.put(make(rig))
    reply = rig.expect(Pattern(request=frame.request))
    rig.check(reply.opcode == frame.opcode | REPLY_BIT, f"opcode {frame.opcode | REPLY_BIT:#04x}", described(reply))
    rig.check(reply.version == 1, "version 1", reply.version)
    _end(rig, frame)


@case("N-019", "the reply to {} repeats its request and priority", KINDS)
def reply_repeats(rig: Rig, make: Make) -> None:
    frame = rig.put(make(rig).but(priority=0xA5))
    reply = rig.expect(Pattern(opcode=frame.opcode | REPLY_BIT, priority=Mask(0xA5, 0xFF)))
    rig.check(reply.request == frame.request, f"request {frame.request:#x}", described(reply))
    _end(rig, frame)


@case("N-020", "the reply to {} repeats its session", {name: make for name, make in KINDS.items() if name != "OPEN"})
def reply_session(rig: Rig, make: Make) -> None:
    frame = make(rig)
    reply = rig.ask(frame)
    rig.check(reply.session == frame.session, f"session {frame.session:#x}", described(reply))


@case("N-013", "in the reply to {} what has no meaning is 0", KINDS)
def reply_zeros(rig: Rig, make: Make) -> None:
    frame = make(rig)
    reply = rig.ask(frame)
    if frame.opcode != Opcode.INFER:
        rig.check(reply.pipeline == 0, "pipeline 0 outside RESULT", reply.pipeline)
    if reply.status not in (Status.BUSY, Status.UNAVAILABLE):
        rig.check(reply.retry_after == 0, "retry_after 0 without BUSY or UNAVAILABLE", reply.retry_after)
    if frame.opcode in (Opcode.DISCOVER, Opcode.CONTROL):
        rig.check(reply.session == 0, "session 0 outside sessions", reply.session)
    _end(rig, frame)


@case("N-036", "the reply to {} has flag CRC where that has", KINDS)
def reply_crc(rig: Rig, make: Make) -> None:
    frame = rig.put(make(rig))
    rig.expect(Pattern(request=frame.request, flags=Mask(CRC, CRC)))
    _end(rig, frame)


@case("N-036", "the reply to {} has no flag CRC where that has none", KINDS)
def reply_without_crc(rig: Rig, make: Make) -> None:
    frame = make(rig)
    frame = rig.put(frame.but(flags=frame.flags & ~CRC))
    rig.expect(Pattern(request=frame.request, flags=Mask(0, CRC)))
    _end(rig, frame)


@case("N-011", "a PDU of version {} is dropped", {"0": 0, "2": 2, "255": 255})
def other_version(rig: Rig, version: int) -> None:
    rig.dropped(Frame(Opcode.CLOSE, request=rig.number(), version=version).encode())


_REPLIES = {"ANNOUNCE": 0x81, "OPENED": 0x82, "RESULT": 0x90, "GRANT": 0xA2, "0xff": 0xFF}


@case("N-012", "a PDU with the opcode of a reply, {}, is dropped", _REPLIES)
def not_a_request(rig: Rig, opcode: int) -> None:
    rig.dropped(Frame(opcode, b"reply", rig.number()).encode())


_NONSENSE: dict[str, Make] = {
    "credits of an INFER": lambda rig: rig.infer(rig.open(), credits=0xFF),
    "session and pipeline of a CONTROL": lambda rig: rig.control("identity").but(session=0xDEAD, pipeline=0xBEEF),
    "session and pipeline of a DISCOVER": lambda rig: _discover(rig).but(session=0xDEAD, pipeline=0xBEEF),
    "session and pipeline of an OPEN": lambda rig: rig.opening().but(session=0xDEAD, pipeline=0xBEEF, credits=1),
}


@case("N-014", "a value where it has no meaning is ignored: {}", _NONSENSE)
def nonsense(rig: Rig, make: Make) -> None:
    frame = make(rig)
    rig.has_status(rig.ask(frame), Status.OK)
    _end(rig, frame)


@case("N-099", "a request of every kind in one burst: each gets its answer, and one alone")
def burst(rig: Rig) -> None:
    frames = [_close(rig), _refused(rig), rig.opening(), Frame(0x55, b"", rig.number(), CRC)]
    if rig.target.work:
        frames.append(rig.infer(rig.open()))
    if rig.target.open_access:
        frames.append(rig.control("identity"))
    rig.send(*[pdu for frame in frames for pdu in message(frame, 1400)])
    for frame in frames:
        rig.answer(frame)
    for frame in frames:
        rig.expect_none(Pattern(request=frame.request))
    _end(rig, frames[2])
