"""Records of one size anywhere in a link's memory, taken and put by their starts in one operation."""

import numpy as np
from numpy.typing import NDArray

_MOST_SIZES = 256  # that are remembered; a flood of others is learnt anew, the common ones with them


class StridedView:
    """A memory as overlapping records: one at every byte where a whole one fits.

    Args:
        size: Bytes of a record.
        offset: Bytes from a start to its record.

    Attributes:
        dtype: The record, void of its size.
    """

    def __init__(self, size: int, offset: int = 0) -> None:
        self.dtype = np.dtype((np.void, size))
        self._offset = offset
        self._memory: NDArray[np.uint8] | None = None
        self._records: NDArray[np.void] = np.empty(0, self.dtype)

    def of(self, memory: NDArray[np.uint8]) -> NDArray[np.void]:
        """Return the records of a memory, uint8 [m]; indexed by starts they are gathered or scattered.

        The view of the last memory is kept, since a link has one or two for its whole life.
        """
        if memory is not self._memory:
            count = max(0, len(memory) - self._offset - self.dtype.itemsize + 1)
            self._records = np.ndarray((count,), self.dtype, memory.data, self._offset, (1,))
            self._memory = memory
        return self._records


class StridedViews:
    """Views of one memory for records of several sizes.

    Args:
        offset: Bytes from a start to its record.
    """

    def __init__(self, offset: int = 0) -> None:
        self._offset = offset
        self._views: dict[int, StridedView] = {}

    def of(self, memory: NDArray[np.uint8], size: int) -> NDArray[np.void]:
        """Return the records of ``size`` bytes of a memory, as :meth:`StridedView.of` does."""
        view = self._views.get(size)
        if view is None:
            if len(self._views) >= _MOST_SIZES:
                self._views.clear()
            view = self._views[size] = StridedView(size, self._offset)
        return view.of(memory)
