"""Credits: as many requests as were granted, and BUSY for more."""

from host_sdk.conformance.case import NotApplicableError, Section
from host_sdk.conformance.frames import Frame, message
from host_sdk.conformance.patterns import Pattern, described, status_name
from host_sdk.conformance.rig import ANSWER_NS, Rig, Session
from host_sdk.wire.schema import Opcode, Status

SECTION = Section("credits")
case = SECTION.case
_BURST, _PAUSE, _ROUNDS = 200_000_000, 20_000_000, 50


def _burst(rig: Rig, frames: list[Frame], within_ns: int = ANSWER_NS) -> dict[int, list[Frame]]:
    """Send many INFERs at once; return them by the status of their answers."""
    rig.send(*[pdu for frame in frames for pdu in message(frame, 1400)])
    waiting = {frame.request: frame for frame in frames}
    found: dict[int, list[Frame]] = {}
    pattern = Pattern(opcode=Opcode.RESULT, request=waiting.keys(), fragment=0)
    while waiting and (reply := rig.port.take(pattern, int(within_ns * rig.patience))):
        found.setdefault(reply.status, []).append(waiting.pop(reply.request))
        if reply.status == Status.BUSY:
            rig.check(reply.retry_after >= 1, "BUSY with a retry_after of at least 1 (N-067)", described(reply))
    return found


def _all_answered(rig: Rig, session: Session, count: int) -> None:
    """Check that requests that the session has credit for are answered OK, if not at once then when asked again."""
    frames = [rig.infer(session) for _ in range(count)]
    for _ in range(_ROUNDS):
        found = _burst(rig, frames)
        told = {status_name(status): len(entries) for status, entries in found.items()}
        rig.check(set(found) <= {Status.OK, Status.BUSY}, "OK, or BUSY where there is no room", told)
        rig.check(sum(map(len, found.values())) == len(frames), f"{len(frames)} answers", told)
        frames = found.get(Status.BUSY, [])
        if not frames:
            return
        rig.port.settle(_PAUSE)
    raise rig.fail("an answer OK to each in the end", f"BUSY to {len(frames)} of {count}, {_ROUNDS} times")


@case("N-103", "as many INFERs as there are credits, at once: each is answered OK, if need be when it is asked again")
def within_credits(rig: Rig) -> None:
    session = rig.open()
    _all_answered(rig, session, min(session.credits, 128))


@case("N-103 N-067", "of far more INFERs than there are credits, at once, some are answered BUSY, none otherwise")
def over_credits(rig: Rig) -> None:
    session = rig.open()
    count = min(4 * session.credits, 1000)
    found = _burst(rig, [rig.infer(session) for _ in range(count)], _BURST)
    told = {status_name(status): len(entries) for status, entries in found.items()}
    rig.check(set(found) <= {Status.OK, Status.BUSY}, "OK and BUSY alone", told)
    if Status.BUSY in found:
        return
    if not rig.target.lossless:
        raise NotApplicableError("it answers faster than this link brings requests, or the link has lost them")
    raise rig.fail("BUSY for the first that are too many", str(told))


@case("N-103", "fragments of many INFERs, in turn: each is answered OK, if need be when it is asked again")
def interleaved(rig: Rig) -> None:
    session = rig.open()
    begun = [rig.infer(session, once=number % 2 > 0) for number in range(min(session.credits, 32))]
    for frame in begun:
        rig.send(rig.pieces(frame, 2)[0])
    for frame in begun:
        rig.send(*rig.pieces(frame, 2)[1:])
    replies = [rig.answer(frame) for frame in begun]
    for frame, reply in zip(begun, replies, strict=True):
        for _ in range(_ROUNDS):
            if reply.status != Status.BUSY:
                break
            rig.port.settle(_PAUSE)
            reply = rig.ask(frame)
        rig.right(reply)


@case("N-103", "after BUSY and the answers to the others, a session has its credits again")
def credits_return(rig: Rig) -> None:
    session = rig.open()
    count = min(session.credits, 128)
    for priorities in (1, 2, 3):
        _burst(rig, [rig.infer(session, priority=number % priorities) for number in range(3 * count)], _BURST)
        _all_answered(rig, session, count)
