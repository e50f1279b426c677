"""The queue of a pipeline against a list that is searched."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from numpy.typing import NDArray

from appliance.dataplane.queue import JOB_DTYPE, NEVER, JobQueue

SIZE = 3


@dataclass(frozen=True)
class Entry:
    """A waiting request of the model."""

    request: int
    priority: int
    arrival: int
    deadline: int
    body: bytes


class QueueMachine(RuleBasedStateMachine):
    """Any sequence of operations; the model keeps the waiting requests in order of arrival."""

    @initialize(depth=st.integers(1, 12), tensors=st.booleans())
    def make(self, depth: int, tensors: bool) -> None:
        self.depth, self.tensors = depth, tensors
        self.queue = JobQueue(depth, SIZE if tensors else None)
        self.waiting: list[Entry] = []
        self.now = 0
        self.pushed = self.taken = 0

    @rule(jobs=st.lists(st.tuples(st.sampled_from([0, 1, 128, 255]), st.none() | st.integers(1, 20)), max_size=6))
    def push(self, jobs: list[tuple[int, int | None]]) -> None:
        self.now += 1
        jobs = jobs[: self.queue.room]
        entries = [
            Entry(
                self.pushed + index,
                priority,
                self.now,
                NEVER if after is None else self.now + after,
                bytes([(self.pushed + index) % 256] * SIZE),
            )
            for index, (priority, after) in enumerate(jobs)
        ]
        if not entries:
            return
        rows = np.zeros(len(entries), JOB_DTYPE)
        for name in ("request", "priority", "arrival", "deadline"):
            rows[name] = [getattr(entry, name) for entry in entries]
        bodies = [entry.body for entry in entries]
        self.queue.push(rows, np.frombuffer(b"".join(bodies), np.uint8).reshape(-1, SIZE) if self.tensors else bodies)
        self.waiting += entries
        self.pushed += len(entries)

    @rule(limit=st.integers(1, 8))
    def pop(self, limit: int) -> None:
        jobs, bodies = self.queue.pop(limit)
        ranked = sorted(self.waiting, key=lambda entry: (-entry.priority, entry.request))[:limit]
        assert jobs["request"].tolist() == [entry.request for entry in ranked]
        assert [bytes(body) for body in bodies] == [entry.body for entry in ranked]
        self.take(ranked)

    @rule(by=st.integers(0, 10))
    def expire(self, by: int) -> None:
        self.now += by
        late = [entry for entry in self.waiting if entry.deadline <= self.now]
        assert sorted(self.queue.expired(self.now)["request"].tolist()) == [entry.request for entry in late]
        self.take(late)

    @rule()
    def clear(self) -> None:
        assert sorted(self.queue.clear()["request"].tolist()) == [entry.request for entry in self.waiting]
        self.take(list(self.waiting))

    def take(self, entries: list[Entry]) -> None:
        self.waiting = [entry for entry in self.waiting if entry not in entries]
        self.taken += len(entries)

    @invariant()
    def nothing_is_lost_and_the_bound_holds(self) -> None:
        assert len(self.queue) == len(self.waiting) == self.pushed - self.taken
        assert self.queue.room == self.depth - len(self.waiting)

    @invariant()
    def the_next_batch_starts_when_it_should(self) -> None:
        ready = self.queue.ready_at(max_batch=4, max_delay_ns=7, service_ns=2)
        if not self.waiting:
            assert ready is None
            return
        first = min(entry.arrival for entry in self.waiting)
        deadline = min(entry.deadline for entry in self.waiting)
        assert ready == (first if len(self.waiting) >= 4 else min(first + 7, deadline - 2))


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def jobs(count: int) -> NDArray[np.void]:
    rows = np.zeros(count, JOB_DTYPE)
    rows["request"] = np.arange(count)
    rows["deadline"] = NEVER
    return rows


@pytest.mark.parametrize("tensors", [True, False])
def test_bodies_are_copies(tensors: bool) -> None:
    queue = JobQueue(2, SIZE if tensors else None)
    bodies = np.full((1, SIZE), 9, np.uint8)
    queue.push(jobs(1), bodies if tensors else [bodies.tobytes()])
    bodies[:] = 0
    _, popped = queue.pop(1)
    assert bytes(popped[0]) == b"\x09" * SIZE


def test_a_batch_that_was_popped_survives_the_next_push() -> None:
    queue = JobQueue(1, SIZE)
    queue.push(jobs(1), np.full((1, SIZE), 1, np.uint8))
    _, popped = queue.pop(1)
    queue.push(jobs(1), np.full((1, SIZE), 2, np.uint8))
    assert np.asarray(popped).tolist() == [[1] * SIZE]
