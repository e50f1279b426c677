"""The session table against a dict, and what a table of ten thousand takes."""

import random
import tracemalloc
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from appliance.dataplane.sessions import ACTIVE_NS, GRACE_NS, GRANT_NS, IDLE_NS, PEER_SHARE, Opening, SessionTable

ALICE, BOB = 0x02_00_00_00_00_0A, 0x02_00_00_00_00_0B
SECOND = 1_000_000_000


def known(table: SessionTable, session: int, peer: int, now: int = 0) -> bool:
    found, _ = table.locate(np.array([session], ">u4"), np.array([peer], np.uint64), now)
    return bool(found[0])


def try_open(table: SessionTable, peer: int, request: int, now: int = 0) -> int | None:
    opened = table.open(Opening(peer, request, 1000 + request), now)
    return opened.session if opened else None


def open_one(table: SessionTable, peer: int, request: int, now: int = 0) -> int:
    session = try_open(table, peer, request, now)
    assert session
    return session


@dataclass
class Record:
    """A session of the model."""

    peer: int
    opening: Opening
    base: int
    used: int
    outstanding: int = 0


class SessionMachine(RuleBasedStateMachine):
    """Any sequence of operations by three peers; the model is a dict of the sessions that are open."""

    @initialize(capacity=st.integers(1, 6), seed=st.integers(0, 99))
    def make(self, capacity: int, seed: int) -> None:
        self.capacity = capacity
        self.table = SessionTable(capacity, random.Random(seed), 8)
        self.open: dict[int, Record] = {}
        self.ended: list[int] = []
        self.now = 0

    def some(self, data: st.DataObject) -> int:
        """Return a session that is or was open, or none that ever was."""
        return data.draw(st.sampled_from([*self.open, *self.ended[-3:], 0, 12345]))

    @rule(
        peer=st.integers(1, 3),
        request=st.integers(1, 4),
        size=st.integers(544, 65535),
        fragments=st.integers(1, 65535),
        resumes=st.booleans(),
        data=st.data(),
    )
    def opens(self, peer: int, request: int, size: int, fragments: int, resumes: bool, data: st.DataObject) -> None:
        resume = self.some(data) if resumes else 0
        opening = Opening(peer, request, size, fragments, tenant=size % 7, resume=resume)
        version = self.table.version
        opened = self.table.open(opening, self.now)
        own = {session: record for session, record in self.open.items() if record.peer == peer}
        again = [session for session, record in own.items() if record.base == request]
        if again or resume in own:
            session = again[0] if again else resume
            record = self.open[session]
            record.used = self.now
            if not again:
                record.opening = opening
                assert self.table.version > version
            assert opened
            assert (opened.session, opened.base) == (session, record.base)
            assert not opened.fresh
            return
        greedy = len(own) >= max(1, int(self.capacity * PEER_SHARE))
        rivals = own if greedy else self.open if len(self.open) == self.capacity else {}
        if rivals:
            oldest = min(record.used for record in rivals.values())
            if self.now - oldest < IDLE_NS:
                assert opened is None
                return
            assert opened
            (replaced,) = [session for session in rivals if self.table.slot(session) == opened.slot]
            assert rivals[replaced].used == oldest
            assert self.table.version > version
            del self.open[replaced]
            self.ended.append(replaced)
        assert opened
        assert opened.fresh
        assert opened.session not in self.open
        assert opened.base == request
        self.open[opened.session] = Record(peer, opening, request, self.now)

    @rule(peer=st.integers(1, 3), data=st.data())
    def closes(self, peer: int, data: st.DataObject) -> None:
        session = self.some(data)
        version = self.table.version
        slots = self.table.close(session, peer)
        mine = session in self.open and self.open[session].peer == peer
        assert slots == ([self.table.slot(session)] if mine else [])
        assert (self.table.version > version) == mine
        if mine:
            del self.open[session]
            self.ended.append(session)

    @rule(idle_s=st.sampled_from([60, 90]))
    def expires(self, idle_s: int) -> None:
        late = [s for s, record in self.open.items() if self.now - record.used > idle_s * SECOND]
        version = self.table.version
        assert sorted(self.table.expire(self.now, idle_s * SECOND)) == sorted(map(self.table.slot, late))
        assert (self.table.version > version) == bool(late)
        for session in late:
            del self.open[session]
        self.ended += late

    @rule(seconds=st.sampled_from([1, 30, 60]))
    def time_goes_by(self, seconds: int) -> None:
        self.now += seconds * SECOND

    @rule(peer=st.integers(1, 3), data=st.data())
    def finds(self, peer: int, data: st.DataObject) -> None:
        session = self.some(data)
        mine = session in self.open and self.open[session].peer == peer
        assert self.table.find(session, peer, self.now) == mine
        if mine:
            self.open[session].used = self.now

    @rule(data=st.data(), credit=st.integers(1, 5))
    def takes(self, data: st.DataObject, credit: int) -> None:
        if not self.open:
            return
        batch = data.draw(st.lists(st.sampled_from(list(self.open)), max_size=12))
        slots = np.array([self.table.slot(session) for session in batch], np.uint32)
        expected = []
        for session in batch:
            within = self.open[session].outstanding < credit
            self.open[session].outstanding += within
            expected.append(within)
        assert self.table.take_credit(slots, credit).tolist() == expected

    @rule(data=st.data())
    def gives_back(self, data: st.DataObject) -> None:
        owed = [session for session, record in self.open.items() for _ in range(record.outstanding)]
        batch = data.draw(st.lists(st.integers(0, len(owed) - 1), unique=True)) if owed else []
        for index in batch:
            self.open[owed[index]].outstanding -= 1
        self.table.give_back(np.array([self.table.slot(owed[index]) for index in batch], np.uint32))

    @invariant()
    def a_lookup_knows_exactly_what_is_open(self) -> None:
        assert len(self.table) == len(self.open)
        asked = [(session, peer) for session in [*self.open, *self.ended[-5:], 0] for peer in (1, 2, 3)]
        sessions, peers = (np.array(column) for column in zip(*asked, strict=True))
        # looked up by a copy in time, as a lookup is a use
        used = self.table._used.copy()
        found, sizes = self.table.lookup(sessions.astype(">u4"), peers.astype(np.uint64), self.now)
        self.table._used[:] = used
        for (session, peer), here, size in zip(asked, found.tolist(), sizes.tolist(), strict=True):
            record = self.open.get(session)
            assert here == (record is not None and record.peer == peer)
            if here and record:
                slot = self.table.slot(session)
                assert size == record.opening.fragment_size
                assert self.table.reply_fragments[slot] == record.opening.fragments
                assert self.table.tenants[slot] == record.opening.tenant
                assert self.table.outstanding[slot] == record.outstanding


TestSessions = SessionMachine.TestCase
TestSessions.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


def test_open_lookup_close() -> None:
    table = SessionTable(4, random.Random(1))
    session = open_one(table, ALICE, 1)
    assert len(table) == 1
    found, sizes = table.lookup(np.array([session], ">u4"), np.array([ALICE], np.uint64), 0)
    assert found.tolist() == [True]
    assert sizes.tolist() == [1001]
    assert table.close(session, ALICE) == [table.slot(session)]
    assert len(table) == 0
    assert not known(table, session, ALICE)
    assert table.close(session, ALICE) == []


def test_the_same_open_again_finds_its_session() -> None:
    table = SessionTable(4, random.Random(1))
    assert open_one(table, ALICE, 1) == open_one(table, ALICE, 1)
    assert open_one(table, ALICE, 2) != open_one(table, ALICE, 1)
    assert open_one(table, BOB, 1) != open_one(table, ALICE, 1)
    assert len(table) == 3


def test_a_session_is_its_peers_own() -> None:
    table = SessionTable(4, random.Random(1))
    session = open_one(table, ALICE, 1)
    assert not known(table, session, BOB)
    assert not table.find(session, BOB, 0)
    assert table.close(session, BOB) == []
    assert known(table, session, ALICE)


def test_session_0_is_nobodys() -> None:
    table = SessionTable(4, random.Random(1))
    assert not known(table, 0, 0)
    assert table.close(0, 0) == []
    open_one(table, ALICE, 1)
    assert not known(table, 0, ALICE)
    opened = table.open(Opening(ALICE, 7, 1000, resume=0), 0)
    assert opened
    assert opened.fresh


@given(st.integers(0, 0xFFFF_FFFF))
def test_any_other_id_is_unknown(session: int) -> None:
    table = SessionTable(4, random.Random(1))
    mine = open_one(table, ALICE, 1)
    assert known(table, session, ALICE) == table.find(session, ALICE, 0) == (session == mine)


def test_a_batch_is_looked_up_at_once() -> None:
    table = SessionTable(8, random.Random(1))
    one, two = open_one(table, ALICE, 1), open_one(table, BOB, 2)
    sessions = np.array([one, two, one, 7, two], ">u4")
    peers = np.array([ALICE, BOB, BOB, ALICE, BOB], np.uint64)
    found, slots = table.locate(sessions, peers, 0)
    assert found.tolist() == [True, True, False, False, True]
    assert slots[found].tolist() == [table.slot(one), table.slot(two), table.slot(two)]


def test_an_id_of_an_earlier_life_of_its_slot_is_unknown() -> None:
    table = SessionTable(1, random.Random(1))
    earlier = open_one(table, ALICE, 1)
    table.close(earlier, ALICE)
    later = open_one(table, ALICE, 2)
    assert later != earlier
    assert not known(table, earlier, ALICE)
    assert known(table, later, ALICE)


# ---- resumption ----------------------------------------------------------------------------------------------------


def test_a_session_is_resumed_with_what_the_new_open_says() -> None:
    table = SessionTable(4, random.Random(1))
    first = table.open(Opening(ALICE, 100, 1468, 32, tenant=1), 0)
    assert first
    version = table.version
    resumed = table.open(Opening(ALICE, 900, 8968, 64, tenant=2, resume=first.session), 5)
    assert resumed
    assert (resumed.session, resumed.slot, resumed.base) == (first.session, first.slot, 100)
    assert not resumed.fresh
    assert table.version > version
    slot = first.slot
    assert (table.fragment_sizes[slot], table.reply_fragments[slot], table.tenants[slot]) == (8968, 64, 2)
    assert len(table) == 1


def test_only_ones_own_open_session_is_resumed() -> None:
    table = SessionTable(8, random.Random(1))
    mine, closed = open_one(table, ALICE, 1), open_one(table, ALICE, 2)
    table.close(closed, ALICE)
    for peer, request, resume in ((BOB, 1, mine), (ALICE, 3, closed), (ALICE, 4, 0xFFFF_FFFF), (ALICE, 5, 1 << 40)):
        opened = table.open(Opening(peer, request, 1000, resume=resume), 0)
        assert opened
        assert opened.fresh
        assert opened.session not in (mine, closed)


# ---- bounds --------------------------------------------------------------------------------------------------------


def test_a_full_table_refuses_until_someone_was_idle_for_a_minute() -> None:
    table = SessionTable(2, random.Random(1))
    quiet, busy = open_one(table, 1, 1), open_one(table, 2, 1)
    assert try_open(table, 3, 1, IDLE_NS - 1) is None
    assert known(table, busy, 2, IDLE_NS - 1)
    assert try_open(table, 3, 1, IDLE_NS)
    assert not known(table, quiet, 1, IDLE_NS)
    assert known(table, busy, 2, IDLE_NS)
    assert try_open(table, 4, 1, IDLE_NS) is None
    assert len(table) == 2


def test_one_peer_cannot_take_the_whole_table() -> None:
    table = SessionTable(10, random.Random(1))
    share = int(10 * PEER_SHARE)
    sessions = [open_one(table, ALICE, request, now=request) for request in range(share)]
    assert try_open(table, ALICE, 99, 100) is None  # none of its own is idle, and none may be taken from under it
    assert known(table, sessions[0], ALICE, now=100)  # used again, so that another is the oldest
    newest = open_one(table, ALICE, 99, now=IDLE_NS + 50)
    assert len(table) == share
    assert not known(table, sessions[1], ALICE, IDLE_NS + 50)
    assert all(known(table, session, ALICE, IDLE_NS + 50) for session in (newest, sessions[0], *sessions[2:]))
    assert all(try_open(table, BOB, request, 100) for request in range(10 - share))


@pytest.mark.parametrize("capacity", [1, 2, 7])
def test_ids_are_distinct(capacity: int) -> None:
    table = SessionTable(capacity, random.Random(1))
    assert len({open_one(table, peer, 1) for peer in range(1, capacity + 1)}) == capacity


def test_ids_follow_from_the_generator() -> None:
    tables = [SessionTable(4, random.Random(seed)) for seed in (5, 5, 6)]
    first, same, other = (open_one(table, ALICE, 1) for table in tables)
    assert first == same != other


def test_ten_thousand_sessions_are_open_and_used_at_once() -> None:
    count = 10_000
    table = SessionTable(10_240, random.Random(1), 64)
    sessions = np.array([open_one(table, 1 + index, index, now=index) for index in range(count)], np.uint32)
    peers = np.arange(1, count + 1, dtype=np.uint64)
    assert len(table) == count == len(set(sessions.tolist()))
    order = np.random.default_rng(2).permutation(count)
    found, slots = table.locate(sessions[order].astype(">u4"), peers[order], now=SECOND)
    assert found.all()
    assert len(set(slots.tolist())) == count
    assert not table.locate(sessions, np.roll(peers, 1), now=SECOND)[0].any()
    twice = np.concatenate((slots, slots[::-1], slots))
    within = table.take_credit(twice, 2)
    assert within.tolist() == [True] * (2 * count) + [False] * count
    assert (table.outstanding[slots] == 2).all()
    table.give_back(twice[within])
    assert not table.outstanding.any()
    assert sorted(table.expire(2 * SECOND + IDLE_NS, IDLE_NS)) == sorted(slots.tolist())
    assert len(table) == 0


def test_a_session_takes_as_many_bytes_as_the_table_says() -> None:
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        table = SessionTable(50_000, random.Random(1))
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert table.bytes_per_session <= 64
    assert table.bytes_per_session * 50_000 <= taken <= table.bytes_per_session * 50_000 + 16_384


# ---- credits -------------------------------------------------------------------------------------------------------


def test_what_a_session_that_ended_gives_back_is_not_its_successors() -> None:
    table = SessionTable(1, random.Random(1))
    earlier = open_one(table, ALICE, 1)
    slots = np.zeros(3, np.uint32)
    assert table.take_credit(slots, 3).all()
    table.close(earlier, ALICE)
    open_one(table, ALICE, 2)
    assert table.take_credit(slots[:1], 3).all()
    table.give_back(slots)
    assert table.outstanding[0] == 0
    assert table.take_credit(np.zeros(5, np.uint32), 3).tolist() == [True, True, True, False, False]


def test_credits_are_the_links_room_shared_by_those_in_use() -> None:
    table = SessionTable(1000, random.Random(1), 64)
    assert table.granted == table.allowed == 64
    assert table.credits_for(budget=640, now=0) == 64
    for peer in range(1, 41):
        open_one(table, peer, 1, now=SECOND)
    assert table.credits_for(640, SECOND) == table.granted == 640 // 40
    for peer in range(41, 901):
        open_one(table, peer, 1, now=SECOND + GRANT_NS)
    assert table.credits_for(640, SECOND + GRANT_NS) == 1  # never none
    for peer in range(1, 851):
        table.close(table.open(Opening(peer, 1, 1000), 2 * SECOND).session, peer)  # type: ignore[union-attr]
    assert table.credits_for(640, SECOND + 2 * GRANT_NS) == 640 // 50  # nor has one that ended a part
    now = SECOND + 2 * GRANT_NS + ACTIVE_NS
    assert table.credits_for(640, now) == 64  # those that are quiet leave it to the others


def test_a_grant_stands_for_a_moment_and_is_good_for_a_while_longer() -> None:
    table = SessionTable(100, random.Random(1), 64)
    table.credits_for(64, 0)
    for peer in range(1, 9):
        open_one(table, peer, 1, now=1)
    assert table.credits_for(64, GRANT_NS - 1) == 64
    now = GRANT_NS
    assert table.credits_for(64, now) == 8
    assert table.allowed == 64  # requests that 64 were granted to are on their way
    while now < GRACE_NS:
        now += GRANT_NS
        for slot in range(8):
            table.touch(slot, now)
        table.credits_for(64, now)
    assert table.granted == table.allowed == 8
