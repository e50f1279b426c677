"""One end of the wire under the suite: frames out as they are, and everything that comes, in order."""

from collections import deque
from collections.abc import Callable

import numpy as np

from host_sdk.conformance.frames import Reply
from host_sdk.conformance.patterns import Pattern, described
from host_sdk.wire.errors import LinkError
from host_sdk.wire.links.base import Link

KEPT = 8  # last frames that a failure shows
SHOWN = 96  # bytes of each
_TRIES = 100
_MOST_WAITING = 20000  # frames that came and that nobody asked for


class Port:
    """A link, and the target as it is seen from there.

    Args:
        link: The link; its owner closes it.
        peer: Peer key of the target.
        now: Monotonic ns.

    Attributes:
        waiting: Frames of the target that have come and were not asked for yet; older ones give way.
        strangers: Frames of anybody else.
    """

    def __init__(self, link: Link, peer: int, now: Callable[[], int]) -> None:
        self.link, self.peer, self._now = link, peer, now
        self.waiting: deque[Reply] = deque(maxlen=_MOST_WAITING)
        self.strangers = 0
        self._last: deque[str] = deque(maxlen=KEPT)

    def send(self, pdus: list[bytes]) -> None:
        """Send PDUs, in as few batches as the link allows.

        Raises:
            LinkError: The link takes none.
        """
        tries = 0
        for pdu in pdus[-KEPT:]:
            self._note("->", pdu)
        while pdus:
            batch = self.link.allocate(len(pdus))
            count = len(batch)
            for index, pdu in enumerate(pdus[:count]):
                start = int(batch.starts[index])
                batch.memory[start : start + len(pdu)] = np.frombuffer(pdu, np.uint8)
                batch.lengths[index], batch.peers[index] = len(pdu), self.peer
            if count:
                self.link.send(batch)
                pdus = pdus[count:]
            else:
                tries += 1
                if tries > _TRIES:
                    raise LinkError("the link takes no frames")
                self.link.wait(1_000_000)

    def take(self, pattern: Pattern, within_ns: int) -> Reply | None:
        """Return the first frame that is meant, and keep the others; None when it does not come in time."""
        end = self._now() + within_ns
        seen = 0
        while True:
            for index in range(seen, len(self.waiting)):
                if pattern.matches(self.waiting[index]):
                    found = self.waiting[index]
                    del self.waiting[index]
                    return found
            seen = len(self.waiting)
            left = end - self._now()
            if left <= 0:
                return None
            if self.link.wait(left):
                seen = min(seen, self._receive())

    def settle(self, for_ns: int) -> None:
        """Take in what comes in a time."""
        end = self._now() + for_ns
        while (left := end - self._now()) > 0:
            if self.link.wait(left):
                self._receive()

    def forget(self) -> None:
        """Drop what has come, and what a failure would show."""
        self._receive()
        self.waiting.clear()
        self._last.clear()

    def last(self) -> tuple[str, ...]:
        """Return the last frames in both directions, in hexadecimal."""
        return tuple(self._last)

    def said(self) -> str:
        """Return the last three frames that wait, in words."""
        if not self.waiting:
            return "nothing"
        return "; ".join(described(reply) for reply in list(self.waiting)[-3:])

    def _receive(self) -> int:
        """Take in what has arrived; return the index of the first new frame."""
        first = len(self.waiting)
        while len(batch := self.link.receive()):
            for index in range(len(batch)):
                pdu = batch.pdu(index).tobytes()
                if int(batch.peers[index]) != self.peer:
                    self.strangers += 1
                    continue
                if len(self.waiting) == _MOST_WAITING:
                    first = 0
                self.waiting.append(Reply.parse(pdu))
                self._note("<-", pdu)
        return first

    def _note(self, direction: str, pdu: bytes) -> None:
        more = f"... {len(pdu)} bytes" if len(pdu) > SHOWN else ""
        self._last.append(f"{direction} {pdu[:SHOWN].hex()}{more}")
