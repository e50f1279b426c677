"""The queue of a pipeline against a list that is searched, and what tenants and priorities get of it."""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule
from numpy.typing import NDArray

from appliance.dataplane.queue import JOB_DTYPE, NEVER, JobQueue

SIZE = 3
WEIGHTS = (1, 2, 4)  # of which the shares are exact in binary


@dataclass(frozen=True)
class Entry:
    """A request of the model; its number is its place in the order of arrival."""

    number: int
    request: int
    session: int
    tenant: int
    priority: int
    arrival: int
    deadline: int
    tag: Fraction = Fraction(0)

    @property
    def body(self) -> bytes:
        return self.number.to_bytes(SIZE, "big")

    @property
    def cost(self) -> Fraction:
        return Fraction(1, WEIGHTS[self.tenant])


class ModelQueue:
    """The same rules, one request at a time."""

    def __init__(self, depth: int) -> None:
        self.depth, self.reserved = depth, 0
        self.waiting: list[Entry] = []
        self.now, self.ends, self.served = Fraction(0), dict[int, Fraction](), dict[int, Fraction]()

    def ranked(self) -> list[Entry]:
        return sorted(self.waiting, key=lambda entry: (-entry.priority, entry.tag, entry.number))

    def insert(self, entries: list[Entry]) -> None:
        for entry in entries:
            tag = max(self.now, self.ends.get(entry.tenant, Fraction(0)))
            self.ends[entry.tenant] = tag + entry.cost
            self.waiting.append(Entry(**{**vars(entry), "tag": tag}))

    def admit(self, new: list[Entry], most: int | None) -> tuple[list[Entry], list[Entry]]:
        """Return who is refused and who is evicted."""
        limit = self.depth - self.reserved
        if most is not None:
            limit = max(len(self.waiting), min(limit, max(1, most)))
        old = self.ranked()
        everybody = old + new

        def share(entry: Entry) -> Fraction:
            before = [other for other in everybody if other.tenant == entry.tenant and other is not entry]
            rank = sum((-other.priority, other.number) < (-entry.priority, entry.number) for other in before)
            return rank * entry.cost

        places = {entry.number: place for place, entry in enumerate(everybody)}
        worth = sorted(everybody, key=lambda entry: (-entry.priority, share(entry), places[entry.number]))
        losers = {entry.number for entry in worth[limit:]}
        refused, evicted = [e for e in new if e.number in losers], [e for e in old if e.number in losers]
        if evicted:
            self.remove(evicted)
        self.insert([entry for entry in new if entry.number not in losers])
        return refused, evicted

    def pop(self, limit: int) -> list[Entry]:
        popped = self.ranked()[:limit]
        for entry in popped:
            self.now = max(self.now, entry.tag)
            self.served[entry.tenant] = max(self.served.get(entry.tenant, Fraction(0)), entry.tag + entry.cost)
        self._without(popped)
        return popped

    def remove(self, entries: list[Entry]) -> None:
        self._without(entries)
        self.ends = dict(self.served)
        for entry in self.waiting:
            self.ends[entry.tenant] = max(self.ends.get(entry.tenant, Fraction(0)), entry.tag + entry.cost)

    def _without(self, entries: list[Entry]) -> None:
        gone = {entry.number for entry in entries}
        self.waiting = [entry for entry in self.waiting if entry.number not in gone]
        if not self.waiting:
            self.now, self.ends, self.served = Fraction(0), {}, {}


NEWCOMER = st.tuples(
    st.sampled_from([0, 0, 7, 255]), st.integers(0, 2), st.none() | st.integers(1, 20), st.integers(1, 2)
)


class QueueMachine(RuleBasedStateMachine):
    """Any sequence of operations; nobody is lost, and everybody is where the model has them."""

    rows = Bundle("rows")

    @initialize(depth=st.integers(1, 12), tensors=st.booleans(), tenants=st.integers(1, 3))
    def make(self, depth: int, tensors: bool, tenants: int) -> None:
        self.tensors, self.tenants = tensors, tenants
        self.queue = JobQueue(depth, SIZE if tensors else None, np.array(WEIGHTS[:tenants], np.float64))
        self.model = ModelQueue(depth)
        self.now = self.number = self.queued = self.gone = 0

    def entries(self, jobs: list[tuple[int, int, int | None, int]]) -> list[Entry]:
        self.now += 1
        made = []
        for priority, tenant, after, session in jobs:
            self.number += 1
            deadline = NEVER if after is None else self.now + after
            request = self.number % 5
            made.append(Entry(self.number, request, session, tenant % self.tenants, priority, self.now, deadline))
        return made

    @rule(jobs=st.lists(NEWCOMER, max_size=8), most=st.none() | st.integers(0, 12))
    def admit(self, jobs: list[tuple[int, int, int | None, int]], most: int | None) -> None:
        entries = self.entries(jobs)
        bodies = [entry.body for entry in entries]
        array = np.frombuffer(b"".join(bodies), np.uint8).reshape(-1, SIZE)
        admission = self.queue.admit(records(entries), array if self.tensors else bodies, most)
        refused, evicted = self.model.admit(entries, most)
        assert [entries[index] for index in admission.refused] == refused
        assert numbers(admission.evicted) == [entry.number for entry in evicted]
        self.queued += len(entries) - len(refused)
        self.gone += len(evicted)

    @rule(target=rows, count=st.integers(0, 4))
    def reserve(self, count: int) -> object:
        free = self.model.depth - self.model.reserved - len(self.model.waiting)
        share = max(1, self.model.depth // 2) - self.model.reserved
        slots = self.queue.reserve(count)
        assert len(slots) == (max(0, min(count, free, share)) if self.tensors else 0)
        self.model.reserved += len(slots)
        return multiple(*slots.tolist())

    @rule(row=consumes(rows), job=NEWCOMER)
    def commit(self, row: int, job: tuple[int, int, int | None, int]) -> None:
        entries = self.entries([job])
        self.queue.store[row, :SIZE] = np.frombuffer(entries[0].body, np.uint8)
        self.queue.commit(np.array([row]), records(entries))
        self.model.reserved -= 1
        self.model.insert(entries)
        self.queued += 1

    @rule(row=consumes(rows))
    def release(self, row: int) -> None:
        self.queue.release(np.array([row]))
        self.model.reserved -= 1

    @rule(limit=st.integers(1, 8))
    def pop(self, limit: int) -> None:
        jobs, bodies = self.queue.pop(limit)
        popped = self.model.pop(limit)
        assert numbers(jobs) == [entry.number for entry in popped]
        assert [bytes(body) for body in bodies] == [entry.body for entry in popped]
        self.gone += len(popped)

    @rule(session=st.integers(1, 2), request=st.integers(0, 4))
    def cancel(self, session: int, request: int) -> None:
        same = [entry for entry in self.model.ranked() if (entry.session, entry.request) == (session, request)]
        self.taken(self.queue.cancel(session, request), same)

    @rule(by=st.integers(0, 10))
    def expire(self, by: int) -> None:
        self.now += by
        self.taken(self.queue.expired(self.now), [e for e in self.model.ranked() if e.deadline <= self.now])

    @rule()
    def clear(self) -> None:
        self.taken(self.queue.clear(), self.model.ranked())

    def taken(self, jobs: NDArray[np.void], entries: list[Entry]) -> None:
        assert numbers(jobs) == [entry.number for entry in entries]
        if entries:
            self.model.remove(entries)
        self.gone += len(entries)

    @invariant()
    def nothing_is_lost_and_the_bound_holds(self) -> None:
        assert len(self.queue) == len(self.model.waiting) == self.queued - self.gone
        assert self.queue.room == self.model.depth - self.model.reserved - len(self.queue)

    @invariant()
    def the_next_batch_starts_when_it_should(self) -> None:
        ready = self.queue.ready_at(max_batch=4, max_delay_ns=7, service_ns=2)
        if not self.model.waiting:
            assert ready is None
            return
        first = min(entry.arrival for entry in self.model.waiting)
        deadline = min(entry.deadline for entry in self.model.waiting)
        assert ready == (first if len(self.model.waiting) >= 4 else min(first + 7, deadline - 2))


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def records(entries: list[Entry]) -> NDArray[np.void]:
    rows = np.zeros(len(entries), JOB_DTYPE)
    for name in ("request", "session", "tenant", "priority", "arrival", "deadline"):
        rows[name] = [getattr(entry, name) for entry in entries]
    rows["answer"] = [entry.number for entry in entries]
    return rows


def numbers(jobs: NDArray[np.void]) -> list[int]:
    return list(jobs["answer"].tolist())


def jobs(count: int, tenant: int = 0, priority: int = 0, first: int = 0) -> NDArray[np.void]:
    rows = np.zeros(count, JOB_DTYPE)
    rows["request"] = np.arange(first, first + count)
    rows["deadline"] = NEVER
    rows["tenant"], rows["priority"] = tenant, priority
    return rows


def bodies(count: int) -> NDArray[np.uint8]:
    return np.zeros((count, SIZE), np.uint8)


def queue_of(depth: int, *weights: float) -> JobQueue:
    return JobQueue(depth, SIZE, np.array(weights))


def held(queue: JobQueue, tenants: int) -> list[int]:
    """Return how many requests of each tenant wait; they are taken out."""
    return [int(count) for count in np.bincount(queue.clear()["tenant"], minlength=tenants)]


# ---- bodies --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tensors", [True, False])
def test_bodies_are_copies(tensors: bool) -> None:
    queue = JobQueue(2, SIZE if tensors else None)
    given = np.full((1, SIZE), 9, np.uint8)
    queue.push(jobs(1), given if tensors else [given.tobytes()])
    given[:] = 0
    _, popped = queue.pop(1)
    assert bytes(popped[0]) == b"\x09" * SIZE


def test_a_batch_that_was_popped_survives_the_next_push() -> None:
    queue = JobQueue(1, SIZE)
    queue.push(jobs(1), np.full((1, SIZE), 1, np.uint8))
    _, popped = queue.pop(1)
    queue.push(jobs(1), np.full((1, SIZE), 2, np.uint8))
    assert np.asarray(popped).tolist() == [[1] * SIZE]


def test_bodies_may_come_as_records_or_as_columns_of_something_wider() -> None:
    queue = JobQueue(4, SIZE)
    wide = np.arange(10, dtype=np.uint8).reshape(2, 5)
    queue.push(jobs(2), wide[:, :SIZE])
    queue.push(jobs(2), np.frombuffer(b"abcdef", np.dtype((np.void, SIZE))))
    _, popped = queue.pop(4)
    assert [bytes(body) for body in popped] == [b"\x00\x01\x02", b"\x05\x06\x07", b"abc", b"def"]


def test_a_reserved_row_has_room_for_a_crc_that_is_not_part_of_the_body() -> None:
    queue = JobQueue(4, SIZE)
    rows = queue.reserve(2)
    queue.store[rows] = np.frombuffer(b"abc\xff\xff\xff\xffdef\xff\xff\xff\xff", np.uint8).reshape(2, -1)
    queue.commit(rows, jobs(2))
    _, popped = queue.pop(4)
    assert [bytes(body) for body in popped] == [b"abc", b"def"]


def test_reserved_rows_leave_half_of_the_room_and_come_back() -> None:
    queue = JobQueue(8, SIZE)
    rows = queue.reserve(100)
    assert len(rows) == 4 == queue.room
    assert len(queue.reserve(1)) == 0
    assert queue.admit(jobs(5), bodies(5)).refused.tolist() == [4]
    queue.release(rows)
    assert queue.room == 4
    assert len(JobQueue(1, SIZE).reserve(1)) == 1
    assert len(JobQueue(8, None).reserve(1)) == 0


# ---- order ---------------------------------------------------------------------------------------------------------


def test_a_tenant_alone_is_served_in_order_of_arrival() -> None:
    queue = queue_of(100, 1, 3)
    for first in range(0, 90, 10):
        queue.push(jobs(10, tenant=1, first=first), bodies(10))
    assert queue.pop(100)[0]["request"].tolist() == list(range(90))


def test_priority_overtakes_whatever_the_weights() -> None:
    queue = queue_of(100, 1000, 1)
    queue.push(jobs(10, tenant=0), bodies(10))
    queue.push(jobs(2, tenant=1, priority=1, first=50), bodies(2))
    assert queue.pop(4)[0]["request"].tolist() == [50, 51, 0, 1]


@pytest.mark.parametrize(("weights", "batch"), [((3, 1), 8), ((1, 1), 5), ((1000, 1), 32), ((5, 3, 2), 7)])
def test_tenants_that_flood_are_served_by_weight(weights: tuple[int, ...], batch: int) -> None:
    queue = queue_of(256, *weights)
    served = np.zeros(len(weights), np.int64)
    for _ in range(400):
        for tenant in range(len(weights)):
            queue.admit(jobs(64, tenant), bodies(64))
        served += np.bincount(queue.pop(batch)[0]["tenant"], minlength=len(weights))
    due = 400 * batch * np.array(weights) / sum(weights)
    assert np.abs(served - due).max() <= len(weights)


def test_who_comes_back_gets_a_share_and_nothing_for_the_time_away() -> None:
    queue = queue_of(1000, 1, 1)
    queue.push(jobs(900, tenant=0), bodies(900))
    queue.pop(800)
    queue.push(jobs(90, tenant=1), bodies(90))
    assert np.bincount(queue.pop(40)[0]["tenant"]).tolist() == [20, 20]


def test_who_came_first_owes_nothing_for_having_been_alone() -> None:
    queue = queue_of(1000, 1, 1)
    queue.push(jobs(500, tenant=0), bodies(500))
    queue.pop(490)
    queue.push(jobs(100, tenant=1), bodies(100))
    queue.push(jobs(100, tenant=0), bodies(100))
    served = np.bincount(queue.pop(100)[0]["tenant"])
    assert abs(int(served[0] - served[1])) <= 2


def test_cancelled_requests_are_not_charged() -> None:
    queue = queue_of(1000, 1, 1)
    queue.push(jobs(1, tenant=1, first=1000), bodies(1))
    queue.push(jobs(500, tenant=0), bodies(500))
    for request in range(500):
        assert len(queue.cancel(0, request)) == 1
    queue.push(jobs(50, tenant=1, first=2000), bodies(50))
    queue.push(jobs(50, tenant=0, first=3000), bodies(50))
    assert np.bincount(queue.pop(20)[0]["tenant"]).tolist() == [10, 10]


def test_cancelling_wins_nothing_back_that_was_served() -> None:
    queue = queue_of(1000, 1, 1)
    queue.push(jobs(300, tenant=0), bodies(300))
    served = np.zeros(2, np.int64)
    for _ in range(100):
        queue.push(jobs(2, tenant=1, first=7000), bodies(2))
        queue.cancel(0, 7001)
        served += np.bincount(queue.pop(1)[0]["tenant"], minlength=2)
    assert abs(int(served[0] - served[1])) <= 2


# ---- room ----------------------------------------------------------------------------------------------------------


def test_a_tenant_alone_may_fill_all_the_room() -> None:
    queue = queue_of(8, 1, 1)
    admission = queue.admit(jobs(10, tenant=1), bodies(10))
    assert admission.refused.tolist() == [8, 9]
    assert len(admission.evicted) == 0
    assert held(queue, 2) == [0, 8]


def test_a_flood_gives_way_to_a_tenant_below_its_share_newest_first() -> None:
    queue = queue_of(8, 1, 1)
    queue.admit(jobs(8, tenant=0), bodies(8))
    admission = queue.admit(jobs(3, tenant=1, first=100), bodies(3))
    assert len(admission.refused) == 0
    assert sorted(admission.evicted["request"].tolist()) == [5, 6, 7]
    assert held(queue, 2) == [5, 3]


@pytest.mark.parametrize("first", [0, 1])
def test_two_floods_hold_room_by_weight_whoever_came_first(first: int) -> None:
    queue = queue_of(64, 3, 1)
    for tenant in (first, 1 - first, first):
        queue.admit(jobs(100, tenant), bodies(100))
    assert held(queue, 2) == [48, 16]


def test_what_a_tenant_leaves_of_its_share_others_may_use() -> None:
    queue = queue_of(64, 1, 1000)
    queue.admit(jobs(2, tenant=1), bodies(2))
    queue.admit(jobs(100, tenant=0), bodies(100))
    assert held(queue, 2) == [62, 2]


def test_higher_priority_takes_the_room_of_lower_newest_first() -> None:
    queue = queue_of(6, 1)
    queue.admit(jobs(3, priority=1, first=10), bodies(3))
    queue.admit(jobs(3, priority=0, first=20), bodies(3))
    admission = queue.admit(jobs(2, priority=2, first=30), bodies(2))
    assert admission.evicted["request"].tolist() == [21, 22]
    admission = queue.admit(jobs(5, priority=1, first=40), bodies(5))
    assert admission.evicted["request"].tolist() == [20]
    assert admission.refused.tolist() == [1, 2, 3, 4]
    assert queue.pop(6)[0]["request"].tolist() == [30, 31, 10, 11, 12, 40]


def test_no_more_wait_than_are_served_in_time_but_one_always_may() -> None:
    queue = JobQueue(100, SIZE)
    assert queue.admit(jobs(30), bodies(30), most=20).refused.tolist() == list(range(20, 30))
    assert queue.admit(jobs(1), bodies(1), most=5).refused.tolist() == [0]
    assert len(queue) == 20  # none of those that wait already gives way because it became slower
    urgent = queue.admit(jobs(2, priority=1, first=50), bodies(2), most=5)
    assert urgent.evicted["request"].tolist() == [18, 19]
    queue.clear()
    assert queue.admit(jobs(2), bodies(2), most=0).refused.tolist() == [1]


def test_cancelling_takes_every_copy_of_that_session_alone() -> None:
    queue = JobQueue(8, None)
    rows = jobs(5)
    rows["request"], rows["session"] = [7, 7, 7, 8, 2**64 - 1], [1, 2, 1, 1, 1]
    queue.push(rows, [b"a", b"b", b"c", b"d", b"e"])
    assert queue.cancel(1, 7)["session"].tolist() == [1, 1]
    assert len(queue.cancel(1, 7)) == 0
    assert len(queue.cancel(1, 2**64 - 1)) == 1
    assert queue.pop(8)[1] == [b"b", b"d"]
