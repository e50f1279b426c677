"""What an owner of several appliances goes by: silence, signs of life, requests taken back and handed back."""

from dataclasses import replace

from host_sdk.wire.errors import BusyError, UncertainError, UnknownSessionError
from host_sdk.wire.exchange.pace import RequesterLimits
from host_sdk.wire.header import Header
from host_sdk.wire.schema import Opcode, Status
from tests.wire.test_requester import CONTROL, LIMITS, PEER, Bench

HANDS_BACK = replace(LIMITS, hand_back=True)


def lost(bench: Bench) -> list[Header]:
    """Wait until something is sent, and lose it."""
    while not (sent := bench.wait()):
        pass
    return sent


def test_timeouts_of_many_requests_are_one_round_and_any_word_ends_the_silence() -> None:
    bench = Bench()
    bench.infer(b"first")
    bench.exchange()
    bench.answers()
    silence = bench.requester.silence(PEER)
    assert (silence.rounds, silence.heard_ns) == (0, bench.now)
    bench.infer(b"a", b"b", b"c", timeout_ms=10_000)
    bench.send()
    for rounds in (1, 2, 3):
        asked = lost(bench)
        assert {header.opcode for header in asked} == {Opcode.INFER}
        assert len(asked) == 3
        assert silence.rounds == rounds
    bench.now += 5
    bench.arrive(bench.responder.notice(Opcode.WORKING, asked[0], retry_after=1))
    assert (silence.rounds, silence.heard_ns) == (0, bench.now)


def test_an_open_that_is_not_answered_counts_and_the_first_does_not() -> None:
    bench = Bench()
    bench.infer(b"x")
    bench.send()
    assert bench.requester.silence(PEER).rounds == 0
    bench.wait()
    assert bench.requester.silence(PEER).rounds == 1


def test_control_that_is_not_answered_does_not_count() -> None:
    bench = Bench()
    bench.submit()
    bench.send()
    bench.wait()
    assert bench.requester.silence(PEER).rounds == 0


def test_a_probe_is_answered_without_a_session_and_by_nothing_else() -> None:
    bench = Bench()
    bench.now = 7
    bench.requester.probe(PEER)
    (probe,) = bench.exchange()
    assert probe.opcode == Opcode.RESEND
    assert probe.session != 0
    assert bench.requester.probed_ns(PEER) == 7
    assert bench.requester.next_timer() is None
    bench.now = 9
    bench.requester.probe(PEER)
    (probe,) = bench.send()
    stale = bench.requester.stale_replies
    for wrong, peer in ((probe.request + 1, PEER), (probe.request, PEER + 1)):
        bench.arrive(bench.responder.notice(Opcode.UNKNOWN, replace(probe, request=wrong)), peer=peer)
    assert bench.requester.stale_replies == stale + 2
    assert bench.requester.probed_ns(PEER) == 7
    bench.arrive(bench.responder.notice(Opcode.UNKNOWN, probe))
    assert bench.requester.probed_ns(PEER) == 9


def test_requests_are_withdrawn_and_the_session_stays() -> None:
    bench = Bench(limits=RequesterLimits(window=2))
    bench.infer(b"first")
    bench.exchange()
    bench.answers()
    tokens = bench.infer(b"a", b"b", b"c")
    sent = bench.send()
    bench.requester.withdraw(PEER, UncertainError("napu1", "it is gone"), bench.now)
    events = bench.answers()
    assert sorted((event.token, int(event.transmissions[0])) for event in events) == [
        (tokens[0], 1),
        (tokens[1], 1),
        (tokens[2], 0),
    ]
    assert all(isinstance(event.error, UncertainError) and not event.replied for event in events)
    cancelled = bench.send()
    assert {header.opcode for header in cancelled} == {Opcode.CANCEL}
    assert {header.request for header in cancelled} == {header.request for header in sent}
    assert bench.requester.load(PEER) == 0
    bench.infer(b"d")
    (again,) = bench.exchange()
    assert (again.opcode, again.session) == (Opcode.INFER, sent[0].session)
    bench.requester.withdraw(PEER + 7, UncertainError("nobody", "never was"), bench.now)
    assert [event.error for event in bench.answers()] == [None]


def test_what_is_refused_is_handed_back_at_once_and_cancelled() -> None:
    for status, hands_back in ((Status.BUSY, True), (Status.UNAVAILABLE, True), (Status.REASSEMBLY_TIMEOUT, False)):
        bench = Bench(limits=HANDS_BACK)
        bench.infer(b"first")
        bench.exchange()
        bench.answers()
        (token,) = bench.infer(b"a")
        (infer,) = bench.send()
        bench.reply(infer, b"full", status=status, retry_after=100)
        if not hands_back:
            assert bench.answers() == []
            continue
        (event,) = bench.answers()
        assert (event.token, event.replied, event.transmissions.tolist()) == (token, True, [1])
        assert event.error is not None
        assert "full" in str(event.error)
        assert [(header.opcode, header.request) for header in bench.send()] == [(Opcode.CANCEL, infer.request)]
        assert bench.requester.load(PEER) == 0


def test_a_session_that_is_refused_hands_back_what_waits_for_it() -> None:
    bench = Bench(limits=HANDS_BACK)
    tokens = bench.infer(b"a", b"b")
    (opening,) = bench.send()
    bench.reply(opening, b"full", status=Status.BUSY, retry_after=100)
    events = bench.answers()
    assert [event.token for event in events] == tokens
    assert all(isinstance(event.error, BusyError) and not event.transmissions.any() for event in events)


def test_an_operation_that_is_refused_is_asked_for_again_all_the_same() -> None:
    bench = Bench(limits=HANDS_BACK)
    bench.submit(CONTROL)
    (asked,) = bench.send()
    bench.reply(asked, status=Status.BUSY, retry_after=100)
    assert bench.answers() == []
    assert [header.opcode for header in bench.wait()] == [Opcode.CONTROL]


def test_only_the_request_that_was_answered_so_has_the_status_as_its_reply() -> None:
    bench = Bench()
    bench.infer(b"first")
    bench.exchange()
    bench.answers()
    bench.infer(b"a", b"b")
    first, _ = bench.send()
    bench.reply(first, status=Status.UNKNOWN_SESSION)
    events = bench.answers()
    assert all(isinstance(event.error, UnknownSessionError) for event in events)
    assert [event.replied for event in events] == [True, False]
