"""The session table: structure of arrays, looked up for a whole batch at once."""

import random
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from appliance.dataplane.ranks import ranks

IDLE_NS = 60_000_000_000  # a session that was quiet for so long makes room for a new one
ACTIVE_NS = 1_000_000_000  # one that was used within this time has a part of what the link can hold
GRANT_NS = 100_000_000  # how long a grant stands before it is thought over
GRACE_NS = 1_000_000_000  # how long more credits than are granted now are good, for those who were told so
SLOT_BITS = 16
PEER_SHARE = 0.5  # part of the table that one peer's sessions may fill
MOST_CREDITS = 255
WHOLE = 100  # per cent
SLOT_MASK = (1 << SLOT_BITS) - 1
_LONG_AGO = -(1 << 62)


@dataclass(frozen=True, slots=True)
class Opening:
    """What an OPEN asks for.

    Attributes:
        peer: Who asks.
        request: Id of the OPEN.
        fragment_size: Largest fragment that the requester takes, bytes.
        fragments: Fragments of answers that may be under way to it unasked.
        tenant: Index in the tenant table.
        holder: Index in the grant table; 0 for who came without a key.
        share: Per cent of a session's credits that it gets.
        resume: Session that it wants to go on with, 0 for none.
        checked: Whether the OPEN had a CRC, so that *once* requests have to have one.
    """

    peer: int
    request: int
    fragment_size: int
    fragments: int = 32
    tenant: int = 0
    resume: int = 0
    holder: int = 0
    share: int = WHOLE
    checked: bool = False


@dataclass(frozen=True, slots=True)
class Opened:
    """A session that an OPEN got.

    Attributes:
        session: Its id.
        slot: Its place in the table.
        base: Id of the OPEN that opened it.
        fresh: Whether it was opened now: what was kept for another session in its slot is of no use any more.
    """

    session: int
    slot: int
    base: int
    fresh: bool


class SessionTable:
    """Open sessions of one appliance.

    A session's id is a random number in its upper bits and its slot in the lower 16, so that lookup is one gather and
    an id of an earlier life of the slot, or of the appliance, does not match. Arrays by slot are [capacity], to be read
    from outside and not to be written.

    Args:
        capacity: Sessions that can be open at once, at most 65535.
        generator: Source of the random part.
        credit: Requests that a session may have outstanding at most.

    Attributes:
        version: Moves on whenever a session ends or changes, so that what was remembered of sessions can be dropped.
        fragment_sizes: Largest fragment that each session's peer takes, uint16.
        reply_fragments: Fragments of answers that may be under way to each peer unasked, uint16.
        tenants: Index of each session's tenant, uint16.
        holders: Index of whom each session's key was granted to, uint16; 0 for none.
        shares: Per cent of the credits that each session gets, uint8.
        checked: Whether each session's *once* requests have to have a CRC, bool.
        outstanding: Requests admitted and not answered, int32.
        granted: Credits that every session is granted now.
        allowed: Requests that a session may have outstanding now: what is granted, or what was until a moment ago.
    """

    def __init__(self, capacity: int, generator: random.Random, credit: int = MOST_CREDITS) -> None:
        self._generator = generator
        self._ids = np.zeros(capacity, np.uint32)
        self._peers = np.zeros(capacity, np.uint64)
        self._bases = np.zeros(capacity, np.uint64)
        self._used = np.full(capacity, _LONG_AGO)
        self.fragment_sizes = np.zeros(capacity, np.uint16)
        self.reply_fragments = np.zeros(capacity, np.uint16)
        self.tenants = np.zeros(capacity, np.uint16)
        self.holders = np.zeros(capacity, np.uint16)
        self.shares = np.full(capacity, WHOLE, np.uint8)
        self.checked = np.zeros(capacity, np.bool_)
        self.outstanding = np.zeros(capacity, np.int32)
        self._free = np.zeros(capacity, np.uint16)  # a stack
        self._free_count = 0
        self._fresh = 0  # slots below were taken once
        self._credit = self.granted = self.allowed = credit
        self._thought_at = self._allowed_until = _LONG_AGO
        self.version = 0

    def __len__(self) -> int:
        return self._fresh - self._free_count

    @property
    def bytes_per_session(self) -> int:
        """Bytes that every slot of the table takes, used or not."""
        return sum(array.itemsize for array in vars(self).values() if isinstance(array, np.ndarray))

    # ---- opening and ending --------------------------------------------------------------------------------------

    def open(self, opening: Opening, now: int) -> Opened | None:
        """Open a session, or find the one that the same request opened before, or that it resumes.

        A peer that has its share of the table gets another only in place of an idle one of its own.

        Returns:
            The session; None when every slot is in use and none is idle.
        """
        taken = slice(0, self._fresh)
        own = np.flatnonzero((self._peers[taken] == opening.peer) & (self._ids[taken] != 0))
        again = own[self._bases[own] == np.uint64(opening.request)]
        if len(again):
            return self._found(int(again[0]), now)
        resumed = own[self._ids[own] == np.uint32(opening.resume & 0xFFFF_FFFF)] if opening.resume else own[:0]
        if len(resumed):
            slot = int(resumed[0])
            self._describe(slot, opening)
            self.version += 1
            return self._found(slot, now)
        return self._begin(opening, own, now)

    def _begin(self, opening: Opening, own: NDArray[np.intp], now: int) -> Opened | None:
        """Open a new session for a peer that has those in the slots ``own``."""
        greedy = len(own) >= max(1, int(len(self._ids) * PEER_SHARE))
        slot = self._idle(own, now) if greedy else self._take_slot(now)
        if slot is None:
            return None
        if self._ids[slot]:
            self.version += 1
        self._ids[slot] = (self._generator.randrange(1, 1 << SLOT_BITS) << SLOT_BITS) | slot
        self._peers[slot] = opening.peer
        self._bases[slot] = opening.request
        self._used[slot] = now
        self.outstanding[slot] = 0
        self._describe(slot, opening)
        return self._entry(slot, fresh=True)

    def _describe(self, slot: int, opening: Opening) -> None:
        self.fragment_sizes[slot], self.reply_fragments[slot] = opening.fragment_size, opening.fragments
        self.tenants[slot], self.holders[slot], self.shares[slot] = opening.tenant, opening.holder, opening.share
        self.checked[slot] = opening.checked

    def _found(self, slot: int, now: int) -> Opened:
        self._used[slot] = now
        return self._entry(slot, fresh=False)

    def _entry(self, slot: int, fresh: bool) -> Opened:
        return Opened(int(self._ids[slot]), slot, int(self._bases[slot]), fresh)

    def _take_slot(self, now: int) -> int | None:
        if self._free_count:
            self._free_count -= 1
            return int(self._free[self._free_count])
        if self._fresh < len(self._ids):
            self._fresh += 1
            return self._fresh - 1
        return self._idle(np.arange(len(self._used)), now)

    def _idle(self, slots: NDArray[np.intp], now: int) -> int | None:
        """Return the slot that was quiet for longest, if it was for long enough to give way."""
        oldest = int(slots[self._used[slots].argmin()])
        return oldest if now - int(self._used[oldest]) >= IDLE_NS else None

    def close(self, session: int, peer: int) -> list[int]:
        """Close a session; return its slot, or nothing when the peer did not have it open."""
        slot = session & SLOT_MASK
        if session == 0 or slot >= self._fresh or self._ids[slot] != session or self._peers[slot] != peer:
            return []
        return self._end(np.array([slot]))

    def expire(self, now: int, idle_ns: int) -> list[int]:
        """Close all sessions that were not used for longer than ``idle_ns``; return their slots."""
        taken = slice(0, self._fresh)
        return self._end(np.flatnonzero((self._ids[taken] != 0) & (self._used[taken] < now - idle_ns)))

    def end_all(self, peer: int) -> list[int]:
        """Close all sessions of a peer; return their slots."""
        taken = slice(0, self._fresh)
        return self._end(np.flatnonzero((self._ids[taken] != 0) & (self._peers[taken] == np.uint64(peer))))

    def _end(self, slots: NDArray[np.intp]) -> list[int]:
        if len(slots):
            self.version += 1
            self._ids[slots] = 0
            self._used[slots] = _LONG_AGO
            self._free[self._free_count : self._free_count + len(slots)] = slots
            self._free_count += len(slots)
        return [int(slot) for slot in slots]

    # ---- use -----------------------------------------------------------------------------------------------------

    def touch(self, session: int, now: int) -> None:
        """Mark an open session as used."""
        self._used[session & SLOT_MASK] = now

    def slot(self, session: int) -> int:
        """Return the slot of an open session."""
        return session & SLOT_MASK

    def find(self, session: int, peer: int, now: int) -> bool:
        """Return whether a session is open and the peer's own, and mark it as used if it is."""
        slot = session & SLOT_MASK
        known = session != 0 and slot < self._fresh and self._ids[slot] == session and self._peers[slot] == peer
        if known:
            self._used[slot] = now
        return bool(known)

    def locate(
        self, sessions: NDArray[np.unsignedinteger], peers: NDArray[np.uint64], now: int
    ) -> tuple[NDArray[np.bool_], NDArray[np.uint32]]:
        """Find the sessions of a batch and mark them as used.

        Args:
            sessions: Session ids, [n].
            peers: Who sent each frame, uint64 [n].
            now: ns on the owner's clock.

        Returns:
            Whether each is open and the peer's own, bool [n]; and its slot, uint32 [n], of no meaning where it is not.
        """
        wanted = sessions.astype(np.uint32)
        slots = np.minimum(wanted & np.uint32(SLOT_MASK), np.uint32(len(self._ids) - 1))
        known = (self._ids[slots] == wanted) & (self._peers[slots] == peers) & (wanted != 0)
        self._used[slots[known]] = now
        return known, slots

    def lookup(
        self, sessions: NDArray[np.unsignedinteger], peers: NDArray[np.uint64], now: int
    ) -> tuple[NDArray[np.bool_], NDArray[np.uint16]]:
        """Find the sessions of a batch as :meth:`locate` does, and the fragment size that each peer asked for.

        Returns:
            Whether each is open and the peer's own, bool [n]; and uint16 [n], of no meaning where it is not.
        """
        known, slots = self.locate(sessions, peers, now)
        return known, self.fragment_sizes[slots]

    # ---- credits -------------------------------------------------------------------------------------------------

    def credits_for(self, budget: int, now: int) -> int:
        """Share out what the link can hold among the sessions in use; return, and keep in ``granted``, what each gets.

        Args:
            budget: Requests that the link can hold at once.
            now: ns on the owner's clock; within 100 ms of the last time nothing changes.
        """
        if now - self._thought_at >= GRANT_NS:
            self._thought_at = now
            active = int(np.count_nonzero(self._used[: self._fresh] > now - ACTIVE_NS))
            self.granted = min(self._credit, max(1, budget // max(1, active)))
            if self.granted >= self.allowed or now >= self._allowed_until:
                self.allowed, self._allowed_until = self.granted, now + GRACE_NS
        return self.granted

    def limit(self, slot: int) -> int:
        """Return how many requests one session may have outstanding now."""
        return share_of(self.allowed, int(self.shares[slot]))

    def limits(self, slots: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return :meth:`limit` of several sessions, int64 [n]."""
        found: NDArray[np.int64] = np.maximum(1, self.allowed * self.shares[slots].astype(np.int64) // WHOLE)
        return found

    def take_credit(self, slots: NDArray[np.integer], credit: NDArray[np.int64] | int) -> NDArray[np.bool_]:
        """Count requests as outstanding in their sessions, as far as each has credit for them.

        Args:
            slots: Of the session of each request, [n], in the order of arrival.
            credit: Requests that a session may have outstanding: ``allowed``, or what :meth:`limits` says, [n].

        Returns:
            Which of them there was credit for, bool [n]; the others are not counted.
        """
        within: NDArray[np.bool_] = self.outstanding[slots] + ranks(slots.astype(np.uint16)) < credit
        np.add.at(self.outstanding, slots[within], 1)
        return within

    def give_back(self, slots: NDArray[np.integer]) -> None:
        """Count requests as outstanding no longer, by the slots of their sessions, [n].

        Where a session has ended meanwhile, and left its slot to another, that has not taken what is given back.
        """
        np.subtract.at(self.outstanding, slots, 1)
        self.outstanding[slots] = np.maximum(self.outstanding[slots], 0)


def share_of(credit: int, share: int) -> int:
    """Return so many per cent of some credits, at least one."""
    return max(1, credit * share // WHOLE)
