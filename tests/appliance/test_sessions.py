import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.dataplane.sessions import IDLE_NS, PEER_SHARE, SessionTable

ALICE, BOB = 0x02_00_00_00_00_0A, 0x02_00_00_00_00_0B


def known(table: SessionTable, session: int, peer: int, now: int = 0) -> bool:
    found, _ = table.lookup(np.array([session], ">u4"), np.array([peer], np.uint64), now)
    return bool(found[0])


def opened(table: SessionTable, peer: int, request: int, now: int = 0) -> int:
    session = table.open(peer, request, 1000 + request, now)
    assert session
    return session


def test_open_lookup_close() -> None:
    table = SessionTable(4, random.Random(1))
    session = opened(table, ALICE, 1)
    assert len(table) == 1
    found, sizes = table.lookup(np.array([session], ">u4"), np.array([ALICE], np.uint64), 0)
    assert found.tolist() == [True]
    assert sizes.tolist() == [1001]
    assert table.close(session, ALICE)
    assert len(table) == 0
    assert not known(table, session, ALICE)
    assert not table.close(session, ALICE)


def test_the_same_open_again_finds_its_session() -> None:
    table = SessionTable(4, random.Random(1))
    assert opened(table, ALICE, 1) == opened(table, ALICE, 1)
    assert opened(table, ALICE, 2) != opened(table, ALICE, 1)
    assert opened(table, BOB, 1) != opened(table, ALICE, 1)
    assert len(table) == 3


def test_a_session_is_its_peers_own() -> None:
    table = SessionTable(4, random.Random(1))
    session = opened(table, ALICE, 1)
    assert not known(table, session, BOB)
    assert not table.close(session, BOB)
    assert known(table, session, ALICE)


def test_session_0_is_nobodys() -> None:
    table = SessionTable(4, random.Random(1))
    assert not known(table, 0, 0)
    assert not table.close(0, 0)
    opened(table, ALICE, 1)
    assert not known(table, 0, ALICE)


@given(st.integers(0, 0xFFFF_FFFF))
def test_any_other_id_is_unknown(session: int) -> None:
    table = SessionTable(4, random.Random(1))
    mine = opened(table, ALICE, 1)
    assert known(table, session, ALICE) == (session == mine)


def test_a_batch_is_looked_up_at_once() -> None:
    table = SessionTable(8, random.Random(1))
    one, two = opened(table, ALICE, 1), opened(table, BOB, 2)
    sessions = np.array([one, two, one, 7, two], ">u4")
    peers = np.array([ALICE, BOB, BOB, ALICE, BOB], np.uint64)
    found, sizes = table.lookup(sessions, peers, 0)
    assert found.tolist() == [True, True, False, False, True]
    assert sizes[found].tolist() == [1001, 1002, 1002]


def test_an_id_of_an_earlier_life_of_its_slot_is_unknown() -> None:
    table = SessionTable(1, random.Random(1))
    earlier = opened(table, ALICE, 1)
    table.close(earlier, ALICE)
    later = opened(table, ALICE, 2)
    assert later != earlier
    assert not known(table, earlier, ALICE)
    assert known(table, later, ALICE)


def test_a_full_table_refuses_until_someone_was_idle_for_a_minute() -> None:
    table = SessionTable(2, random.Random(1))
    quiet, busy = opened(table, 1, 1), opened(table, 2, 1)
    assert table.open(3, 1, 1000, IDLE_NS - 1) is None
    assert known(table, busy, 2, IDLE_NS - 1)
    assert table.open(3, 1, 1000, IDLE_NS)
    assert not known(table, quiet, 1, IDLE_NS)
    assert known(table, busy, 2, IDLE_NS)
    assert table.open(4, 1, 1000, IDLE_NS) is None
    assert len(table) == 2


def test_one_peer_cannot_take_the_whole_table() -> None:
    table = SessionTable(10, random.Random(1))
    share = int(10 * PEER_SHARE)
    sessions = [opened(table, ALICE, request, now=request) for request in range(share)]
    assert table.open(ALICE, 99, 1000, 100) is None  # none of its own is idle, and none may be taken from under it
    assert known(table, sessions[0], ALICE, now=100)  # used again, so that another is the oldest
    newest = opened(table, ALICE, 99, now=IDLE_NS + 50)
    assert len(table) == share
    assert not known(table, sessions[1], ALICE, IDLE_NS + 50)
    assert all(known(table, session, ALICE, IDLE_NS + 50) for session in (newest, sessions[0], *sessions[2:]))
    assert all(table.open(BOB, request, 1000, 100) for request in range(10 - share))


@pytest.mark.parametrize("capacity", [1, 2, 7])
def test_ids_are_distinct(capacity: int) -> None:
    table = SessionTable(capacity, random.Random(1))
    assert len({opened(table, peer, 1) for peer in range(1, capacity + 1)}) == capacity


def test_ids_follow_from_the_generator() -> None:
    tables = [SessionTable(4, random.Random(seed)) for seed in (5, 5, 6)]
    first, same, other = (opened(table, ALICE, 1) for table in tables)
    assert first == same != other
