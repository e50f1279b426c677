"""The requester and the reference responder over a wire that loses, duplicates, reorders and delays.

Whatever happens: a *once* request is executed at most once in a session, every request ends exactly once, with the
answer to its own body or an error; and every bound that the text sets a requester holds for every frame it sends.
"""

import random
import sys
from collections import Counter
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from host_sdk.wire.errors import NapuTimeoutError, StatusError
from host_sdk.wire.exchange.answers import Answers
from host_sdk.wire.exchange.arrived import Arrived
from host_sdk.wire.exchange.pace import RequesterLimits
from host_sdk.wire.exchange.requester import Requester
from host_sdk.wire.header import Header, decode_header
from host_sdk.wire.links.base import FrameBatch
from host_sdk.wire.message import decode_message
from host_sdk.wire.schema import HEADER_SIZE, Flag, Opcode, Status, is_notice
from tests.rig.reference_responder import ReferenceResponder
from tests.rig.reference_sessions import ResponderLimits

MS = 1_000_000
MTU = 576
PEER, BUFFERS = 7, 16
FIRST_TOKEN = 1 << 32
LONG = 10_000_000 * MS  # no user waits so long: these must be answered
MIN_RTO = 5 * MS
TRANSIENT = (Status.BUSY, Status.UNAVAILABLE, Status.REASSEMBLY_TIMEOUT, Status.BAD_CRC)


def answer(_pipeline: int, body: bytes) -> bytes:
    """Return what is computed: as long as the body says, and no two alike."""
    return (b"of" + body[:4]) * int.from_bytes(body[4:6], "big")


class Book:
    """What a requester has sent in one session, held against the text."""

    def __init__(self, first: int, window: int, credits_said: int, fragments: int) -> None:
        self.first, self.window, self.credits, self.fragments = first, window, credits_said, fragments
        self.sent: dict[int, dict[int, bytes]] = {}  # id: fragments as they were sent first
        self.settled: set[int] = set()
        self.named: set[int] = set()  # in a SETTLE
        self.under_way: set[tuple[int, int]] = set()
        self.sent_at: dict[tuple[int, int], int] = {}
        self.bounds: dict[int, int] = {}  # by id: fragments from here on must wait
        self.not_before: dict[int, int] = {}
        self.busy: dict[int, set[int]] = {}  # ids whose last answer was BUSY: what was settled then

    def send(self, header: Header, pdu: bytes, now: int) -> None:
        """Check a fragment of an INFER."""
        number, once = header.request, bool(header.flags & Flag.ONCE)
        assert header.credits == 0
        assert number not in self.settled
        fresh = number not in self.sent
        parts = self.sent.setdefault(number, {})
        assert parts.setdefault(header.fragment, pdu) == pdu  # N-109, N-022
        assert {decode_header(one).length for one in parts.values()} == {header.length}
        if fresh:
            unsettled = self.sent.keys() - self.settled
            assert len(unsettled) <= self.credits  # N-066
            if once:
                mine = [one for one in unsettled if one < 1 << 63]
                assert number == self.first + sum(one < 1 << 63 for one in self.sent) - 1  # N-097
                assert number - min(mine) < self.window  # N-110
            else:
                assert number >= 1 << 63
        assert now >= self.not_before.get(number, 0)  # N-088
        if once:
            assert self.busy.pop(number, set()) <= self.named  # N-121
        bound = self.bounds.get(number, header.fragments)
        assert header.fragment < bound or header.fragment == header.fragments - 1  # N-115
        self.under_way -= {  # a timeout has passed, and they are not wanted again yet
            (one, part)
            for one, part in self.under_way
            if one == number and bound <= part != header.fragments - 1 and now - self.sent_at[one, part] >= MIN_RTO
        }
        self.under_way.add((number, header.fragment))
        self.sent_at[number, header.fragment] = now
        assert len(self.under_way) <= self.fragments  # N-114

    def notify(self, header: Header, pdu: bytes) -> None:
        """Check a notice."""
        body = decode_message(header, pdu[HEADER_SIZE:]).body
        if header.opcode == Opcode.SETTLE:
            bits = np.unpackbits(np.frombuffer(body, np.uint8))
            later = {header.request + 1 + int(at) for at in np.flatnonzero(bits)}
            named = set(range(self.first, header.request + 1)) | later
            assert named <= self.settled  # N-120
            self.named |= named
            return
        assert header.request in self.sent
        once = decode_header(next(iter(self.sent[header.request].values()))).flags & Flag.ONCE
        assert header.flags & Flag.ONCE == once  # N-118
        assert (header.opcode == Opcode.CANCEL) <= (header.request in self.settled)

    def hear(self, header: Header, pdu: bytes, now: int) -> None:
        """Take in what a frame from the responder says."""
        number = header.request
        if number not in self.sent or number in self.settled:
            return
        if header.opcode == Opcode.GRANT:
            said = Arrived.decode(decode_message(header, pdu[HEADER_SIZE:]).body)
            have = said.have(len(self.sent[number]) + 4096)
            self.under_way -= {(one, part) for one, part in self.under_way if one == number and have[part]}
            self.bounds[number] = said.base + said.window
            return
        self.under_way -= {(one, part) for one, part in self.under_way if one == number}
        self.bounds.pop(number, None)
        paused = now < self.not_before.get(number, 0)  # a copy of the refusal does not make it wait anew
        if header.opcode == Opcode.RESULT and header.fragments == 1 and header.status in TRANSIENT and not paused:
            self.not_before[number] = now + header.retry_after * 100_000
            if header.status == Status.BUSY:
                self.busy[number] = {one for one in self.settled if one < 1 << 63}
        if header.opcode == Opcode.UNKNOWN:
            self.not_before.pop(number, None)

    def settle(self, body: bytes) -> None:
        """Note that a request has come to its end."""
        for number, parts in self.sent.items():
            if any(part[HEADER_SIZE : HEADER_SIZE + 4] == body[:4] for part in parts.values()):
                self.settled.add(number)
                self.under_way -= {(one, part) for one, part in self.under_way if one == number}


class Exchange(RuleBasedStateMachine):
    @initialize(
        seed=st.integers(0, 1000),
        window=st.sampled_from([1, 2, 4, 8]),
        granted=st.integers(1, 8),
        fragments=st.integers(1, 8),
        unasked=st.sampled_from([1, 2, 4, 32]),
        kept=st.sampled_from([None, None, 1, 2]),
    )
    def begin(self, seed: int, window: int, granted: int, fragments: int, unasked: int, kept: int | None) -> None:
        limits = RequesterLimits(fragments=unasked, first_rto_ns=20 * MS, min_rto_ns=MIN_RTO, max_rto_ns=80 * MS)
        self.requester = Requester(MTU, random.Random(seed), limits)
        mine = ResponderLimits(window, min(window, granted), fragments, kept=kept, mtu=MTU)
        self.responder = ReferenceResponder(answer, mine)
        self.now = 0
        self.out: list[bytes] = []
        self.back: list[bytes] = []
        self.bodies: dict[int, bytes] = {}  # by token
        self.patient: set[int] = set()
        self.ends: Counter[int] = Counter()
        self.books: dict[int, Book] = {}
        self.restarts = 0
        memory = np.zeros(BUFFERS * MTU, np.uint8)
        self.buffers = FrameBatch(
            memory, np.arange(BUFFERS) * MTU, np.zeros(BUFFERS, np.int64), np.zeros(BUFFERS, np.uint64)
        )

    # ---- the owner -----------------------------------------------------------------------------------------------

    @rule(
        once=st.sampled_from([True, True, True, False]),
        size=st.sampled_from([8, 8, 40, 548, 600, 1700, 4000]),
        answers=st.sampled_from([1, 1, 1, 100, 300, 900]),
        crc=st.booleans(),
        timeout=st.sampled_from([30 * MS, 300 * MS, LONG, LONG, LONG]),
        count=st.sampled_from([1, 1, 1, 3]),
    )
    def submit(self, once: bool, size: int, answers: int, crc: bool, timeout: int, count: int) -> None:
        tokens = [FIRST_TOKEN + len(self.bodies) + at for at in range(count)]
        names = [token.to_bytes(8, "big")[4:] for token in tokens]  # at the beginning of every fragment
        bodies = [name + answers.to_bytes(2, "big") + bytes(2) + name * (size // 4 - 2) for name in names]
        # Parts of two answers to copies of a datagram are told apart by its CRC alone (section 11.2).
        crc |= once or answers > 1
        header = Header(Opcode.INFER, 0, (Flag.ONCE if once else 0) | (Flag.CRC if crc else 0), pipeline=3)
        self.bodies |= dict(zip(tokens, bodies, strict=True))
        self.patient |= set(tokens) if timeout == LONG else set()
        self.requester.infer(PEER, header, bodies, np.array(tokens), self.now, self.now + timeout)
        self.turn()

    @precondition(lambda self: set(self.bodies) - set(self.ends))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        token = data.draw(st.sampled_from(sorted(set(self.bodies) - set(self.ends))))
        self.requester.cancel(token, self.now)
        self.end(token)
        self.turn()

    @rule(step=st.sampled_from([1, 3, 10, 100]))
    def wait(self, step: int) -> None:
        end = self.now + step * MS
        while (timer := self.requester.next_timer()) is not None and timer <= end:
            self.now = max(self.now, timer)
            self.turn()
        self.now = end
        self.back += [pdu for _, pdu in self.responder.expire(self.now)]

    def turn(self) -> None:
        for _ in range(100):
            self.take_events()
            timer = self.requester.next_timer()
            if timer is None or timer > self.now:
                return
            count = self.requester.to_send(self.buffers, self.now)
            self.take_events()  # what ended by this call is settled before its CANCEL goes out
            for index in range(count):
                pdu = self.buffers.pdu(index).tobytes()
                self.check_sent(pdu)
                self.out.append(pdu)
        raise AssertionError("there is always something to do at once")

    def check_sent(self, pdu: bytes) -> None:
        header = decode_header(pdu)
        book = self.books.get(header.session)
        if header.opcode == Opcode.INFER:
            assert book
            book.send(header, pdu, self.now)
        elif is_notice(header.opcode):
            assert book
            book.notify(header, pdu)

    def take_events(self) -> None:
        for event in self.requester.events():
            assert isinstance(event, Answers)
            for row, token in enumerate(event.tokens.tolist()):
                if event.error is None:
                    assert event.bodies[row].tobytes() == answer(3, self.bodies[token])
                elif not self.restarts:
                    assert isinstance(event.error, NapuTimeoutError | StatusError)
                    assert token not in self.patient
                self.end(token)

    def end(self, token: int) -> None:
        self.ends[token] += 1
        assert self.ends[token] == 1
        for book in self.books.values():
            book.settle(self.bodies[token])

    # ---- the wire ------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.out)
    @rule(data=st.data(), duplicate=st.booleans())
    def reach_responder(self, data: st.DataObject, duplicate: bool) -> None:
        at = data.draw(st.integers(0, len(self.out) - 1))
        self.arrive_there(self.out[at] if duplicate else self.out.pop(at))

    @precondition(lambda self: self.out)
    @rule()
    def reach_responder_in_order(self) -> None:
        arriving, self.out = self.out, []
        for pdu in arriving:
            self.arrive_there(pdu)

    def arrive_there(self, pdu: bytes) -> None:
        self.back += [reply for _, reply in self.responder.receive(PEER, pdu, self.now)]

    @precondition(lambda self: self.back)
    @rule(data=st.data(), duplicate=st.booleans())
    def reach_requester(self, data: st.DataObject, duplicate: bool) -> None:
        at = data.draw(st.integers(0, len(self.back) - 1))
        self.arrive([self.back[at] if duplicate else self.back.pop(at)])

    @precondition(lambda self: self.back)
    @rule(together=st.booleans())
    def reach_requester_in_order(self, together: bool) -> None:
        arriving, self.back = self.back, []
        for burst in [arriving] if together else [[pdu] for pdu in arriving]:
            self.arrive(burst)

    def arrive(self, pdus: list[bytes]) -> None:
        for pdu in pdus:
            self.hear(pdu)
        memory = np.frombuffer(b"".join(pdu.ljust(MTU, b"\0") for pdu in pdus), np.uint8)
        lengths = np.array([len(pdu) for pdu in pdus])
        peers = np.full(len(pdus), PEER, np.uint64)
        self.requester.receive(FrameBatch(memory, np.arange(len(pdus)) * MTU, lengths, peers), self.now)
        self.turn()

    def hear(self, pdu: bytes) -> None:
        header = decode_header(pdu)
        if header.opcode == Opcode.OPENED and header.session not in self.books:
            said: dict[str, Any] = {
                "first": header.request + 1,
                "window": self.responder.limits.window,
                "credits_said": self.responder.limits.credits,
                "fragments": self.responder.limits.fragments,
            }
            self.books[header.session] = Book(**said)
        elif header.session in self.books and header.opcode != Opcode.OPENED:
            self.books[header.session].hear(header, pdu, self.now)

    @precondition(lambda self: self.out or self.back)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        queue = self.out or self.back
        at = data.draw(st.integers(0, len(queue) - 1))
        del queue[at : at + data.draw(st.integers(1, 4))]

    # ---- the responder -------------------------------------------------------------------------------------------

    @precondition(lambda self: self.responder.jobs)
    @rule()
    def work(self) -> None:
        self.back += [pdu for _, pdu in self.responder.work(self.now)]
        self.check_executions()

    @precondition(lambda self: self.responder.jobs)
    @rule()
    def displace(self) -> None:
        self.back += [pdu for _, pdu in self.responder.displace()]

    @precondition(lambda self: self.books and not self.restarts)
    @rule()
    def restart(self) -> None:
        self.restarts += 1
        self.responder.restart()

    def check_executions(self) -> None:
        once = Counter((session, number) for session, number, _ in self.responder.executions if number < 1 << 63)
        assert not once or max(once.values()) == 1
        if not self.restarts:
            bodies = Counter(body for _, number, body in self.responder.executions if number < 1 << 63)
            assert not bodies or max(bodies.values()) == 1

    # ---- the end -------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        """From here on nothing gets lost: everything must come to its end, and what has time, to its answer."""
        if not hasattr(self, "requester") or sys.exc_info()[0]:  # a step has failed
            return
        for _ in range(400):
            while self.out or self.back or self.responder.jobs:
                self.reach_responder_in_order()
                self.back += [pdu for _ in range(len(self.responder.jobs)) for _, pdu in self.responder.work(self.now)]
                self.check_executions()
                if self.back:
                    self.reach_requester_in_order(together=True)
            timer = self.requester.next_timer()
            if timer is None:
                break
            self.wait(max(1, -(-(timer - self.now) // MS)))
        assert self.requester.next_timer() is None
        assert self.requester.pending == 0
        assert self.ends == Counter(list(self.bodies))


Exchange.TestCase.settings = settings(
    max_examples=100, stateful_step_count=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestExchange = Exchange.TestCase
