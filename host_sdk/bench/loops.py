"""Closed and open loops of requests, in batches: what is due is submitted, what has been answered is taken."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Clock = Callable[[], int]
DRAIN_NS = 1_000_000_000  # for answers that are still to come at the end of a loop


@dataclass(frozen=True, slots=True)
class Answered:
    """Requests that were answered.

    Attributes:
        due_ns: When each was due, int64 [n].
        now_ns: When their answers were taken.
    """

    due_ns: NDArray[np.int64]
    now_ns: int


class Window(Protocol):
    """Requests that are all alike, outstanding at one server."""

    @property
    def outstanding(self) -> int:
        """Requests that were submitted and have come to no end."""

    @property
    def room(self) -> int:
        """Requests that may be outstanding at most."""

    def submit(self, due_ns: NDArray[np.int64]) -> None:
        """Send requests that were due at these times, int64 [n]."""

    def receive(self) -> Answered | None:
        """Take the answers that have arrived, without waiting; None where none have."""

    def abandon(self) -> None:
        """Give up what is outstanding."""


def closed_loop(window: Window, concurrency: int, end_ns: int, clock: Clock) -> list[Answered]:
    """Keep half as many requests outstanding, up to as many, until a time, then take what is still to come.

    Args:
        window: New.
        concurrency: Requests outstanding, at most its room.
        end_ns: When no more are sent.
        clock: Gives the time in ns.
    """
    found: list[Answered] = []
    now = clock()
    while now < end_ns:
        missing = concurrency - window.outstanding
        if 2 * missing >= concurrency:  # in halves, as a client with a window fills it: so that servers can batch
            window.submit(np.full(missing, now))
        answered = window.receive()
        if answered:
            found.append(answered)
        now = clock()
    return found + _drain(window, clock)


def open_loop(window: Window, arrivals_ns: NDArray[np.int64], clock: Clock) -> list[Answered]:
    """Send requests when they are due, whatever became of those before; latencies count from when they were due.

    Where the window has no room, requests wait before it, and their latency has that wait in it too: a server that
    stands still does not hide what it would have kept waiting (no coordinated omission).

    Args:
        window: New.
        arrivals_ns: When requests are due, ascending, int64 [n].
        clock: Gives the time in ns.
    """
    found: list[Answered] = []
    sent = 0
    while sent < len(arrivals_ns):
        due = min(int(np.searchsorted(arrivals_ns, clock(), "right")), sent + window.room - window.outstanding)
        if due > sent:
            window.submit(arrivals_ns[sent:due])
            sent = due
        answered = window.receive()
        if answered:
            found.append(answered)
    return found + _drain(window, clock)


def _drain(window: Window, clock: Clock) -> list[Answered]:
    """Take the answers still to come, and give up what does not come in time."""
    found: list[Answered] = []
    end = clock() + DRAIN_NS
    while window.outstanding and clock() < end:
        answered = window.receive()
        if answered:
            found.append(answered)
    window.abandon()
    return found
