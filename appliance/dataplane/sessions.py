"""The session table: structure of arrays, looked up for a whole batch at once."""

import random

import numpy as np
from numpy.typing import NDArray

IDLE_NS = 60_000_000_000  # a session that was quiet for so long makes room for a new one
SLOT_BITS = 16
PEER_SHARE = 0.5  # part of the table that one peer's sessions may fill


class SessionTable:
    """Open sessions of one appliance.

    A session's id is a random number in its upper bits and its slot in the lower 16, so that lookup is one gather and
    an id of an earlier life of the slot, or of the appliance, does not match.

    Args:
        capacity: Sessions that can be open at once, at most 65535.
        generator: Source of the random part.

    Attributes:
        version: Moves on whenever a session ends, so that what was remembered of sessions can be dropped.
    """

    def __init__(self, capacity: int, generator: random.Random) -> None:
        self._generator = generator
        self._ids = np.zeros(capacity, np.uint32)
        self._peers = np.zeros(capacity, np.uint64)
        self._requests = np.zeros(capacity, np.uint64)
        self._fragment_sizes = np.zeros(capacity, np.uint16)
        self._used = np.zeros(capacity, np.int64)
        self._fresh = 0  # slots below were taken once
        self._free: list[int] = []
        self.version = 0

    def __len__(self) -> int:
        return self._fresh - len(self._free)

    def open(self, peer: int, request: int, fragment_size: int, now: int) -> int | None:
        """Open a session, or find the one that the same request opened before.

        A peer that has its share of the table gets another only in place of an idle one of its own.

        Returns:
            Its id; None when every slot is in use and none is idle.
        """
        taken = slice(0, self._fresh)
        own = np.flatnonzero((self._peers[taken] == peer) & (self._ids[taken] != 0))
        again = own[self._requests[own] == request]
        if len(again):
            return int(self._ids[again[0]])
        greedy = len(own) >= max(1, int(len(self._ids) * PEER_SHARE))
        slot = self._idle(own, now) if greedy else self._take_slot(now)
        if slot is None:
            return None
        if self._ids[slot]:
            self.version += 1
        self._ids[slot] = (self._generator.randrange(1, 1 << SLOT_BITS) << SLOT_BITS) | slot
        self._peers[slot], self._requests[slot] = peer, request
        self._fragment_sizes[slot], self._used[slot] = fragment_size, now
        return int(self._ids[slot])

    def _take_slot(self, now: int) -> int | None:
        if self._free:
            return self._free.pop()
        if self._fresh < len(self._ids):
            self._fresh += 1
            return self._fresh - 1
        return self._idle(np.arange(len(self._used)), now)

    def _idle(self, slots: NDArray[np.intp], now: int) -> int | None:
        """Return the slot that was quiet for longest, if it was for long enough to give way."""
        oldest = int(slots[self._used[slots].argmin()])
        return oldest if now - int(self._used[oldest]) >= IDLE_NS else None

    def close(self, session: int, peer: int) -> bool:
        """Close a session; return whether the peer had it open."""
        slot = session & ((1 << SLOT_BITS) - 1)
        if session == 0 or slot >= self._fresh or self._ids[slot] != session or self._peers[slot] != peer:
            return False
        self._ids[slot] = 0
        self.version += 1
        self._used[slot] = 0
        self._free.append(slot)
        return True

    def touch(self, session: int, now: int) -> None:
        """Mark an open session as used."""
        self._used[session & ((1 << SLOT_BITS) - 1)] = now

    def lookup(
        self, sessions: NDArray[np.unsignedinteger], peers: NDArray[np.uint64], now: int
    ) -> tuple[NDArray[np.bool_], NDArray[np.uint16]]:
        """Find the sessions of a batch and mark them as used.

        Args:
            sessions: Session ids, [n].
            peers: Who sent each frame, uint64 [n].
            now: ns on the owner's clock.

        Returns:
            Whether each is open and the peer's own, bool [n]; and the fragment size that its peer asked for,
            uint16 [n], of no meaning where it is not.
        """
        wanted = sessions.astype(np.uint32)
        slots = np.minimum(wanted & np.uint32((1 << SLOT_BITS) - 1), np.uint32(len(self._ids) - 1))
        known = (self._ids[slots] == wanted) & (self._peers[slots] == peers) & (wanted != 0)
        self._used[slots[known]] = now
        return known, self._fragment_sizes[slots]
