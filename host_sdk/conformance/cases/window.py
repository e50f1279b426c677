"""The window: what becomes of every copy of a once request, row by row of the table of section 11.1."""

from host_sdk.conformance.case import Section
from host_sdk.conformance.frames import CRC, ONCE, Frame, Reply, arrived_body, message
from host_sdk.conformance.patterns import Pattern, described
from host_sdk.conformance.rig import Rig
from host_sdk.wire.schema import HEADER_SIZE, Opcode, Status

SECTION = Section("window")
case = SECTION.case


def notice(opcode: int, frame: Frame, body: bytes = b"") -> Frame:
    """Return a notice that goes along with a request."""
    return Frame(opcode, body, frame.request, frame.flags & (CRC | ONCE), frame.session, priority=frame.priority)


def resend(frame: Frame, base: int = 0, window: int = 32) -> Frame:
    """Return a RESEND of the answer to a request, of which the first ``base`` fragments have arrived."""
    return notice(Opcode.RESEND, frame, arrived_body(Opcode.RESULT, base, window))


def settle(frame: Frame, upto: int, bitmap: bytes = b"") -> Frame:
    """Return a SETTLE of all once requests up to an id, and those in the bitmap, of a request's session."""
    return notice(Opcode.SETTLE, frame, bitmap).but(request=upto)


def same_message(rig: Rig, one: Reply, other: Reply) -> None:
    """Check that two replies are the same message but for credits."""
    heads = [reply.data[:23] + reply.data[26:HEADER_SIZE] for reply in (one, other)]
    rig.check(heads[0] == heads[1], "the same header but for credits (N-113)", described(other))
    rig.check(one.payload == other.payload, f"the same message {one.payload[-80:].hex()}", other.payload[-80:].hex())


def silent(rig: Rig, frame: Frame) -> None:
    """Check that nothing comes under a request's id."""
    rig.expect_none(Pattern(request=frame.request))


@case("N-111", "new: the whole request is executed")
def new_request(rig: Rig) -> None:
    rig.runs(rig.open(), once=True)


@case("N-111", "new: an id far above the last is as good")
def new_far(rig: Rig) -> None:
    session = rig.open()
    rig.runs(session, once=True)
    rig.runs(session, once=True, request=session.following + 10 * session.window)


@case("N-111", "new: ids of one window are executed in any order")
def new_order(rig: Rig) -> None:
    session = rig.open()
    first = session.opened["next"]
    for step in (3, 1, 0, 2):
        rig.runs(session, once=True, request=first + step)


@case("N-111 N-117", "new: a RESEND gets UNKNOWN, and the request is executed when it comes")
def new_resend(rig: Rig) -> None:
    frame = rig.infer(rig.open(), once=True)
    rig.put(resend(frame))
    rig.expect(Pattern(opcode=Opcode.UNKNOWN, request=frame.request))
    rig.right(rig.ask(frame))


@case("N-111 N-106", "new: a CANCEL is kept: the request is then answered CANCELLED, and not executed")
def new_cancel(rig: Rig) -> None:
    frame = rig.infer(rig.open(), once=True)
    rig.put(notice(Opcode.CANCEL, frame))
    rig.fence()
    rig.refused(frame, Status.CANCELLED)
    rig.refused(frame, Status.CANCELLED)


@case("N-106", "the fragments of a request that was cancelled before it came are answered CANCELLED")
def new_cancel_fragments(rig: Rig) -> None:
    frame = rig.infer(rig.open(), once=True)
    rig.put(notice(Opcode.CANCEL, frame))
    rig.fence()
    rig.send(rig.pieces(frame)[1])
    rig.has_status(rig.expect(Pattern(opcode=Opcode.RESULT, request=frame.request)), Status.CANCELLED)


@case("N-105", "a once request of which fragments are missing is answered CANCELLED at its CANCEL")
def partial_cancel(rig: Rig) -> None:
    frame = rig.infer(rig.open(), once=True)
    rig.send(rig.pieces(frame)[0])
    rig.put(notice(Opcode.CANCEL, frame))
    rig.has_status(rig.expect(Pattern(opcode=Opcode.RESULT, request=frame.request)), Status.CANCELLED)
    rig.refused(frame, Status.CANCELLED)


@case("N-111", "new: a request that is refused leaves its slot: the right one under the same id is executed")
def refused_leaves(rig: Rig) -> None:
    session = rig.open()
    frame = rig.infer(session, once=True)
    rig.refused(frame.but(pipeline=_unused(rig)), Status.UNKNOWN_PIPELINE)
    rig.right(rig.ask(frame))


def _unused(rig: Rig) -> int:
    return next(handle for handle in range(0xFFFF, 0, -1) if handle not in rig.target.handles)


@case("N-111", "pending: a copy in the same burst is not executed, and gets nothing but WORKING or the same answer")
def pending_copy(rig: Rig) -> None:
    frame = rig.traced(rig.open())
    pdus = message(frame, 1400)
    rig.send(*pdus, *pdus)
    first = rig.right(rig.answer(frame))
    rig.fence()
    if rig.port.take(Pattern(opcode=Opcode.RESULT, request=frame.request, fragment=0), 1):
        rig.begin()  # the same as the next, or that is none of the first
    rig.expect_none(Pattern(opcode=Opcode.UNKNOWN, request=frame.request))
    same_message(rig, first, rig.ask(frame))


@case("N-111 N-113", "answered: a copy gets the same answer but for credits, and is not executed again")
def answered_copy(rig: Rig) -> None:
    frame = rig.traced(rig.open())
    first = rig.right(rig.ask(frame))
    same_message(rig, first, rig.ask(frame))
    same_message(rig, first, rig.ask(frame))


@case("N-113", "answered: a copy of a request that failed in the pipeline, or was too large, gets no result")
def refused_copy(rig: Rig) -> None:
    frame = rig.infer(rig.open(), once=True, payload=b"x")
    first = rig.ask(frame)
    rig.check(first.status != Status.OK, "a refusal", described(first))
    rig.has_status(rig.ask(frame), Status(first.status))


@case("N-111", "answered: any fragment of a copy gets the answer again")
def answered_fragment(rig: Rig) -> None:
    frame = rig.traced(rig.open())
    pieces = rig.pieces(frame)
    rig.send(*pieces)
    first = rig.right(rig.answer(frame))
    for piece in (pieces[0], pieces[-1]):
        rig.send(piece)
        same_message(rig, first, rig.answer(frame))


@case("N-111 N-117", "answered: a RESEND that has nothing yet gets the kept answer")
def answered_resend(rig: Rig) -> None:
    frame = rig.traced(rig.open())
    first = rig.right(rig.ask(frame))
    rig.put(resend(frame))
    same_message(rig, first, rig.answer(frame))


@case("N-111", "answered: a CANCEL changes nothing")
def answered_cancel(rig: Rig) -> None:
    frame = rig.traced(rig.open())
    first = rig.right(rig.ask(frame))
    rig.put(notice(Opcode.CANCEL, frame))
    silent(rig, frame)
    same_message(rig, first, rig.ask(frame))


def _settled(rig: Rig, frame: Frame) -> None:
    """Send a SETTLE, and see that it was looked at: what arrives together may be taken in another order."""
    rig.put(frame)
    rig.fence()


@case("N-111", "released: after a SETTLE that names it, a copy is dropped")
def released_copy(rig: Rig) -> None:
    frame = rig.infer(rig.open(), once=True)
    rig.right(rig.ask(frame))
    _settled(rig, settle(frame, frame.request))
    rig.put(frame)
    silent(rig, frame)


@case("N-111", "released: after a SETTLE that names it, a RESEND is dropped")
def released_resend(rig: Rig) -> None:
    frame = rig.infer(rig.open(), once=True)
    rig.right(rig.ask(frame))
    _settled(rig, settle(frame, frame.request))
    rig.put(resend(frame))
    silent(rig, frame)


@case("N-111 N-112", "released: the bitmap of a SETTLE names some, and leaves the others answered")
def released_bitmap(rig: Rig) -> None:
    session = rig.open()
    frames = [rig.traced(session) for _ in range(10)]
    answers = [rig.right(rig.ask(frame)) for frame in frames]
    _settled(
        rig, settle(frames[0], frames[0].request - 1, bytes([0b0010_0000, 0b0100_0000]))
    )  # the third and the tenth
    for number in (2, 9):
        rig.put(frames[number])
        silent(rig, frames[number])
    for number in (0, 1, 3, 8):
        same_message(rig, answers[number], rig.ask(frames[number]))


@case("N-111", "released: a SETTLE up to the id before the first leaves all answered")
def released_none(rig: Rig) -> None:
    frame = rig.traced(rig.open())
    first = rig.right(rig.ask(frame))
    _settled(rig, settle(frame, frame.request - 1))
    same_message(rig, first, rig.ask(frame))


@case("N-111", "released: a SETTLE with a bitmap longer than any window does no harm")
def released_long(rig: Rig) -> None:
    session = rig.open()
    frame = rig.traced(session)
    first = rig.right(rig.ask(frame))
    _settled(rig, settle(frame, frame.request, bytes(128)))
    rig.put(frame)
    silent(rig, frame)
    rig.check(first.status == Status.OK, "OK", first.status)
    rig.runs(session, once=True)


def _outdated(rig: Rig) -> Frame:
    """Return a request that was answered, and whose slot a later one has taken since."""
    session = rig.open()
    frame = rig.infer(session, once=True)
    rig.right(rig.ask(frame))
    rig.runs(session, once=True, request=frame.request + session.window)
    return frame


@case("N-111", "outdated: when a higher id has taken the slot, a copy is dropped")
def outdated_copy(rig: Rig) -> None:
    frame = _outdated(rig)
    rig.put(frame)
    silent(rig, frame)


@case("N-111", "outdated: when a higher id has taken the slot, a fragment of a copy is dropped")
def outdated_fragment(rig: Rig) -> None:
    frame = _outdated(rig)
    rig.send(rig.pieces(frame)[0])
    silent(rig, frame)


@case("N-111", "outdated: when a higher id has taken the slot, a RESEND is dropped")
def outdated_resend(rig: Rig) -> None:
    frame = _outdated(rig)
    rig.put(resend(frame))
    silent(rig, frame)


@case("N-111", "outdated: when a higher id has taken the slot, a CANCEL is dropped")
def outdated_cancel(rig: Rig) -> None:
    frame = _outdated(rig)
    rig.put(notice(Opcode.CANCEL, frame))
    silent(rig, frame)
    rig.put(frame)
    silent(rig, frame)


@case("N-112", "an answer is kept while all other ids of its window come")
def kept(rig: Rig) -> None:
    session = rig.open()
    frame = rig.traced(session)
    first = rig.right(rig.ask(frame))
    for _ in range(session.window - 1):
        rig.runs(session, once=True)
    same_message(rig, first, rig.ask(frame))


@case("N-112", "the CANCEL of a higher id takes the slot: a copy of the lower one is dropped")
def cancel_takes(rig: Rig) -> None:
    session = rig.open()
    frame = rig.infer(session, once=True)
    rig.right(rig.ask(frame))
    rig.put(notice(Opcode.CANCEL, frame.but(request=frame.request + session.window)))
    rig.fence()
    rig.put(frame)
    silent(rig, frame)


@case("N-111", "a datagram request is executed and answered at every copy")
def datagram_copies(rig: Rig) -> None:
    frame = rig.infer(rig.open())
    for _ in range(2):
        rig.right(rig.ask(frame))


@case("N-112", "the answers of one session are not those of another")
def windows_apart(rig: Rig) -> None:
    one, other = rig.open(), rig.open()
    frame = rig.traced(one)
    first = rig.right(rig.ask(frame))
    second = rig.right(rig.ask(rig.traced(other, request=frame.request)))
    rig.check(second.session == other.number, "an answer of its own session", described(second))
    same_message(rig, first, rig.ask(frame))
