"""Frames that carry fragments of one message, told apart and read by the batch."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import numpy as np
from numpy.typing import NDArray

from host_sdk.wire.header import HEADER_DTYPE, Header, classify_headers, decode_header
from host_sdk.wire.links.base import FrameBatch
from host_sdk.wire.records import StridedViews
from host_sdk.wire.schema import HEADER_SIZE, KNOWN_FLAGS

_OTHERS = np.frombuffer(b"\xff" * 24 + bytes(2) + b"\xff" * 6, np.uint64)  # a header's bits but those of ``fragment``


@dataclass(frozen=True, slots=True)
class Fragments:
    """Sound frames whose headers are alike but for ``fragment``, in the order of their arrival.

    Attributes:
        header: Of any of them.
        indices: Which fragments they carry, int64 [n], in any order, perhaps repeated.
        batch: The frames.
    """

    header: Header
    indices: NDArray[np.int64]
    batch: FrameBatch

    @classmethod
    def single(cls, header: Header, payload: bytes) -> Self:
        """Return one fragment, given its decoded header and what it carries."""
        memory = np.frombuffer(bytes(HEADER_SIZE) + payload, np.uint8)
        batch = FrameBatch(memory, np.zeros(1, np.int64), np.array([len(memory)]), np.zeros(1, np.uint64))
        return cls(header, np.array([header.fragment]), batch)

    def __len__(self) -> int:
        return len(self.indices)

    def after(self, count: int) -> "Fragments":
        """Return those without the first ``count``."""
        return Fragments(self.header, self.indices[count:], self.batch.after(count))

    @property
    def has_last(self) -> bool:
        """Whether the last fragment of the message is among them."""
        return bool((self.indices == self.header.fragments - 1).any())


class FragmentReader:
    """Copies out of links' memories what fragments carry."""

    def __init__(self) -> None:
        self._views = StridedViews(HEADER_SIZE)

    def read(self, fragments: Fragments, at: int, count: int) -> list[NDArray[np.uint8]]:
        """Return what consecutive fragments carry, in order: copies, one or two, each uint8 [bytes].

        Args:
            fragments: The frames.
            at: Index of the first of them that is wanted; those behind it count up.
            count: How many are wanted.
        """
        header, batch = fragments.header, fragments.batch
        size, pieces = header.fragment_size, []
        index = int(fragments.indices[at])
        full = count - int(index + count == header.fragments)
        if full:
            records = self._views.of(batch.memory, size)[batch.starts[at : at + full]]
            pieces.append(records.view(np.uint8))
        if full < count:
            start = int(batch.starts[at + full]) + HEADER_SIZE
            pieces.append(batch.memory[start : start + header.length - (index + full) * size].copy())
        return pieces


def split_runs(words: NDArray[np.uint64], peers: NDArray[np.uint64]) -> list[tuple[int, int]]:
    """Cut a batch where a header differs from the one before it in more than ``fragment``, or the peer does.

    Args:
        words: The headers as words, uint64 [n, 4].
        peers: uint64 [n].

    Returns:
        Index of the first frame of each run, and of the one behind it.
    """
    differs = ((words[1:] ^ words[:-1]) & _OTHERS).any(axis=1) | (peers[1:] != peers[:-1])
    cuts = [0, *(np.flatnonzero(differs) + 1).tolist(), len(words)]
    return list(pairwise(cuts))


def have_several(words: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Return which of some headers, given as words, uint64 [n, 4], are of messages of several fragments, bool [n]."""
    headers = words.view(HEADER_DTYPE)[:, 0]
    several: NDArray[np.bool_] = headers["length"] > headers["fragment_size"]
    return several


def sound_runs(batch: FrameBatch, words: NDArray[np.uint64], smallest: int) -> tuple[list[Fragments], int]:
    """Return the fragments of each message that follow one another in a batch, and how many frames are none.

    Args:
        batch: Frames at least as long as a header.
        words: Their headers as words, uint64 [n, 4].
        smallest: Bytes up to which the link pads its frames.
    """
    headers = words.view(HEADER_DTYPE)[:, 0]
    bad = classify_headers(headers, batch.lengths, smallest) != 0
    bad |= (headers["flags"] & ~np.uint16(KNOWN_FLAGS)) != 0
    if bad.any():
        batch, words = batch.take(~bad), words[~bad]
    found = []
    for begin, end in split_runs(words, batch.peers) if len(words) else ():
        run = batch.after(begin).first(end - begin)
        found.append(Fragments(decode_header(run.pdu(0).data, smallest), indices_of(words[begin:end]), run))
    return found, int(np.count_nonzero(bad))


def indices_of(words: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return ``fragment`` of headers that are given as words, uint64 [n, 4], as int64 [n]."""
    indices: NDArray[np.int64] = words.view(HEADER_DTYPE)[:, 0]["fragment"].astype(np.int64)
    return indices
