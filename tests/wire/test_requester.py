"""The requester, case by case, against a responder in memory and a clock that is moved by hand."""

import random
from dataclasses import replace

import msgpack
import pytest

from host_sdk.wire.errors import (
    BadArgumentError,
    BusyError,
    InternalError,
    LocalProtocolError,
    NapuTimeoutError,
    RemoteProtocolError,
    UnknownSessionError,
)
from host_sdk.wire.exchange.requester import Event, Request, Requester, RequesterLimits
from host_sdk.wire.header import Header, decode_header
from host_sdk.wire.links.base import BROADCAST
from host_sdk.wire.message import Message, decode_message, encode_message
from host_sdk.wire.schema import HEADER_SIZE, MAX_MESSAGE, Flag, Opcode, Status
from tests.wire.model import ModelResponder

MS = 1_000_000
PEER = 1
LIMITS = RequesterLimits(window=8, first_rto_ns=250 * MS, min_rto_ns=50 * MS, max_rto_ns=1000 * MS)
INFER = Request(PEER, Header(Opcode.INFER, 0, Flag.CRC, pipeline=5), b"body", 2000 * MS, in_session=True)
CONTROL = Request(PEER, Header(Opcode.CONTROL, 0, Flag.CRC), b"body", 2000 * MS)


class Numbers(random.Random):
    """Gives chosen numbers first."""

    def __init__(self, *first: int) -> None:
        super().__init__(1)
        self.first = list(first)

    def getrandbits(self, bits: int) -> int:
        return self.first.pop(0) if self.first else super().getrandbits(bits)


class Bench:
    """A requester, a responder, and the wire between them, which delivers at once or loses everything."""

    def __init__(self, *numbers: int, fragment_size: int = 1468) -> None:
        self.requester = Requester(fragment_size, Numbers(*numbers), LIMITS)
        self.responder = ModelResponder()
        self.now = 0
        self.sent: list[tuple[int, bytes]] = []

    def submit(self, request: Request) -> int:
        return self.requester.submit(request, self.now)

    def send(self) -> list[Header]:
        """Take what is due off the requester, and lose it; return its headers."""
        self.sent = list(self.requester.to_send(self.now))
        return [decode_header(pdu) for _, pdu in self.sent]

    def exchange(self) -> list[Header]:
        """Carry what is due to the responder, and its replies back, until nothing is due any more."""
        headers = []
        while sent := self.send():
            headers += sent
            for peer, pdu in self.sent:
                for reply in self.responder.receive(pdu):
                    self.requester.receive(peer, reply, self.now)
        return headers

    def reply(self, header: Header, **changes: int) -> None:
        """Give the requester a reply to a request, empty and with status OK but for the changes."""
        base = Header(header.opcode | 0x80, header.request, header.flags, header.session)
        answer, payload = encode_message(Message(replace(base, **changes)), 1468)
        self.requester.receive(PEER, answer.encode() + payload, self.now)

    def events(self) -> list[Event]:
        events = []
        while event := self.requester.next_event():
            events.append(event)
        return events


def test_a_session_is_opened_and_the_request_sent_in_it() -> None:
    bench = Bench(10, 11)
    token = bench.submit(INFER)
    opening, infer = bench.exchange()
    assert (opening.opcode, opening.request, opening.session) == (Opcode.OPEN, 10, 0)
    assert (infer.opcode, infer.request, infer.session, infer.pipeline) == (Opcode.INFER, 11, 1, 5)
    (event,) = bench.events()
    assert (event.token, event.error, event.transmissions, event.peer) == (token, None, 1, PEER)
    assert event.reply is not None
    assert event.reply.body == b"answer:body"
    assert bench.requester.pending == 0
    assert bench.requester.next_timer() is None


def test_open_tells_the_fragment_size() -> None:
    bench = Bench(fragment_size=1000)
    bench.submit(INFER)
    bench.send()
    header = decode_header(bench.sent[0][1])
    message = decode_message(header, bench.sent[0][1][HEADER_SIZE:])
    assert msgpack.unpackb(message.body) == {"fragment_size": 1000}


def test_request_ids_are_neither_zero_nor_in_use() -> None:
    bench = Bench(0, 7, 7, 0, 8)
    bench.submit(CONTROL)
    bench.submit(CONTROL)
    assert [header.request for header in bench.send()] == [7, 8]


def test_retransmission_backs_off_and_sends_the_same_bytes() -> None:
    bench = Bench()
    bench.submit(replace(CONTROL, timeout_ns=3000 * MS))
    bench.send()
    first, times = bench.sent, [0]
    while True:
        timer = bench.requester.next_timer()
        assert timer is not None
        bench.now = timer
        if not bench.send():
            break
        assert bench.sent == first
        times.append(bench.now // MS)
    assert times == [0, 250, 750, 1750, 2750]  # 250, 500, 1000, 1000: at most max_rto
    (event,) = bench.events()
    assert isinstance(event.error, NapuTimeoutError)
    assert "5 transmissions" in str(event.error)


def test_round_trips_set_the_timeout_and_retransmitted_requests_do_not_count() -> None:
    bench = Bench()
    bench.submit(replace(INFER, timeout_ns=20_000 * MS))
    (opening,) = bench.send()
    bench.now += 100 * MS
    bench.reply(opening, session=3, credits=9)
    (header,) = bench.send()
    assert bench.requester.next_timer() == bench.now + 300 * MS  # 100 + 4 * 50, RFC 6298
    bench.now += 300 * MS
    bench.send()
    bench.now += 5000 * MS
    bench.reply(header)  # of which transmission? Karn: of no known one
    bench.events()
    bench.submit(INFER)
    bench.send()
    assert bench.requester.next_timer() == bench.now + 300 * MS


def test_busy_is_tried_again_after_its_time_under_the_same_id() -> None:
    bench = Bench()
    bench.responder.refuse, bench.responder.retry_after = Status.BUSY, 75  # 7.5 ms
    bench.submit(CONTROL)
    (first,) = bench.exchange()
    assert bench.requester.next_timer() == 7_500_000
    bench.now = 7_500_000
    assert bench.exchange() == [first]
    (event,) = bench.events()
    assert event.error is None
    assert event.transmissions == 2


@pytest.mark.parametrize("status", [Status.BUSY, Status.UNAVAILABLE, Status.REASSEMBLY_TIMEOUT, Status.BAD_CRC])
def test_the_last_refusal_is_the_error_when_time_is_up(status: Status) -> None:
    bench = Bench()
    bench.submit(CONTROL)
    (header,) = bench.send()
    bench.reply(header, status=status)
    assert bench.events() == []
    bench.now = 2000 * MS
    bench.send()
    (event,) = bench.events()
    assert getattr(event.error, "status", None) is status


def test_other_refusals_end_the_request_at_once() -> None:
    bench = Bench()
    bench.submit(CONTROL)
    (header,) = bench.send()
    bench.reply(header, status=Status.BAD_ARGUMENT)
    (event,) = bench.events()
    assert isinstance(event.error, BadArgumentError)


def test_an_unknown_status_is_an_internal_error() -> None:
    bench = Bench()
    bench.submit(CONTROL)
    (header,) = bench.send()
    bench.reply(header, status=999)
    (event,) = bench.events()
    assert isinstance(event.error, InternalError)


def test_an_unknown_session_fails_its_request_and_the_next_opens_another() -> None:
    bench = Bench()
    bench.submit(INFER)
    bench.exchange()
    bench.events()
    bench.responder.restart()
    bench.submit(INFER)
    (old,) = bench.exchange()
    (failed,) = bench.events()
    assert isinstance(failed.error, UnknownSessionError)  # its handle may name another pipeline by now
    bench.submit(INFER)
    opening, new = bench.exchange()
    assert [old.opcode, opening.opcode, new.opcode] == [Opcode.INFER, Opcode.OPEN, Opcode.INFER]
    assert new.session != old.session
    (event,) = bench.events()
    assert event.error is None


def test_credits_bound_what_is_outstanding_and_one_is_all_before_the_first() -> None:
    bench = Bench()
    for _ in range(5):
        bench.submit(INFER)
    (opening,) = bench.send()
    bench.reply(opening, session=3)  # grants nothing
    (first,) = bench.send()
    bench.reply(first, credits=3)
    second, third, fourth = bench.send()
    bench.reply(second, credits=1)
    assert bench.send() == []  # two are outstanding still
    bench.reply(third)
    assert bench.send() == []
    bench.reply(fourth, credits=200)
    assert len(bench.send()) == 1


def test_the_window_bounds_whatever_credit_is_granted() -> None:
    bench = Bench()
    for _ in range(20):
        bench.submit(INFER)
    (opening,) = bench.send()
    bench.reply(opening, session=3, credits=255)
    assert len(bench.send()) == LIMITS.window


def test_what_control_is_sent_needs_no_credit() -> None:
    bench = Bench()
    for _ in range(20):
        bench.submit(CONTROL)
    assert len(bench.send()) == 20


def test_a_freed_credit_is_work_at_once() -> None:
    bench = Bench()
    bench.submit(INFER)
    bench.submit(INFER)
    (opening,) = bench.send()
    bench.reply(opening, session=3)
    assert bench.requester.next_timer() == 0
    (first,) = bench.send()
    assert bench.requester.next_timer() == LIMITS.min_rto_ns  # the OPEN took no time
    bench.reply(first)
    assert len(bench.events()) == 1
    assert bench.requester.next_timer() == 0
    assert len(bench.send()) == 1


def test_a_credit_freed_by_a_timeout_is_used_in_the_same_turn() -> None:
    bench = Bench()
    bench.submit(INFER)
    (opening,) = bench.send()
    bench.reply(opening, session=3)
    bench.send()
    bench.submit(replace(INFER, timeout_ns=9000 * MS))
    bench.now = 2000 * MS
    assert len(bench.send()) == 1
    (event,) = bench.events()
    assert isinstance(event.error, NapuTimeoutError)


def test_waiting_events_are_work_at_once() -> None:
    bench = Bench()
    bench.submit(CONTROL)
    bench.now = 2000 * MS
    bench.send()
    assert bench.requester.next_timer() == 0
    assert len(bench.events()) == 1
    assert bench.requester.next_timer() is None


def test_without_a_session_each_request_fails_once_and_at_its_own_time() -> None:
    bench = Bench()
    tokens = [bench.submit(INFER) for _ in range(3)]
    patient = bench.submit(replace(INFER, timeout_ns=5000 * MS))
    bench.send()
    bench.now = 2000 * MS
    (again,) = bench.send()
    assert again.opcode == Opcode.OPEN
    failed = bench.events()
    assert sorted(event.token for event in failed) == tokens
    assert all(isinstance(event.error, NapuTimeoutError) for event in failed)
    bench.reply(again, session=4)
    bench.exchange()
    bench.now = 5000 * MS
    bench.send()
    (last,) = bench.events()
    assert last.token == patient


def test_a_refused_open_is_the_error_of_those_who_wait_for_it() -> None:
    bench = Bench()
    bench.submit(INFER)
    bench.submit(INFER)
    (opening,) = bench.send()
    bench.reply(opening, status=Status.BUSY, retry_after=1)
    bench.now = 2000 * MS
    bench.send()
    assert [type(event.error) for event in bench.events()] == [BusyError, BusyError]
    bench.submit(INFER)
    (opening,) = bench.send()
    bench.reply(opening, status=Status.BAD_ARGUMENT)
    (event,) = bench.events()
    assert isinstance(event.error, BadArgumentError)
    bench.submit(INFER)
    (opening,) = bench.send()
    bench.reply(opening, session=0)
    (event,) = bench.events()
    assert isinstance(event.error, RemoteProtocolError)


def test_replies_that_match_nothing_are_counted_and_change_nothing() -> None:
    bench = Bench()
    bench.submit(CONTROL)
    (header,) = bench.send()
    bench.reply(replace(header, request=header.request ^ 1))
    bench.reply(replace(header, opcode=Opcode.OPEN))
    answer, payload = encode_message(Message(Header(Opcode.CONTROLLED, header.request, header.flags)), 1468)
    bench.requester.receive(PEER + 1, answer.encode() + payload, 0)  # the right answer of the wrong peer
    bench.requester.receive(PEER, bench.sent[0][1], 0)  # our own request, come back
    assert bench.requester.stale_replies == 4
    assert bench.events() == []
    bench.reply(header)
    bench.reply(header)
    assert len(bench.events()) == 1
    assert bench.requester.stale_replies == 5


def test_damaged_replies_are_counted_and_the_request_is_sent_again() -> None:
    bench = Bench()
    bench.submit(CONTROL)
    (header,) = bench.send()
    (reply,) = bench.responder.receive(bench.sent[0][1])
    for damaged in (reply[:-1], reply + b"x", b"\0" + reply[1:], reply[:-1] + bytes([reply[-1] ^ 1]), b"", reply[:20]):
        bench.requester.receive(PEER, damaged, 0)
    bench.requester.receive(PEER, reply[:2] + b"\x80\x01" + reply[4:], 0)  # a flag that nobody knows
    bench.requester.receive(PEER, reply[:2] + b"\x00\x00" + reply[4:], 0)  # the flag lost that makes the CRC one
    assert bench.requester.bad_frames == 8
    bench.now = 250 * MS
    assert bench.exchange() == [header]
    assert len(bench.events()) == 1


def test_cancelled_requests_give_no_event_and_give_their_credit_back() -> None:
    bench = Bench()
    first = bench.submit(INFER)
    bench.submit(INFER)
    (opening,) = bench.send()
    bench.reply(opening, session=3)
    bench.send()
    bench.requester.cancel(first)
    bench.requester.cancel(first)
    assert len(bench.send()) == 1
    assert bench.events() == []
    assert bench.requester.pending == 1
    assert bench.requester.load(PEER) == 1


def test_what_cannot_be_encoded_is_refused_at_once_and_leaves_nothing_behind() -> None:
    bench = Bench()
    for request in (INFER, CONTROL):
        for wrong in (replace(request, body=bytes(MAX_MESSAGE)), replace(request, header=Header(4, 0, priority=256))):
            with pytest.raises(LocalProtocolError):
                bench.submit(wrong)
    assert bench.requester.pending == 0
    assert bench.send() == []
    assert bench.requester.next_timer() is None


def test_a_gathering_takes_every_good_answer_until_its_time_and_then_ends() -> None:
    bench = Bench()
    token = bench.submit(Request(BROADCAST, Header(Opcode.DISCOVER, 0, Flag.CRC), timeout_ns=300 * MS, gathers=True))
    (header,) = bench.send()
    assert bench.sent[0][0] == BROADCAST
    for peer, status in ((1, Status.OK), (2, Status.OK), (3, Status.INTERNAL), (1, Status.OK)):
        answer, payload = encode_message(
            Message(Header(Opcode.ANNOUNCE, header.request, header.flags, status=status)), 1468
        )
        bench.requester.receive(peer, answer.encode() + payload, bench.now)
    beacon, payload = encode_message(Message(Header(Opcode.ANNOUNCE, 0)), 1468)
    bench.requester.receive(4, beacon.encode() + payload, bench.now)
    assert [(event.token, event.peer) for event in bench.events()] == [(token, 1), (token, 2), (token, 1)]
    bench.now = 300 * MS
    bench.send()
    (end,) = bench.events()
    assert (end.token, end.reply, end.error) == (token, None, None)
    assert bench.requester.pending == 0


def test_what_waits_for_credit_fails_with_its_session() -> None:
    bench = Bench()
    for _ in range(3):
        bench.submit(INFER)
    (opening,) = bench.send()
    bench.reply(opening, session=3, credits=1)
    (first,) = bench.send()
    bench.reply(first, status=Status.UNKNOWN_SESSION)
    assert [type(event.error) for event in bench.events()] == [UnknownSessionError] * 3  # their handles may be stale
    assert bench.send() == []


def test_a_slow_operation_is_not_measured_by_quick_inferences() -> None:
    bench = Bench()
    for _ in range(20):
        bench.submit(INFER)
        bench.exchange()
    bench.events()
    bench.submit(CONTROL)
    bench.send()
    timer = bench.requester.next_timer()
    assert timer is not None
    assert timer - bench.now == RequesterLimits().first_rto_ns
