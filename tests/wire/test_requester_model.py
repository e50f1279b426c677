"""The requester over a wire that loses, duplicates, reorders and delays, to responders that refuse and restart.

Whatever happens: every request ends exactly once, with its own answer or an error; credit is never exceeded; what is
sent again is what was sent; nothing is sent before its time; and the owner, who calls only when next_timer says so,
is never kept waiting or spinning.
"""

import random
from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from host_sdk.wire.exchange.requester import Request, Requester, RequesterLimits
from host_sdk.wire.header import Header, decode_header
from host_sdk.wire.links.base import BROADCAST
from host_sdk.wire.schema import HEADER_SIZE, Flag, Opcode, Status
from tests.wire.model import ModelResponder

MS = 1_000_000
LIMITS = RequesterLimits(window=4, first_rto_ns=20 * MS, min_rto_ns=5 * MS, max_rto_ns=80 * MS)
REFUSALS = (Status.BUSY, Status.UNAVAILABLE, Status.BAD_CRC, Status.REASSEMBLY_TIMEOUT, Status.NO_SPACE)
PEERS = (1, 2)


class Wire(RuleBasedStateMachine):
    @initialize(seed=st.integers(0, 1000), fragment_size=st.sampled_from([20, 40, 1468]))
    def begin(self, seed: int, fragment_size: int) -> None:
        self.requester = Requester(fragment_size, random.Random(seed), LIMITS)
        self.responders = {peer: ModelResponder() for peer in PEERS}
        self.now = 0
        self.to_responders: list[tuple[int, bytes]] = []
        self.to_requester: list[tuple[int, bytes]] = []
        self.bodies: dict[int, bytes] = {}  # token: body
        self.gathering: set[int] = set()
        self.ends: Counter[int] = Counter()
        self.cancelled: set[int] = set()
        self.granted = dict.fromkeys(PEERS, 1)
        self.outstanding: dict[int, tuple[int, bytes]] = {}  # id: peer, body of an INFER that was sent and has no end
        self.first_copy: dict[int, dict[int, bytes]] = {}  # id: fragments as they were sent first
        self.not_before: dict[int, int] = {}  # id: when it may be sent again

    # ---- the owner -----------------------------------------------------------------------------------------------

    @rule(
        peer=st.sampled_from(PEERS),
        opcode=st.sampled_from([Opcode.INFER, Opcode.INFER, Opcode.INFER, Opcode.CONTROL]),
        size=st.integers(0, 90),
        crc=st.booleans(),
        timeout=st.sampled_from([1, 30, 30, 200, 200, 1000]),
    )
    def submit(self, peer: int, opcode: Opcode, size: int, crc: bool, timeout: int) -> None:
        body = len(self.bodies).to_bytes(4, "big") + bytes(size)  # no two alike
        header = Header(opcode, 0, Flag.CRC if crc else 0)
        request = Request(peer, header, body, timeout * MS, in_session=opcode is Opcode.INFER)
        self.bodies[self.requester.submit(request, self.now)] = body
        self.turn()

    @rule()
    def discover(self) -> None:
        request = Request(BROADCAST, Header(Opcode.DISCOVER, 0, Flag.CRC), timeout_ns=50 * MS, gathers=True)
        token = self.requester.submit(request, self.now)
        self.bodies[token] = b""
        self.gathering.add(token)
        self.turn()

    @precondition(lambda self: bool(set(self.bodies) - set(self.ends)))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        token = data.draw(st.sampled_from(sorted(set(self.bodies) - set(self.ends))))
        self.requester.cancel(token)
        self.cancelled.add(token)
        self.ends[token] += 1
        self.settle(self.bodies[token])
        self.turn()

    @rule(step=st.sampled_from([1, 3, 10, 100, 2000]))
    def wait(self, step: int) -> None:
        """Let time pass; the owner is called at every timer on the way."""
        end = self.now + step * MS
        while (timer := self.requester.next_timer()) is not None and timer <= end:
            self.now = max(self.now, timer)
            self.turn()
        self.now = end

    def turn(self) -> None:
        """Do what the owner shall: send and take events for as long as next_timer says: now."""
        for _ in range(3):
            timer = self.requester.next_timer()
            assert (timer is None) <= (self.requester.pending == 0)
            if timer is None or timer > self.now:
                return
            sent = list(self.requester.to_send(self.now))
            self.take_events()  # what ended before, or by this call, gave its credit back
            for peer, pdu in sent:
                self.check_sent(peer, pdu)
                self.to_responders += [(one, pdu) for one in (PEERS if peer == BROADCAST else (peer,))]
        raise AssertionError("there is always something to do at once")

    def check_sent(self, peer: int, pdu: bytes) -> None:
        header = decode_header(pdu)
        assert header.credits == 0
        assert header.request != 0
        known = self.first_copy.setdefault(header.request, {})
        assert known.setdefault(header.fragment, pdu) == pdu
        assert self.now >= self.not_before.get(header.request, 0)
        if header.opcode != Opcode.INFER:
            assert header.session == 0
            return
        assert header.session != 0
        if header.fragment == 0 and header.request not in self.outstanding:
            self.outstanding[header.request] = (peer, pdu[HEADER_SIZE : HEADER_SIZE + 4])
            mine = sum(owner == peer for owner, _ in self.outstanding.values())
            assert mine <= min(self.granted[peer], LIMITS.window)

    def take_events(self) -> None:
        while event := self.requester.next_event():
            body = self.bodies[event.token]
            assert self.ends[event.token] == 0
            if event.token in self.gathering:
                assert event.error is None
                self.ends[event.token] += event.reply is None
                continue
            assert (event.reply is None) != (event.error is None)
            if event.reply is not None:
                assert event.reply.body == b"answer:" + body
            self.ends[event.token] += 1
            self.settle(body)

    def settle(self, body: bytes) -> None:
        """An INFER has come to its end: it is outstanding no longer."""
        for number, (_, prefix) in list(self.outstanding.items()):
            if body[:4] == prefix and body:
                del self.outstanding[number]

    # ---- the wire ------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.to_responders)
    @rule(data=st.data(), duplicate=st.booleans())
    def reach_responder(self, data: st.DataObject, duplicate: bool) -> None:
        at = data.draw(st.integers(0, len(self.to_responders) - 1))
        peer, pdu = self.to_responders[at] if duplicate else self.to_responders.pop(at)
        self.to_requester += [(peer, reply) for reply in self.responders[peer].receive(pdu)]

    @precondition(lambda self: self.to_responders)
    @rule()
    def reach_responders_in_order(self) -> None:
        for peer, pdu in self.to_responders:
            self.to_requester += [(peer, reply) for reply in self.responders[peer].receive(pdu)]
        self.to_responders.clear()

    @precondition(lambda self: self.to_requester)
    @rule(data=st.data(), duplicate=st.booleans())
    def reach_requester(self, data: st.DataObject, duplicate: bool) -> None:
        at = data.draw(st.integers(0, len(self.to_requester) - 1))
        peer, pdu = self.to_requester[at] if duplicate else self.to_requester.pop(at)
        self.arrive(peer, pdu)

    @precondition(lambda self: self.to_requester)
    @rule()
    def reach_requester_in_order(self) -> None:
        arriving, self.to_requester = self.to_requester, []
        for peer, pdu in arriving:
            self.arrive(peer, pdu)

    def arrive(self, peer: int, pdu: bytes) -> None:
        before = (self.requester.stale_replies, self.requester.bad_frames)
        self.requester.receive(peer, pdu, self.now)
        header = decode_header(pdu)
        if before == (self.requester.stale_replies, self.requester.bad_frames) and header.fragments == 1:
            self.note(peer, header)
        elif header.fragments > 1 and header.credits:
            # It may have made its message whole, and only whole messages grant.
            self.granted[peer] = max(self.granted[peer], header.credits)
        self.turn()

    def note(self, peer: int, header: Header) -> None:
        """Keep book of what a reply says that the requester took."""
        if header.opcode == Opcode.ANNOUNCE:
            return
        self.granted[peer] = header.credits or self.granted[peer]
        self.not_before[header.request] = self.now + header.retry_after * 100_000

    @precondition(lambda self: self.to_responders or self.to_requester)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        queue = self.to_responders or self.to_requester
        del queue[: data.draw(st.integers(1, len(queue)))]

    @precondition(lambda self: self.to_requester)
    @rule(data=st.data())
    def damage(self, data: st.DataObject) -> None:
        at = data.draw(st.integers(0, len(self.to_requester) - 1))
        peer, pdu = self.to_requester[at]
        if decode_header(pdu).flags & Flag.CRC:
            bit = data.draw(st.integers(0, 8 * len(pdu) - 1))
            if bit // 8 not in (23, 24, 25):  # credits and fragment are not covered
                damaged = bytearray(pdu)
                damaged[bit // 8] ^= 1 << bit % 8
                self.requester.receive(peer, bytes(damaged), self.now)
                self.turn()

    # ---- the responders ------------------------------------------------------------------------------------------

    @rule(peer=st.sampled_from(PEERS))
    def restart(self, peer: int) -> None:
        self.responders[peer].restart()

    @rule(peer=st.sampled_from(PEERS), status=st.sampled_from(REFUSALS), retry_after=st.sampled_from([0, 1, 70, 500]))
    def refuse(self, peer: int, status: Status, retry_after: int) -> None:
        self.responders[peer].refuse, self.responders[peer].retry_after = status, retry_after

    @rule(peer=st.sampled_from(PEERS), credit=st.integers(0, 6))
    def grant(self, peer: int, credit: int) -> None:
        self.responders[peer].credits = credit

    def teardown(self) -> None:
        if not hasattr(self, "requester"):
            return
        self.wait(2000)  # longer than any timeout
        assert self.requester.pending == 0
        assert self.requester.next_timer() is None
        assert self.ends == Counter(list(self.bodies))
        assert all(self.requester.load(peer) == 0 for peer in PEERS)


Wire.TestCase.settings = settings(max_examples=200, stateful_step_count=40)
TestWire = Wire.TestCase
