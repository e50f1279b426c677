"""Which fragments of a message have arrived, as runs of consecutive ones: few, however long the message is."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray


class Runs:
    """A set of fragment indices. It takes memory for what is in it, not for how high an index is.

    Attributes:
        count: How many there are.
    """

    __slots__ = ("_ends", "_firsts", "count")

    def __init__(self) -> None:
        self._firsts: list[int] = []  # of each run, ascending
        self._ends: list[int] = []  # the index behind it; a run never touches the next
        self.count = 0

    def __contains__(self, index: int) -> bool:
        at = bisect_right(self._firsts, index)
        return at > 0 and index < self._ends[at - 1]

    @property
    def base(self) -> int:
        """The first index that is missing."""
        return self._ends[0] if self._firsts and self._firsts[0] == 0 else 0

    def stretches(self, indices: NDArray[np.int64]) -> Iterator[tuple[int, int, int]]:
        """Yield what of some indices is not there, as stretches that count up; each may be added before the next.

        Args:
            indices: int64 [n], in any order, perhaps repeated.

        Yields:
            Where in ``indices`` the stretch begins, its first index, and how many it has.
        """
        cuts = [0, *(np.flatnonzero(np.diff(indices) != 1) + 1).tolist(), len(indices)]
        for begin, end in pairwise(cuts):
            first = int(indices[begin])
            for low, high in self._gaps(first, first + end - begin):
                yield begin + low - first, low, high - low

    def _gaps(self, first: int, end: int) -> list[tuple[int, int]]:
        """Return the parts of a range, each its first index and the one behind it, that are not there."""
        found = []
        at = bisect_right(self._ends, first)
        while first < end and at < len(self._firsts) and self._firsts[at] < end:
            if first < self._firsts[at]:
                found.append((first, self._firsts[at]))
            first = self._ends[at]
            at += 1
        if first < end:
            found.append((first, end))
        return found

    def add(self, first: int, count: int) -> None:
        """Put in a stretch of which nothing is there."""
        end = first + count
        at = bisect_left(self._firsts, first)
        joins_before = at > 0 and self._ends[at - 1] == first
        joins_behind = at < len(self._firsts) and self._firsts[at] == end
        if joins_before and joins_behind:
            self._ends[at - 1] = self._ends.pop(at)
            del self._firsts[at]
        elif joins_before:
            self._ends[at - 1] = end
        elif joins_behind:
            self._firsts[at] = first
        else:
            self._firsts.insert(at, first)
            self._ends.insert(at, end)
        self.count += count

    def between(self, begin: int, end: int) -> NDArray[np.bool_]:
        """Return which of a range of indices are there, bool [end - begin]."""
        there: NDArray[np.bool_] = np.zeros(end - begin, np.bool_)
        at = bisect_right(self._ends, begin)
        while at < len(self._firsts) and self._firsts[at] < end:
            there[max(0, self._firsts[at] - begin) : self._ends[at] - begin] = True
            at += 1
        return there
