"""The requester over a wire that loses, duplicates, reorders, delays and damages, to responders that come and go.

Whatever happens: every request ends exactly once, with its own answer or an error; credit, window and fragments are
never exceeded; what is sent again is what was sent; nothing is sent before its time; no *once* request is executed
twice in its session; and the owner, who calls only when next_timer says so, is never kept waiting or spinning.
"""

import random
from collections import Counter

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from host_sdk.wire.exchange.answers import Announced
from host_sdk.wire.exchange.pace import RequesterLimits
from host_sdk.wire.exchange.request import Request
from host_sdk.wire.exchange.requester import Requester
from host_sdk.wire.header import Header, decode_header
from host_sdk.wire.links.base import BROADCAST
from host_sdk.wire.schema import HEADER_SIZE, Flag, Opcode, Status
from tests.wire.model import WINDOW, ModelResponder
from tests.wire.window_bench import buffers, filled, taken

MS = 1_000_000
LIMITS = RequesterLimits(window=4, fragments=4, first_rto_ns=20 * MS, min_rto_ns=5 * MS, max_rto_ns=80 * MS)
REFUSALS = (Status.BUSY, Status.UNAVAILABLE, Status.BAD_CRC, Status.REASSEMBLY_TIMEOUT, Status.NO_SPACE)
PEERS = (1, 2)


class Wire(RuleBasedStateMachine):
    @initialize(seed=st.integers(0, 1000), mtu=st.sampled_from([576, 1500]))
    def begin(self, seed: int, mtu: int) -> None:
        self.requester = Requester(1500, random.Random(seed), LIMITS)
        self.responders = {peer: ModelResponder(mtu=mtu) for peer in PEERS}
        self.now = 0
        self.to_responders: list[tuple[int, bytes]] = []
        self.to_requester: list[tuple[int, bytes]] = []
        self.bodies: dict[int, bytes] = {}  # token: body
        self.tokens = 1 << 32
        self.gathering: set[int] = set()
        self.ends: Counter[int] = Counter()
        self.sent: dict[int, dict[int, bytes]] = {}  # id: fragments as they were sent first
        self.granted = dict.fromkeys(PEERS, 1)
        self.outstanding: dict[int, int] = {}  # id: peer of an INFER that was sent and has no end

    # ---- the owner -----------------------------------------------------------------------------------------------

    @rule(
        peer=st.sampled_from(PEERS),
        size=st.sampled_from([0, 0, 10, 500, 600, 3000, 8000]),
        count=st.sampled_from([1, 1, 3]),
        flags=st.sampled_from([0, 1, 8, 9, 9]),
        timeout=st.sampled_from([1, 30, 200, 1000, 5000]),
    )
    def infer(self, peer: int, size: int, count: int, flags: int, timeout: int) -> None:
        tokens = np.arange(self.tokens, self.tokens + count)
        self.tokens += count
        bodies = [token.to_bytes(8, "big") + bytes(size) for token in tokens.tolist()]
        self.bodies |= dict(zip(tokens.tolist(), bodies, strict=True))
        header = Header(Opcode.INFER, 0, flags)
        self.requester.infer(peer, header, bodies, tokens, self.now, self.now + timeout * MS)
        self.turn()

    @rule(peer=st.sampled_from(PEERS), size=st.sampled_from([0, 500, 3000]), timeout=st.sampled_from([30, 1000, 5000]))
    def control(self, peer: int, size: int, timeout: int) -> None:
        body = len(self.bodies).to_bytes(8, "big") + bytes(size)
        request = Request(peer, Header(Opcode.CONTROL, 0, int(Flag.CRC)), body, timeout * MS)
        self.bodies[self.requester.submit(request, self.now)] = body
        self.turn()

    @rule()
    def discover(self) -> None:
        request = Request(BROADCAST, Header(Opcode.DISCOVER, 0, int(Flag.CRC)), timeout_ns=50 * MS)
        token = self.requester.submit(request, self.now)
        self.bodies[token] = b""
        self.gathering.add(token)
        self.turn()

    @precondition(lambda self: bool(set(self.bodies) - set(self.ends)))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        token = data.draw(st.sampled_from(sorted(set(self.bodies) - set(self.ends))))
        self.requester.cancel(token, self.now)
        self.end(token)
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
        for _ in range(50):
            timer = self.requester.next_timer()
            assert timer is not None or self.requester.pending == 0
            if timer is None or timer > self.now:
                return
            batch = buffers(16)
            count = self.requester.to_send(batch, self.now)
            self.take_events()  # what ended before, or by this call, gave its credit back
            for peer, pdu in zip(batch.peers[:count].tolist(), taken(batch, count), strict=True):
                self.check_sent(peer, pdu)
                self.to_responders += [(one, pdu) for one in (PEERS if peer == BROADCAST else (peer,))]
        raise AssertionError("there is always something to do at once")

    def check_sent(self, peer: int, pdu: bytes) -> None:
        header = decode_header(pdu)
        assert header.credits == 0
        assert header.request != 0
        if header.opcode & 0x20:
            return
        known = self.sent.setdefault(header.request, {})
        assert known.setdefault(header.fragment, pdu) == pdu
        if header.opcode != Opcode.INFER:
            assert header.session == 0
            return
        assert header.session != 0
        if header.request not in self.outstanding:
            assert len(known) == 1  # ids are never used again
            self.outstanding[header.request] = peer
            mine = [number for number, owner in self.outstanding.items() if owner == peer]
            assert len(mine) <= min(self.granted[peer], LIMITS.window)
            once = [number for number in mine if number < 1 << 63]
            assert not once or max(once) - min(once) < WINDOW

    def take_events(self) -> None:
        for event in self.requester.events():
            if isinstance(event, Announced):
                if event.body is None:
                    self.end(event.token)
                continue
            for row, token in enumerate(event.tokens.tolist()):
                if event.error is None:
                    assert event.bodies[row].tobytes() == b"answer:" + self.bodies[token]
                self.end(token)

    def end(self, token: int) -> None:
        self.ends[token] += 1
        assert self.ends[token] == 1
        for number in list(self.outstanding):
            if self.sent[number][0][HEADER_SIZE:][:8] == token.to_bytes(8, "big"):
                del self.outstanding[number]

    # ---- the wire ------------------------------------------------------------------------------------------------

    def there(self, peer: int, pdu: bytes) -> None:
        responder = self.responders[peer]
        self.to_requester += [(peer, reply) for reply in responder.receive(pdu)]
        once = Counter(run for run in responder.ran if run[1] < 1 << 63)
        assert not once or max(once.values()) == 1

    @precondition(lambda self: self.to_responders)
    @rule(data=st.data(), duplicate=st.booleans())
    def reach_responder(self, data: st.DataObject, duplicate: bool) -> None:
        at = data.draw(st.integers(0, len(self.to_responders) - 1))
        self.there(*(self.to_responders[at] if duplicate else self.to_responders.pop(at)))

    @precondition(lambda self: self.to_responders)
    @rule()
    def reach_responders_in_order(self) -> None:
        arriving, self.to_responders = self.to_responders, []
        for peer, pdu in arriving:
            self.there(peer, pdu)

    @precondition(lambda self: self.to_requester)
    @rule(data=st.data(), duplicate=st.booleans())
    def reach_requester(self, data: st.DataObject, duplicate: bool) -> None:
        at = data.draw(st.integers(0, len(self.to_requester) - 1))
        self.arrive([self.to_requester[at] if duplicate else self.to_requester.pop(at)])

    @precondition(lambda self: self.to_requester)
    @rule(together=st.booleans())
    def reach_requester_in_order(self, together: bool) -> None:
        arriving, self.to_requester = self.to_requester, []
        for burst in [arriving] if together else [[one] for one in arriving]:
            self.arrive(burst)

    def arrive(self, frames: list[tuple[int, bytes]]) -> None:
        for peer, pdu in frames:
            # Any of these may be what the requester goes by, or one that it knows better than to take.
            self.granted[peer] = max(self.granted[peer], decode_header(pdu).credits)
        batch = filled([pdu for _, pdu in frames])
        batch.peers[:] = [peer for peer, _ in frames]
        self.requester.receive(batch, self.now)
        self.turn()

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
        header = decode_header(pdu)
        if not header.flags & Flag.CRC or header.fragments > 1:
            return
        bit = data.draw(st.integers(0, 8 * len(pdu) - 1))
        if bit // 8 not in (23, 24, 25):  # credits and fragment are not covered
            damaged = bytearray(pdu)
            damaged[bit // 8] ^= 1 << bit % 8
            self.requester.receive(filled([bytes(damaged)], peer), self.now)
            self.turn()

    # ---- the responders ------------------------------------------------------------------------------------------

    @rule(peer=st.sampled_from(PEERS))
    def restart(self, peer: int) -> None:
        self.responders[peer].restart()

    @rule(peer=st.sampled_from(PEERS))
    def forget_fragments(self, peer: int) -> None:
        self.responders[peer].forget_fragments()

    @rule(peer=st.sampled_from(PEERS), slow=st.booleans())
    def be_slow(self, peer: int, slow: bool) -> None:
        self.responders[peer].slow = slow
        if not slow:
            self.to_requester += [(peer, pdu) for pdu in self.responders[peer].finish()]

    @rule(peer=st.sampled_from(PEERS), status=st.sampled_from(REFUSALS), retry_after=st.sampled_from([0, 1, 70, 500]))
    def refuse(self, peer: int, status: Status, retry_after: int) -> None:
        self.responders[peer].refuse, self.responders[peer].retry_after = status, retry_after

    @rule(peer=st.sampled_from(PEERS), credit=st.integers(0, 6))
    def grant(self, peer: int, credit: int) -> None:
        self.responders[peer].credits = credit

    def teardown(self) -> None:
        if not hasattr(self, "requester"):
            return
        self.wait(6000)  # longer than any timeout
        assert self.requester.pending == 0
        assert self.requester.next_timer() is None
        assert self.ends == Counter(list(self.bodies))
        assert all(self.requester.load(peer) == 0 for peer in PEERS)


Wire.TestCase.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestWire = Wire.TestCase
