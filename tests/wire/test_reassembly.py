"""Reassembly: whatever order fragments come in, and whoever sends what, within its bounds."""

import gc
import random
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from host_sdk.wire.errors import FrameError
from host_sdk.wire.exchange.fragments import Fragments
from host_sdk.wire.exchange.reassembly import Reassembler, ReassemblyLimits
from host_sdk.wire.header import Header, decode_header
from host_sdk.wire.message import Message, encode_message, fragment_frames
from host_sdk.wire.schema import HEADER_SIZE, DropReason, Opcode, Status
from tests.wire.outcome import outcome
from tests.wire.window_bench import filled

SECOND = 1_000_000_000
SMALL = ReassemblyLimits(memory=20_000, peer_share=0.5, message=5000, timeout_ns=2 * SECOND)


def pdus_of(request: int, body: bytes, size: int) -> list[tuple[Header, bytes]]:
    header, payload = encode_message(Message(Header(Opcode.INFER, request), body), size)
    return [(decode_header(pdu), pdu[HEADER_SIZE:]) for pdu in fragment_frames(header, payload)]


def refusal(reassembler: Reassembler, peer: int, header: Header, payload: bytes, now: int = 0) -> object:
    with pytest.raises(FrameError) as caught:
        reassembler.add(peer, header, payload, now)
    return caught.value.reason


@given(st.data())
def test_fragments_in_any_order_and_number_give_the_message_once(data: st.DataObject) -> None:
    bodies = data.draw(st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=3))
    size = data.draw(st.integers(1, 60))
    fragments = [fragment for request, body in enumerate(bodies) for fragment in pdus_of(request, body, size)]
    extra = data.draw(st.lists(st.sampled_from(fragments), max_size=10))
    order = data.draw(st.permutations(fragments + extra))
    reassembler = Reassembler()
    whole: dict[int, list[bytes]] = {request: [] for request in range(len(bodies))}
    had: dict[int, set[int]] = {request: set() for request in whole}
    for now, (header, payload) in enumerate(order):
        seen = had[header.request]
        if header.fragment in seen:
            assert refusal(reassembler, 1, header, payload) is DropReason.FRAGMENT_DUPLICATE
            continue
        seen.add(header.fragment)
        done = reassembler.add(1, header, payload, now)
        assert (done is not None) == (len(seen) == header.fragments)
        if done:
            whole[header.request].append(done.payload)
            assert done.wire_bytes == len(done.payload) + HEADER_SIZE * header.fragments
            seen.clear()  # what follows begins another copy of the message
    for request, body in enumerate(bodies):
        assert set(whole[request]) == {body}
    reassembler.expire(1 << 62)
    assert (reassembler.memory, len(reassembler)) == (0, 0)


class ManyPeers(RuleBasedStateMachine):
    """Fragments of a few messages from a few peers, some of them forged, in a small memory."""

    def __init__(self) -> None:
        super().__init__()
        self.reassembler = Reassembler(SMALL)
        self.now = 0
        self.began: dict[tuple[int, int], int] = {}
        self.touched: dict[tuple[int, int], int] = {}  # when something new came
        self.parts: dict[tuple[int, int], dict[int, Header]] = {}
        self.finished: dict[tuple[int, int], int] = {}  # when messages were whole

    @initialize(size=st.integers(1, 600))
    def choose(self, size: int) -> None:
        self.size = size

    @rule(
        peer=st.integers(1, 3),
        request=st.integers(0, 5),
        index=st.integers(0, 8),
        length=st.sampled_from([0, 1, 100, 4999, 5000, 5001]),
        deadline=st.sampled_from([0, 0, 0, 7]),
    )
    def arrive(self, peer: int, request: int, index: int, length: int, deadline: int) -> None:
        header = Header(Opcode.INFER, request, length=length, fragment_size=self.size, deadline=deadline)
        header = replace(header, fragment=index % header.fragments)
        key, before = (peer, request), self.reassembler.memory
        parts = self.parts.get(key, {})
        whole = outcome(self.reassembler.add, peer, header, bytes(header.payload_size), self.now)
        if isinstance(whole, FrameError):
            self.check_refusal(whole.reason, header, parts)
            if whole.reason is Status.FRAGMENT_CONFLICT:
                self.give_up(key)
            else:
                assert self.reassembler.memory == before  # a refused frame costs nothing
            return
        if header.fragments == 1:
            assert whole is not None
            return
        self.began.setdefault(key, self.now)
        parts = self.parts.setdefault(key, {})
        parts[header.fragment] = replace(header, fragment=0)
        self.touched[key] = self.now
        assert (whole is not None) == (len(parts) == header.fragments)
        if whole:
            assert len(whole.payload) == length
            assert whole.began == self.began[key]
            self.give_up(key)
            self.finished[key] = self.now

    def check_refusal(self, reason: DropReason | Status, header: Header, parts: dict[int, Header]) -> None:
        if reason is Status.TOO_LARGE:
            assert header.length > SMALL.message
        elif reason is Status.FRAGMENT_CONFLICT:
            assert next(iter(parts.values())) != replace(header, fragment=0)
        elif reason is DropReason.FRAGMENT_DUPLICATE:
            assert header.fragment in parts
        else:
            assert reason is DropReason.REASSEMBLY_FULL

    def give_up(self, key: tuple[int, int]) -> None:
        del self.began[key], self.parts[key], self.touched[key]

    def due(self, key: tuple[int, int]) -> int:
        """Return when a message is to be given up."""
        return min(self.touched[key] + SMALL.timeout_ns, self.began[key] + SMALL.total_ns)

    @rule(step=st.integers(0, 3 * SECOND))
    def wait(self, step: int) -> None:
        self.now += step
        expired = {(peer, header.request) for peer, header in self.reassembler.expire(self.now)}
        old = {key for key in self.began if self.due(key) <= self.now}
        long_ago = self.now - 2 * SMALL.timeout_ns
        copies = {key for key in old if self.finished.get(key, long_ago) > long_ago}  # late ones of what was whole
        assert expired == old - copies
        for key in old:
            self.give_up(key)

    @precondition(lambda self: self.began)
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.began)))
        assert self.reassembler.forget(key[0], 0, key[1], Opcode.INFER)
        assert not self.reassembler.forget(key[0], 0, key[1], Opcode.INFER)
        self.give_up(key)

    @invariant()
    def holds_its_bounds(self) -> None:
        assert self.reassembler.memory <= SMALL.memory
        assert len(self.reassembler) == len(self.began)
        assert (self.reassembler.memory == 0) == (not self.began)
        assert self.reassembler.next_timer() == min(map(self.due, self.began), default=None)

    def teardown(self) -> None:
        self.reassembler.expire(self.now + SMALL.timeout_ns)
        assert self.reassembler.memory == 0


TestManyPeers = ManyPeers.TestCase


def test_endless_fragments_from_one_peer_do_not_starve_another() -> None:
    reassembler = Reassembler(SMALL)
    refused = 0
    for request in range(1000):
        header, payload = pdus_of(request, bytes(900), 500)[0]
        result = outcome(reassembler.add, 66, header, payload, request)
        if result is not None:
            assert isinstance(result, FrameError)
            assert result.reason is DropReason.REASSEMBLY_FULL
            refused += 1
    assert refused > 900
    assert reassembler.memory <= SMALL.memory // 2
    for request in range(100):
        first, second = pdus_of(request, bytes(900), 500)
        assert reassembler.add(7, *first, 2000) is None
        assert reassembler.add(7, *second, 2000) is not None
    reassembler.expire(SMALL.timeout_ns + 999)
    assert reassembler.memory == 0
    assert (
        reassembler.add(66, *pdus_of(5000, bytes(900), 500)[0], SMALL.timeout_ns + 1000) is None
    )  # not held against it


def test_endless_tiny_fragments_are_bounded_too() -> None:
    reassembler = Reassembler(SMALL)
    header = Header(Opcode.INFER, 1, length=5000, fragment_size=1)
    apart = range(0, 5000, 2)  # so that none follows another
    results = [outcome(reassembler.add, 1, replace(header, fragment=index), b"x", 0) for index in apart]
    taken = results.index(next(result for result in results if result is not None))
    assert 0 < taken < 100
    assert {getattr(result, "reason", None) for result in results[taken:]} == {DropReason.REASSEMBLY_FULL}
    assert reassembler.memory <= SMALL.memory // 2


@pytest.mark.parametrize("fragments", [1, 400])
def test_memory_counts_no_less_than_what_is_really_held(fragments: int) -> None:
    reassembler = Reassembler(ReassemblyLimits(peer_share=1.0))
    generator = random.Random(1)
    wire = [
        Header(Opcode.INFER, generator.getrandbits(64), 0, 1 << 31, 65536, 257, 1, 0, index, 100, 1 << 31).encode()
        for _ in range(4000 // fragments)
        for index in range(fragments)
    ]
    if fragments > 1:  # of the same message each
        wire = [pdu[:8] + (at // fragments).to_bytes(8, "big") + pdu[16:] for at, pdu in enumerate(wire)]
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for now, pdu in enumerate(wire):
            header = decode_header(pdu + bytes(100))
            assert reassembler.add(0x0200_0000_0001, header, bytes(bytearray(100)), (1 << 50) + now) is None
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before <= reassembler.memory


def test_fragments_with_different_headers_give_the_message_up() -> None:
    (first, one), (second, two) = pdus_of(1, b"abcdef", 4)
    for changed in ({"priority": 1}, {"deadline": 1}, {"flags": 1}, {"pipeline": 2}, {"length": 7}):
        reassembler = Reassembler()
        reassembler.add(1, first, one, 0)
        assert refusal(reassembler, 1, replace(second, **changed), two) is Status.FRAGMENT_CONFLICT
        assert reassembler.memory == 0
        assert reassembler.add(1, second, two, 0) is None  # and nothing of it is left


def test_credits_may_differ_between_fragments() -> None:
    (first, one), (second, two) = pdus_of(1, b"abcdef", 4)
    reassembler = Reassembler()
    reassembler.add(1, replace(first, credits=3), one, 0)
    whole = reassembler.add(1, replace(second, credits=4), two, 0)
    assert whole is not None
    assert whole.payload == b"abcdef"


@pytest.mark.parametrize("changed", [{"session": 5}, {"request": 5}, {"opcode": Opcode.CONTROL}])
def test_other_messages_are_kept_apart(changed: dict[str, int]) -> None:
    (first, one), (second, two) = pdus_of(1, b"abcdef", 4)
    reassembler = Reassembler()
    reassembler.add(1, first, one, 0)
    assert reassembler.add(1, replace(second, **changed), two, 0) is None
    assert reassembler.add(2, second, two, 0) is None  # another peer's
    assert len(reassembler) == 3


def test_a_message_of_which_nothing_new_comes_is_given_up_and_named() -> None:
    reassembler = Reassembler(SMALL)
    (first, one), (second, two), _ = pdus_of(1, b"abcdefghij", 4)
    reassembler.add(9, first, one, 100)
    last = 100 + SMALL.timeout_ns - 1
    reassembler.add(9, second, two, last)
    refusal(reassembler, 9, second, two, last + 5)  # a copy is nothing new
    assert reassembler.next_timer() == last + SMALL.timeout_ns
    assert reassembler.expire(last + SMALL.timeout_ns - 1) == []
    assert reassembler.expire(last + SMALL.timeout_ns) == [(9, first)]
    assert reassembler.next_timer() is None


def test_a_message_that_comes_drop_by_drop_is_given_up_in_the_end() -> None:
    reassembler = Reassembler(SMALL)
    header = Header(Opcode.INFER, 1, length=5000, fragment_size=100)
    now = index = 0
    while not (expired := reassembler.expire(now)):
        reassembler.add(9, replace(header, fragment=index), bytes(100), now)
        now, index = now + SMALL.timeout_ns - 1, index + 1
    assert expired == [(9, header)]
    assert SMALL.total_ns <= now < SMALL.total_ns + SMALL.timeout_ns
    assert reassembler.memory == 0


# ---- by the batch ----------------------------------------------------------------------------------------------------


def together(fragments: list[tuple[Header, bytes]]) -> Fragments:
    """Return fragments of one message as they come from a link, in one batch."""
    batch = filled([header.encode() + payload for header, payload in fragments])
    return Fragments(fragments[0][0], np.array([header.fragment for header, _ in fragments]), batch)


@given(st.data())
def test_batches_in_any_order_and_with_copies_give_the_message(data: st.DataObject) -> None:
    body = data.draw(st.binary(min_size=2, max_size=400))
    size = data.draw(st.integers(1, max(1, len(body) // 2)))
    fragments = pdus_of(1, body, size)
    order = data.draw(st.permutations(fragments + data.draw(st.lists(st.sampled_from(fragments), max_size=10))))
    order = data.draw(st.sampled_from([order, fragments]))
    reassembler, seen, whole = Reassembler(), set(), None
    while order and whole is None:
        count = data.draw(st.integers(1, len(order)))
        taken = reassembler.take(1, together(order[:count]), 0)
        indices = {header.fragment for header, _ in order[:count]}
        assert (taken.new, taken.copies, taken.refused) == (len(indices - seen), count - len(indices - seen), 0)
        seen |= indices
        order, whole = order[count:], taken.whole
        have = reassembler.have(1, fragments[0][0])
        assert have is None or set(np.flatnonzero(have).tolist()) == seen
    assert whole is not None
    assert (whole.payload, reassembler.memory) == (body, 0)


def test_of_a_batch_for_which_there_is_no_memory_as_much_is_taken_as_fits() -> None:
    limits = ReassemblyLimits(memory=20_000, peer_share=0.5, message=20_000)
    reassembler = Reassembler(limits)
    fragments = pdus_of(1, bytes(16_000), 100)
    taken = reassembler.take(1, together(fragments), 0)
    assert taken.whole is None
    assert 50 < taken.new < 100
    assert (taken.copies, taken.refused) == (0, 160 - taken.new)
    assert reassembler.memory <= 10_000
    have = reassembler.have(1, fragments[0][0])
    assert have is not None
    assert have.tolist() == [True] * taken.new + [False] * taken.refused
    reassembler.expire(limits.timeout_ns)
    assert reassembler.memory == 0


def test_a_grant_reaches_over_what_has_arrived() -> None:
    reassembler = Reassembler()
    fragments = pdus_of(1, bytes(5000), 10)  # 500 of them
    reassembler.take(1, together(fragments[:20] + fragments[21:60]), 0)
    assert reassembler.news(1, fragments[0][0]) == 59
    said = reassembler.arrived(1, fragments[0][0], 8)
    assert said is not None
    assert (said.base, said.window) == (20, 1 + 39 + 7)  # the one that is lost, those behind it, and seven more
    assert reassembler.news(1, fragments[0][0]) == 0
    assert said.among(np.array([19, 20, 21, 59, 60, 499])).tolist() == [True, False, True, True, False, False]
