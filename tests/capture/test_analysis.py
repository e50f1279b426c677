"""What the analysis says of captures whose story is known, because it was written down first."""

import struct
from pathlib import Path

import pytest

from host_sdk.capture.analysis import Analysis
from host_sdk.capture.explain import Summary, duration, outcome, reasons
from host_sdk.capture.history import AnalysisLimits, Cause, Kind, RequestHistory
from host_sdk.capture.packet import Interface
from host_sdk.wire.schema import DropReason
from tests.rig.captures import EVERYBODY, Script
from tests.rig.frames import (
    BAD_CRC,
    BUSY,
    CRC_FLAG,
    DEADLINE_EXCEEDED,
    DISCOVER,
    INFER,
    OPEN,
    REPLY,
    TRAILER_FLAG,
    Pdu,
    message,
)

SESSION, ONCE = 7, 8
CANCEL, RESEND, WORKING, UNKNOWN, GRANT = 0x20, 0x22, 0xA0, 0xA1, 0xA2


def infer(request: int = 1, body: bytes = b"four", size: int = 1400, **fields: int) -> list[bytes]:
    shared = {"flags": CRC_FLAG | ONCE, "session": SESSION, "pipeline": 257, **fields}
    return message(Pdu(INFER, body, request, **shared), size)


def result(
    request: int = 1, body: bytes = b"answer", size: int = 1400, status: int = 0, after: int = 0, **fields: int
) -> list[bytes]:
    shared = {"flags": CRC_FLAG | ONCE, "session": SESSION, "tail": status << 16 | after, **fields}
    return message(Pdu(INFER | REPLY, body, request, **shared), size)


def notice(opcode: int, request: int = 1, body: bytes = b"", after: int = 0) -> bytes:
    return Pdu(opcode, body, request, flags=ONCE, session=SESSION, tail=after).encode()


def arrived(opcode: int, base: int, bitmap: bytes = b"", window: int = 32) -> bytes:
    return struct.pack(">BBHI", opcode, 0, window, base) + bitmap


def only(found: list[RequestHistory]) -> RequestHistory:
    (history,) = found
    return history


def kinds(history: RequestHistory) -> list[tuple[Kind, int | None]]:
    return [(event.kind, event.fragment) for event in history.events]


def test_a_request_that_was_answered_is_nothing_remarkable(tmp_path: Path) -> None:
    history = only(Script().ask(0, *infer()).say(412, *result()).histories(tmp_path))
    assert (history.latency_ns, history.status, history.frames) == (412_000, 0, 2)
    assert kinds(history) == [(Kind.SENT, None), (Kind.ANSWERED, None)]
    assert outcome(history) == "answered"
    assert reasons(history, dla_tapped=False) == []


def test_a_request_without_an_answer_is_sent_again_and_unanswered(tmp_path: Path) -> None:
    history = only(Script().ask(0, *infer()).ask(12_300, *infer()).histories(tmp_path))
    assert kinds(history) == [(Kind.SENT, None), (Kind.RETRANSMITTED, None)]
    assert (history.events[1].after_ns, history.events[1].cause) == (12_300_000, Cause.TIMEOUT)
    assert outcome(history) == "unanswered"
    first, last = reasons(history, dla_tapped=False)
    assert first.startswith("sent again after 12.3 ms: nothing had passed since")
    assert "(inferred)" in first
    assert last == "no final answer passed"


def cause_of(history: RequestHistory) -> Cause:
    """Return why the one frame that was sent again was, as event and in the totals."""
    ((cause, times),) = history.causes.items()
    assert times == 1
    assert [event.cause for event in history.events if event.kind is Kind.RETRANSMITTED] == [cause]
    return cause


def test_what_is_sent_again_too_soon_is_explained_by_one_that_overtook_it_or_not_at_all(tmp_path: Path) -> None:
    """No timeout is shorter than 10 ms, nor looks like less than 5."""
    alone = only(Script().ask(0, *infer()).ask(2_000, *infer()).histories(tmp_path))
    assert cause_of(alone) is Cause.UNEXPLAINED
    assert "nothing that passed says why" in reasons(alone, dla_tapped=False)[0]
    script = Script().ask(0, *infer()).ask(1_000, *infer(8)).say(1_900, *result(8)).ask(2_000, *infer())
    late, _ = sorted(script.histories(tmp_path), key=lambda each: each.request)
    assert cause_of(late) is Cause.OVERTAKEN
    earlier = Script().ask(0, *infer(8)).ask(1_000, *infer()).say(1_900, *result(8)).ask(2_000, *infer())
    assert cause_of(min(earlier.histories(tmp_path), key=lambda each: each.request)) is Cause.UNEXPLAINED


@pytest.mark.parametrize("damage", ["bit", "flag"])
def test_an_answer_that_was_damaged_explains_why_its_request_is_sent_again(tmp_path: Path, damage: str) -> None:
    (answer,) = result()
    bad = answer[:40] + bytes([answer[40] ^ 1]) + answer[41:] if damage == "bit" else answer[:3] + b"\x08" + answer[4:]
    script = Script().ask(0, *infer()).say(400, bad).ask(12_000, *infer()).say(12_400, answer)
    history = only(script.histories(tmp_path))
    assert cause_of(history) is Cause.DAMAGED
    assert history.counts[Kind.ANSWER_DAMAGED] == 1
    assert history.ended_ns is not None
    assert history.ended_ns - history.began_ns == 12_400_000


def test_an_answer_whose_opcode_was_damaged_is_no_request(tmp_path: Path) -> None:
    (answer,) = result(8)
    damaged = answer[:1] + bytes([answer[1] ^ 0x80]) + answer[2:]
    script = Script().ask(0, *infer()).say(400, *result()).ask(500, *infer(8)).say(900, damaged).say(12_000, answer)
    assert [history.request for history in script.histories(tmp_path)] == [1, 8]


def test_a_fragment_that_was_lost_behind_the_point_is_told_from_one_that_was_lost_before(tmp_path: Path) -> None:
    frames = infer(body=bytes(5 * 100 - 4), size=100)
    assert len(frames) == 5
    has = arrived(INFER, 3, b"\x40")  # 0, 1, 2 and 4
    script = Script().ask(0, *frames).say(100, notice(GRANT, body=has)).ask(400, frames[3]).say(900, *result())
    history = only(script.histories(tmp_path))
    assert kinds(history) == [(Kind.SENT, None), (Kind.GRANT, None), (Kind.RETRANSMITTED, 3), (Kind.ANSWERED, None)]
    assert history.events[2].cause is Cause.MISSING
    why = "the other end said that it was missing; lost behind this point (inferred)"
    assert reasons(history, dla_tapped=False) == [f"sent again after 400 µs (fragment 3): {why}"]
    before = Script().ask(0, *frames[:3], frames[4]).say(100, notice(GRANT, body=has)).ask(400, frames[3])
    history = only(before.say(900, *result()).histories(tmp_path))
    assert (Kind.FRAGMENT_LATE, 3) in kinds(history)
    assert "lost before this point (inferred)" in reasons(history, dla_tapped=False)[0]


def test_a_fragment_that_passed_late_unasked_was_reordered(tmp_path: Path) -> None:
    frames = infer(body=bytes(3 * 100 - 4), size=100)
    history = only(Script().ask(0, frames[0], frames[2]).ask(5, frames[1]).say(900, *result()).histories(tmp_path))
    assert kinds(history) == [(Kind.SENT, None), (Kind.REORDERED, 1), (Kind.ANSWERED, None)]


def test_fragments_of_answers_likewise(tmp_path: Path) -> None:
    parts = result(body=bytes(4 * 100 - 4), size=100)
    misses = notice(RESEND, body=arrived(INFER | REPLY, 1, b"\x20"))  # has 0 and 3
    script = Script().ask(0, *infer()).say(100, parts[0], parts[1], parts[3]).ask(200, misses)
    history = only(script.say(300, parts[1], parts[2]).histories(tmp_path))
    assert kinds(history) == [
        *((Kind.SENT, None), (Kind.RESEND, None), (Kind.ANSWER_LOST, 1)),
        *((Kind.ANSWER_FRAGMENT_LATE, 2), (Kind.ANSWERED, None)),
    ]
    assert history.latency_ns == 300_000


def test_busy_and_its_pause(tmp_path: Path) -> None:
    script = Script().ask(0, *infer()).say(100, *result(status=BUSY, after=5, body=b""))
    script.ask(700, *infer()).say(800, *result(status=BUSY, after=5, body=b"")).ask(1500, *infer()).say(1900, *result())
    history = only(script.histories(tmp_path))
    assert history.counts[Kind.PAUSED] == 2
    assert [event.after_ns for event in history.events if event.kind is Kind.PAUSED] == [500_000, 500_000]
    assert [event.cause for event in history.events if event.kind is Kind.RETRANSMITTED] == [Cause.PAUSE] * 2
    assert (history.status, history.latency_ns) == (0, 1_900_000)
    assert "BUSY twice" in reasons(history, dla_tapped=False)
    assert "sent again after 700 µs, 800 µs: after the pause" in reasons(history, dla_tapped=False)


def test_a_copy_is_answered_again_and_a_copy_of_the_wire_is_told_from_it(tmp_path: Path) -> None:
    script = Script().ask(0, *infer()).say(300, *result()).ask(10_300, *infer()).say(10_500, *result(credits=9))
    history = only(script.histories(tmp_path))
    assert kinds(history)[1:] == [(Kind.ANSWERED, None), (Kind.RETRANSMITTED, None), (Kind.ANSWERED_AGAIN, None)]
    assert history.events[2].cause is Cause.ANSWERED
    assert history.latency_ns == 300_000
    wire = only(
        Script().ask(0, *infer()).ask(2, *infer()).say(300, *result(), *result(), *result()).histories(tmp_path)
    )
    assert wire.counts[Kind.DUPLICATED] == 1
    assert (wire.counts[Kind.ANSWERED_AGAIN], wire.counts[Kind.ANSWER_DUPLICATED]) == (1, 1)


def test_working_and_unknown(tmp_path: Path) -> None:
    script = Script().ask(0, *infer()).ask(20_000, *infer()).say(20_100, notice(WORKING, after=10))
    script.ask(50_000, *infer()).say(50_100, notice(UNKNOWN)).ask(50_200, *infer()).say(60_000, *result())
    history = only(script.histories(tmp_path))
    causes = [event.cause for event in history.events if event.kind is Kind.RETRANSMITTED]
    # The copy after WORKING is one in spite of it; UNKNOWN makes the requester begin again at once.
    assert causes[0] is Cause.TIMEOUT
    assert causes[1] is Cause.WORKING
    assert Kind.UNKNOWN in history.counts
    assert history.status == 0


@pytest.mark.parametrize("tapped", [False, True])
def test_a_deadline_that_was_missed(tmp_path: Path, tapped: bool) -> None:
    script = Script().ask(0, *infer(tail=5000)).say(6000, *result(status=DEADLINE_EXCEEDED, body=b""))
    history = only(script.histories(tmp_path))
    where = "in queue" if tapped else "at the responder, in queue or between stages"
    assert reasons(history, dla_tapped=tapped) == [f"deadline of 5 ms missed {where}"]
    assert outcome(history) == "refused"


def test_an_answer_that_came_too_late(tmp_path: Path) -> None:
    history = only(Script().ask(0, *infer(tail=5000)).say(7500, *result()).histories(tmp_path))
    assert history.counts[Kind.ANSWER_LATE] == 1
    assert reasons(history, dla_tapped=False) == ["the answer passed 2.5 ms after the deadline"]
    given_up = Script().ask(0, *infer()).ask(5000, notice(CANCEL)).say(7500, *result())
    history = only(given_up.histories(tmp_path))
    assert kinds(history)[-1] == (Kind.ANSWER_LATE, None)
    cancelled = only(Script().ask(0, *infer()).ask(5000, notice(CANCEL)).histories(tmp_path))
    assert outcome(cancelled) == "cancelled"


def test_a_damaged_answer_is_none(tmp_path: Path) -> None:
    (good,) = result()
    bad = good[:31] + bytes([good[31] ^ 8]) + good[32:]  # a bit of retry_after
    script = Script().ask(0, *infer()).say(100, bad).ask(500, *infer()).say(600, good)
    history = only(script.histories(tmp_path))
    assert history.counts[Kind.ANSWER_DAMAGED] == 1
    assert history.latency_ns == 600_000
    refused = only(Script().ask(0, *infer()).say(100, *result(status=BAD_CRC, body=b"")).histories(tmp_path))
    assert outcome(refused) == "unanswered"  # the same request is sent again after that


def test_what_made_the_answer_is_read_from_its_trailer(tmp_path: Path) -> None:
    trailer = struct.pack(">13I2HQ", *range(100, 113), 4, 1, 0xABCD)
    answer = result(body=b"answer" + trailer, flags=CRC_FLAG | TRAILER_FLAG | ONCE)
    history = only(Script().ask(0, *infer()).say(300, *answer).histories(tmp_path))
    assert history.trailer is not None
    assert (history.trailer.measured_ns, history.trailer.batch_size) == (tuple(range(100, 106)), 4)


def test_sessions_and_broadcasts(tmp_path: Path) -> None:
    script = Script().ask(0, *message(Pdu(OPEN, b"\x80", 5, flags=CRC_FLAG)))
    script.say(100, *message(Pdu(OPEN | REPLY, b"\x80", 5, flags=CRC_FLAG, session=99)))
    script.ask(200, *message(Pdu(DISCOVER, b"", 6)), to=EVERYBODY)
    script.say(300, *message(Pdu(DISCOVER | REPLY, b"\x80", 6))).say(310, *message(Pdu(DISCOVER | REPLY, b"\x80", 6)))
    opened, discovered = sorted(script.histories(tmp_path), key=lambda history: history.request)
    assert (opened.opcode, opened.latency_ns) == (OPEN, 100_000)
    assert (discovered.opcode, discovered.answers, outcome(discovered)) == (DISCOVER, 2, "answered")


def test_what_belongs_to_nothing_is_counted(tmp_path: Path) -> None:
    analysis = Analysis()
    script = Script().say(0, *result(request=44)).ask(1, b"\x09" + bytes(40)).ask(2, notice(CANCEL, request=45))
    assert script.histories(tmp_path, analysis) == []
    assert (analysis.strays, analysis.malformed) == (2, {DropReason.BAD_VERSION: 1})


def test_taps_of_a_node_do_not_count_a_frame_twice(tmp_path: Path) -> None:
    names = [Interface(f"n1:{tap}") for tap in ("in", "classified", "dla", "out")]
    (frame,) = infer(tail=5000)
    script = Script(interfaces=names).ask(0, frame).ask(1, frame, interface=1, verdicts={0: b"\0"})
    script.ask(50, frame[:32], interface=2, length=46 + 10).say(
        90, *result(status=DEADLINE_EXCEEDED, body=b""), interface=3
    )
    history = only(script.histories(tmp_path))
    assert kinds(history) == [(Kind.SENT, None), (Kind.BEGAN, None), (Kind.ANSWERED, None)]
    assert history.latency_ns == 90_000
    assert reasons(history, dla_tapped=True) == ["deadline of 5 ms missed between stages: its batch had begun"]


def test_copies_that_a_node_took_together_may_be_of_either_kind(tmp_path: Path) -> None:
    script = Script(interfaces=[Interface("n1:in"), Interface("n1:out")]).ask(0, *infer(), *infer())
    history = only(script.say(90, *result(), interface=1).histories(tmp_path))
    assert [event.cause for event in history.events if event.kind is Kind.RETRANSMITTED] == [Cause.TOGETHER]


def test_memory_is_bounded_whatever_is_asked(tmp_path: Path) -> None:
    limits = AnalysisLimits(open_requests=10, events=4)
    analysis = Analysis(limits)
    script = Script()
    for number in range(200):
        script.ask(number, *infer(number + 1))
    for number in range(20):
        script.ask(1000 + 500 * number, *infer(200))
    found = script.histories(tmp_path, analysis)
    assert sorted(history.request for history in found) == list(range(1, 201))
    (last,) = [history for history in found if history.request == 200]
    assert len(last.events) == 4
    assert last.counts[Kind.RETRANSMITTED] == 20
    assert reasons(last, dla_tapped=False)[-1] == "and 17 more events"


def test_an_answered_request_is_let_go_after_a_while(tmp_path: Path) -> None:
    script = Script().ask(0, *infer(1)).say(100, *result(1)).ask(5_000_000, *infer(1)).say(5_000_100, *result(1))
    found = script.histories(tmp_path)
    assert [history.counts[Kind.SENT] for history in found] == [1, 1]  # five seconds later it is another's


def test_totals_and_the_most_remarkable(tmp_path: Path) -> None:
    script = Script()
    for number in range(1, 100):
        script.ask(1000 * number, *infer(number)).say(1000 * number + number, *result(number))
    script.ask(200_000, *infer(500)).ask(230_000, *infer(600)).ask(240_000, *infer(600)).say(240_500, *result(600))
    summary = Summary(2)
    for history in script.histories(tmp_path):
        summary.take(history)
    fields = summary.fields()
    assert (fields["requests"], fields["remarkable"]) == (101, 2)
    assert fields["outcomes"] == {"answered": 100, "refused": 0, "unanswered": 1, "cancelled": 0, "incomplete": 0}
    assert fields["latency_us"]["max"] == 10_500
    assert fields["latency_us"]["p50"] == 50.5
    assert [history.request for history in summary.top()] == [500, 600]


@pytest.mark.parametrize(
    ("ns", "text"),
    [(0, "0 ns"), (412_000, "412 µs"), (1_500_000, "1.5 ms"), (250_000_000, "250 ms"), (3_210_000_000, "3.21 s")],
)
def test_times_in_words(ns: int, text: str) -> None:
    assert duration(ns) == text
