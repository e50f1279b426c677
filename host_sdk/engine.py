"""A link and a requester, joined: what both skins of the SDK drive, one from a loop of its own, one from asyncio's."""

import random
import time
from collections.abc import Callable
from contextlib import suppress

import numpy as np

from host_sdk.wire.errors import ClosedError, LinkError
from host_sdk.wire.exchange.requester import Datagram, Event, Request, Requester, RequesterLimits
from host_sdk.wire.links.base import BURST, Link
from host_sdk.wire.message import fragment_size_for

Now = Callable[[], int]
ROUNDS = 16  # batches that are drained at one call at most, so that a flood cannot keep the caller from its timers


class Engine:
    """Sends what the requester wants sent and feeds it what arrives. Never blocks, but in :meth:`wait`.

    Args:
        link: The link; closed with the engine.
        limits: Window and retransmission.
        generator: Source of request ids; the system's by default, so that they cannot be guessed.
        now: Monotonic ns.

    Attributes:
        closed: Whether it was closed.
    """

    def __init__(
        self,
        link: Link,
        limits: RequesterLimits | None = None,
        generator: random.Random | None = None,
        now: Now = time.monotonic_ns,
    ) -> None:
        self.link = link
        self._now = now
        self.closed = False
        self.requester = Requester(
            fragment_size_for(link.mtu), generator or random.SystemRandom(), limits, link.smallest
        )
        self._backlog: list[Datagram] = []

    def submit(self, request: Request) -> int:
        """Queue a request; return the token of its events.

        Raises:
            ClosedError: The engine was closed.
            LocalProtocolError: The message cannot be encoded.
        """
        if self.closed:
            raise ClosedError("this client was closed")
        return self.requester.submit(request, self._now())

    def flush(self) -> None:
        """Send what is due, as much of it as the link takes now.

        Raises:
            LinkError: The link is gone.
        """
        self._backlog.extend(self.requester.to_send(self._now()))
        self._push()

    def _push(self) -> None:
        """Send the backlog, as much of it as the link takes now."""
        while self._backlog:
            burst = self._backlog[:BURST]
            buffers = self.link.allocate(len(burst))
            if len(buffers) == 0:
                return
            burst = burst[: len(buffers)]
            for index, (peer, pdu) in enumerate(burst):
                start = int(buffers.starts[index])
                buffers.memory[start : start + len(pdu)] = np.frombuffer(pdu, np.uint8)
                buffers.lengths[index] = len(pdu)
                buffers.peers[index] = peer
            self.link.send(buffers)
            del self._backlog[: len(burst)]

    def drain(self) -> None:
        """Take in what has arrived.

        Raises:
            LinkError: The link is gone.
        """
        for _ in range(ROUNDS):
            batch = self.link.receive()
            if len(batch) == 0:
                return
            now = self._now()
            for index, peer in enumerate(batch.peers.tolist()):
                self.requester.receive(peer, batch.pdu(index).tobytes(), now)

    def events(self) -> list[Event]:
        """Take the events so far."""
        events = []
        while event := self.requester.next_event():
            events.append(event)
        return events

    def timer_ns(self) -> int | None:
        """Return ns until flush has work at the latest; None while nothing is pending."""
        timer = self.requester.next_timer()
        if self._backlog:
            return 100_000  # the transmit ring was full: look again soon
        return None if timer is None else max(0, timer - self._now())

    def wait(self) -> None:
        """Block until frames have arrived or the next timer."""
        self.link.wait(self.timer_ns())

    def close(self) -> None:
        """End the sessions and close the link; a second call does nothing."""
        if self.closed:
            return
        self.closed = True
        self._backlog = list(self.requester.farewell())
        with suppress(LinkError):  # of a link that is gone the sessions run out by themselves
            self._push()
        self.link.close()
