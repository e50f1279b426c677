"""Where requests of many frames land: each fragment is written straight into the row of the queue that it waits in.

Only *once* requests for pipelines that take a tensor land here, whose size is known beforehand; all others go through
the reassembler. A row, and one of the session's credits, is taken by the first fragment that arrives.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from appliance.clock import Clock
from appliance.dataplane.answers import COLLECTING, PENDING, AnswerWindows
from appliance.dataplane.copies import Copies
from appliance.dataplane.queue import JOB_DTYPE, NEVER
from appliance.dataplane.refusal import Refusals
from appliance.dataplane.state import State
from appliance.dataplane.table import Loaded
from host_sdk.wire.exchange.arrived import Arrived
from host_sdk.wire.header import Header
from host_sdk.wire.links.base import FrameBatch
from host_sdk.wire.message import message_crc
from host_sdk.wire.records import StridedView
from host_sdk.wire.schema import (
    CRC_SIZE,
    HEADER_SIZE,
    MIN_MTU,
    DropReason,
    Flag,
    Opcode,
    Status,
)

_SMALLEST_FRAGMENT = MIN_MTU - HEADER_SIZE


@dataclass(frozen=True, slots=True)
class Landed:
    """Requests of one flow that are whole now.

    Attributes:
        rows: Where in the queue's store their bodies are, int64 [n].
        places: Where their answers are kept, int64 [n].
        ids: uint64 [n].
        began: When the first fragment of each arrived, int64 [n].
    """

    rows: NDArray[np.int64]
    places: NDArray[np.int64]
    ids: NDArray[np.uint64]
    began: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, index: slice) -> "Landed":
        """Return some of them."""
        return Landed(self.rows[index], self.places[index], self.ids[index], self.began[index])


NOBODY = Landed(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.uint64), np.empty(0, np.int64))


@dataclass(slots=True)
class _Message:
    """A request of which some fragments have arrived."""

    peer: int
    header: Header
    slot: int
    place: int
    began: int
    news: int = 0  # fragments since the last GRANT


@dataclass(slots=True)
class _Store:
    """The rows of one pipeline's queue that fragments are written to.

    Attributes:
        have: Which fragments of a row have arrived, bool [rows, fragments].
        messages: Unfinished requests by row, oldest first.
        sources: Where fragments are in a link's memory, by their size.
        targets: Where they belong in the rows, by their size.
    """

    loaded: Loaded
    have: NDArray[np.bool_]
    messages: dict[int, _Message] = field(default_factory=dict)
    sources: dict[int, StridedView] = field(default_factory=dict)
    targets: dict[int, NDArray[np.void]] = field(default_factory=dict)

    def write(self, memory: NDArray[np.uint8], starts: NDArray[np.int64], places: NDArray[np.int64], size: int) -> None:
        """Copy fragments of one size from a link's memory to byte offsets in the queue's rows."""
        if size not in self.sources:
            rows = self.loaded.queue.store
            self.sources[size] = StridedView(size, HEADER_SIZE)
            dtype = np.dtype((np.void, size))
            self.targets[size] = np.ndarray((rows.size - size + 1,), dtype, rows.data, 0, (1,))
        self.targets[size][places] = self.sources[size].of(memory)[starts]


class Landing:
    """Collects the requests of many frames of all pipelines.

    Args:
        clock: Time of arrivals.
        state: Sessions, answers, counters.
        refusals: For requests that find no room.
        copies: What copies of requests that are known get.
        smallest: Bytes up to which the link pads its frames.
    """

    def __init__(self, clock: Clock, state: State, refusals: Refusals, copies: Copies, smallest: int) -> None:
        self._clock, self._state, self._refusals, self._copies = clock, state, refusals, copies
        self._smallest = smallest
        self._stores: dict[int, _Store] = {}
        self._rows: NDArray[np.int32] = np.zeros(len(state.answers.ids), np.int32)  # by place, while it is COLLECTING

    @property
    def _answers(self) -> AnswerWindows:
        return self._state.answers

    def __len__(self) -> int:
        return sum(len(store.messages) for store in self._stores.values())

    def scatter(
        self, header: Header, slot: int, loaded: Loaded, batch: FrameBatch, words: NDArray[np.uint64], now: int
    ) -> Landed | None:
        """Take a run of frames of one flow; return the requests that are whole by it.

        They are for :meth:`queue`, or for who answers them and says so by :meth:`answered`. None where not every frame
        is sound: then none is taken. Else all are: taken, answered or dropped.

        Args:
            header: Of any of them; all are alike but for request and fragment.
            slot: The session's.
            loaded: The pipeline.
            batch: The frames.
            words: Their headers, uint64 [n, 4].
            now: When they arrived.
        """
        lengths = batch.lengths - HEADER_SIZE
        fragments = (words[:, 3].byteswap() >> np.uint64(48)).astype(np.int64)
        tails = fragments == header.fragments - 1
        tail_size = header.length - (header.fragments - 1) * header.fragment_size
        expected = np.where(tails, tail_size, header.fragment_size)
        if (fragments >= header.fragments).any() or (lengths != expected).any():
            padded = (lengths > expected) & (batch.lengths <= self._smallest)
            if (fragments >= header.fragments).any() or ((lengths != expected) & ~padded).any():
                return None  # the general path says what is wrong with which
        counters = self._state.counters
        counters.frames(np.zeros(len(batch), np.uint8))
        store = self._store(loaded)
        ids = words[:, 1].byteswap()
        places = self._answers.places(np.full(len(ids), slot), ids)
        going = (self._answers.ids[places] == ids) & (self._answers.sizes[places] == COLLECTING)
        if not going.all():
            going = self._begin(store, header, slot, int(batch.peers[0]), ids, places, going, now)
            if not going.any():
                return NOBODY
            taken = np.flatnonzero(going)
            fragments, places, tails = fragments[taken], places[taken], tails[taken]
            starts = batch.starts[taken]
        else:
            starts = batch.starts
        self._state.sessions.touch(header.session, now)
        rows = self._rows[places].astype(np.int64)
        done = self._write(store, header, batch.memory, starts, rows, fragments, tails)
        return self._whole(store, header, done) if done else NOBODY

    def _store(self, loaded: Loaded) -> _Store:
        handle = loaded.pipeline.handle
        store = self._stores.get(handle)
        if store is None:
            most = -(-loaded.queue.store.shape[1] // _SMALLEST_FRAGMENT)
            store = self._stores[handle] = _Store(loaded, np.zeros((loaded.queue.depth, most), np.bool_))
        return store

    def _write(
        self,
        store: _Store,
        header: Header,
        memory: NDArray[np.uint8],
        starts: NDArray[np.int64],
        rows: NDArray[np.int64],
        fragments: NDArray[np.int64],
        tails: NDArray[np.bool_],
    ) -> list[int]:
        """Put fragments in their places and ask for what is missing; return the rows that are whole now."""
        there = store.have[rows, fragments]
        grants = set(rows[there].tolist()) if there.any() else set()
        self._state.counters.move(DropReason.FRAGMENT_DUPLICATE, int(np.count_nonzero(there)))
        offsets = rows * store.loaded.queue.store.shape[1] + fragments * header.fragment_size
        if tails.any():
            tail_size = header.length - (header.fragments - 1) * header.fragment_size
            store.write(memory, starts[tails], offsets[tails], tail_size)
            grants |= set(rows[tails].tolist())
            store.write(memory, starts[~tails], offsets[~tails], header.fragment_size)
        else:
            store.write(memory, starts, offsets, header.fragment_size)
        store.have[rows, fragments] = True
        changed = list(dict.fromkeys(rows.tolist()))
        whole: list[bool] = np.all(store.have[changed, : header.fragments], axis=1).tolist()
        done = [row for row, full in zip(changed, whole, strict=True) if full]
        if header.fragments * 4 > self._state.session_fragments:
            grants |= self._quarters(store, rows)
        for row in grants - set(done):
            self._grant(store, row)
        return done

    def _quarters(self, store: _Store, rows: NDArray[np.int64]) -> set[int]:
        """Count news of long messages; return the rows whose requester waits for a GRANT."""
        waiting = set()
        for row in rows.tolist():
            message = store.messages.get(row)
            if message:
                message.news += 1
                if message.news * 4 >= self._state.session_fragments:
                    waiting.add(row)
        return waiting

    def _grant(self, store: _Store, row: int) -> None:
        message = store.messages[row]
        message.news = 0
        have = store.have[row, : message.header.fragments]
        arrived = Arrived.of(Opcode.INFER, have, self._state.session_fragments)
        self._copies.notice(message.peer, message.header, Opcode.GRANT, arrived.encode())

    def _begin(
        self,
        store: _Store,
        header: Header,
        slot: int,
        peer: int,
        ids: NDArray[np.uint64],
        places: NDArray[np.int64],
        going: NDArray[np.bool_],
        now: int,
    ) -> NDArray[np.bool_]:
        """Give rows to new requests and answer copies of known ones; return which frames are of requests with rows."""
        answers = self._answers
        for number in dict.fromkeys(ids[~going].tolist()):
            place = answers.place(slot, number)
            if answers.ids[place] >= number:
                count = int(np.count_nonzero(ids == number))
                self._copies.known(peer, Header(header.opcode, number, **_shared(header)), place, count)
            else:
                self._room(store, header, slot, peer, number, place, now)
        began: NDArray[np.bool_] = (answers.ids[places] == ids) & (answers.sizes[places] == COLLECTING)
        return began

    def _room(self, store: _Store, header: Header, slot: int, peer: int, number: int, place: int, now: int) -> None:
        """Give a new request a row and a credit, or refuse it."""
        queue, sessions = store.loaded.queue, self._state.sessions
        request = Header(header.opcode, number, **_shared(header))
        slots = np.array([slot])
        credit = bool(sessions.take_credit(slots, sessions.allowed)[0])
        row = queue.reserve(1) if credit and queue.room else None
        if row is None or not len(row):
            if credit:
                sessions.give_back(slots)
            self._refusals.one(peer, request, Status.BUSY, retry_after=store.loaded.retry_after)
            return
        index = int(row[0])
        self._answers.take(slots, np.array([place]), np.array([number], np.uint64), COLLECTING)
        self._rows[place] = index
        store.have[index] = False
        store.messages[index] = _Message(peer, request, slot, place, now)

    def _whole(self, store: _Store, header: Header, rows: list[int]) -> Landed:
        """Take requests out of those that are collected; refuse those whose CRC is wrong."""
        good = []
        for row in rows:
            message = store.messages[row]
            if header.flags & Flag.CRC and not self._sound(store, row, message.header):
                self._give_up(store, row)
                self._refusals.one(message.peer, message.header, Status.BAD_CRC)
            else:
                good.append(row)
        messages = [store.messages.pop(row) for row in good]
        places = np.array([message.place for message in messages], np.int64)
        self._answers.sizes[places] = PENDING
        return Landed(
            np.array(good, np.int64),
            places,
            np.array([message.header.request for message in messages], np.uint64),
            np.array([message.began for message in messages], np.int64),
        )

    def queue(self, header: Header, slot: int, peer: int, loaded: Loaded, landed: Landed) -> None:
        """Queue requests where they are."""
        sessions = self._state.sessions
        jobs = np.zeros(len(landed), JOB_DTYPE)
        for name in ("session", "flags", "priority"):
            jobs[name] = getattr(header, name)
        jobs["request"], jobs["peer"], jobs["slot"] = landed.ids, peer, slot
        jobs["arrival"], jobs["answer"] = landed.began, landed.places
        jobs["deadline"] = landed.began + header.deadline * 1000 if header.deadline else NEVER
        jobs["wire_bytes"] = header.length + HEADER_SIZE * header.fragments
        jobs["fragment_size"], jobs["tenant"] = sessions.fragment_sizes[slot], sessions.tenants[slot]
        jobs["rx_ns"] = np.minimum(self._clock.now_ns() - landed.began, 0xFFFF_FFFF)
        loaded.queue.commit(landed.rows, jobs)

    def answered(self, slot: int, loaded: Loaded, landed: Landed) -> None:
        """Free the rows and credits of requests that were answered."""
        loaded.queue.release(landed.rows)
        self._state.sessions.give_back(np.full(len(landed), slot))

    def _sound(self, store: _Store, row: int, header: Header) -> bool:
        row_bytes, end = store.loaded.queue.store[row], header.length - CRC_SIZE
        return message_crc(row_bytes[:end], header) == int.from_bytes(row_bytes[end : header.length].tobytes(), "big")

    # ---- ends ----------------------------------------------------------------------------------------------------

    def _give_up(self, store: _Store, row: int) -> _Message:
        """Free the row and the credit of an unfinished request; its id can come again."""
        message = store.messages.pop(row)
        store.loaded.queue.release(np.array([row]))
        self._state.sessions.give_back(np.array([message.slot]))
        self._answers.leave(np.array([message.place]), np.array([message.header.request], np.uint64))
        return message

    def cancel(self, place: int, number: int) -> bool:
        """Give up an unfinished request that is cancelled; return whether there was one."""
        for store in self._stores.values():
            message = store.messages.get(int(self._rows[place]))
            if message and message.place == place and message.header.request == number:
                self._give_up(store, int(self._rows[place]))
                return True
        return False

    def forget(self, slot: int) -> None:
        """Give up the unfinished requests of a session that has ended."""
        for store in self._stores.values():
            for row in [row for row, message in store.messages.items() if message.slot == slot]:
                self._give_up(store, row)

    def withdraw(self, loaded: Loaded) -> None:
        """Refuse what is unfinished of a pipeline that was removed."""
        store = self._stores.pop(loaded.pipeline.handle, None)
        if store is None:
            return
        for row in list(store.messages):
            message = self._give_up(store, row)
            self._refusals.one(message.peer, message.header, Status.UNKNOWN_PIPELINE)

    def expire(self, now: int) -> None:
        """Give up what is too old, and say so."""
        limit = now - self._state.reassembler.limits.timeout_ns
        for store in self._stores.values():
            for row in [row for row, message in store.messages.items() if message.began <= limit]:
                message = self._give_up(store, row)
                self._refusals.one(message.peer, message.header, Status.REASSEMBLY_TIMEOUT)

    def next_timer(self) -> int | None:
        """Return when expire has work, in ns on the node's clock; None while nothing is unfinished."""
        timeout = self._state.reassembler.limits.timeout_ns
        oldest = [next(iter(store.messages.values())).began for store in self._stores.values() if store.messages]
        return min(oldest) + timeout if oldest else None


def _shared(header: Header) -> dict[str, int]:
    """Return what all requests of a flow have in common."""
    names = ("flags", "session", "length", "pipeline", "priority", "fragment_size", "deadline")
    return {name: getattr(header, name) for name in names}
