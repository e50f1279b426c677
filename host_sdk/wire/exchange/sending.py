"""What one session has to send: new requests as credit, window and fragments allow, and what is to be sent again."""

from collections import deque

import numpy as np
from numpy.typing import NDArray

from host_sdk.wire.exchange.flight import Flight, FrameWriter
from host_sdk.wire.exchange.pace import RoundTrip
from host_sdk.wire.exchange.scoreboard import Scoreboard
from host_sdk.wire.exchange.slots import NEVER, Slots
from host_sdk.wire.exchange.states import REQUEST_RULES, RequestAction, RequestEvent, RequestState
from host_sdk.wire.links.base import FrameBatch

_FIRST_STATE = int(REQUEST_RULES[RequestState.WAITING, RequestEvent.ROOM][1])
_ONLY = np.zeros(1, np.int64)
_GOES_ON = (RequestState.SENT,)  # states in which a request's next fragments are sent
_REPEATS = (RequestState.SENT, RequestState.HELD)  # and those that were sent before


class Sender:
    """Queues of what is to be sent, and the bounds that hold for it.

    Args:
        peer: Whom it is for.
        slots: The requests that have an id.
        round_trip: Retransmission timeout of new requests.
        fragment_trip: And of their fragments, once it is known: how long a whole request takes does not say how soon
            one of its fragments is missed.

    Attributes:
        session: Session of new requests.
        fragment_size: Bytes of a message in one PDU.
        fragments: Fragments that may be under way.
        credits: Requests that may be outstanding.
        whole_only: Whether requests of several fragments wait, for the path's MTU to be known.
        waiting: Flights of which not all requests have an id.
        timer: When something is to be done about a request at the earliest; never later than that, but maybe earlier.
    """

    def __init__(self, peer: int, slots: Slots, round_trip: RoundTrip, fragment_trip: RoundTrip) -> None:
        self.session, self.fragment_size, self.fragments, self.credits = 0, 0, 0, 0
        self.whole_only = False
        self.waiting: deque[Flight] = deque()
        self.timer = NEVER
        self._slots, self._round_trip, self._fragment_trip = slots, round_trip, fragment_trip
        self._writer = FrameWriter(peer)
        self._notices: deque[bytes] = deque()
        self._again: deque[tuple[int, int, NDArray[np.int64]]] = deque()  # slot, id, fragments
        self._unfinished: deque[tuple[int, int]] = deque()  # slot, id of requests with fragments that were never sent
        self._templates: dict[tuple[int, ...], bytes] = {}

    # ---- what has no id yet --------------------------------------------------------------------------------------

    @property
    def unsent(self) -> int:
        """Requests that have no id yet."""
        return sum(flight.count - flight.taken for flight in self.waiting)

    def first_end(self) -> int:
        """Return when the first of them fails; NEVER where there are none."""
        return min((flight.expires for flight in self.waiting), default=NEVER)

    def expire(self, now: int) -> list[Flight]:
        """Give up the flights whose time is over; return them."""
        action, _ = REQUEST_RULES[RequestState.WAITING, RequestEvent.GIVEN_UP]
        over = [flight for flight in self.waiting if flight.expires <= now and action is RequestAction.FAIL_UNSENT]
        for flight in over:
            self.waiting.remove(flight)
        return over

    def drop(self, token: int) -> None:
        """Give up the request with a token, if it has no id yet."""
        for flight in self.waiting:
            for row in np.flatnonzero(flight.tokens[flight.taken :] == token).tolist():
                flight.drop(flight.taken + row)
                if flight.taken == flight.count:
                    self.waiting.remove(flight)
                return

    # ---- what is to be sent --------------------------------------------------------------------------------------

    def notify(self, pdu: bytes) -> None:
        """Queue a notice; one that is queued already is sent once."""
        if pdu not in self._notices:
            self._notices.append(pdu)

    def repeat(self, slot: int, fragments: NDArray[np.int64]) -> None:
        """Queue fragments of a request that were sent before, or its last one."""
        self._again.append((slot, int(self._slots.ids[slot]), fragments))

    def go_on(self, slot: int) -> None:
        """Queue the fragments of a request that were never sent."""
        self._unfinished.append((slot, int(self._slots.ids[slot])))

    def wake(self, slot: int, due: int) -> None:
        """Have something done about a request at a time, or at its end if that is earlier."""
        wake = min(due, int(self._slots.expires[slot]))
        self._slots.wakes[slot] = wake
        self.timer = min(self.timer, wake)

    def pace(self, slot: int, now: int) -> None:
        """Set the timeout of a request of several fragments, parts of which are on their way in either direction."""
        slots, flight = self._slots, self._slots.flights[slot]
        if not flight.once and slots.upto[slot] >= flight.fragments:
            # Nobody says that it is worked on, and to ask too early means to send it all again.
            took = now - int(slots.began[slot])
            slots.rtos[slot] = max(self._round_trip.rto_ns, 2 * took)
        elif self._fragment_trip.smoothed_ns is not None:
            slots.rtos[slot] = self._fragment_trip.rto_ns
        self.wake(slot, now + int(slots.rtos[slot]))

    def forget(self) -> None:
        """Drop all that is queued."""
        for queue in (self._notices, self._again, self._unfinished):
            queue.clear()
        self._templates.clear()

    def widen(self, fragment_size: int) -> None:
        """Send new requests in fragments of another size, and such as need several, too."""
        if self.fragment_size != fragment_size:
            self._templates.clear()
        self.fragment_size, self.whole_only = fragment_size, False

    def room(self, flight: Flight) -> int:
        """Return how many more requests of a flight may be sent now, at least in part."""
        slots = self._slots
        places = self.fragments - slots.carried
        if flight.fragments > 1:
            places = 0 if places < min(2, self.fragments) else -(-places // flight.fragments)
        return min(self.credits - slots.outstanding, places, slots.free(once=flight.once))

    @property
    def has_work(self) -> bool:
        """Whether there is something that may be sent now."""
        if self._notices or self._again:
            return True
        while self._unfinished:
            slot, number = self._unfinished[0]
            if self._is_in(_GOES_ON, slot, number) and self._slots.upto[slot] < self._slots.bounds[slot]:
                return len(self._next(slot)) > 0
            self._unfinished.popleft()
        return bool(self.waiting) and self._ready() and self.room(self.waiting[0]) > 0

    def write(self, buffers: FrameBatch, now: int) -> int:
        """Write PDUs into buffers; return how many."""
        at = 0
        while self._notices and at < len(buffers):
            self._writer.one(self._notices.popleft(), buffers, at)
            at += 1
        while self._again and at < len(buffers):
            at = self._write_again(buffers, at, now)
        while at < len(buffers) and self.has_work:
            at = self._write_unfinished(buffers, at, now) if self._unfinished else self._write_new(buffers, at, now)
        return at

    # ---- again ---------------------------------------------------------------------------------------------------

    def _is_in(self, states: tuple[RequestState, ...], slot: int, number: int) -> bool:
        return int(self._slots.ids[slot]) == number and int(self._slots.states[slot]) in states

    def _write_again(self, buffers: FrameBatch, at: int, now: int) -> int:
        """Send the first of the fragments that are to be sent again; where there is no place for them, not now."""
        slot, number, which = self._again.popleft()
        if not self._is_in(_REPEATS, slot, number):
            return at
        slots = self._slots
        slots.sent[slot] = now
        flight, row, carried = slots.flights[slot], int(slots.rows[slot]), int(slots.under_way[slot])
        last = flight.fragments - 1
        if last == 0:
            if self._take_places(slot, 1 - carried):
                self._writer.one(flight.pdu(row), buffers, at)
                at += 1
            return at
        board = flight.board(row)
        which = which[(board.sent(which) & (which < slots.bounds[slot])) | (which == last)]
        if len(which) and which[-1] == last and not board.sent(which[-1:])[0]:  # else it takes a place already
            self._withdraw(slot, board)
            if not self._take_places(slot, 0 if slots.held[slot] else 1):
                which = board.under_way()
            else:
                slots.held[slot] = False
                board.send(which[-1:], now)
        chosen = which[: len(buffers) - at]
        if not len(chosen):
            return at
        self._writer.fragments(flight, row, chosen, buffers, at)
        board.send(chosen, now)
        if len(chosen) < len(which):
            self._again.appendleft((slot, number, which[len(chosen) :]))
        return at + len(chosen)

    def _withdraw(self, slot: int, board: Scoreboard) -> None:
        """Give back the places of fragments whose receiver now wants none from so far on: their timeout has passed."""
        slots = self._slots
        board.withdraw(int(slots.bounds[slot]))
        slots.carry(slot, len(board.under_way()) + int(slots.held[slot]))
        slots.upto[slot] = board.first_unsent()

    def _take_places(self, slot: int, more: int) -> bool:
        """Take places for more fragments of a request; return whether there are as many."""
        slots = self._slots
        if more > max(0, self.fragments - slots.carried):
            return False
        slots.carry(slot, int(slots.under_way[slot]) + more)
        return True

    # ---- on ------------------------------------------------------------------------------------------------------

    def _next(self, slot: int) -> NDArray[np.int64]:
        """Return the fragments of a request that may be sent for the first time now, int64 [n], ascending.

        A place is held for its last one from the beginning, so that it can be sent after the others; what comes last
        always gets an answer.
        """
        slots = self._slots
        flight, bound = slots.flights[slot], int(slots.bounds[slot])
        places, last = self.fragments - slots.carried, flight.fragments - 1
        if last == 0:
            return _ONLY[: max(0, places) if slots.under_way[slot] == 0 else 0]
        board = flight.board(int(slots.rows[slot]))
        unsent = board.last_unsent
        places -= int(unsent and not slots.held[slot])
        if places < 0:
            return _ONLY[:0]
        which: NDArray[np.int64] = board.unsent(bound, places)
        if not unsent or last >= bound:
            return which
        alone = self.fragments == 1 and not len(which)  # there is no other place
        return np.append(which, last) if alone or len(which) == board.left else which

    def _write_unfinished(self, buffers: FrameBatch, at: int, now: int) -> int:
        """Send on the first of the requests that have fragments left, as has_work found that it may be."""
        slots = self._slots
        slot = self._unfinished[0][0]
        which = self._next(slot)[: len(buffers) - at]
        slots.sent[slot] = now
        flight, row = slots.flights[slot], int(slots.rows[slot])
        last = flight.fragments - 1
        if last == 0:
            self._unfinished.popleft()
            slots.carry(slot, 1)
            slots.upto[slot] = 1
            self._writer.one(flight.pdu(row), buffers, at)
            return at + 1
        board, ends = flight.board(row), bool(which[-1] == last)
        unsent = board.last_unsent
        slots.carry(slot, int(slots.under_way[slot]) + len(which) - ends + int(unsent and not slots.held[slot]))
        slots.held[slot] = unsent and not ends
        self._writer.fragments(flight, row, which, buffers, at)
        board.send(which, now)
        slots.upto[slot] = board.first_unsent()
        if not flight.once:
            self.pace(slot, now)
        if slots.upto[slot] >= min(int(slots.bounds[slot]), flight.fragments):
            self._unfinished.popleft()
        return at + len(which)

    # ---- new -----------------------------------------------------------------------------------------------------

    def _ready(self) -> bool:
        """Prepare the first flight that waits; return whether there is a session for it."""
        if not self.fragment_size:
            return False
        flight = self.waiting[0]
        if flight.fragments:
            return True
        if not flight.fits(self.fragment_size):
            if self.whole_only:
                return False
            if parts := flight.split():
                self.waiting.popleft()
                self.waiting.extendleft(reversed(parts))
                flight = parts[0]
        header = flight.header
        key = (flight.length, header.flags, header.pipeline, header.priority, header.deadline)
        template = flight.prepare(self.session, self.fragment_size, self._templates.get(key))
        if len(self._templates) < 256 or key in self._templates:
            self._templates[key] = template
        return True

    def _write_new(self, buffers: FrameBatch, at: int, now: int) -> int:
        """Give requests of the first flight their ids, and send those of one frame; others go on from there."""
        flight, slots = self.waiting[0], self._slots
        whole = flight.fragments == 1
        count = min(flight.count - flight.taken, self.room(flight), len(buffers) - at if whole else 1)
        row = flight.taken
        if count == 1:
            slot = slots.claim_one(once=flight.once)
            flight.number_one(row, int(slots.ids[slot]))
            self._begin_one(slot, flight, row, now)
            if whole:
                self._writer.one(flight.pdu(row), buffers, at)
            else:
                self.go_on(slot)
        else:
            places = slots.claim(count, once=flight.once)
            flight.number(row, slots.ids[places])
            self._begin(places, flight, row, now)
            self._writer.whole(flight, row, count, buffers, at)
        if flight.taken == flight.count:
            self.waiting.popleft()
        return at + count if whole else at

    def _begin_one(self, slot: int, flight: Flight, row: int, now: int) -> None:
        slots, rto = self._slots, self._round_trip.rto_ns
        wake = min(now + rto, flight.expires)
        slots.states[slot] = _FIRST_STATE
        slots.tokens[slot], slots.rows[slot], slots.flights[slot] = flight.tokens[row], row, flight
        slots.expires[slot], slots.rtos[slot], slots.wakes[slot] = flight.expires, rto, wake
        slots.began[slot] = slots.sent[slot] = now
        slots.transmissions[slot] = 1
        slots.need_crc[slot] = flight.has_crc
        slots.bounds[slot] = flight.fragments
        slots.upto[slot] = slots.under_way[slot] = sent = 1 if flight.fragments == 1 else 0
        slots.carried += sent
        self.timer = min(self.timer, wake)

    def _begin(self, places: NDArray[np.int64], flight: Flight, row: int, now: int) -> None:
        """Note that requests of one frame each are sent."""
        slots, rto, count = self._slots, self._round_trip.rto_ns, len(places)
        wake = min(now + rto, flight.expires)
        slots.states[places] = _FIRST_STATE
        slots.tokens[places] = flight.tokens[row : row + count]
        slots.rows[places] = np.arange(row, row + count)
        slots.flights[places] = flight
        slots.expires[places], slots.rtos[places], slots.wakes[places] = flight.expires, rto, wake
        slots.began[places] = slots.sent[places] = now
        slots.need_crc[places] = flight.has_crc
        slots.ones[:, places] = 1
        slots.carried += count
        self.timer = min(self.timer, wake)
