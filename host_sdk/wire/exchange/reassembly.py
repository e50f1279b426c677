"""Fragments back into messages, in bounded memory and time, whatever arrives."""

from collections import OrderedDict
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from host_sdk.wire.errors import FrameError
from host_sdk.wire.header import Header, check_length
from host_sdk.wire.schema import HEADER_SIZE, MAX_MESSAGE, DropReason, Status

FRAGMENT_OVERHEAD = 192  # bytes that a stored fragment costs besides its own: an object, a key, a dict entry
MESSAGE_OVERHEAD = 768  # bytes that an unfinished message costs besides its fragments: header, key, two dictionaries
MOST_FINISHED = 4096  # messages that are remembered as whole

Key = tuple[int, int, int, int]  # peer, session, request, opcode


@dataclass(frozen=True, slots=True)
class ReassemblyLimits:
    """Bounds of a reassembler.

    Attributes:
        memory: Bytes that all unfinished messages may hold, overhead included.
        peer_share: Part of the memory that the messages of one peer may hold.
        message: Bytes of the longest message taken.
        timeout_ns: Age at which an unfinished message is given up, counted from its first fragment.
    """

    memory: int = 64 * 1024 * 1024
    peer_share: float = 0.5
    message: int = MAX_MESSAGE
    timeout_ns: int = 2_000_000_000


@dataclass(frozen=True, slots=True)
class Whole:
    """The bytes of a whole message, when its first fragment came (ns), and the bytes of its PDUs."""

    payload: bytes
    began: int
    wire_bytes: int


@dataclass(slots=True)
class _Partial:
    header: Header
    began: int
    fragments: dict[int, bytes] = field(default_factory=dict)
    held: int = MESSAGE_OVERHEAD


class Reassembler:
    """Collects the fragments of many messages at once.

    Memory is taken as fragments arrive, never as a header announces: a frame that claims 16 MiB costs its own bytes.
    """

    def __init__(self, limits: ReassemblyLimits | None = None) -> None:
        self.limits = limits or ReassemblyLimits()
        self._partials: OrderedDict[Key, _Partial] = OrderedDict()  # oldest first
        self._finished: OrderedDict[Key, int] = OrderedDict()  # when they were whole, oldest first
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
        key = (peer, header.session, header.request, header.opcode)
        partial = self._partials.get(key)
        shared = replace(header, fragment=0, credits=0)
        if partial is None:
            self._charge(peer, MESSAGE_OVERHEAD + len(payload) + FRAGMENT_OVERHEAD)
            partial = self._partials[key] = _Partial(shared, now)
            partial.held += FRAGMENT_OVERHEAD + len(payload)
        elif partial.header != shared:
            self._forget(key)
            raise FrameError(Status.FRAGMENT_CONFLICT, f"fragment {header.fragment} has another header")
        elif header.fragment in partial.fragments:
            raise FrameError(DropReason.FRAGMENT_DUPLICATE, f"fragment {header.fragment} of {header.fragments}")
        else:
            self._charge(peer, len(payload) + FRAGMENT_OVERHEAD)
            partial.held += len(payload) + FRAGMENT_OVERHEAD
        partial.fragments[header.fragment] = payload
        if len(partial.fragments) < header.fragments:
            return None
        self._forget(key)
        self._finished[key] = now
        self._finished.move_to_end(key)
        if len(self._finished) > MOST_FINISHED:
            self._finished.popitem(last=False)
        payload = b"".join(partial.fragments[index] for index in range(header.fragments))
        return Whole(payload, partial.began, header.fragments * HEADER_SIZE + len(payload))

    def have(self, peer: int, header: Header) -> NDArray[np.bool_] | None:
        """Return which fragments have arrived of the unfinished message that one belongs to, bool [fragments]."""
        partial = self._partials.get((peer, header.session, header.request, header.opcode))
        if partial is None:
            return None
        have = np.zeros(partial.header.fragments, np.bool_)
        have[list(partial.fragments)] = True
        return have

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
        while self._partials:
            key, partial = next(iter(self._partials.items()))
            if now - partial.began < self.limits.timeout_ns:
                break
            self._forget(key)
            if key not in self._finished:
                expired.append((key[0], partial.header))
        return expired

    def next_timer(self) -> int | None:
        """Return the time, in ns on the owner's clock, at which expire has work; None while nothing waits."""
        for partial in self._partials.values():
            return partial.began + self.limits.timeout_ns
        return None

    def _charge(self, peer: int, size: int) -> None:
        mine = self._held_by_peer.get(peer, 0) + size
        if self._held + size > self.limits.memory or mine > self.limits.memory * self.limits.peer_share:
            raise FrameError(DropReason.REASSEMBLY_FULL, f"{self._held} bytes are held, {size} more do not fit")
        self._held += size
        self._held_by_peer[peer] = mine

    def _forget(self, key: Key) -> None:
        partial = self._partials.pop(key)
        self._held -= partial.held
        left = self._held_by_peer[key[0]] - partial.held
        if left:
            self._held_by_peer[key[0]] = left
        else:
            del self._held_by_peer[key[0]]
