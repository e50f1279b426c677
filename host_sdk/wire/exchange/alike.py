"""Frames of answers that are alike but for their request and their body: known once, taken by the batch."""

import numpy as np
from numpy.typing import NDArray

from host_sdk.wire.header import TRAILER_DTYPE, Header
from host_sdk.wire.links.base import FrameBatch
from host_sdk.wire.message import crcs_of
from host_sdk.wire.records import StridedView
from host_sdk.wire.schema import CRC_SIZE, HEADER_SIZE, TRAILER, Flag, Status

_UNCOVERED = slice(23, 26)  # credits and fragment, which the CRC covers as 0


class Alike:
    """What is known of answers with status OK, in one frame each, by the header of one of them.

    Attributes:
        header: Of any of them; only request has no meaning.
        has_crc: Whether they end in a CRC.
    """

    def __init__(self, header: Header) -> None:
        self.header = header
        self.has_crc = bool(header.flags & Flag.CRC)
        self._size = HEADER_SIZE + header.length
        self._end = self._size - (CRC_SIZE if self.has_crc else 0)
        self._trailer = self._end - TRAILER.size if header.flags & Flag.TRAILER else self._end
        self._pdus = StridedView(self._size)

    @staticmethod
    def plain(header: Header) -> bool:
        """Return whether an answer is of this kind: status OK, one frame, no extensions, room for its parts."""
        parts = (CRC_SIZE if header.flags & Flag.CRC else 0) + (TRAILER.size if header.flags & Flag.TRAILER else 0)
        return (
            header.status == Status.OK
            and header.fragments == 1
            and not header.flags & Flag.EXTENSION
            and header.length >= parts
        )

    def gather(self, batch: FrameBatch) -> NDArray[np.uint8]:
        """Return a copy of the PDUs, uint8 [n, size]."""
        if len(batch) == 1:
            start = int(batch.starts[0])
            return batch.memory[start : start + self._size].copy().reshape(1, -1)
        records: NDArray[np.uint8] = self._pdus.of(batch.memory)[batch.starts].view(np.uint8).reshape(-1, self._size)
        return records

    def sound(self, pdus: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Return whose CRC is right, bool [n]; changes what the CRC does not cover."""
        pdus[:, _UNCOVERED] = 0
        said = pdus[:, self._end :].copy().view(">u4")[:, 0]
        right: NDArray[np.bool_] = crcs_of(pdus, self._end) == said
        return right

    def bodies(self, pdus: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return a view of the bodies, uint8 [n, size]."""
        return pdus[:, HEADER_SIZE : self._trailer]

    def trailers(self, pdus: NDArray[np.uint8]) -> NDArray[np.void] | None:
        """Return the trailers, TRAILER_DTYPE [n]; None where they have none."""
        if self._trailer == self._end:
            return None
        view: NDArray[np.void] = pdus[:, self._trailer : self._end].copy().view(TRAILER_DTYPE)[:, 0]
        return view


def alike(batch: FrameBatch, words: NDArray[np.uint64]) -> list[NDArray[np.int64]]:
    """Return the indices of frames that are alike but for their request and their body, group by group.

    Args:
        batch: The frames.
        words: Their headers as words, uint64 [n, 4].
    """
    rows = zip(batch.peers.tolist(), batch.lengths.tolist(), words.tolist(), strict=True)
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, (peer, size, row) in enumerate(rows):
        groups.setdefault((peer, size, row[0], row[2], row[3]), []).append(index)
    return [np.array(same) for same in groups.values()]


def all_same(values: NDArray[np.int64] | NDArray[np.uint64]) -> bool:
    """Return whether all of some values, [n] with n at least 1, are equal."""
    return bool((values == values[0]).all())
