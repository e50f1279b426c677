"""The requester, case by case, against a responder in memory and a clock that is moved by hand."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

import msgpack
import numpy as np
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
from host_sdk.wire.exchange.answers import Announced, Answers, Event
from host_sdk.wire.exchange.pace import RequesterLimits
from host_sdk.wire.exchange.request import Request
from host_sdk.wire.exchange.requester import Requester
from host_sdk.wire.header import Header, decode_header
from host_sdk.wire.links.base import BROADCAST
from host_sdk.wire.message import Message, decode_message, encode_message, fragment_frames
from host_sdk.wire.schema import HEADER_SIZE, MAX_MESSAGE, Flag, Opcode, Status
from tests.wire.model import ModelResponder
from tests.wire.window_bench import buffers, filled, taken

MS = 1_000_000
PEER = 1
MTU = 1500
LIMITS = RequesterLimits(window=8)
INFER = Header(Opcode.INFER, 0, int(Flag.CRC | Flag.ONCE), pipeline=5)
CONTROL = Request(PEER, Header(Opcode.CONTROL, 0, int(Flag.CRC)), b"body", 2000 * MS)


class Numbers(random.Random):
    """Gives chosen numbers first."""

    def __init__(self, *first: int) -> None:
        super().__init__(1)
        self.first = list(first)

    def getrandbits(self, bits: int) -> int:
        return self.first.pop(0) if self.first else super().getrandbits(bits)


class Bench:
    """A requester, a responder, and the wire between them, which delivers at once or loses everything."""

    def __init__(self, *numbers: int, mtu: int = MTU, limits: RequesterLimits = LIMITS, tenant: str = "") -> None:
        self.requester = Requester(mtu, Numbers(*numbers), limits, tenant=tenant)
        self.responder = ModelResponder(credits=64, window=64, fragments=64)
        self.now = 0
        self.sent: list[bytes] = []
        self.tokens = 1 << 32

    def infer(self, *bodies: bytes, header: Header = INFER, timeout_ms: int = 2000, peer: int = PEER) -> list[int]:
        tokens = list(range(self.tokens, self.tokens + len(bodies)))
        self.tokens += len(bodies)
        self.requester.infer(peer, header, list(bodies), np.array(tokens), self.now, self.now + timeout_ms * MS)
        return tokens

    def submit(self, request: Request = CONTROL) -> int:
        return self.requester.submit(request, self.now)

    def send(self) -> list[Header]:
        """Take what is due off the requester, and lose it; return its headers."""
        batch = buffers(256)
        self.sent = taken(batch, self.requester.to_send(batch, self.now))
        return [decode_header(pdu) for pdu in self.sent]

    def exchange(self) -> list[Header]:
        """Carry what is due to the responder, and its replies back, until nothing is due any more."""
        headers = []
        while sent := self.send():
            headers += sent
            replies = [reply for pdu in self.sent for reply in self.responder.receive(pdu)]
            if replies:
                self.requester.receive(filled(replies, PEER), self.now)
        return headers

    def wait(self) -> list[Header]:
        """Let time pass until there is something to do; return the headers of what is sent, and lose it."""
        timer = self.requester.next_timer()
        assert timer is not None
        self.now = max(self.now, timer)
        return self.send()

    def arrive(self, *pdus: bytes, peer: int = PEER) -> None:
        self.requester.receive(filled(pdus, peer), self.now)

    def reply(self, header: Header, body: bytes = b"", **changes: int) -> None:
        """Give the requester a reply to a request, with status OK but for the changes."""
        flags = header.flags & int(Flag.CRC | Flag.ONCE)
        base = Header(header.opcode | 0x80, header.request, flags, header.session)
        self.arrive(*fragment_frames(*encode_message(Message(replace(base, **changes), body), 1468)))

    def opened(self, opening: Header, session: int = 3, **changes: object) -> None:
        """Answer an OPEN."""
        said = {"credits": 1, "window": 64, "fragments": 64, "max_message": 1 << 20, "base": opening.request}
        self.reply(opening, msgpack.packb({**said, "next": opening.request + 1, **changes}), session=session)

    def events(self) -> list[Event]:
        return self.requester.events()

    def answers(self) -> list[Answers]:
        return [event for event in self.events() if isinstance(event, Answers)]


def content(pdu: bytes) -> dict[str, object]:
    header = decode_header(pdu)
    return dict(msgpack.unpackb(decode_message(header, pdu[HEADER_SIZE:]).body))


def tokens_of(events: Sequence[Event]) -> list[int]:
    return [token for event in events if isinstance(event, Answers) for token in event.tokens.tolist()]


# ---- sessions --------------------------------------------------------------------------------------------------------


def test_a_session_is_opened_and_the_request_sent_in_it() -> None:
    bench = Bench(10)
    tokens = bench.infer(b"body")
    opening, infer = bench.exchange()
    assert (opening.opcode, opening.request, opening.session) == (Opcode.OPEN, 10, 0)
    assert (infer.opcode, infer.request, infer.session, infer.pipeline) == (Opcode.INFER, 11, 1, 5)
    (event,) = bench.answers()
    assert event.tokens.tolist() == tokens
    assert (event.error, event.transmissions.tolist(), event.peer) == (None, [1], PEER)
    assert event.bodies.tobytes() == b"answer:body"
    assert bench.requester.pending == 0
    assert bench.requester.next_timer() is None


def test_an_open_says_what_the_requester_takes_and_for_whom_it_asks() -> None:
    bench = Bench(mtu=1400, tenant="lab", limits=RequesterLimits(fragments=77))
    bench.infer(b"x")
    bench.send()
    said = content(bench.sent[0])
    assert len(said.pop("padding")) > 1000  # type: ignore[arg-type]
    assert said == {"fragment_size": 1368, "fragments": 77, "tenant": "lab"}
    with pytest.raises(LocalProtocolError, match="at most 64"):
        Bench(tenant="x" * 65)


def test_an_open_is_as_long_as_the_pdus_it_hopes_for() -> None:
    for mtu in (576, 700, 1500, 9000, 65507, 70000):
        bench = Bench(mtu=mtu)
        bench.infer(b"x")
        batch = buffers(1, 1 << 17)
        assert bench.requester.to_send(batch, 0) == 1
        assert batch.lengths[0] == min(mtu, 65535 + HEADER_SIZE)


def test_smaller_pdus_are_tried_where_large_ones_are_lost() -> None:
    bench = Bench(mtu=9000)
    bench.responder.mtu = 1300
    (token,) = bench.infer(bytes(5000), timeout_ms=10_000)
    sizes, numbers = [], []
    while not bench.responder.opened:
        timer = bench.requester.next_timer()
        assert timer is not None
        bench.now = timer
        for header in bench.exchange():
            if header.opcode == Opcode.OPEN:
                sizes.append(header.length + HEADER_SIZE)
                numbers.append(header.request)
    assert sizes == [size for size in (9000, 8972, 3400, 1500, 1472, 1280) for _ in range(2)][: len(sizes)]
    assert sizes[-1] == 1280
    assert len(set(numbers)) == 6  # another id for each size
    (event,) = bench.answers()
    assert (event.token, event.bodies.tobytes()) == (token, b"answer:" + bytes(5000))
    assert bench.now == 10 * 250 * MS
    bench.responder.restart()
    bench.infer(b"x")
    bench.exchange()
    bench.infer(b"x")
    assert [header.length + HEADER_SIZE for header in bench.send()] == [1280]  # remembered


def test_an_appliance_that_comes_late_is_not_taken_for_a_narrow_path_for_ever() -> None:
    bench = Bench(mtu=1500)
    bench.infer(b"x", timeout_ms=60_000)
    sizes = []
    for _ in range(18):
        sizes += [header.length + HEADER_SIZE for header in bench.wait()]
    assert sizes[:9] == [1500, 1500, 1472, 1472, 1280, 1280, 576, 576, 1500]
    bench.now += 10
    timer = bench.requester.next_timer()
    assert timer is not None
    assert timer - bench.now <= 1000 * MS


def test_a_late_answer_to_an_earlier_open_counts() -> None:
    bench = Bench()
    bench.infer(b"x")
    (first,) = bench.send()
    for _ in range(3):
        bench.wait()
    bench.opened(first)
    (infer,) = bench.send()
    assert (infer.opcode, infer.session, infer.fragment_size) == (Opcode.INFER, 3, 1468)


@pytest.mark.parametrize(
    "changes",
    [
        {"credits": 0},
        {"credits": 256},
        {"credits": "many"},
        {"window": 3},
        {"window": 2048},
        {"window": 1, "credits": 2},
        {"fragments": 0},
        {"base": 0},
        {"base": 1 << 63},
        {"next": 0},
        {"max_message": 5},
        {"window": None},
    ],
)
def test_an_opened_that_makes_no_sense_is_an_error(changes: dict[str, object]) -> None:
    bench = Bench()
    bench.infer(b"x")
    (opening,) = bench.send()
    bench.opened(opening, **changes)
    (event,) = bench.answers()
    assert isinstance(event.error, RemoteProtocolError)
    assert bench.requester.next_timer() is None


@pytest.mark.parametrize("body", [b"", b"\xc1", msgpack.packb(7)])
def test_an_opened_that_is_no_map_is_an_error(body: bytes) -> None:
    bench = Bench()
    bench.infer(b"x")
    (opening,) = bench.send()
    bench.reply(opening, body, session=3)
    (event,) = bench.answers()
    assert isinstance(event.error, RemoteProtocolError)


def test_an_unknown_session_hands_back_what_is_unsettled_and_the_next_opens_another() -> None:
    bench = Bench()
    bench.infer(b"x")
    bench.exchange()
    bench.events()
    bench.responder.restart()
    tokens = bench.infer(*(bytes([index]) for index in range(20)))  # more than the window
    old = bench.exchange()[0]
    failed = bench.answers()
    assert sorted(tokens_of(failed)) == tokens  # their handles may name other pipelines by now
    assert all(isinstance(event.error, UnknownSessionError) for event in failed)
    bench.infer(b"y")
    opening, new = bench.exchange()
    assert [old.opcode, opening.opcode, new.opcode] == [Opcode.INFER, Opcode.OPEN, Opcode.INFER]
    assert new.session != old.session
    (event,) = bench.answers()
    assert event.error is None


def test_a_session_is_resumed_and_its_ids_go_on_from_what_the_responder_says() -> None:
    first = Bench()
    first.infer(b"x", b"y")
    first.exchange()
    ((peer, session),) = first.requester.sessions()
    first.requester.leave()
    assert first.send() == []  # the session stays open
    second = Bench()
    second.responder = first.responder
    second.requester.resume(peer, session)
    second.infer(b"z")
    second.send()
    assert content(second.sent[0])["resume"] == session
    opening, infer = second.exchange() or (None, None) if not second.sent else (second.sent, None)  # lost
    assert opening is not None
    assert infer is None
    again, infer = retried(second)
    assert again.opcode == Opcode.OPEN
    assert infer.session == session
    base = first.responder.sessions[session].base
    assert infer.request == base + 2 + (1 << 32) + 1
    (event,) = second.answers()
    assert event.bodies.tobytes() == b"answer:z"


def retried(bench: Bench) -> list[Header]:
    timer = bench.requester.next_timer()
    assert timer is not None
    bench.now = timer
    return bench.exchange()


def test_a_session_that_is_gone_cannot_be_resumed_and_another_is_opened() -> None:
    bench = Bench()
    bench.requester.resume(PEER, 99)
    bench.infer(b"z")
    _, infer = bench.exchange()
    assert infer.session == 1
    (event,) = bench.answers()
    assert event.error is None


def test_who_leaves_closes_its_sessions() -> None:
    bench = Bench()
    bench.infer(b"x")
    bench.exchange()
    bench.requester.leave()
    (closing,) = bench.send()
    assert (closing.opcode, closing.session) == (Opcode.CLOSE, 1)


def test_without_a_session_each_request_fails_once_and_at_its_own_time() -> None:
    bench = Bench()
    tokens = bench.infer(b"1", b"2", b"3")
    (patient,) = bench.infer(b"4", timeout_ms=5000)
    while bench.now < 2000 * MS:
        bench.wait()
    failed = bench.answers()
    assert tokens_of(failed) == tokens
    assert {type(event.error) for event in failed} == {NapuTimeoutError}
    assert "no session" in str(failed[0].error)
    while bench.now < 5000 * MS:
        bench.wait()
    assert tokens_of(bench.events()) == [patient]
    bench.send()
    assert bench.requester.next_timer() is None


def test_a_refused_open_is_the_error_of_those_who_wait_for_it() -> None:
    bench = Bench()
    bench.infer(b"1", b"2")
    (opening,) = bench.send()
    bench.reply(opening, status=Status.BUSY, retry_after=1)
    assert [header.request for header in bench.wait()] == [opening.request]  # the same again
    bench.now = 2000 * MS
    bench.send()
    assert [type(event.error) for event in bench.answers()] == [BusyError, BusyError]
    bench.infer(b"3")
    (opening,) = bench.send()
    bench.reply(opening, status=Status.BAD_ARGUMENT)
    (event,) = bench.answers()
    assert isinstance(event.error, BadArgumentError)


def test_the_time_that_an_open_takes_is_measured() -> None:
    bench = Bench()
    bench.infer(b"x")
    (opening,) = bench.send()
    bench.now += 100 * MS
    bench.opened(opening)
    bench.send()
    assert bench.requester.next_timer() == bench.now + 300 * MS  # 100 + 4 * 50, RFC 6298


def test_requests_to_several_appliances_are_kept_apart() -> None:
    bench = Bench()
    bench.infer(b"a", peer=1)
    bench.infer(b"b", peer=2)
    one, two = bench.send()
    bench.opened(one)
    assert [header.opcode for header in bench.send()] == [Opcode.INFER]
    bench.opened(two)  # by the first
    assert bench.send() == []
    assert (bench.requester.load(1), bench.requester.load(2), bench.requester.load(3)) == (1, 1, 0)


# ---- frames in -------------------------------------------------------------------------------------------------------


def test_a_batch_of_all_sorts_is_sorted_out() -> None:
    bench = Bench()
    bench.infer(b"warm")
    bench.exchange()
    bench.events()
    tokens = bench.infer(*(bytes([index] * (index % 3)) for index in range(8)))
    control = bench.submit()
    bench.send()
    replies = [reply for pdu in bench.sent for reply in bench.responder.receive(pdu)]
    random.Random(1).shuffle(replies)
    bench.arrive(*replies, b"", b"short", bytes(40), replies[0])
    events = bench.answers()
    assert sorted(tokens_of(events)) == sorted([*tokens, control])
    assert all(event.error is None for event in events)
    assert bench.requester.bad_frames == 3
    assert bench.requester.stale_replies == 1


def test_replies_that_match_nothing_are_counted_and_change_nothing() -> None:
    bench = Bench()
    bench.submit()
    (header,) = bench.send()
    bench.reply(replace(header, request=header.request ^ 1))
    bench.reply(replace(header, opcode=Opcode.OPEN))
    bench.reply(replace(header, opcode=Opcode.DISCOVER))
    bench.reply(replace(header, opcode=Opcode.INFER))
    bench.reply(replace(header, session=5))
    reply = bench.responder.receive(bench.sent[0])
    bench.arrive(*reply, peer=PEER + 1)  # the right answer of the wrong peer
    bench.arrive(bench.sent[0])  # our own request, come back
    assert bench.requester.stale_replies == 7
    assert bench.events() == []
    bench.reply(header)
    bench.reply(header)
    assert len(bench.events()) == 1
    assert bench.requester.stale_replies == 8


def test_damaged_replies_are_counted_and_the_request_is_sent_again() -> None:
    bench = Bench()
    bench.submit()
    (header,) = bench.send()
    (reply,) = bench.responder.receive(bench.sent[0])
    for damaged in (reply[:-1], reply + b"x", b"\0" + reply[1:], reply[:-1] + bytes([reply[-1] ^ 1]), b"", reply[:20]):
        bench.arrive(damaged)
    bench.arrive(reply[:2] + b"\x80\x01" + reply[4:])  # a flag that nobody knows
    bench.arrive(reply[:2] + b"\x00\x00" + reply[4:])  # the flag lost that makes the CRC one
    assert bench.requester.bad_frames == 8
    bench.now = 250 * MS
    assert bench.exchange() == [header]
    assert len(bench.events()) == 1


# ---- outside sessions ------------------------------------------------------------------------------------------------


def test_a_control_needs_no_session_and_no_credit() -> None:
    bench = Bench()
    tokens = [bench.submit() for _ in range(20)]
    sent = bench.exchange()
    assert {(header.opcode, header.session) for header in sent} == {(Opcode.CONTROL, 0)}
    assert len({header.request for header in sent}) == 20
    assert sorted(tokens_of(bench.events())) == tokens
    assert all(token < 1 << 32 for token in tokens)


def test_controls_that_are_answered_together_have_an_event_each() -> None:
    bench = Bench()
    tokens = [bench.submit() for _ in range(3)]
    headers = bench.send()
    replies = [
        fragment_frames(*encode_message(Message(Header(Opcode.CONTROLLED, header.request, Flag.CRC), b"same"), 1468))
        for header in headers
    ]
    bench.arrive(*[pdu for reply in replies for pdu in reply])
    assert [answer.tokens.tolist() for answer in bench.answers()] == [[token] for token in tokens]


def test_retransmission_backs_off_and_sends_the_same_bytes() -> None:
    bench = Bench()
    bench.submit(replace(CONTROL, timeout_ns=3000 * MS))
    bench.send()
    first, times = bench.sent, [0]
    while bench.wait():
        assert bench.sent == first
        times.append(bench.now // MS)
    assert times == [0, 250, 750, 1750, 2750]  # 250, 500, 1000, 1000: at most max_rto
    (event,) = bench.answers()
    assert isinstance(event.error, NapuTimeoutError)
    assert "5 transmissions" in str(event.error)


def test_a_slow_operation_is_not_measured_by_quick_inferences() -> None:
    bench = Bench()
    for _ in range(20):
        bench.infer(b"x")
        bench.exchange()
    bench.events()
    bench.submit()
    bench.send()
    assert bench.requester.next_timer() == bench.now + LIMITS.first_rto_ns


@pytest.mark.parametrize("status", [Status.BUSY, Status.UNAVAILABLE, Status.REASSEMBLY_TIMEOUT, Status.BAD_CRC])
def test_the_last_refusal_is_the_error_when_time_is_up(status: Status) -> None:
    bench = Bench()
    bench.submit()
    (header,) = bench.send()
    bench.reply(header, status=status)
    assert bench.events() == []
    bench.now = 2000 * MS
    bench.send()
    (event,) = bench.answers()
    assert getattr(event.error, "status", None) is status


def test_other_refusals_end_the_request_at_once() -> None:
    for status, error in ((Status.BAD_ARGUMENT, BadArgumentError), (999, InternalError)):
        bench = Bench()
        bench.submit()
        (header,) = bench.send()
        bench.reply(header, status=int(status))
        (event,) = bench.answers()
        assert isinstance(event.error, error)


def test_a_long_control_waits_for_the_path_and_keeps_few_fragments_under_way() -> None:
    bench = Bench()
    token = bench.submit(replace(CONTROL, body=bytes(range(256)) * 300))
    (opening,) = bench.send()
    assert opening.opcode == Opcode.OPEN
    bench.opened(opening)
    first = bench.send()
    assert [header.fragment for header in first] == list(range(31))  # and a place is held for the last
    assert {header.fragment_size for header in first} == {1468}
    for pdu in bench.sent:
        for reply in bench.responder.receive(pdu):
            bench.arrive(reply)
    bench.exchange()
    (event,) = bench.answers()
    assert (event.token, event.bodies.tobytes()) == (token, b"answer:" + bytes(range(256)) * 300)


def test_fragments_of_a_control_that_are_lost_are_sent_again() -> None:
    bench = Bench()
    bench.submit(replace(CONTROL, body=bytes(20_000)))
    (opening,) = bench.send()
    bench.opened(opening)
    sent = bench.send()
    assert len(sent) == 14
    for pdu in [pdu for index, pdu in enumerate(bench.sent) if index not in (3, 7, 13)]:
        for reply in bench.responder.receive(pdu):
            bench.arrive(reply)
    assert [header.fragment for header in bench.send()] == []
    assert [header.fragment for header in bench.wait()] == [13]
    for reply in bench.responder.receive(bench.sent[0]):
        bench.arrive(reply)
    again = bench.exchange()
    assert [header.fragment for header in again] == [3, 7]
    assert len(bench.answers()) == 1


def test_a_long_answer_of_which_a_part_is_lost_is_asked_for_again() -> None:
    bench = Bench()
    bench.submit(replace(CONTROL, body=bytes(500)))
    bench.responder.fragment_size = 100
    bench.send()
    request = bench.sent[0]
    replies = bench.responder.receive(request)
    assert len(replies) == 6
    bench.arrive(*replies[:2], *replies[3:])
    resend, again = bench.exchange()
    assert (resend.opcode, again.opcode) == (Opcode.RESEND, Opcode.CONTROL)
    assert bench.sent == []
    (event,) = bench.answers()
    assert event.transmissions.tolist() == [2]


def test_cancelled_requests_give_no_event() -> None:
    bench = Bench()
    token = bench.submit()
    (inferring, *_) = bench.infer(b"x", b"y")
    bench.requester.cancel(token, bench.now)
    bench.requester.cancel(inferring, bench.now)
    bench.exchange()
    assert tokens_of(bench.events()) == [inferring + 1]
    gathering = bench.submit(Request(BROADCAST, Header(Opcode.DISCOVER, 0, int(Flag.CRC))))
    bench.requester.cancel(gathering, bench.now)
    assert bench.requester.pending == 0


def test_what_cannot_be_encoded_is_refused_at_once_and_leaves_nothing_behind() -> None:
    bench = Bench()
    for wrong in (
        replace(CONTROL, body=bytes(MAX_MESSAGE)),
        replace(CONTROL, header=Header(Opcode.CONTROL, 0, priority=256)),
        replace(CONTROL, header=Header(Opcode.CLOSE, 0)),
    ):
        with pytest.raises(LocalProtocolError):
            bench.submit(wrong)
    with pytest.raises(LocalProtocolError):
        bench.infer(bytes(MAX_MESSAGE))
    assert bench.requester.pending == 0
    assert bench.send() == []
    assert bench.requester.next_timer() is None


def announcements(requests: Sequence[Header], statuses: dict[int, Status]) -> Iterator[tuple[int, bytes]]:
    for peer, status in statuses.items():
        reply = Header(Opcode.ANNOUNCE, requests[0].request, int(Flag.CRC), status=status)
        for pdu in fragment_frames(*encode_message(Message(reply, bytes([peer])), 1468)):
            yield peer, pdu


def test_a_gathering_takes_every_good_answer_until_its_time_and_then_ends() -> None:
    bench = Bench()
    token = bench.submit(Request(BROADCAST, Header(Opcode.DISCOVER, 0, int(Flag.CRC)), timeout_ns=300 * MS))
    asked = bench.send()
    for peer, pdu in announcements(asked, {1: Status.OK, 2: Status.OK, 3: Status.INTERNAL}):
        bench.arrive(pdu, peer=peer)
    beacon, payload = encode_message(Message(Header(Opcode.ANNOUNCE, 0)), 1468)
    bench.arrive(beacon.encode() + payload, peer=4)
    assert bench.events() == [Announced(token, 1, b"\1"), Announced(token, 2, b"\2")]
    assert bench.wait() == asked  # once more, for those who did not hear
    bench.now = 300 * MS
    bench.send()
    assert bench.events() == [Announced(token, BROADCAST, None)]
    assert bench.requester.pending == 0
