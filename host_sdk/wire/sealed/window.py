"""The replay window: no sequence is taken twice, however frames were delayed, repeated or reordered."""

import numpy as np
from numpy.typing import NDArray

from host_sdk.wire.schema import SEAL_WINDOW

_PLACE = SEAL_WINDOW - 1  # a mask, as the window is a power of two


class ReplayWindow:
    """Which of the last SEAL_WINDOW sequences have been; those behind them count as if they had.

    Attributes:
        highest: The highest sequence that was taken; 0 before the first.
    """

    def __init__(self) -> None:
        self.highest = 0
        self._taken: NDArray[np.bool_] = np.zeros(SEAL_WINDOW, np.bool_)  # by sequence modulo the window

    def fresh(self, sequences: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which sequences have not been, bool [n], each looked at by itself; nothing is taken."""
        known = self._taken[sequences & _PLACE] & (sequences <= self.highest)
        found: NDArray[np.bool_] = ~known & (sequences > max(0, self.highest - SEAL_WINDOW))
        return found

    def is_fresh(self, sequence: int) -> bool:
        """Return :meth:`fresh` of one sequence, from 1."""
        if sequence > self.highest:
            return True
        return sequence > self.highest - SEAL_WINDOW and not self._taken[sequence & _PLACE]

    def take_one(self, sequence: int) -> None:
        """Take one sequence that is fresh."""
        if sequence == self.highest + 1:  # nearly always; its place held one that is outside the window now
            self._taken[sequence & _PLACE], self.highest = True, sequence
        else:
            self.take(np.array([sequence]))

    def take(self, sequences: NDArray[np.int64]) -> None:
        """Take sequences of authentic frames that were found to be fresh together, and no two of which are equal."""
        newest = int(sequences.max())
        if newest > self.highest:
            skipped = np.arange(max(self.highest, newest - SEAL_WINDOW) + 1, newest + 1)
            self._taken[skipped & _PLACE] = False
            self.highest = newest
        self._taken[sequences[sequences > self.highest - SEAL_WINDOW] & _PLACE] = True
