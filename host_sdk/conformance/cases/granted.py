"""Credits: as many requests as were granted, and BUSY for more."""

from host_sdk.conformance.case import NotApplicableError, Section
from host_sdk.conformance.frames import message
from host_sdk.conformance.patterns import Pattern, described
from host_sdk.conformance.rig import Rig, Session
from host_sdk.wire.schema import Opcode, Status

SECTION = Section("credits")
case = SECTION.case
_BURST = 200_000_000


def _burst(rig: Rig, session: Session, count: int, priorities: int = 1) -> dict[int, int]:
    """Send many INFERs of so many priorities at once; return how many answers there were of each status."""
    frames = [rig.infer(session, priority=number % priorities) for number in range(count)]
    rig.send(*[pdu for frame in frames for pdu in message(frame, 1400)])
    asked = frozenset(frame.request for frame in frames)
    found: dict[int, int] = {}
    last = 0
    while reply := rig.port.take(Pattern(opcode=Opcode.RESULT, request=asked, fragment=0), int(_BURST * rig.patience)):
        found[reply.status] = found.get(reply.status, 0) + 1
        if reply.status == Status.BUSY:
            last = reply.retry_after
            rig.check(last >= 1, "BUSY with a retry_after of at least 1 (N-067)", described(reply))
    return found


@case("N-103", "as many INFERs as there are credits, at once: each is answered OK")
def within_credits(rig: Rig) -> None:
    session = rig.open()
    count = min(session.credits, 128)
    found = _burst(rig, session, count)
    rig.check(found == {Status.OK: count}, f"{count} answers with status OK", found)


@case("N-103 N-067", "of far more INFERs than there are credits, at once, some are answered BUSY, none otherwise")
def over_credits(rig: Rig) -> None:
    session = rig.open()
    found = _burst(rig, session, min(4 * session.credits, 1000))
    rig.check(set(found) <= {Status.OK, Status.BUSY}, "OK and BUSY alone", found)
    if Status.BUSY not in found:
        rig.check(found.get(Status.OK, 0) >= session.credits, "an answer to each", found)
        if found[Status.OK] == min(4 * session.credits, 1000) and not rig.target.lossless:
            raise NotApplicableError("it answers faster than this link brings requests")
        raise rig.fail("BUSY for the first that are too many", str(found))


@case("N-103", "fragments of as many INFERs as there are credits, in turn: each is answered OK")
def interleaved(rig: Rig) -> None:
    session = rig.open()
    begun = [rig.infer(session, once=number % 2 > 0) for number in range(min(session.credits, 32))]
    for frame in begun:
        rig.send(rig.pieces(frame, 2)[0])
    for frame in begun:
        rig.send(*rig.pieces(frame, 2)[1:])
    for frame in begun:
        rig.right(rig.answer(frame))


@case("N-103", "after BUSY and the answers to the others, a session has its credits again")
def credits_return(rig: Rig) -> None:
    session = rig.open()
    count = min(session.credits, 128)
    for priorities in (1, 2, 3):
        _burst(rig, session, min(3 * session.credits, 1000), priorities)
        found = _burst(rig, session, count)
        rig.check(found == {Status.OK: count}, f"{count} answers with status OK", found)
