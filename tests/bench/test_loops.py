"""Closed and open loops against a scripted server, in virtual time, and what is told of them."""

import numpy as np
import pytest
from numpy.typing import NDArray

from host_sdk.bench.arrivals import poisson_arrivals
from host_sdk.bench.load import summarise
from host_sdk.bench.loops import DRAIN_NS, Answered, closed_loop, open_loop

SERVICE_NS = 10_000
MS = 1_000_000
ROOM = 64


class ScriptedWindow:
    """A server that takes 10 µs for a request, one after the other; each look at the clock takes 1 µs.

    Args:
        stall: Beginning and end of a time in which nothing is answered.
        deaf_to: Requests, counted from 0, that get no answer.
    """

    room = ROOM

    def __init__(self, stall: tuple[int, int] = (0, 0), deaf_to: frozenset[int] = frozenset()) -> None:
        self.now = self.submitted = self.abandoned = self.outstanding = self.most_outstanding = 0
        self._stall, self._deaf_to, self._free_at = stall, deaf_to, 0
        self._queue: list[tuple[int, int]] = []  # when done, when due

    def clock(self) -> int:
        self.now += 1_000
        return self.now

    def submit(self, due_ns: NDArray[np.int64]) -> None:
        for due in due_ns.tolist():
            assert due <= self.now
            self.submitted += 1
            self.outstanding += 1
            if self.submitted - 1 not in self._deaf_to:
                self._queue.append((self._done(), due))
        self.most_outstanding = max(self.most_outstanding, self.outstanding)

    def _done(self) -> int:
        done = max(self.now, self._free_at) + SERVICE_NS
        if self._stall[0] <= done < self._stall[1]:
            done = self._stall[1] + SERVICE_NS
        self._free_at = done
        return done

    def receive(self) -> Answered | None:
        due = [due for done, due in self._queue if done <= self.now]
        self._queue = self._queue[len(due) :]
        self.outstanding -= len(due)
        return Answered(np.array(due), self.now) if due else None

    def abandon(self) -> None:
        self.abandoned, self.outstanding = self.outstanding, 0


def latencies(answered: list[Answered]) -> NDArray[np.int64]:
    return np.concatenate([each.now_ns - each.due_ns for each in answered])


def test_a_stall_shows_in_every_latency_that_was_due_in_it() -> None:
    """What is due while the server stands still is late, though most of it is only sent when it moves again."""
    server = ScriptedWindow(stall=(100 * MS, 300 * MS))
    arrivals = poisson_arrivals(5_000, 0.5, seed=1)
    late = latencies(open_loop(server, arrivals, server.clock))
    assert len(late) == len(arrivals)
    assert server.most_outstanding == ROOM
    in_stall = int(np.count_nonzero((arrivals > 100 * MS) & (arrivals < 250 * MS)))
    assert in_stall > 5 * ROOM
    assert np.count_nonzero(late >= 50 * MS) >= in_stall
    assert np.percentile(late, 99) > 180 * MS


def test_a_stall_hides_in_a_closed_loop() -> None:
    """The contrast that makes the open loop worth its trouble: only what was outstanding is late."""
    server = ScriptedWindow(stall=(100 * MS, 300 * MS))
    late = latencies(closed_loop(server, 1, 500 * MS, server.clock))
    assert np.count_nonzero(late > 50 * MS) == 1


def test_without_a_stall_an_open_loop_waits_for_nobody() -> None:
    server = ScriptedWindow()
    late = latencies(open_loop(server, poisson_arrivals(5_000, 0.5, seed=1), server.clock))
    assert np.percentile(late, 50) < 5 * SERVICE_NS


def test_arrivals_are_poisson_and_seeded() -> None:
    arrivals = poisson_arrivals(10_000, 2.0, seed=3)
    assert np.array_equal(arrivals, poisson_arrivals(10_000, 2.0, seed=3))
    assert not np.array_equal(arrivals[:100], poisson_arrivals(10_000, 2.0, seed=4)[:100])
    gaps = np.diff(arrivals)
    assert np.all(gaps >= 0)
    assert len(arrivals) == pytest.approx(20_000, abs=5 * 20_000**0.5)
    assert np.std(gaps) == pytest.approx(np.mean(gaps), rel=0.05)  # as of an exponential distribution


@pytest.mark.parametrize("concurrency", [1, 16, 64])
def test_a_closed_loop_keeps_so_many_outstanding(concurrency: int) -> None:
    server = ScriptedWindow()
    answered = closed_loop(server, concurrency, 20 * MS, server.clock)
    assert server.most_outstanding == concurrency
    assert len(latencies(answered)) == server.submitted
    assert server.submitted == pytest.approx(20 * MS / SERVICE_NS, rel=0.2)


def test_what_is_never_answered_is_given_up_in_the_end() -> None:
    server = ScriptedWindow(deaf_to=frozenset({3, 5}))
    answered = closed_loop(server, 4, 20 * MS, server.clock)
    assert server.abandoned == 2
    assert len(latencies(answered)) == server.submitted - 2
    assert server.now < 20 * MS + DRAIN_NS + MS


def test_a_closed_loop_counts_answers_of_its_time_and_an_open_one_requests_that_were_due_in_it() -> None:
    answered = [Answered(np.array([0, 80]) * MS, 90 * MS), Answered(np.array([110, 150, 190]) * MS, 210 * MS)]
    closed = summarise(answered, 50 * MS, 200 * MS, by_due=False)
    assert closed["requests"] == 2
    assert closed["inferences_per_s"] == pytest.approx(2 / 0.15)
    opened = summarise(answered, 100 * MS, 200 * MS, by_due=True)
    assert opened["requests"] == 3
    assert opened["quantiles_us"][0] == pytest.approx(60_000, rel=2e-3)
    assert summarise([], 0, MS, by_due=True)["requests"] == 0
