"""The requests of one session as arrays over the slots of its window."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from host_sdk.wire.exchange.states import REQUEST_RULES, RequestAction, RequestEvent, RequestState

NEVER = (1 << 63) - 1  # a time that does not come
HIGHEST_BIT = 1 << 63  # in the ids of requests that are not *once*
_DELIVERS: NDArray[np.bool_] = np.array(
    [REQUEST_RULES[state, RequestEvent.ANSWER][0] is RequestAction.DELIVER for state in RequestState]
)
_OPEN: NDArray[np.bool_] = np.array([state is not RequestState.SETTLED for state in RequestState])
_SETTLED, _SENT = int(RequestState.SETTLED), int(RequestState.SENT)


class Slots:
    """What is known of each request that has an id.

    *Once* requests are in the first half of the arrays, at their id modulo window: their ids count up, so that the
    window moves on over those that are settled. Others are in the second half, at any free place, which the low bits of
    their ids name. A slot is taken for as long as its state is not SETTLED.

    Args:
        window: Slots of either half, a power of two.
        following: The first *once* id.
        draw: Gives random bits, for the ids of the others.

    Attributes:
        ids: uint64 [2 * window], of the request in each slot, or the last one.
        states: RequestState values, uint8.
        tokens: What their answers are told by, int64.
        flights: The :class:`~host_sdk.wire.exchange.flight.Flight` of each, object.
        rows: Its row in that, int64.
        wakes: When something is to be done about it by itself: retransmission or end, int64 ns, NEVER.
        expires: When it fails, int64 ns.
        rtos: Its retransmission timeout, int64 ns.
        began: When it was first sent, int64 ns.
        sent: When anything of it was last sent, int64 ns.
        transmissions: Times that it was sent, at least in part, int64.
        under_way: Its fragments that are, one more where a place is held for its last one, int64.
        held: Whether a place is held for its last fragment, bool.
        upto: No fragment before this one is still to be sent for the first time, int64.
        bounds: Fragments from this one on must not be sent, int64.
        need_crc: Whether its answer needs a CRC, bool.
        outstanding: Slots that are taken.
        carried: Fragments under way of all.
    """

    def __init__(self, window: int, following: int, draw: Callable[[int], int]) -> None:
        self.window, self._draw = window, draw
        self._mask, self._bits = window - 1, window.bit_length() - 1
        size = 2 * window
        self.ids: NDArray[np.uint64] = np.zeros(size, np.uint64)
        self.states: NDArray[np.uint8] = np.full(size, _SETTLED, np.uint8)
        self.flights: NDArray[Any] = np.full(size, None, object)
        self.wakes: NDArray[np.int64] = np.full(size, NEVER, np.int64)
        columns: NDArray[np.int64] = np.zeros((10, size), np.int64)
        self.tokens, self.rows, self.expires, self.rtos, self.began, self.sent = columns[:6]
        self.ones = columns[6:]  # what is 1 for a request that was sent once, in one frame
        self.transmissions, self.under_way, self.upto, self.bounds = self.ones
        self.need_crc: NDArray[np.bool_] = np.zeros(size, np.bool_)
        self.held: NDArray[np.bool_] = np.zeros(size, np.bool_)
        self.outstanding = self.carried = 0
        self._first = self._next = following
        self._steps = np.arange(window)

    def settled(self) -> tuple[int, bytes]:
        """Return which *once* requests are settled: up to an id, and in the bitmap of those behind it, what a 1 is at.

        Bit 7 - i % 8 of byte i // 8 is for that id plus 1 plus i; the bitmap ends with the last that is set.
        """
        ring = self.states[(self._first + self._steps[: self._next - self._first]) & self._mask] == _SETTLED
        return self._first - 1, np.packbits(ring).tobytes().rstrip(b"\0")

    def free(self, *, once: bool) -> int:
        """Return how many more requests of a class the window has room for."""
        if once:
            return self.window - (self._next - self._first)
        return int(np.count_nonzero(self.states[self.window :] == _SETTLED))

    def claim(self, count: int, *, once: bool) -> NDArray[np.int64]:
        """Take slots for requests, and give them ids; at most as many as are free."""
        if once:
            numbers = self._next + self._steps[:count]
            slots = numbers & self._mask
            self.ids[slots] = numbers
            self._next += count
        else:
            places = np.flatnonzero(self.states[self.window :] == _SETTLED)[:count]
            high = self._draw(63 - self._bits) << self._bits | HIGHEST_BIT
            slots = places + self.window
            self.ids[slots] = np.uint64(high) | places.astype(np.uint64)
        self.outstanding += count
        return slots

    def claim_one(self, *, once: bool) -> int:
        """Take a slot for one request, and give it an id."""
        if not once:
            return int(self.claim(1, once=False)[0])
        slot = self._next & self._mask
        self.ids[slot] = self._next
        self._next += 1
        self.outstanding += 1
        return slot

    def find(self, number: int) -> int:
        """Return the slot of a request that is not settled; -1 where there is none of this id."""
        slot = number & self._mask | (self.window if number & HIGHEST_BIT else 0)
        return slot if int(self.ids[slot]) == number and int(self.states[slot]) != _SETTLED else -1

    def find_all(self, ids: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the slots of ids, and which of them an answer would be given to the user for."""
        slots = (ids >> 63 << self._bits | ids & self._mask).view(np.int64)
        return slots, (self.ids[slots] == ids) & _DELIVERS[self.states[slots]]

    def taken(self) -> NDArray[np.int64]:
        """Return the slots of all requests that are not settled, those with lower ids first."""
        slots = np.flatnonzero(_OPEN[self.states])
        return slots[np.argsort(self.ids[slots], kind="stable")]

    def of_token(self, token: int) -> int:
        """Return the slot of a request that is not settled, by its token; -1 where there is none."""
        slots = np.flatnonzero((self.tokens == token) & _OPEN[self.states])
        return int(slots[0]) if len(slots) else -1

    def release(self, slots: NDArray[np.int64]) -> None:
        """Settle requests: their slots and credits are free, and nothing of them is under way."""
        self.states[slots] = _SETTLED
        self.wakes[slots] = NEVER
        self.flights[slots] = None
        self.carried -= int(self.under_way[slots].sum())
        self.under_way[slots] = 0
        self.held[slots] = False
        self.outstanding -= len(slots)
        self._advance()

    def release_one(self, slot: int) -> None:
        """Settle one request."""
        self.states[slot] = _SETTLED
        self.wakes[slot] = NEVER
        self.flights[slot] = None
        self.put_down(slot)
        self.outstanding -= 1
        self._advance()

    def carry(self, slot: int, count: int) -> None:
        """Note how many places a request takes now."""
        self.carried += count - int(self.under_way[slot])
        self.under_way[slot] = count

    def put_down(self, slot: int) -> None:
        """Note that nothing of a request is under way."""
        self.carry(slot, 0)
        self.held[slot] = False

    def _advance(self) -> None:
        """Move the window on over what is settled."""
        if self.outstanding == 0:
            self._first = self._next
        elif self._first < self._next and int(self.states[self._first & self._mask]) == _SETTLED:
            ring = self.states[(self._first + self._steps[: self._next - self._first]) & self._mask]
            still = np.flatnonzero(ring != _SETTLED)
            self._first = self._first + int(still[0]) if len(still) else self._next

    def sent_before(self, time: int) -> NDArray[np.int64]:
        """Return the slots of *once* requests of which nothing is known but that they were sent, before a time."""
        half = self.window
        found: NDArray[np.int64] = np.flatnonzero((self.states[:half] == _SENT) & (self.sent[:half] < time))
        return found

    def next_wake(self) -> int:
        """Return the earliest of all wakes."""
        return int(self.wakes.min())
