"""The bodies of a flow's requests in a batch of frames: which requests are whole there, and their bytes."""

import numpy as np
from numpy.typing import NDArray

from host_sdk.wire.header import HEADER_DTYPE, Header
from host_sdk.wire.links.base import FrameBatch
from host_sdk.wire.message import batch_crcs, crc_is_right
from host_sdk.wire.records import StridedView
from host_sdk.wire.schema import CRC_SIZE, HEADER_SIZE, Flag

_WORD = 8
_LAST_WORD = HEADER_SIZE - _WORD  # where in a header the word with the fragment begins


class Bodies:
    """What is known beforehand of the frames of a flow's requests.

    Args:
        header: Of any of them.
        size: Bytes of a PDU as it arrives, padding included, where a request has one.
        largest: Requests of which bodies are taken at once.
    """

    def __init__(self, header: Header, size: int, largest: int) -> None:
        self._header, self.fragments = header, header.fragments
        crc = CRC_SIZE if header.flags & Flag.CRC else 0
        full, last = header.fragment_size, self.fragments - 1
        tail = header.length - last * full
        first = np.frombuffer(header.encode(), np.uint8).copy()
        words = np.tile(first[_LAST_WORD:], (self.fragments, 1))
        words[:, :2] = np.arange(self.fragments).astype(">u2")[:, None].view(np.uint8)
        self._pattern = words.tobytes()
        lengths = [full + HEADER_SIZE] * last + [tail + HEADER_SIZE] if last else [size]
        self._lengths = np.array(lengths, np.int64).tobytes()
        self._whole = StridedView(header.length - crc, HEADER_SIZE)
        self._headers, self._crcs = StridedView(HEADER_SIZE), StridedView(CRC_SIZE)
        self._full, self._tail = StridedView(full, HEADER_SIZE), StridedView(tail, HEADER_SIZE)
        if last:
            self._messages: NDArray[np.uint8] = np.zeros((largest, header.length), np.uint8)
            store, row = self._messages.data.cast("B"), (header.length,)
            self._fulls: NDArray[np.void] = np.ndarray((largest, last), self._full.dtype, store, 0, (*row, full))
            self._tails: NDArray[np.void] = np.ndarray((largest,), self._tail.dtype, store, last * full, row)
            self._bodies: NDArray[np.void] = np.ndarray((largest,), self._whole.dtype, store, 0, row)

    def count(self, batch: FrameBatch, words: NDArray[np.uint64]) -> int:
        """Return how many whole requests of the flow, each in the order of its fragments, a batch begins with.

        Args:
            batch: The frames; the first is one of the flow's.
            words: Their headers, uint64 [n, 4].
        """
        count = len(words) // self.fragments
        frames = count * self.fragments
        if not count:
            return 0
        words, size = words[:frames], _WORD * frames
        # Comparing bytes costs a tenth of what the same costs by arrays, where they have left the processor's cache.
        columns, peers = words.T.tobytes(), batch.peers[:frames].tobytes()
        if (
            columns[:size] == columns[:_WORD] * frames
            and columns[2 * size : 3 * size] == columns[2 * size : 2 * size + _WORD] * frames
            and columns[3 * size :] == self._pattern * count
            and peers == peers[:_WORD] * frames
            and batch.lengths[:frames].tobytes() == self._lengths * count
            and (self.fragments == 1 or self._grouped(words[:, 1], count).all())
        ):
            return count
        return self._count_until_odd(batch, words, count)

    def piece(self, batch: FrameBatch, words: NDArray[np.uint64], first: int) -> int:
        """Return how many frames a batch begins with that are a piece of one request, in order; 0 where they are not.

        Args:
            batch: The frames; the first is one of the flow's.
            words: Their headers, uint64 [n, 4].
            first: The first one's fragment.
        """
        frames = min(len(words), self.fragments - first)
        if frames < 1:
            return 0
        columns, peers = words[:frames].T.tobytes(), batch.peers[:frames].tobytes()
        size, chosen = _WORD * frames, slice(_WORD * first, _WORD * (first + frames))
        alike = b"".join(columns[at : at + _WORD] * frames for at in range(0, 3 * size, size))
        same = (
            columns == alike + self._pattern[chosen]
            and peers == peers[:_WORD] * frames
            and batch.lengths[:frames].tobytes() == self._lengths[chosen]
        )
        return frames if same else 0

    def _grouped(self, numbers: NDArray[np.uint64], count: int) -> NDArray[np.bool_]:
        """Return which frames have the number of the first of their request, bool [count, fragments]."""
        rows = numbers.reshape(count, self.fragments)
        same: NDArray[np.bool_] = rows == rows[:, :1]
        return same

    def _count_until_odd(self, batch: FrameBatch, words: NDArray[np.uint64], count: int) -> int:
        frames = len(words)
        differences = words ^ words[0]
        differences[:, 1] = batch.peers[:frames] ^ batch.peers[0]
        differences[:, 3] = words[:, 3] ^ np.tile(np.frombuffer(self._pattern, np.uint64), count)
        odd = differences.any(axis=1)
        odd |= batch.lengths[:frames] != np.tile(np.frombuffer(self._lengths, np.int64), count)
        odd |= ~self._grouped(words[:, 1], count).reshape(-1)
        return int(odd.argmax()) // self.fragments if odd.any() else count

    def of(self, memory: NDArray[np.uint8], starts: NDArray[np.int64]) -> NDArray[np.void]:
        """Return the bodies of requests, void [n], contiguous; good until they are asked for again.

        Args:
            memory: The link's.
            starts: Of the frames of each, int64 [n, fragments].
        """
        count = len(starts)
        if self.fragments == 1:
            bodies = self._whole.of(memory)
            at = int(starts[0, 0])
            return bodies[at : at + 1] if count == 1 else bodies[starts[:, 0]]
        self._fulls[:count] = self._full.of(memory)[starts[:, :-1]]
        self._tails[:count] = self._tail.of(memory)[starts[:, -1]]
        return np.ascontiguousarray(self._bodies[:count])

    def sound(self, memory: NDArray[np.uint8], starts: NDArray[np.int64]) -> bool:
        """Return whether the CRC of every request is right; after :meth:`of`, with the same arguments."""
        count, length = len(starts), self._header.length
        if count == 1 and self.fragments == 1:
            start = int(starts[0, 0])
            return crc_is_right(memory[start : start + HEADER_SIZE + length].tobytes())
        headers = self._headers.of(memory)[starts[:, 0]].view(HEADER_DTYPE)
        if self.fragments > 1:
            memory, begins = self._messages.reshape(-1), np.arange(count) * length
        else:
            begins = starts[:, 0] + HEADER_SIZE
        ends = self._crcs.of(memory)[begins + (length - CRC_SIZE)].view(">u4")
        return bool((batch_crcs(headers, memory, begins, np.full(count, length - CRC_SIZE)) == ends).all())
