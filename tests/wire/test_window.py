"""The request window, case by case: what it sends, when, and what it makes of what comes."""

import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from host_sdk.wire.errors import LocalProtocolError, NapuTimeoutError, UnknownSessionError
from host_sdk.wire.exchange.arrived import Arrived
from host_sdk.wire.exchange.pace import RequesterLimits, RoundTrip
from host_sdk.wire.header import Header, decode_header
from host_sdk.wire.message import Message, Trailer, decode_message, encode_message, fragment_frames
from host_sdk.wire.schema import HEADER_SIZE, MAX_MESSAGE, Flag, Opcode, Status
from tests.wire.crc import crc32c
from tests.wire.window_bench import (
    BASE,
    BUSY,
    FRAGMENT_SIZE,
    LIMITS,
    MS,
    ONCE,
    SESSION,
    WindowBench,
    answer,
    buffers,
    grant,
    joined,
    notice,
    only,
    said,
)

CRC = ONCE | int(Flag.CRC)
LONG = bytes(range(200))  # ten fragments


def asked(bench: WindowBench) -> list[Header]:
    """Send one request and return the headers of its fragments."""
    bench.submit([LONG])
    return bench.headers()


# ---- what goes out ---------------------------------------------------------------------------------------------------


@given(
    sizes=st.one_of(
        st.integers(0, 70).flatmap(lambda size: st.lists(st.just(size), min_size=1, max_size=12)),
        st.lists(st.integers(0, 70), min_size=1, max_size=12),
    ),
    flags=st.sampled_from([0, int(Flag.CRC), ONCE, CRC, CRC | int(Flag.TRAILER)]),
    as_array=st.booleans(),
    room=st.integers(1, 9),
)
def test_messages_arrive_as_they_were_submitted(sizes: list[int], flags: int, as_array: bool, room: int) -> None:
    source = random.Random(3)
    bodies = [source.randbytes(size) for size in sizes]
    bench = WindowBench()
    given_bodies = bodies
    if as_array and len(set(sizes)) == 1:
        given_bodies = np.frombuffer(b"".join(bodies), np.uint8).reshape(len(bodies), -1)  # type: ignore[assignment]
    bench.submit(given_bodies, flags, priority=9, deadline=77)
    messages: dict[int, list[bytes]] = {}
    while pdus := bench.send(room):
        assert len(pdus) <= room
        for pdu in pdus:
            messages.setdefault(decode_header(pdu).request, []).append(pdu)
    assert len(messages) == len(bodies)
    for (number, pdus), body in zip(messages.items(), bodies, strict=True):
        header = decode_header(pdus[0])
        expected = Header(Opcode.INFER, number, flags, SESSION, pipeline=257, priority=9, deadline=77)
        shared, payload = encode_message(Message(expected, body), FRAGMENT_SIZE)
        assert pdus == list(fragment_frames(shared, payload))
        assert decode_message(header, joined(pdus)).body == body


def test_once_ids_count_up_and_others_have_the_highest_bit() -> None:
    bench = WindowBench()
    bench.submit([b"a", b"b"])
    bench.submit([b"c"], 0)
    bench.submit([b"d"])
    bench.submit([b"e", b"f"], 0)
    numbers = [header.request for header in bench.headers()]
    assert [number for number in numbers if number < 1 << 63] == [BASE + 1, BASE + 2, BASE + 3]
    assert len({number for number in numbers if number >> 63}) == 3


def test_notices_are_the_bytes_that_the_protocol_gives() -> None:
    sent: list[bytes] = []
    for opcode, number, priority, body in (
        ("22", "0000000000001001", "07", "90 00 0008 00000001"),  # RESULT; window of 8; from fragment 1 on
        ("20", "0000000000001001", "07", ""),
    ):
        # version opcode flags session request length pipeline priority credits fragment size deadline
        length = f"{len(bytes.fromhex(body)) + 4:08x}"
        header = bytes.fromhex(f"01 {opcode} 0009 9f3a0007 {number} {length} 0000 {priority} 00 0000 0220 00000000")
        content = bytes.fromhex(body)
        sent.append(header + content + crc32c(content + header).to_bytes(4, "big"))
    bench = WindowBench()
    (token,) = bench.submit([b"x"], CRC, priority=7)
    (first,) = bench.headers()
    bench.take(answer(first, bytes(45))[0])  # one of three fragments
    assert bench.wait() == [sent[0]]
    bench.window.cancel(token, bench.now)
    assert bench.send() == [sent[1]]


def test_a_settle_is_the_bytes_that_the_protocol_gives() -> None:
    bench = WindowBench()
    bench.submit([bytes([index]) for index in range(12)])
    headers = bench.headers()
    for index in (0, 1, 4, 11):
        bench.take(*answer(headers[index]))
    bench.take(*answer(headers[2], status=BUSY, retry_after=10))
    bench.now += MS
    settle, again = bench.send()
    # Ids up to BASE + 2 are settled; of those behind, the third and the tenth: BASE + 5 and BASE + 12.
    head = bytes.fromhex("01 21 0009 9f3a0007 0000000000001002 00000006 0000 00 00 0000 0220 00000000")
    body = bytes([0b00100000, 0b01000000])
    assert settle == head + body + crc32c(body + head).to_bytes(4, "big")
    assert decode_header(again) == headers[2]


def test_what_cannot_be_sent_is_refused_at_once() -> None:
    bench = WindowBench()
    with pytest.raises(LocalProtocolError):
        bench.submit([bytes(MAX_MESSAGE + 1)])
    assert bench.window.load == 0


# ---- credit, window, fragments ---------------------------------------------------------------------------------------


def test_credits_bound_what_is_outstanding() -> None:
    bench = WindowBench(credits=3)
    bench.submit([bytes([index]) for index in range(20)])
    first = bench.headers()
    assert len(first) == 3
    assert bench.window.load == 20
    bench.take(*answer(first[0], credits=5))
    assert len(bench.headers()) == 3
    bench.take(*answer(first[1], credits=1))
    assert bench.send() == []


def test_limits_bound_whatever_credit_is_granted() -> None:
    bench = WindowBench(limits=LIMITS.__class__(window=4), credits=255)
    bench.submit([b"x"] * 20)
    assert len(bench.send()) == 4


def test_ids_lie_no_further_apart_than_the_window() -> None:
    bench = WindowBench(credits=8, window=8)
    bench.submit([bytes([index]) for index in range(40)])
    sent = bench.headers()
    lost, *others = sent
    for header in others:
        bench.take(*answer(header))
    assert bench.send() == []  # the first is not settled, so its slot is taken
    assert bench.window.room() == 0
    bench.take(*answer(lost))
    assert [header.request for header in bench.headers()] == [BASE + 1 + index for index in range(8, 16)]


def test_a_request_that_is_given_up_no_longer_holds_the_window() -> None:
    bench = WindowBench(credits=8, window=8)
    tokens = bench.submit([bytes([index]) for index in range(9)])
    for header in bench.headers()[1:]:
        bench.take(*answer(header))
    bench.window.cancel(tokens[0], bench.now)
    assert [header.opcode for header in bench.headers()] == [Opcode.CANCEL, Opcode.INFER]


def test_no_more_fragments_are_under_way_than_the_session_takes() -> None:
    bench = WindowBench(fragments=4, credits=8)
    bench.submit([LONG, LONG])
    first = bench.headers()
    assert [header.fragment for header in first] == [0, 1, 2]  # and a place is held for the last
    assert bench.send() == []
    bench.take(grant(first[0], "1110000000"))
    second = bench.headers()
    assert [header.fragment for header in second] == [3, 4, 5]
    bench.take(grant(first[0], "1111110000"))
    assert [header.fragment for header in bench.headers()] == [6, 7, 8, 9]
    bench.take(grant(first[0], "1111111110"))
    third = [(header.request, header.fragment) for header in bench.headers()]
    assert third == [(BASE + 2, 0), (BASE + 2, 1)]


def test_a_grant_bounds_what_is_sent_but_for_the_last_fragment() -> None:
    bench = WindowBench(fragments=4)
    (first, *_) = asked(bench)
    bench.take(grant(first, "1110000000", window=2))
    assert [header.fragment for header in bench.headers()] == [3, 4]
    assert [decode_header(pdu).fragment for pdu in bench.wait()] == [9]  # after the timeout, whatever the bound
    bench.take(grant(first, "1111100001", window=2))
    assert [header.fragment for header in bench.headers()] == [5, 6]
    bench.take(grant(first, "1111111001", window=8))
    assert [header.fragment for header in bench.headers()] == [7, 8]


def test_only_what_something_sent_later_overtook_is_sent_again() -> None:
    bench = WindowBench()
    (first, *_) = asked(bench)
    bench.now += MS
    bench.take(grant(first, "1010001000"))
    again = bench.send()
    assert [decode_header(pdu).fragment for pdu in again] == [1, 3, 4, 5]  # 7, 8 and 9 may still be on their way
    bench.take(grant(first, "1010001100"))
    assert bench.send() == []  # sent after fragment 7 was: they may be on their way, too
    bench.now += MS
    bench.take(grant(first, "1010011100"))
    assert [header.fragment for header in bench.headers()] == [1, 3, 4, 8, 9]


def test_a_grant_bounds_what_is_sent_again_too() -> None:
    bench = WindowBench()
    (first, *_) = asked(bench)
    bench.now += MS
    bench.take(grant(first, "1000000011", window=3))
    assert [header.fragment for header in bench.headers()] == [1, 2, 3]
    bench.now += MS
    bench.take(grant(first, "1111000011", window=3))
    assert [header.fragment for header in bench.headers()] == [4, 5, 6]


def test_a_request_that_is_asked_for_anew_finds_its_places_free() -> None:
    bench = WindowBench(fragments=10)
    first = asked(bench)
    assert len(first) == 10
    bench.take(notice(Opcode.UNKNOWN, first[0]))
    assert bench.headers() == first


def test_fragments_that_are_sent_again_are_the_same_bytes() -> None:
    bench = WindowBench()
    bench.submit([LONG], CRC)
    sent = bench.send()
    bench.now += MS
    bench.take(grant(decode_header(sent[0]), "00000000001"))
    assert bench.send() == sent[:10]
    assert bench.wait() == sent[10:]


def test_few_buffers_at_a_time_are_enough() -> None:
    bench = WindowBench()
    bench.submit([LONG] * 3 + [b"short"] * 5)
    one_by_one = [bench.send(1) for _ in range(35)]
    assert all(len(sent) == 1 for sent in one_by_one)
    assert bench.send() == []


# ---- time ------------------------------------------------------------------------------------------------------------


def test_the_timeout_is_that_of_rfc_6298() -> None:
    # By hand: SRTT 80, RTTVAR 40: 240. Then 40: RTTVAR 40 + (40 - 40) / 4 = 40, SRTT 75: 235. Then 75: RTTVAR 30,
    # SRTT 75: 195. Many of 1: the floor. One of 2000: the ceiling.
    trip = RoundTrip(LIMITS)
    seen = [trip.rto_ns / MS]
    for sample in (80, 40, 75):
        trip.measure(sample * MS)
        seen.append(trip.rto_ns / MS)
    assert seen == [250, 240, 235, 195]
    for _ in range(100):
        trip.measure(MS)
    assert trip.rto_ns == 10 * MS
    trip.measure(2000 * MS)
    assert trip.rto_ns == 1000 * MS


def test_what_was_sent_again_measures_nothing() -> None:
    bench = WindowBench()
    bench.submit([b"x"], timeout_ms=60_000)
    (first,) = bench.headers()
    times = []
    for _ in range(4):
        timer = bench.window.next_timer()
        assert timer is not None
        times.append(timer)
        assert [decode_header(pdu) for pdu in bench.wait()] == [first]
    assert [(after - before) // MS for before, after in pairwise(times)] == [500, 1000, 1000]
    bench.now += MS
    event = only(bench.take(*answer(first)))
    assert event.transmissions.tolist() == [5]
    assert event.latency_ns.tolist() == [2751 * MS]
    assert bench.round_trip.smoothed_ns is None
    bench.submit([b"y"])
    bench.send()
    assert bench.window.next_timer() == bench.now + 250 * MS


def test_a_backed_off_timeout_is_carried_over_up_to_ten_times_the_least() -> None:
    trip = RoundTrip(RequesterLimits())
    trip.measure(MS)
    assert trip.back_off(trip.rto_ns) == trip.rto_ns == 20 * MS
    assert trip.back_off(80 * MS) == 160 * MS
    assert trip.rto_ns == 100 * MS
    trip.measure(MS)
    assert trip.rto_ns == 10 * MS


def test_a_request_that_was_overtaken_is_probed_before_its_timeout() -> None:
    bench = WindowBench()
    bench.submit([b"a"])
    (lost,) = bench.headers()
    bench.now += 2 * MS
    bench.submit([b"b"])
    (later,) = bench.headers()
    bench.now += MS
    assert only(bench.take(*answer(later))).transmissions.tolist() == [1]
    assert [decode_header(pdu) for pdu in bench.send()] == [lost]
    bench.now += MS
    assert only(bench.take(*answer(lost))).transmissions.tolist() == [2]


def test_round_trips_are_measured_by_the_batch() -> None:
    bench = WindowBench()
    bench.submit([b"x"] * 3)
    headers = bench.headers()
    bench.now += 100 * MS
    bench.take_alike(*(answer(header)[0] for header in headers))
    assert bench.round_trip.rto_ns == 300 * MS


def test_a_retry_after_is_kept_to() -> None:
    bench = WindowBench()
    bench.submit([b"x"])
    (first,) = bench.headers()
    bench.take(*answer(first, status=BUSY, retry_after=75))
    assert bench.window.next_timer() == bench.now + 7_500_000
    bench.now += 7_499_999
    assert bench.send() == []
    bench.now += 1
    assert [header.opcode for header in bench.headers()] == [Opcode.SETTLE, Opcode.INFER]


def test_silence_ends_in_a_timeout_that_is_told_and_a_cancel() -> None:
    bench = WindowBench(credits=1)
    sent, unsent = bench.submit([b"x", b"y"], timeout_ms=300)
    bench.send()
    bench.now += 300 * MS
    assert [header.opcode for header in bench.headers()] == [Opcode.CANCEL]
    events = bench.became()
    assert [event.token for event in events] == [sent, unsent]
    errors = [event.error for event in events if hasattr(event, "error")]
    assert all(isinstance(error, NapuTimeoutError) for error in errors)
    assert str(errors[0]) == "no answer within 0.3 s after 1 transmissions"
    assert bench.window.next_timer() is None


def test_nothing_to_do_is_never() -> None:
    bench = WindowBench()
    assert bench.window.next_timer() is None
    bench.submit([b"x", b"y"])
    headers = bench.headers()
    bench.take(*answer(headers[0]))
    assert bench.window.next_timer() == bench.now + 250 * MS  # the other's, from before anything was measured
    bench.take(*answer(headers[1]))
    assert bench.window.next_timer() is None


# ---- answers ---------------------------------------------------------------------------------------------------------


def test_a_batch_of_answers_is_a_structure_of_arrays() -> None:
    bench = WindowBench()
    tokens = bench.submit([bytes([index]) for index in range(8)], CRC | int(Flag.TRAILER))
    headers = bench.headers()
    bench.now += 3 * MS
    trailers = [Trailer((index,) * 6, (0,) * 6, index, 1, 2, 3) for index in range(8)]
    pdus = []
    for header, trailer in zip(headers, trailers, strict=True):
        reply = Header(Opcode.RESULT, header.request, CRC, SESSION, credits=64)
        message = Message(reply, bytes([header.request % 256] * 5), (), trailer)
        pdus += fragment_frames(*encode_message(message, 1468))
    event = only(bench.take_alike(*reversed(pdus)))
    assert event.tokens.tolist() == tokens[::-1]
    assert event.bodies.tolist() == [[header.request % 256] * 5 for header in headers[::-1]]
    assert event.trailers is not None
    assert event.trailers["energy_nj"].tolist() == list(range(8))[::-1]
    assert event.latency_ns.tolist() == [3 * MS] * 8
    assert event.transmissions.tolist() == [1] * 8
    assert event.error is None


def test_copies_in_one_batch_count_once_and_strangers_not_at_all() -> None:
    bench = WindowBench()
    tokens = bench.submit([b"x", b"y"])
    first, second = bench.headers()
    stranger = Header(Opcode.INFER, BASE + 77, ONCE, SESSION)
    replies = [answer(header, b"ab")[0] for header in (first, stranger, second, first, second)]
    event = only(bench.take_alike(*replies))
    assert sorted(event.tokens.tolist()) == tokens
    assert bench.window.stale == 3
    assert bench.take_alike(*replies) == []
    assert bench.window.stale == 8
    assert bench.take_alike(replies[0]) == []


def test_damaged_answers_are_counted_and_the_request_stays() -> None:
    bench = WindowBench()
    tokens = bench.submit([b"x", b"y", b"z"], CRC)
    headers = bench.headers()
    good = [answer(header, b"ab")[0] for header in headers]
    bad = [*good[:2], good[2][:-5] + bytes([good[2][-5] ^ 1]) + good[2][-4:]]
    event = only(bench.take_alike(*bad))
    assert sorted(event.tokens.tolist()) == tokens[:2]
    assert bench.take_alike(bad[2]) == []
    bare = [answer(Header(Opcode.INFER, header.request, ONCE, SESSION), b"ab")[0] for header in headers]
    assert bench.take_alike(bare[2]) == []  # the flag is lost that makes the CRC one
    assert bench.take(bare[2]) == []
    assert bench.window.damaged == 4
    assert only(bench.take_alike(good[2])).tokens.tolist() == tokens[2:]
    both = bench.submit([b"x", b"y"], CRC)
    headers = bench.headers()
    bare = [answer(Header(Opcode.INFER, header.request, ONCE, SESSION), b"ab")[0] for header in headers]
    assert bench.take_alike(*bare) == []
    assert bench.window.load == len(both)


def test_credits_are_not_covered_by_the_crc() -> None:
    bench = WindowBench()
    bench.submit([b"x", b"y"], CRC)
    replies = [bytearray(answer(header, b"ab")[0]) for header in bench.headers()]
    for reply in replies:
        reply[23] = 9
    assert len(only(bench.take_alike(*map(bytes, replies)))) == 2


# ---- answers in several fragments ------------------------------------------------------------------------------------


def test_a_long_answer_is_asked_for_as_it_comes() -> None:
    bench = WindowBench()  # takes 8 fragments without asking
    bench.submit([b"x"])
    (first,) = bench.headers()
    body = bytes(range(250)) + bytes(50)
    reply = answer(first, body)
    assert len(reply) == 15
    for part in reply[:7]:
        bench.take(part)
        assert bench.send() == []
    bench.take(reply[7])  # all eight
    (resend,) = bench.send()
    assert said(resend) == Arrived(Opcode.RESULT, 8, 8)
    assert decode_header(resend).request == first.request
    bench.take(reply[3], reply[9], reply[9])  # copies: what is missing may be on its way
    assert bench.send() == []
    bench.take(reply[14])
    assert len(bench.send()) == 1
    assert len(bench.take(*(reply[index] for index in (8, *range(10, 14))))) == 1
    (settle,) = [header for header in bench.headers() if header.opcode == Opcode.SETTLE]
    assert settle.request == first.request


def test_a_long_answer_that_fails_its_crc_is_asked_for_anew() -> None:
    bench = WindowBench()
    bench.submit([b"x"], CRC)
    (first,) = bench.headers()
    reply = answer(first, bytes(50))
    broken = reply[1][:-1] + bytes([reply[1][-1] ^ 1])
    assert bench.take(reply[0], broken, reply[2]) == []
    assert bench.window.damaged == 1
    (resend,) = bench.wait()
    assert said(resend) == Arrived(Opcode.RESULT, 0, 8)
    assert only(bench.take(*reply)).bodies.tobytes() == bytes(50)


def test_an_answer_that_nobody_kept_is_asked_for_from_the_beginning() -> None:
    bench = WindowBench()
    bench.submit([b"x"], 0)
    (first,) = bench.headers()
    reply = answer(first, bytes(50))
    bench.take(reply[0], reply[2])
    (resend,) = bench.headers()
    assert (resend.opcode, resend.flags & ONCE) == (Opcode.RESEND, 0)
    bench.take(notice(Opcode.UNKNOWN, first))
    assert bench.headers() == [first]
    assert len(bench.take(*reply)) == 1


# ---- ends ------------------------------------------------------------------------------------------------------------


def test_cancelled_requests_give_no_event() -> None:
    bench = WindowBench(credits=2)
    tokens = bench.submit([bytes([index]) for index in range(5)])
    headers = bench.headers()
    for token in (tokens[0], tokens[3], tokens[0]):
        bench.window.cancel(token, bench.now)
    cancel, third = bench.headers()
    assert (cancel.opcode, cancel.request) == (Opcode.CANCEL, headers[0].request)
    bench.take(*answer(headers[1]), *answer(third))
    (last,) = bench.headers()
    bench.take(*answer(headers[0]))  # a late answer
    event = only(bench.take(*answer(last)))
    assert event.tokens.tolist() == [tokens[4]]
    assert bench.window.load == 0


def test_a_request_that_waits_can_be_cancelled_whatever_its_size() -> None:
    for bodies in ([LONG] * 3, [LONG, b"x", b"y"], [b"x", b"yy", b"z"], [b"x"] * 3):
        bench = WindowBench(credits=1)
        tokens = bench.submit(bodies)
        first = bench.headers()[0]
        bench.window.cancel(tokens[1], bench.now)
        bench.take(*answer(first))
        sent = bench.send()
        assert joined(sent) == bodies[2]
        bench.window.cancel(tokens[2], bench.now)
        assert bench.window.load == 0


def test_a_window_that_is_lost_hands_back_all_that_is_not_settled() -> None:
    bench = WindowBench(credits=3)
    tokens = bench.submit([LONG, b"x", b"y", b"z"])
    headers = bench.headers()
    bench.take(*answer(headers[-1]))
    bench.became()
    bench.take(answer(headers[0], bytes(50))[0])
    bench.window.lose(UnknownSessionError())
    events = bench.became()
    assert sorted(event.token for event in events) == sorted({*tokens} - {tokens[2]})
    assert (bench.window.load, bench.window.bounds, bench.window.next_timer()) == (0, None, None)
    assert bench.take(*answer(headers[0])) == []


def test_an_unknown_status_is_final() -> None:
    bench = WindowBench()
    bench.submit([b"x"])
    (first,) = bench.headers()
    assert "unknown status 999" in str(only(bench.take(*answer(first, status=999))).error)


def test_an_unknown_session_is_noticed() -> None:
    bench = WindowBench()
    bench.submit([b"x"])
    (first,) = bench.headers()
    event = only(bench.take(*answer(first, status=int(Status.UNKNOWN_SESSION))))
    assert isinstance(event.error, UnknownSessionError)
    assert bench.window.gone


def test_frames_that_make_no_sense_change_nothing() -> None:
    bench = WindowBench()
    bench.submit([LONG])
    first = bench.headers()[0]
    long_notice = Header(Opcode.WORKING, first.request, ONCE, SESSION, length=50, fragment_size=20)
    for pdu in (
        notice(Opcode.GRANT, first, b"short"),
        notice(Opcode.GRANT, first, Arrived(Opcode.RESULT, 0, 1).encode()),
        next(fragment_frames(long_notice, bytes(50))),
        notice(Opcode.CANCEL, first),
    ):
        assert bench.take(pdu) == []
    assert (bench.window.damaged, bench.window.stale) == (3, 1)
    assert bench.send() == []


@given(st.lists(st.integers(0, 23), max_size=60), st.integers(0, 2**32))
def test_ids_are_never_used_again(order: list[int], seed: int) -> None:
    bench = WindowBench(credits=8, window=8)
    source, seen, open_requests = random.Random(seed), set[int](), list[Header]()
    for pick in order:
        bench.submit([b"x"] * (pick % 3 + 1), ONCE if pick % 2 else 0)
        for header in bench.headers():
            assert header.request not in seen
            seen.add(header.request)
            open_requests.append(header)
        assert len(open_requests) <= 8
        once = [header.request for header in open_requests if header.flags & ONCE]
        assert not once or max(once) - min(once) < 8
        source.shuffle(open_requests)
        bench.take(*(pdu for header in open_requests[pick % 8 :] for pdu in answer(header)))
        del open_requests[pick % 8 :]


def test_frames_are_written_where_the_buffers_are() -> None:
    """Buffers need not be in order, as those of a ring are not."""
    bench = WindowBench()
    bench.submit([bytes([index] * 3) for index in range(6)])
    batch_order = [3, 0, 5, 1, 4, 2]
    batch = buffers(6)
    batch.starts = batch.starts[batch_order]
    assert bench.window.to_send(batch, bench.now) == 6
    assert [batch.pdu(index)[HEADER_SIZE:].tolist() for index in range(6)] == [[index] * 3 for index in range(6)]
