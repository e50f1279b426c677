"""Frames that wait for their time, copied, in a bounded memory."""

from heapq import heappop, heappush

import numpy as np
from numpy.typing import NDArray

from host_sdk.wire.links.base import BURST, EMPTY, FrameBatch, records

_NOT_HELD = -1


class HeldFrames:
    """Frames in the order in which they are due, those due at the same time in the order in which they came.

    Args:
        limit: Frames that are held at most.
        mtu: Bytes of the largest PDU.
    """

    def __init__(self, limit: int, mtu: int) -> None:
        rows = limit + BURST  # a burst is in the owner's hands
        self._mtu = mtu
        self._memory: NDArray[np.uint8] = np.zeros(rows * mtu, np.uint8)
        self._lengths = np.zeros(rows, np.int64)
        self._peers = np.zeros(rows, np.uint64)
        self._free = list(range(rows - 1, -1, -1))
        self._taken: list[int] = []
        self._room = limit
        self._limit = limit
        self._order = 0
        # (due, order, row): an entry whose order is not its row's is stale, the frame went by another one.
        self._heap: list[tuple[int, int, int]] = []
        self._orders = [_NOT_HELD] * rows
        # (passed, order, row, due) of frames held back: the number of the frame behind which they go at the latest.
        self._late: list[tuple[int, int, int, int]] = []
        self._passed = 0

    def __len__(self) -> int:
        return self._limit - self._room

    @property
    def room(self) -> int:
        """Frames that can be added."""
        return self._room

    def next_due(self) -> int | None:
        """Return when the first frame is due; None where none is held."""
        heap = self._heap
        while heap and self._orders[heap[0][2]] != heap[0][1]:
            heappop(heap)
        return heap[0][0] if heap else None

    def add(self, batch: FrameBatch) -> list[int]:
        """Copy frames, no more than there is room for, and return where they are; they need a due time yet."""
        count = len(batch)
        rows = self._free[-count:]
        del self._free[-count:]
        self._room -= count
        width = max(int(batch.lengths.max()), 1)
        at = np.array(rows)
        records(self._memory, width)[at * self._mtu] = records(batch.memory, width)[batch.starts]
        self._lengths[at] = batch.lengths
        self._peers[at] = batch.peers
        return rows

    def flip(self, row: int, bit: int) -> None:
        """Invert one bit of an added frame."""
        self._memory[row * self._mtu + (bit >> 3)] ^= 1 << (bit & 7)

    def schedule(self, row: int, due: int) -> None:
        """Let an added frame go when it is due, in ns, and those that waited for it behind it."""
        self._enter(row, due)
        self._passed += 1
        while self._late and self._late[0][0] <= self._passed:
            _, order, late, latest = heappop(self._late)
            if self._orders[late] == order and due < latest:
                self._enter(late, due)

    def schedule_late(self, row: int, due: int, frames: int) -> None:
        """Let an added frame go behind the next ``frames`` frames, or when it is due, whichever comes first."""
        self._passed += 1
        heappush(self._late, (self._passed + frames, self._enter(row, due), row, due))

    def _enter(self, row: int, due: int) -> int:
        order = self._order
        self._order += 1
        self._orders[row] = order
        heappush(self._heap, (due, order, row))
        return order

    def take(self, now: int | None, count: int) -> FrameBatch:
        """Return up to ``count`` (and BURST) frames that are due at ``now``; None: whenever they are.

        The batch is valid until the next call.
        """
        self._free += self._taken
        rows: list[int] = []
        heap, orders = self._heap, self._orders
        while heap and len(rows) < count and (now is None or heap[0][0] <= now):
            _, order, row = heappop(heap)
            if orders[row] == order:
                orders[row] = _NOT_HELD
                rows.append(row)
        self._taken = rows
        self._room += len(rows)
        if not rows:
            return EMPTY
        at = np.array(rows)
        return FrameBatch(self._memory, at * self._mtu, self._lengths[at], self._peers[at])
