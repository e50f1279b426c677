"""The windows of *once* requests: what is known of each id, and the answers that are kept to be given again."""

import mmap
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from host_sdk.wire.exchange.states import SlotState
from host_sdk.wire.header import Header

ROWS = (128, 512, 2048)  # bytes of the rows that answers of one PDU are kept in
LAST_ID = (1 << 64) - 1
SESSION_SHARE = 0.25  # part of the budget that the long answers of one session may take
LONG_OVERHEAD = 512  # bytes that a long answer costs besides its own: objects and a dictionary's entry
# What stands in place of an answer's size.
PENDING, LONG, RELEASED = 0, -1, -2


class _Pool:
    """Rows of one size, one for every place; memory is committed by the session that first uses it."""

    def __init__(self, row: int, sessions: int, window: int) -> None:
        self.row, self.session_bytes = row, window * row
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)  # there since 3.13
        self._map = mmap.mmap(-1, sessions * window * row, flags)
        self._memory: NDArray[np.uint8] = np.frombuffer(self._map, np.uint8)
        self.rows = self._memory.reshape(-1, row)
        self._views: dict[int, NDArray[np.void]] = {}

    def records(self, size: int) -> NDArray[np.void]:
        """Return the first ``size`` bytes of every row, void [places]."""
        view = self._views.get(size)
        if view is None:
            count, dtype = len(self._memory) // self.row, np.dtype((np.void, size))
            view = self._views[size] = np.ndarray((count,), dtype, self._memory.data, 0, (self.row,))
        return view

    def release(self, slot: int) -> None:
        """Give the memory of a session's rows back."""
        if self.session_bytes % mmap.PAGESIZE == 0:
            self._map.madvise(mmap.MADV_DONTNEED, slot * self.session_bytes, self.session_bytes)


@dataclass(frozen=True, slots=True)
class LongAnswer:
    """An answer that needs fragments or is longer than a row: their header, and its bytes, uint8 [length]."""

    header: Header
    payload: NDArray[np.uint8]

    @property
    def cost(self) -> int:
        """Bytes that it is charged with."""
        return len(self.payload) + LONG_OVERHEAD


class AnswerWindows:
    """One window for each slot of a session table, as arrays over all of them.

    A *place* is the index of an id's slot in these arrays: session slot · window + id mod window. What is decided by
    the state of a place stands in :data:`host_sdk.wire.exchange.states.SLOT_RULES`.

    Memory is taken from the system as sessions use it. An answer of one PDU is kept in a row of the smallest size that
    it fits; the first of its size in a session is charged with all the rows that the session can come to use. What is
    longer than any row, or needs fragments, is charged by itself.

    Args:
        sessions: Sessions that can be open at once.
        window: Ids of a session that can be unsettled, a power of two.
        budget: Bytes that all kept answers may take.

    Attributes:
        ids: The id that each place holds, uint64 [places]; 0 is none.
        sizes: Bytes of the answer there, int32 [places], or one of the constants of this module.
        held: Bytes that are charged.
    """

    def __init__(self, sessions: int, window: int, budget: int) -> None:
        self.window = window
        self.ids: NDArray[np.uint64] = np.zeros(sessions * window, np.uint64)
        self.sizes: NDArray[np.int32] = np.zeros(sessions * window, np.int32)
        self.held = 0
        self._mask = np.uint64(window - 1)
        self._budget = budget
        self._pools = [_Pool(row, sessions, window) for row in ROWS]
        self._charged: NDArray[np.uint8] = np.zeros(sessions, np.uint8)  # bit i: for the rows of pool i
        self._used: NDArray[np.bool_] = np.zeros(sessions, np.bool_)
        self._long: dict[int, LongAnswer] = {}
        self._reserved: dict[int, int] = {}  # by place: room for long answers that are on their way

    def session_bytes(self, size: int) -> int:
        """Return the bytes of one session's window whose answers are PDUs of ``size`` bytes."""
        return self.window * (self._pool(size).row + self.ids.itemsize + self.sizes.itemsize)

    def _pool(self, size: int) -> _Pool:
        for pool in self._pools:
            if size <= pool.row:
                return pool
        raise ValueError(f"no row holds {size} bytes")

    # ---- looking up ----------------------------------------------------------------------------------------------

    def places(self, slots: NDArray[np.int64] | int, ids: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the place of each id, int64 [n]; slots are those of the sessions, or of the only one."""
        places: NDArray[np.int64] = slots * self.window + (ids & self._mask).astype(np.int64)
        return places

    def place(self, slot: int, number: int) -> int:
        """Return the place of one id."""
        return slot * self.window + number % self.window

    def fresh(self, slot: int, ids: NDArray[np.uint64]) -> NDArray[np.int64] | None:
        """Return the places of ids of a session that are all new, and count up; None where they are not."""
        first, last = int(ids[0]), int(ids[-1])
        begin = slot * self.window + first % self.window
        if last - first != len(ids) - 1 or begin + len(ids) > (slot + 1) * self.window:
            places = self.places(slot, ids)
            ascending = len(ids) == 1 or bool((ids[1:] > ids[:-1]).all())
            new = ascending and last - first < self.window and bool((self.ids[places] < ids).all())
            return places if new else None
        places = np.arange(begin, begin + len(ids))
        held = self.ids[begin : begin + len(ids)]
        return places if bool((held < ids).all()) and bool((ids[1:] > ids[:-1]).all()) else None

    def states(self, places: NDArray[np.int64], ids: NDArray[np.uint64]) -> NDArray[np.uint8]:
        """Return the SlotState of each id, uint8 [n]."""
        held, sizes = self.ids[places], self.sizes[places]
        states = np.full(len(places), SlotState.NEW, np.uint8)
        states[held > ids] = SlotState.OUTDATED
        same = held == ids
        if same.any():
            states[same & (sizes == PENDING)] = SlotState.PENDING
            states[same & ((sizes > 0) | (sizes == LONG))] = SlotState.ANSWERED
            states[same & (sizes == RELEASED)] = SlotState.RELEASED
        return states

    def state(self, place: int, number: int) -> SlotState:
        """Return the SlotState of one id."""
        held, size = int(self.ids[place]), int(self.sizes[place])
        if held != number:
            return SlotState.OUTDATED if held > number else SlotState.NEW
        special = {PENDING: SlotState.PENDING, RELEASED: SlotState.RELEASED}
        return special.get(size, SlotState.ANSWERED)

    def highest(self, slot: int) -> int:
        """Return the highest id that a session's window has seen, 0 where there is none."""
        return int(self.ids[slot * self.window : (slot + 1) * self.window].max()) if self._used[slot] else 0

    # ---- requests taken and left ---------------------------------------------------------------------------------

    def admit(self, slots: NDArray[np.int64], size: int) -> NDArray[np.bool_]:
        """Set room aside for answers that are PDUs of ``size`` bytes, at most those of the longest row.

        Returns:
            Whether there is room in each request's session, bool [n].
        """
        index = next(index for index, row in enumerate(ROWS) if size <= row)
        bit = np.uint8(1 << index)
        ready: NDArray[np.bool_] = (self._charged[slots] & bit) != 0
        if ready.all():
            return ready
        for slot in sorted(set(slots[~ready].tolist())):  # at most once in the life of a session
            cost = self._pools[index].session_bytes
            if self.held + cost <= self._budget:
                self.held += cost
                self._charged[slot] |= bit
        charged: NDArray[np.bool_] = np.not_equal(self._charged[slots] & bit, 0)
        return charged

    def reserve(self, place: int, size: int) -> bool:
        """Set room aside for one answer that is longer than any row; return whether there was any."""
        cost, begin = size + LONG_OVERHEAD, place - place % self.window
        own = range(begin, begin + self.window)
        mine = sum(self._long[at].cost if at in self._long else self._reserved.get(at, 0) for at in own)
        if self.held + cost > self._budget or mine + cost > max(cost, self._budget * SESSION_SHARE):
            return False
        self._give_back(place)
        self._reserved[place] = cost
        self.held += cost
        return True

    def unreserve(self, place: int) -> None:
        """Give back what was set aside for an answer that will not come."""
        self.held -= self._reserved.pop(place, 0)

    def take(self, slots: NDArray[np.int64], places: NDArray[np.int64], ids: NDArray[np.uint64], size: int) -> None:
        """Give places to new ids; what they held is forgotten. ``size`` is PENDING."""
        self._used[slots] = True
        if self._long:
            for place in self._long.keys() & set(places.tolist()):
                self._give_back(place)
        self.ids[places] = ids
        self.sizes[places] = size

    def take_one(self, slot: int, place: int, number: int, size: int) -> None:
        """Give a place to a new id, as :meth:`take` does."""
        if self._long:
            self._give_back(place)
        self._used[slot] = True
        self.ids[place] = number
        self.sizes[place] = size

    def leave(self, places: NDArray[np.int64], ids: NDArray[np.uint64]) -> None:
        """Make as if ids had not been taken: a copy is new, and one of the id that was there before is outdated."""
        same = self.ids[places] == ids
        places, ids = places[same], ids[same]
        self.ids[places] = ids - np.uint64(1)  # that id has another place, and so is never found here
        self.sizes[places] = RELEASED
        for place in self._reserved.keys() & set(places.tolist()) if self._reserved else ():
            self._give_back(place)

    # ---- answers kept and given again ----------------------------------------------------------------------------

    def keep(self, places: NDArray[np.int64], ids: NDArray[np.uint64], pdus: NDArray[np.void]) -> None:
        """Keep answers of one size that was admitted, records [n]; not those whose ids were overtaken."""
        same = self.ids[places] == ids
        if not same.all():
            places, pdus = places[same], pdus[same]
        size = pdus.dtype.itemsize
        records = self._pool(size).records(size)
        records[places] = pdus.view(records.dtype)
        self.sizes[places] = size
        if self._reserved:  # for a long answer that did not come: it was cancelled, or failed
            for place in self._reserved.keys() & set(places.tolist()):
                self.unreserve(place)

    def keep_one(self, place: int, number: int, header: Header, payload: NDArray[np.uint8]) -> None:
        """Keep one answer of any length: its header, and its message's bytes, which stay as they are."""
        if int(self.ids[place]) != number:
            return
        self._give_back(place)
        answer = self._long[place] = LongAnswer(header, payload)
        self.held += answer.cost
        self.sizes[place] = LONG

    def record(self, slot: int, places: NDArray[np.int64], ids: NDArray[np.uint64], pdus: NDArray[np.void]) -> None:
        """Take ids of one session and keep their answers, both at once: for requests that are answered on arrival."""
        if self._long:
            self.take(np.full(1, slot), places, ids, PENDING)
        self._used[slot] = True
        self.ids[places] = ids
        size = pdus.dtype.itemsize
        self._pool(size).records(size)[places] = pdus
        self.sizes[places] = size

    def record_one(self, slot: int, place: int, number: int, pdu: NDArray[np.uint8]) -> None:
        """Take one id and keep its answer, uint8 [PDU], as :meth:`record` does."""
        if self._long:
            self._give_back(place)
        self._used[slot] = True
        self.ids[place] = number
        size = len(pdu)
        self._pool(size).rows[place, :size] = pdu
        self.sizes[place] = size

    def kept(self, place: int) -> bytes | LongAnswer:
        """Return the answer at a place whose state is ANSWERED: its PDU, or a long one."""
        size = int(self.sizes[place])
        return self._long[place] if size == LONG else self._pool(size).records(size)[place].tobytes()

    def settle(self, slot: int, upto: int, bitmap: bytes = b"") -> None:
        """Release the answers to all ids of a session up to one, and to those behind it whose bits are set."""
        if not self._used[slot]:
            return
        begin, end = slot * self.window, (slot + 1) * self.window
        ids, sizes = self.ids[begin:end], self.sizes[begin:end]
        named = ids <= np.uint64(upto)
        bits = np.unpackbits(np.frombuffer(bitmap, np.uint8)).astype(np.bool_)
        behind = ids - np.uint64(min(upto, LAST_ID - 1) + 1)
        within = np.flatnonzero(~named & (behind < len(bits)))
        named[within] = bits[behind[within].astype(np.int64)]
        done = named & ((sizes > 0) | (sizes == LONG))
        sizes[done] = RELEASED
        for place in self._long.keys() & set((np.flatnonzero(done) + begin).tolist()) if self._long else ():
            self._give_back(place)

    def forget(self, slot: int) -> None:
        """Forget all of a session that has ended, and give its memory back."""
        if not self._used[slot]:
            return
        begin, end = slot * self.window, (slot + 1) * self.window
        for place in [place for place in (*self._long, *self._reserved) if begin <= place < end]:
            self._give_back(place)
        self.ids[begin:end] = 0
        self.sizes[begin:end] = PENDING
        self._used[slot] = False
        for index, pool in enumerate(self._pools):
            if self._charged[slot] & (1 << index):
                self.held -= pool.session_bytes
                pool.release(slot)
        self._charged[slot] = 0

    def _give_back(self, place: int) -> None:
        """Drop a long answer, or one on its way, and what it was charged with."""
        answer = self._long.pop(place, None)
        self.held -= (answer.cost if answer else 0) + self._reserved.pop(place, 0)
