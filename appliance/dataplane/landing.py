"""Where requests of many frames land: each fragment is written straight into the row of the queue that it waits in.

Only *once* requests for pipelines that take a tensor land here, whose size is known beforehand; all others go through
the reassembler. A row, and one of the session's credits, is taken by the first fragment that arrives; the place among
the answers not before the request is whole and sound, as its id may have been damaged on the way. What is done, is done
once for all fragments of a request that a batch brings in order, which is nearly always all of them.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from appliance.clock import Clock
from appliance.dataplane.answers import PENDING
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
from host_sdk.wire.schema import CRC_SIZE, HEADER_SIZE, MAX_ARRIVED_BITS, DropReason, Flag, Opcode, Status

_CRC = int(Flag.CRC)
CONFLICT = "its fragments have different headers"


@dataclass(slots=True)
class Landed:
    """A request of many frames, whole or on its way.

    Attributes:
        loaded: The pipeline.
        shared: A header of its flow: any of its fragments' but for request and fragment.
        number: Its id.
        peer: Who sent it.
        slot: The session's.
        place: Where its answer is kept.
        row: Of the queue's store, that its message is in.
        data: That row, uint8.
        began: When its first fragment arrived, ns.
        touched: When one arrived that was missing, ns.
        bits: Bit i is set when fragment i has arrived.
        news: Fragments since the last GRANT.
    """

    loaded: Loaded
    shared: Header
    number: int
    peer: int
    slot: int
    place: int
    row: int
    data: NDArray[np.uint8]
    began: int
    touched: int
    bits: int = 0
    news: int = 0

    @property
    def header(self) -> Header:
        """The header of its first fragment."""
        return replace(self.shared, request=self.number, fragment=0)

    def have(self) -> NDArray[np.bool_]:
        """Return which fragments have arrived, bool [fragments]."""
        raw = self.bits.to_bytes(-(-self.shared.fragments // 8), "little")
        bits = np.unpackbits(np.frombuffer(raw, np.uint8), bitorder="little")
        return bits[: self.shared.fragments].astype(np.bool_)


@dataclass(frozen=True, slots=True)
class Run:
    """Frames of one flow: their headers are alike but for request and fragment.

    Attributes:
        header: Of any of them.
        slot: The session's.
        loaded: The pipeline.
        peer: Who sent them.
        batch: The frames.
        now: When they arrived, ns.
    """

    header: Header
    slot: int
    loaded: Loaded
    peer: int
    batch: FrameBatch
    now: int


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
        self._unfinished: dict[int, Landed] = {}  # by place, oldest first
        self._sources: dict[int, StridedView] = {}  # where fragments are in a link's memory, by their size

    def __len__(self) -> int:
        return len(self._unfinished)

    # ---- fragments -----------------------------------------------------------------------------------------------

    def take_one(self, run: Run, number: int, fragment: int) -> list[Landed] | None:
        """Take a run of one frame, as :meth:`take` does; plain numbers are quicker than arrays of one."""
        header, length = run.header, int(run.batch.lengths[0]) - HEADER_SIZE
        begin = fragment * header.fragment_size
        size = min(header.fragment_size, header.length - begin)
        if fragment >= header.fragments or (length != size and not size < length <= self._smallest - HEADER_SIZE):
            return None
        self._state.counters.accept()
        self._state.sessions.touch(header.session, run.now)
        landed = self._place(run, number, 1)
        return [landed] if landed and self._write(run, landed, 0, [fragment]) else []

    def take_piece(self, run: Run, number: int, first: int, count: int) -> list[Landed]:
        """Take ``count`` frames that a run begins with, sound fragments of one request in order from ``first`` on."""
        self._state.counters.accept(count)
        self._state.sessions.touch(run.header.session, run.now)
        landed = self._place(run, number, count)
        return [landed] if landed and self._write(run, landed, 0, list(range(first, first + count))) else []

    def take(self, run: Run, words: NDArray[np.uint64]) -> list[Landed] | None:
        """Take a run of frames; return the requests that are whole by it, for :meth:`queue` or :meth:`answered`.

        None where not every frame is sound: then none is taken. Else all are: taken, answered or dropped.

        Args:
            run: The frames.
            words: Their headers, uint64 [n, 4].
        """
        count = len(words)
        fragments = (words[:, 3].byteswap() >> np.uint64(48)).astype(np.int64)
        if not self._sound_sizes(run, fragments):
            return None
        self._state.counters.accept(count)
        self._state.sessions.touch(run.header.session, run.now)
        if (words[:, 1] == words[0, 1]).all():
            cuts = [0, count]
        else:
            cuts = [0, *(np.flatnonzero(words[1:, 1] != words[:-1, 1]) + 1).tolist(), count]
        whole: list[Landed] = []
        numbers, order = words[cuts[:-1], 1].byteswap().tolist(), fragments.tolist()
        for number, begin, end in zip(numbers, cuts[:-1], cuts[1:], strict=True):
            landed = self._place(run, number, end - begin)
            if landed and self._write(run, landed, begin, order[begin:end]):
                whole.append(landed)
        return whole

    def _sound_sizes(self, run: Run, fragments: NDArray[np.int64]) -> bool:
        """Return whether every frame is a fragment that the message has, and as long as that is."""
        header, lengths = run.header, run.batch.lengths
        last, full = header.fragments - 1, HEADER_SIZE + header.fragment_size
        tail = HEADER_SIZE + header.length - last * header.fragment_size
        if int(fragments.max()) > last:
            return False
        tails, odd = fragments == last, lengths != full
        if tail == full:
            return not odd.any()
        found = lengths[tails]
        return bool((tails == odd).all() and ((found == tail) | ((found > tail) & (found <= self._smallest))).all())

    def _place(self, run: Run, number: int, count: int) -> Landed | None:
        """Return the request that ``count`` fragments belong to; None where they are answered or dropped."""
        answers = self._state.answers
        place = answers.place(run.slot, number)
        landed = self._unfinished.get(place)
        if int(answers.ids[place]) >= number:
            if landed and landed.number <= number:
                self._give_up(landed)
            self._copies.known(run.peer, replace(run.header, request=number, fragment=0), place, count)
            return None
        if landed and landed.number == number:
            if landed.shared is run.header or _alike(landed.shared, run.header):
                return landed
            self._conflict(landed)
            return None
        if landed:  # its requester has gone on, or its id was damaged
            self._give_up(landed)
        return self._begin(run, number, place)

    def _begin(self, run: Run, number: int, place: int) -> Landed | None:
        """Give a new request a row and a credit, or refuse it."""
        sessions, queue = self._state.sessions, run.loaded.queue
        if self._state.reassembler.forget(run.peer, run.header.session, number, Opcode.INFER):
            # Its fragments before had a header of no request that lands here.
            header = replace(run.header, request=number, fragment=0)
            self._refusals.one(run.peer, header, Status.FRAGMENT_CONFLICT, CONFLICT)
            return None
        rows = queue.reserve(1 if sessions.outstanding[run.slot] < sessions.limit(run.slot) else 0)
        if len(rows) == 0:
            header = replace(run.header, request=number, fragment=0)
            self._refusals.one(run.peer, header, Status.BUSY, retry_after=run.loaded.retry_after)
            return None
        sessions.outstanding[run.slot] += 1
        row = int(rows[0])
        data = queue.store[row]
        landed = Landed(run.loaded, run.header, number, run.peer, run.slot, place, row, data, run.now, run.now)
        self._unfinished[place] = landed
        return landed

    def _write(self, run: Run, landed: Landed, begin: int, order: list[int]) -> bool:
        """Put fragments in their places, and ask for what is missing; return whether the request is whole and sound."""
        first, count, fragments = order[0], len(order), run.header.fragments
        new = ((1 << count) - 1) << first
        copies = 0
        if landed.bits & new or (count > 1 and order != list(range(first, first + count))):
            for at, fragment in enumerate(order):  # out of order, or there already
                if landed.bits >> fragment & 1:
                    copies += 1
                else:
                    self._copy(run, landed, begin + at, fragment, 1)
                    landed.bits |= 1 << fragment
        else:
            self._copy(run, landed, begin, first, count)
            landed.bits |= new
        if copies:
            self._state.counters.move(DropReason.FRAGMENT_DUPLICATE, copies)
        if copies < count:
            landed.news += count - copies
            landed.touched = run.now
        if landed.bits == (1 << fragments) - 1:
            return self._finish(landed)
        if copies or order[-1] == fragments - 1 or landed.news * 4 >= self._state.session_fragments:
            landed.news = 0
            self._copies.notice(landed.peer, landed.header, Opcode.GRANT, self._arrived(landed).encode())
        return False

    def _arrived(self, landed: Landed) -> Arrived:
        have = landed.have()
        missing = np.flatnonzero(~have)
        base = int(missing[0]) if len(missing) else len(have)
        return Arrived.reaching(Opcode.INFER, base, have[base : base + MAX_ARRIVED_BITS], self._state.session_fragments)

    def _copy(self, run: Run, landed: Landed, at: int, fragment: int, count: int) -> None:
        """Copy fragments that follow one another, from the frame at an index on, into the row."""
        size, length, memory = run.header.fragment_size, run.header.length, run.batch.memory
        begin, end = fragment * size, min((fragment + count) * size, length)
        if count == 1:
            start = int(run.batch.starts[at]) + HEADER_SIZE
            landed.data[begin:end] = memory[start : start + end - begin]
            return
        source = self._sources.get(size)
        if source is None:
            source = self._sources[size] = StridedView(size, HEADER_SIZE)
        full = (end - begin) // size
        landed.data[begin : begin + full * size] = source.of(memory)[run.batch.starts[at : at + full]].view(np.uint8)
        if full < count:
            self._copy(run, landed, at + full, fragment + full, 1)

    def _finish(self, landed: Landed) -> bool:
        """Take a whole request out of those that are collected; refuse it where its CRC is wrong."""
        length = landed.shared.length
        if landed.shared.flags & _CRC:
            found = int.from_bytes(landed.data[length - CRC_SIZE : length].tobytes(), "big")
            if message_crc(landed.data[: length - CRC_SIZE], landed.header) != found:
                self._give_up(landed)
                self._refusals.one(landed.peer, landed.header, Status.BAD_CRC)
                return False
        del self._unfinished[landed.place]
        self._state.answers.take_one(landed.slot, landed.place, landed.number, PENDING)
        return True

    # ---- whole requests ------------------------------------------------------------------------------------------

    def queue(self, landed: list[Landed]) -> None:
        """Queue requests of one flow where they are."""
        one, sessions = landed[0], self._state.sessions
        header = one.shared
        jobs = np.zeros(len(landed), JOB_DTYPE)
        for name in ("session", "flags", "priority"):
            jobs[name] = getattr(header, name)
        began = np.array([each.began for each in landed], np.int64)
        jobs["request"] = [each.number for each in landed]
        jobs["answer"] = [each.place for each in landed]
        jobs["peer"], jobs["slot"], jobs["arrival"] = one.peer, one.slot, began
        jobs["deadline"] = began + header.deadline * 1000 if header.deadline else NEVER
        jobs["wire_bytes"] = header.length + HEADER_SIZE * header.fragments
        jobs["fragment_size"], jobs["tenant"] = sessions.fragment_sizes[one.slot], sessions.tenants[one.slot]
        jobs["rx_ns"] = np.minimum(self._clock.now_ns() - began, 0xFFFF_FFFF)
        one.loaded.queue.commit(np.array([each.row for each in landed]), jobs)

    def answered(self, landed: list[Landed]) -> None:
        """Free the rows and credits of requests of one flow that were answered."""
        one = landed[0]
        one.loaded.queue.release(np.array([each.row for each in landed]))
        self._state.sessions.outstanding[one.slot] -= len(landed)

    # ---- ends ----------------------------------------------------------------------------------------------------

    def _give_up(self, landed: Landed) -> None:
        """Free the row and the credit of an unfinished request; its id can come again."""
        del self._unfinished[landed.place]
        landed.loaded.queue.release(np.array([landed.row]))
        self._state.sessions.give_back(np.array([landed.slot]))

    def _conflict(self, landed: Landed) -> None:
        """Give up an unfinished request whose fragments contradict each other, and say so."""
        header = landed.header
        self._give_up(landed)
        self._refusals.one(landed.peer, header, Status.FRAGMENT_CONFLICT, CONFLICT)

    def begun(self, slot: int, ids: NDArray[np.uint64]) -> bool:
        """Return whether something has landed where any of these requests of a session would."""
        return bool(self._unfinished) and not self._unfinished.keys().isdisjoint(
            self._state.answers.places(slot, ids).tolist()
        )

    def contradicted(self, header: Header, place: int) -> bool:
        """Give up the unfinished request of a fragment whose header differs from its own; return whether there was."""
        landed = self._unfinished.get(place)
        if landed is None or landed.number != header.request or _alike(landed.shared, header):
            return False
        self._conflict(landed)
        return True

    def cancel(self, place: int, number: int) -> bool:
        """Give up an unfinished request that is cancelled; return whether there was one."""
        landed = self._unfinished.get(place)
        if landed is None or landed.number != number:
            return False
        self._give_up(landed)
        return True

    def forget(self, slot: int) -> None:
        """Give up the unfinished requests of a session that has ended."""
        for landed in [each for each in self._unfinished.values() if each.slot == slot]:
            self._give_up(landed)

    def withdraw(self, loaded: Loaded) -> None:
        """Refuse what is unfinished of a pipeline that was removed."""
        for landed in [each for each in self._unfinished.values() if each.loaded is loaded]:
            self._give_up(landed)
            self._refusals.one(landed.peer, landed.header, Status.UNKNOWN_PIPELINE)

    def expire(self, now: int) -> None:
        """Give up what is too old, and say so."""
        for landed in [each for each in self._unfinished.values() if self._due(each) <= now]:
            self._give_up(landed)
            self._refusals.one(landed.peer, landed.header, Status.REASSEMBLY_TIMEOUT)

    def _due(self, landed: Landed) -> int:
        limits = self._state.reassembler.limits
        return min(landed.touched + limits.timeout_ns, landed.began + limits.total_ns)

    def next_timer(self) -> int | None:
        """Return when expire has work, in ns on the node's clock; None while nothing is unfinished."""
        return min(map(self._due, self._unfinished.values()), default=None)


def _alike(one: Header, other: Header) -> bool:
    """Return whether two headers are alike but for request and fragment."""
    return replace(one, request=0, fragment=0) == replace(other, request=0, fragment=0)
