"""Who is taken: session, pipeline, size, copies, credit and room are looked at, for a whole batch at once."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from appliance.clock import Clock
from appliance.dataplane.answers import PENDING, ROWS
from appliance.dataplane.copies import Copies
from appliance.dataplane.queue import JOB_DTYPE, NEVER
from appliance.dataplane.refusal import MOST_REFUSED, Refusals
from appliance.dataplane.service import Service
from appliance.dataplane.sessions import SLOT_MASK
from appliance.dataplane.state import State
from appliance.dataplane.table import Loaded
from host_sdk.wire.exchange.states import SlotState
from host_sdk.wire.header import Header, scalar_header
from host_sdk.wire.links.base import SEALED_PEER
from host_sdk.wire.records import StridedView
from host_sdk.wire.schema import CRC_SIZE, HEADER_SIZE, TRAILER, DropReason, Flag, Status

if TYPE_CHECKING:
    from appliance.dataplane.grants import GrantTable

_CRC, _TRAILER, _ONCE, _NEW = int(Flag.CRC), int(Flag.TRAILER), int(Flag.ONCE), int(SlotState.NEW)
_ONCE_CRC = _ONCE | _CRC
_RELEASED = int(SlotState.RELEASED)  # of copies in this state or the one behind it, OUTDATED, nothing is known any more


@dataclass(frozen=True, slots=True)
class Arrivals:
    """INFER requests whose frames are whole and sound: headers HEADER_DTYPE [n] and where their bodies lie."""

    peers: NDArray[np.uint64]
    headers: NDArray[np.void]
    memory: NDArray[np.uint8]
    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    wire_bytes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.peers)

    def take(self, index: NDArray[np.intp] | NDArray[np.bool_]) -> "Arrivals":
        """Return the requests at ``index``."""
        return Arrivals(
            self.peers[index],
            self.headers[index],
            self.memory,
            self.starts[index],
            self.sizes[index],
            self.wire_bytes[index],
        )


Double = tuple[int, Header, int, int]  # peer, header, place, and the id that came to the place before it


class Admitter:
    """Queues requests, or refuses them.

    Args:
        clock: Time.
        state: Sessions, pipelines, answers.
        refusals: For requests that are not taken.
        copies: For copies of those that were.
        service: Whose requests may have to give way.
    """

    def __init__(self, clock: Clock, state: State, refusals: Refusals, copies: Copies, service: Service) -> None:
        self._clock, self._state, self._refusals = clock, state, refusals
        self._copies, self._service = copies, service
        self._sources: dict[int, StridedView] = {}

    def admit(self, arrivals: Arrivals, began: int, now: int) -> None:
        """Take or refuse requests whose first frames arrived at ``began``."""
        known, _ = self._state.sessions.locate(arrivals.headers["session"], arrivals.peers, now)
        if not known.all():
            strangers = arrivals.take(~known)
            self._refusals.batch(strangers.peers, strangers.headers, Status.UNKNOWN_SESSION)
            arrivals = arrivals.take(known)
        slots = arrivals.headers["session"].astype(np.int64) & SLOT_MASK
        bare = (arrivals.headers["flags"] & _ONCE_CRC == _ONCE) & self._state.sessions.checked[slots]
        if bare.any():  # their flag CRC was damaged, which would find the damage
            damaged = arrivals.take(bare)
            self._refusals.batch(damaged.peers, damaged.headers, Status.MALFORMED)
            arrivals, slots = arrivals.take(~bare), slots[~bare]
        arrivals, slots, places, doubles = self._new(arrivals, slots)
        handles = arrivals.headers["pipeline"]
        for handle in sorted(set(handles.tolist())):  # nearly always one; np.unique would first import numpy.ma
            same = np.flatnonzero(handles == handle)
            group = arrivals.take(same)
            loaded = self._state.table.get(handle)
            if loaded is None:
                self._refusals.batch(group.peers, group.headers, Status.UNKNOWN_PIPELINE)
            else:
                self._enqueue(loaded, group, slots[same], places[same], began)
        for peer, header, place, original in doubles:
            if header.request == original:
                self._copies.known(peer, header, place)
            else:  # of another id in the same place, which its requester may not use yet
                self._state.counters.move(DropReason.OUTDATED)

    def _enqueue(
        self, loaded: Loaded, arrivals: Arrivals, slots: NDArray[np.int64], places: NDArray[np.int64], began: int
    ) -> None:
        if self._state.grants:
            arrivals, slots, places = self._entitled(self._state.grants, loaded, arrivals, slots, places)
        size = loaded.pipeline.input_size
        if size is None:
            fits, status = arrivals.sizes <= loaded.pipeline.max_body, Status.TOO_LARGE
        else:
            fits, status = arrivals.sizes == size, Status.WRONG_SIZE
        if not fits.all():
            misfits = arrivals.take(~fits)
            self._refusals.batch(misfits.peers, misfits.headers, status)
            arrivals, slots, places = arrivals.take(fits), slots[fits], places[fits]
        arrivals, slots, places = self._credited(loaded, arrivals, slots, places)
        if len(arrivals):
            self._push(loaded, self._jobs(arrivals, slots, places, began), self._bodies(arrivals, size))

    def _new(
        self, arrivals: Arrivals, slots: NDArray[np.int64]
    ) -> tuple[Arrivals, NDArray[np.int64], NDArray[np.int64], list[Double]]:
        """Answer copies of *once* requests that are known.

        Returns:
            The others, their session slots and places (-1 for *datagram*); and those that came in one batch with
            another of their place, for when that has been taken or refused.
        """
        once = (arrivals.headers["flags"] & _ONCE) != 0
        places = np.full(len(arrivals), -1)
        if not once.any():
            return arrivals, slots, places, []
        answers, ids = self._state.answers, arrivals.headers["request"].astype(np.uint64)
        places[once] = answers.places(slots[once], ids[once])
        states = np.full(len(arrivals), _NEW, np.uint8)
        states[once] = answers.states(places[once], ids[once])
        fresh = states == _NEW
        doubles: list[Double] = []
        index = np.flatnonzero(once & fresh)
        if len(set(places[index].tolist())) < len(index):
            first: dict[int, int] = {}
            for at in index.tolist():
                place = int(places[at])
                if place not in first:
                    first[place] = int(ids[at])
                    continue
                fresh[at] = False
                doubles.append((int(arrivals.peers[at]), scalar_header(arrivals.headers[at]), place, first[place]))
        if fresh.all():
            return arrivals, slots, places, doubles
        gone = states >= _RELEASED  # nothing is sent for these, so that a flood of them costs little
        self._state.counters.move(DropReason.OUTDATED, int(np.count_nonzero(gone)))
        for at in np.flatnonzero((states != _NEW) & ~gone).tolist():
            self._copies.known(int(arrivals.peers[at]), scalar_header(arrivals.headers[at]), int(places[at]))
        return arrivals.take(fresh), slots[fresh], places[fresh], doubles

    def _credited(
        self, loaded: Loaded, arrivals: Arrivals, slots: NDArray[np.int64], places: NDArray[np.int64]
    ) -> tuple[Arrivals, NDArray[np.int64], NDArray[np.int64]]:
        """Take a credit for each, and room to keep its answer; refuse those for whom there is none."""
        if len(arrivals) == 0:
            return arrivals, slots, places
        granted = self._state.sessions.take_credit(slots, self._state.sessions.limits(slots))
        if self._state.grants:
            arrivals, slots, places, granted = self._within_rate(self._state.grants, arrivals, slots, places, granted)
        kept = self._kept(loaded, arrivals, slots, np.where(granted, places, -1))
        if granted.all() and kept.all():
            return arrivals, slots, places
        good = granted & kept
        self._state.sessions.give_back(slots[granted & ~kept])
        over = np.flatnonzero(~granted)[MOST_REFUSED:]
        self._state.counters.move(DropReason.OVER_CREDIT, len(over))
        refused = ~good
        refused[over] = False
        late = arrivals.take(refused)
        self._refusals.batch(late.peers, late.headers, Status.BUSY, loaded.retry_after)
        return arrivals.take(good), slots[good], places[good]

    def _entitled(
        self,
        grants: "GrantTable",
        loaded: Loaded,
        arrivals: Arrivals,
        slots: NDArray[np.int64],
        places: NDArray[np.int64],
    ) -> tuple[Arrivals, NDArray[np.int64], NDArray[np.int64]]:
        """Refuse requests that came in the clear and should not, and those for pipelines not in their grant."""
        plain = (arrivals.peers < SEALED_PEER) & loaded.sealed
        barred = ~grants.allowed(loaded.pipeline.manifest.name)[self._state.sessions.holders[slots]] & ~plain
        for refused, status in ((plain, Status.NOT_SEALED), (barred, Status.NOT_PERMITTED)):
            if refused.any():
                late = arrivals.take(refused)
                self._refusals.batch(late.peers, late.headers, status)
        good = ~(plain | barred)
        return (arrivals, slots, places) if good.all() else (arrivals.take(good), slots[good], places[good])

    def _within_rate(
        self,
        grants: "GrantTable",
        arrivals: Arrivals,
        slots: NDArray[np.int64],
        places: NDArray[np.int64],
        granted: NDArray[np.bool_],
    ) -> tuple[Arrivals, NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        """Refuse those that have credit and are over their tenant's rate; return the others."""
        within, wait = grants.within_rate(self._state.sessions.holders[slots], granted, self._clock.now_ns())
        if within.all():
            return arrivals, slots, places, granted
        self._state.sessions.give_back(slots[~within])
        over = np.flatnonzero(~within)
        self._state.counters.move(DropReason.OVER_RATE, len(over[MOST_REFUSED:]))
        told = over[:MOST_REFUSED]
        late = arrivals.take(told)
        self._refusals.batch(late.peers, late.headers, Status.BUSY, wait[told])
        return arrivals.take(within), slots[within], places[within], granted[within]

    def _kept(
        self, loaded: Loaded, arrivals: Arrivals, slots: NDArray[np.int64], places: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Set room aside to keep the answers of those with a place; return who has it, or needs none, bool [n]."""
        kept, once = np.ones(len(arrivals), np.bool_), places >= 0
        if not once.any():
            return kept
        answers, limits = self._state.answers, self._state.sessions.fragment_sizes[slots[once]]
        longest = HEADER_SIZE + loaded.pipeline.answer_size + TRAILER.size + CRC_SIZE
        kept[once] = answers.admit(slots[once], ROWS[0])  # for a refusal, at least
        if longest <= min(self._state.answer_row, HEADER_SIZE + int(limits.min())):
            flags = arrivals.headers["flags"][once]
            parts = ((flags & _TRAILER) != 0) * TRAILER.size + ((flags & _CRC) != 0) * CRC_SIZE
            for part in sorted(set(parts.tolist())):
                of_size = np.flatnonzero(once)[parts == part]
                kept[of_size] &= answers.admit(slots[of_size], HEADER_SIZE + loaded.pipeline.answer_size + part)
        else:
            for at in np.flatnonzero(once & kept).tolist():
                kept[at] = answers.reserve(int(places[at]), longest)
        return kept

    def _bodies(self, arrivals: Arrivals, size: int | None) -> NDArray[np.void] | list[bytes]:
        if size is None:
            ends = (arrivals.starts + arrivals.sizes).tolist()
            return [
                arrivals.memory[begin:end].tobytes() for begin, end in zip(arrivals.starts.tolist(), ends, strict=True)
            ]
        source = self._sources.setdefault(size, StridedView(size))
        bodies: NDArray[np.void] = source.of(arrivals.memory)[arrivals.starts]
        return bodies

    def _push(self, loaded: Loaded, jobs: NDArray[np.void], bodies: NDArray[np.void] | list[bytes]) -> None:
        most = max(int(self._state.queue_wait_ns / loaded.pace_ns), loaded.pipeline.max_batch)
        admission = loaded.queue.admit(jobs, bodies, most)
        taken = jobs
        if len(admission.refused):
            mask = np.ones(len(jobs), np.bool_)
            mask[admission.refused] = False
            taken = jobs[mask]
        once = taken["answer"] >= 0
        if once.any():
            ids, places = taken["request"][once], taken["answer"][once]
            self._state.answers.take(taken["slot"][once].astype(np.int64), places, ids, PENDING)
        if len(admission.evicted):
            self._state.counters.evicted += len(admission.evicted)
            self._service.refuse(admission.evicted, Status.BUSY, loaded.retry_after)
        if len(admission.refused):
            late = jobs[admission.refused]
            self._state.sessions.give_back(late["slot"])
            for place in late["answer"][late["answer"] >= 0].tolist():
                self._state.answers.unreserve(place)
            self._refusals.batch(late["peer"], late, Status.BUSY, loaded.retry_after)

    def _jobs(
        self, arrivals: Arrivals, slots: NDArray[np.int64], places: NDArray[np.int64], began: int
    ) -> NDArray[np.void]:
        headers, sessions = arrivals.headers, self._state.sessions
        jobs = np.zeros(len(headers), JOB_DTYPE)
        for name in ("request", "session", "flags", "priority"):
            jobs[name] = headers[name]
        jobs["peer"] = arrivals.peers
        jobs["arrival"] = began
        relative = headers["deadline"].astype(np.int64) * 1000
        jobs["deadline"] = np.where(relative > 0, began + relative, NEVER)
        jobs["wire_bytes"] = arrivals.wire_bytes
        jobs["fragment_size"] = sessions.fragment_sizes[slots]
        jobs["rx_ns"] = min(self._clock.now_ns() - began, 0xFFFF_FFFF)
        jobs["slot"], jobs["answer"], jobs["tenant"] = slots, places, sessions.tenants[slots]
        return jobs
