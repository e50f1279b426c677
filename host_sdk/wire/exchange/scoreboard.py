"""What became of the fragments of one request, as its sender knows it."""

import numpy as np
from numpy.typing import NDArray

from host_sdk.wire.exchange.arrived import Arrived

NOT_SENT, THERE = -1, -2  # of a fragment, in place of the time when it was sent
_NONE: NDArray[np.int64] = np.empty(0, np.int64)


class Scoreboard:
    """The fragments of one request: not sent, under way, or there.

    What is done costs as much as there are fragments in the sender's window, not in the message: all before ``_low``
    are there, and none from ``_high`` on was sent, but for the last one, which has its place from the beginning. Nearly
    always all between them were sent; ``_holes`` is how many were not.

    Args:
        count: Fragments, at least 2.

    Attributes:
        last: Index of the last one.
    """

    __slots__ = ("_again", "_high", "_holes", "_low", "_sent", "last")

    def __init__(self, count: int) -> None:
        self._sent: NDArray[np.int64] = np.full(count, NOT_SENT, np.int64)  # when each was last sent, ns
        self._again: NDArray[np.bool_] = np.zeros(count, np.bool_)  # which were sent more than once
        self.last = count - 1
        self._low = self._high = self._holes = 0

    def _span(self, low: int, high: int) -> NDArray[np.int64]:
        """Return the indices from ``low`` to ``high``, and the last one."""
        span = np.arange(low, min(high, self.last) + 1)
        span[-1] = self.last
        return span

    @property
    def last_unsent(self) -> bool:
        """Whether the last fragment was never sent."""
        return bool(self._sent[self.last] == NOT_SENT)

    @property
    def left(self) -> int:
        """How many fragments are still to be sent for the first time, the last one left out."""
        return self._holes + self.last - self._high

    def sent(self, which: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which of some fragments, int64 [n], are under way, bool [n]."""
        under_way: NDArray[np.bool_] = self._sent[which] >= 0
        return under_way

    def under_way(self) -> NDArray[np.int64]:
        """Return the fragments that are under way, int64 [n], ascending."""
        span = self._span(self._low, self._high)
        return span[self._sent[span] >= 0]

    def first_unsent(self) -> int:
        """Return the first fragment still to be sent for the first time; one behind the last where there is none."""
        if self._holes:
            return self._low + int(np.argmax(self._sent[self._low : self._high] == NOT_SENT))
        if self._high < self.last:
            return self._high
        return self.last + (0 if self.last_unsent else 1)

    def unsent(self, end: int, most: int) -> NDArray[np.int64]:
        """Return fragments, the last one left out, that are still to be sent for the first time: int64 [n], ascending.

        Args:
            end: None from this one on.
            most: No more than these.
        """
        end, most = min(end, self.last), max(0, most)
        fresh = np.arange(self._high, max(self._high, min(end, self._high + most)))
        if not self._holes:
            return fresh
        between = self._low + np.flatnonzero(self._sent[self._low : min(end, self._high)] == NOT_SENT)
        return np.concatenate((between, fresh))[:most]

    def send(self, which: NDArray[np.int64], now: int) -> None:
        """Note that fragments, int64 [n] and ascending, are sent at ``now``."""
        high, below = self._high, len(which) - int(which[-1] == self.last)
        known = below and int(which[0]) < high
        if known or (below < len(which) and not self.last_unsent):
            old = self._sent[which] != NOT_SENT
            self._again[which] |= old
            self._holes -= int(np.count_nonzero(~old[:below] & (which[:below] < high)))
        self._sent[which] = now
        if below and int(which[below - 1]) >= high:
            self._high = int(which[below - 1]) + 1
            self._holes += self._high - high - int(np.count_nonzero(which[:below] >= high))

    def withdraw(self, end: int) -> None:
        """Note that what is under way from a fragment on, the last one left out, is as if it had not been sent."""
        beyond = self.under_way()
        beyond = beyond[(beyond >= end) & (beyond < self.last)]
        self._sent[beyond], self._again[beyond] = NOT_SENT, True
        self._holes += len(beyond)

    def restart(self) -> None:
        """Note that nothing has arrived, and that all are to be sent as if for the first time."""
        self._sent[:] = NOT_SENT
        self._again[:] = False
        self._low = self._high = self._holes = 0

    def complete(self) -> None:
        """Note that all are there."""
        self._sent[:] = THERE
        self._low, self._high, self._holes = self.last, self.last, 0

    def take(self, arrived: Arrived) -> tuple[NDArray[np.int64], int | None]:
        """Take in what a GRANT says; return the fragments that are lost, and when the newest that arrived was sent.

        Lost, int64 [n], is what was sent before another fragment that has arrived since: a round trip has passed (RFC
        8985). What had arrived and is missing now was given up by its receiver; it is as if it had not been sent. The
        time is None where no news has come, or of a fragment that was sent twice, which measures nothing (Karn).
        """
        low = min(self._low, arrived.base)
        high = min(max(self._high, arrived.end), self.last)
        span = self._span(low, high)
        have, times = arrived.among(span), self._sent[span]
        arrivals = times[have]
        newest = int(arrivals.max()) if len(arrivals) else NOT_SENT
        position = np.flatnonzero(have & (times == newest))[-1] if newest >= 0 else 0
        older = (times < newest) | ((times == newest) & (np.arange(len(span)) < position))
        measures = newest >= 0 and not self._again[span[position]]
        times[~have & (times == THERE)] = NOT_SENT
        times[have] = THERE
        self._sent[span] = times
        self._low, self._high = min(arrived.base, high), high
        self._holes = int(np.count_nonzero(times[:-1] == NOT_SENT))
        lost = span[(times >= 0) & older] if newest >= 0 else _NONE
        return lost, newest if measures else None
