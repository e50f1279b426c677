"""A window whose requests and answers have many fragments: what is asked for, when, and what is sent again when."""

from dataclasses import replace

import numpy as np
import pytest

from host_sdk.wire.exchange.arrived import Arrived
from host_sdk.wire.header import Header, decode_header
from host_sdk.wire.schema import Opcode
from tests.wire.window_bench import FRAGMENT_SIZE, LIMITS, MS, WindowBench, answer, grant, notice, only, said

MANY = replace(LIMITS, asked_fragments=32)
LONG = bytes(range(250)) * 8  # 100 fragments


def asked(bench: WindowBench, flags: int = 8) -> Header:
    bench.submit([b"x"], flags)
    (first,) = bench.headers()
    return first


def begun(bench: WindowBench) -> list[bytes]:
    """Send a request; return the PDUs of its long answer, of which the unasked eight have arrived."""
    pdus = answer(asked(bench), LONG)
    assert len(pdus) == 100
    bench.take(*pdus[:8])
    return pdus


# ---- answers ---------------------------------------------------------------------------------------------------------


def test_more_of_a_long_answer_is_asked_for_than_comes_unasked() -> None:
    bench = WindowBench(limits=MANY)
    pdus, base = begun(bench), 8
    while base < 100:
        (resend,) = bench.send()
        assert (said(resend).base, said(resend).window) == (base, 32)
        events = bench.take(*pdus[base : base + 32])
        base += 32
    assert only(events).bodies.tobytes() == LONG


def test_unfinished_answers_share_what_may_be_asked_for() -> None:
    bench = WindowBench(limits=MANY)
    bench.submit([b"x", b"y"])
    first, second = (answer(header, LONG) for header in bench.headers())
    bench.take(second[0], *first[:8])
    (resend,) = bench.send()
    assert said(resend).window == 16


def test_the_furthest_of_those_that_were_asked_for_tells_that_the_others_are_lost() -> None:
    bench = WindowBench(limits=MANY)
    pdus = begun(bench)
    bench.send()
    bench.take(*pdus[8:12], *pdus[13:39])
    assert bench.send() == []  # one more is on its way
    bench.take(pdus[39])
    (resend,) = bench.send()
    assert (said(resend).base, said(resend).window) == (12, 1 + 27 + 31)
    assert said(resend).have(100).tolist() == [at != 12 and at < 40 for at in range(100)]


def test_copies_have_nothing_asked_for_that_is_on_its_way() -> None:
    bench = WindowBench(limits=MANY)
    pdus = begun(bench)
    bench.send()
    bench.now += MS
    bench.take(pdus[0], pdus[7], *pdus[8:12], pdus[8])
    assert bench.send() == []
    assert said(bench.wait()[0]).base == 12


def test_a_fragment_is_missed_by_its_own_round_trip_not_by_that_of_the_request() -> None:
    bench = WindowBench(limits=MANY)
    bench.round_trip.measure(800 * MS)
    pdus = begun(bench)
    bench.send()
    bench.now += MS
    bench.take(*pdus[8:40])
    bench.send()
    before = bench.now
    (resend,) = bench.wait()
    assert said(resend).base == 40
    assert bench.now - before == LIMITS.min_rto_ns


def test_fragments_are_taken_as_they_come_from_a_link() -> None:
    bench = WindowBench(limits=MANY)
    pdus = answer(asked(bench), LONG)
    order = [*range(50, 100), *range(50), 3, 99]
    events = bench.take_fragments(*(pdus[at] for at in order[:60]))
    assert events == []
    assert only(bench.take_fragments(*(pdus[at] for at in order[60:]))).bodies.tobytes() == LONG
    bench.take_fragments(*pdus[:5])
    assert bench.window.stale == 5


def test_fragments_that_contradict_each_other_are_no_answer() -> None:
    bench = WindowBench(limits=MANY)
    first = asked(bench)
    bench.take_fragments(*answer(first, LONG)[:4])
    assert bench.take_fragments(*answer(first, LONG + b"x")[4:]) == []
    assert bench.window.damaged == 1
    assert only(bench.take_fragments(*answer(first, LONG))).bodies.tobytes() == LONG


# ---- requests --------------------------------------------------------------------------------------------------------


def granted(bench: WindowBench, flags: int) -> Header:
    """Submit a request of ten fragments, of which the first four have arrived 2 ms after they were sent."""
    bench.submit([bytes(200)], flags)
    first = bench.headers(4)[0]
    assert first.fragments == 10
    bench.now += 2 * MS
    bench.take(grant(first, "1111000000"))
    assert [header.fragment for header in bench.headers()] == [4, 5, 6, 7, 8, 9]
    return first


def test_the_end_of_a_once_request_is_probed_by_the_round_trip_of_a_fragment() -> None:
    bench = WindowBench()
    granted(bench, 8)
    before = bench.now
    assert [decode_header(pdu).fragment for pdu in bench.wait()] == [9]
    assert bench.now - before == LIMITS.min_rto_ns


@pytest.mark.parametrize("slow_ms", [0, 400])
def test_what_is_not_once_is_not_sent_anew_while_it_may_be_worked_on(slow_ms: int) -> None:
    bench = WindowBench()
    bench.submit([bytes(200)], 0)
    first = bench.headers(4)[0]
    began = bench.now
    bench.now += slow_ms * MS
    bench.take(grant(first, "1111000000"))
    bench.send()
    before = bench.now
    assert [decode_header(pdu).fragment for pdu in bench.wait()] == [9]
    assert bench.now - before == max(LIMITS.first_rto_ns, 2 * (before - began))


def test_a_window_that_reaches_over_what_has_arrived_is_used() -> None:
    bench = WindowBench(fragments=8)
    bench.submit([bytes(100 * FRAGMENT_SIZE)])
    first = bench.headers()[0]
    bench.now += MS
    have = np.array([at != 0 for at in range(7)] + [False] * 93)
    body = Arrived.reaching(Opcode.INFER, 0, have, 8).encode()
    bench.take(notice(Opcode.GRANT, first, body))
    # 0 is lost, 99 has its place; six more are sent, up to 7 behind those that have arrived.
    assert [header.fragment for header in bench.headers()] == [0, 7, 8, 9, 10, 11, 12]
