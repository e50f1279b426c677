"""Fragments back into messages, in bounded memory and time, whatever arrives."""

from collections import OrderedDict
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from host_sdk.wire.errors import FrameError
from host_sdk.wire.exchange.arrived import Arrived
from host_sdk.wire.exchange.fragments import FragmentReader, Fragments
from host_sdk.wire.exchange.runs import Runs
from host_sdk.wire.header import Header, check_length
from host_sdk.wire.schema import HEADER_SIZE, MAX_ARRIVED_BITS, MAX_MESSAGE, DropReason, Status

PIECE_OVERHEAD = 512  # bytes that fragments which follow none cost besides their own: an array, keys, a run
SLACK = 8  # a piece that grows may take this part more than its bytes
MESSAGE_OVERHEAD = 1536  # bytes that an unfinished message costs besides its fragments: header, keys, dictionaries
TIMEOUTS = 15  # so many times the timeout a message may take, if something new of it keeps coming
MOST_FINISHED = 4096  # messages that are remembered as whole

Key = tuple[int, int, int, int]  # peer, session, request, opcode


@dataclass(frozen=True, slots=True)
class ReassemblyLimits:
    """Bounds of a reassembler.

    Attributes:
        memory: Bytes that all unfinished messages may hold, overhead included.
        peer_share: Part of the memory that the messages of one peer may hold.
        message: Bytes of the longest message taken.
        timeout_ns: When an unfinished message is given up of which nothing new has come.
    """

    memory: int = 64 * 1024 * 1024
    peer_share: float = 0.5
    message: int = MAX_MESSAGE
    timeout_ns: int = 2_000_000_000

    @property
    def total_ns(self) -> int:
        """When an unfinished message is given up whatever comes, counted from its first fragment."""
        return TIMEOUTS * self.timeout_ns


@dataclass(frozen=True, slots=True)
class Whole:
    """The bytes of a whole message, when its first fragment came (ns), and the bytes of its PDUs."""

    payload: bytes
    began: int
    wire_bytes: int


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of fragments that came together.

    Attributes:
        whole: The message, if they make it whole.
        new: How many of them were missing.
        copies: How many were there already, or came twice.
        refused: For how many there was no memory.
    """

    whole: Whole | None
    new: int
    copies: int = 0
    refused: int = 0


@dataclass(slots=True)
class _Partial:
    """An unfinished message.

    Attributes:
        header: What its fragments share.
        began: When the first came, ns.
        runs: Which of them have arrived.
        pieces: What they carry: bytes of fragments that follow one another, by the index of the first.
        ends: That index, by the one behind the piece.
        held: Bytes that it is charged with.
        news: Fragments that have arrived since :meth:`Reassembler.arrived` was asked last.
    """

    header: Header
    began: int
    runs: Runs = field(default_factory=Runs)
    pieces: dict[int, bytearray] = field(default_factory=dict)
    ends: dict[int, int] = field(default_factory=dict)
    held: int = MESSAGE_OVERHEAD
    news: int = 0

    def keep(self, first: int, count: int, arrays: list[NDArray[np.uint8]]) -> None:
        """Keep what a stretch of fragments carries, behind what it follows."""
        begin = self.ends.pop(first, first)
        piece = self.pieces.setdefault(begin, bytearray())
        for array in arrays:
            piece.extend(array)
        self.ends[first + count] = begin
        self.runs.add(first, count)
        self.news += count

    def payload(self) -> bytes:
        """Return the bytes of the message, all of whose fragments are there."""
        return b"".join(self.pieces[first] for first in sorted(self.pieces))


class Reassembler:
    """Collects the fragments of many messages at once.

    Memory is taken as fragments arrive, never as a header announces: a frame that claims 16 MiB costs its own bytes.
    What it costs to take fragments in depends on how many came together, not on how long their message is.
    """

    def __init__(self, limits: ReassemblyLimits | None = None) -> None:
        self.limits = limits or ReassemblyLimits()
        self._partials: dict[Key, _Partial] = {}  # oldest first
        self._touched: OrderedDict[Key, int] = OrderedDict()  # when something new of each came, oldest first
        self._finished: OrderedDict[Key, int] = OrderedDict()  # when they were whole, oldest first
        self._reader = FragmentReader()
        self._held = 0
        self._held_by_peer: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._partials)

    @property
    def memory(self) -> int:
        """Bytes held, overhead included."""
        return self._held

    def add(self, peer: int, header: Header, payload: bytes, now: int) -> Whole | None:
        """Take one fragment; return the whole message if it was the last one missing.

        Args:
            peer: Who sent it.
            header: Its decoded header.
            payload: Its part of the message, ``header.payload_size`` bytes.
            now: ns on the owner's clock.

        Raises:
            FrameError: With DropReason FRAGMENT_DUPLICATE or REASSEMBLY_FULL (the frame is dropped), or with
                Status TOO_LARGE or FRAGMENT_CONFLICT (the message is given up and can be answered).
        """
        check_length(header.length, self.limits.message)
        if header.fragments == 1:
            return Whole(payload, now, HEADER_SIZE + len(payload))
        taken = self.take(peer, Fragments.single(header, payload), now)
        if taken.copies:
            raise FrameError(DropReason.FRAGMENT_DUPLICATE, f"fragment {header.fragment} of {header.fragments}")
        if taken.refused:
            raise FrameError(DropReason.REASSEMBLY_FULL, f"{self._held} bytes are held, {len(payload)} more do not fit")
        return taken.whole

    def take(self, peer: int, fragments: Fragments, now: int) -> Taken:
        """Take fragments of one message, which has several.

        Args:
            peer: Who sent them.
            fragments: The frames; what they carry is copied.
            now: ns on the owner's clock.

        Raises:
            FrameError: With Status TOO_LARGE or FRAGMENT_CONFLICT: the message is given up and can be answered.
        """
        header = fragments.header
        check_length(header.length, self.limits.message)
        key = (peer, header.session, header.request, header.opcode)
        shared = replace(header, fragment=0, credits=0)
        partial = self._partials.get(key)
        if partial is None:
            partial = _Partial(shared, now)
        elif partial.header != shared:
            self._forget(key)
            raise FrameError(Status.FRAGMENT_CONFLICT, f"fragment {header.fragment} has another header")
        new = fitting = 0
        for at, first, count in partial.runs.stretches(fragments.indices):
            new += count
            fitting += self._store(key, partial, fragments, (at, first, count))
        if fitting:
            self._touched[key] = now
            self._touched.move_to_end(key)
        taken = Taken(None, fitting, len(fragments) - new, new - fitting)
        if partial.runs.count < header.fragments:
            return taken
        self._forget(key)
        self._finish(key, now)
        payload = partial.payload()
        return replace(taken, whole=Whole(payload, partial.began, header.fragments * HEADER_SIZE + len(payload)))

    def _store(self, key: Key, partial: _Partial, fragments: Fragments, stretch: tuple[int, int, int]) -> int:
        """Keep a stretch of fragments that are missing, as far as there is memory; return how many of them."""
        at, first, count = stretch
        header, peer, limits = partial.header, key[0], self.limits
        size, mine = header.fragment_size, self._held_by_peer.get(peer, 0)
        room = min(limits.memory - self._held, int(limits.memory * limits.peer_share) - mine)
        fixed = 0 if first in partial.ends else PIECE_OVERHEAD
        begins = 0 if key in self._partials else MESSAGE_OVERHEAD
        length = min(count * size, header.length - first * size)
        if fixed + begins + length + length // SLACK > room:
            count = max(0, (room - fixed - begins) * SLACK // (SLACK + 1)) // size
            length = count * size
            if count == 0:
                return 0
        cost = fixed + length + length // SLACK
        self._partials[key] = partial
        self._held += begins + cost
        self._held_by_peer[peer] = mine + begins + cost
        partial.held += cost
        partial.keep(first, count, self._reader.read(fragments, at, count))
        return count

    def _finish(self, key: Key, now: int) -> None:
        """Remember that a message was whole."""
        self._finished[key] = now
        self._finished.move_to_end(key)
        if len(self._finished) > MOST_FINISHED:
            self._finished.popitem(last=False)

    def arrived(self, peer: int, header: Header, most: int) -> Arrived | None:
        """Return what a GRANT or RESEND says of the unfinished message that a fragment belongs to, None without one.

        Args:
            peer: Who sent it.
            header: Of any of its fragments.
            most: Fragments of it that may be under way.
        """
        partial = self._partials.get((peer, header.session, header.request, header.opcode))
        if partial is None:
            return None
        partial.news, base = 0, partial.runs.base
        there = partial.runs.between(base, min(base + MAX_ARRIVED_BITS, header.fragments))
        return Arrived.reaching(header.opcode, base, there, most)

    def have(self, peer: int, header: Header) -> NDArray[np.bool_] | None:
        """Return which fragments have arrived of the unfinished message that one belongs to, bool [fragments]."""
        partial = self._partials.get((peer, header.session, header.request, header.opcode))
        if partial is None:
            return None
        return partial.runs.between(0, partial.header.fragments)

    def news(self, peer: int, header: Header) -> int:
        """Return how many fragments of an unfinished message have arrived since :meth:`arrived` was asked last."""
        partial = self._partials.get((peer, header.session, header.request, header.opcode))
        return partial.news if partial else 0

    def knows(self, peer: int, header: Header) -> bool:
        """Return whether there is an unfinished message that a fragment belongs to."""
        return (peer, header.session, header.request, header.opcode) in self._partials

    def forget(self, peer: int, session: int, request: int, opcode: int) -> bool:
        """Give up an unfinished message; return whether there was one."""
        key = (peer, session, request, opcode)
        if key not in self._partials:
            return False
        self._forget(key)
        return True

    def expire(self, now: int) -> list[tuple[int, Header]]:
        """Give up what is too old; return the peer and the shared header of each.

        Not of those that were whole shortly before: what arrived since then were late copies.
        """
        while self._finished and now - next(iter(self._finished.values())) >= 2 * self.limits.timeout_ns:
            self._finished.popitem(last=False)
        expired = []
        while (key := self._next_to_expire(now)) is not None:
            header = self._partials[key].header
            self._forget(key)
            if key not in self._finished:
                expired.append((key[0], header))
        return expired

    def _next_to_expire(self, now: int) -> Key | None:
        """Return a message that is too old; None where there is none."""
        for key, touched in self._touched.items():
            if now - touched >= self.limits.timeout_ns:
                return key
            break
        for key, partial in self._partials.items():
            return key if now - partial.began >= self.limits.total_ns else None
        return None

    def next_timer(self) -> int | None:
        """Return the time, in ns on the owner's clock, at which expire has work; None while nothing waits."""
        for touched, partial in zip(self._touched.values(), self._partials.values(), strict=True):
            return min(touched + self.limits.timeout_ns, partial.began + self.limits.total_ns)
        return None

    def _forget(self, key: Key) -> None:
        partial = self._partials.pop(key)
        del self._touched[key]
        self._held -= partial.held
        left = self._held_by_peer[key[0]] - partial.held
        if left:
            self._held_by_peer[key[0]] = left
        else:
            del self._held_by_peer[key[0]]
