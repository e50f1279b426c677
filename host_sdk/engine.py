"""A link and a requester, joined: what both skins of the SDK drive, one from a loop of its own, one from asyncio's."""

import os
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

import msgpack
import numpy as np
from numpy.typing import NDArray

from host_sdk.wire.errors import ClosedError, ConfigError, LinkError
from host_sdk.wire.exchange.answers import Event
from host_sdk.wire.exchange.flight import Bodies
from host_sdk.wire.exchange.pace import RequesterLimits
from host_sdk.wire.exchange.request import Request
from host_sdk.wire.exchange.requester import Requester
from host_sdk.wire.header import Header
from host_sdk.wire.links.auto import open_link
from host_sdk.wire.links.base import BURST, Link
from host_sdk.wire.links.names import expand
from host_sdk.wire.links.udp import UdpLink
from host_sdk.wire.schema import MAX_TENANT

Now = Callable[[], int]
ROUNDS = 16  # batches that are drained at one call at most, so that a flood cannot keep the caller from its timers
_LOOK_NS = 300_000  # that an owner who waits looks for frames itself, which is faster than to be woken
_LOOKS = len(os.sched_getaffinity(0)) > 1  # else it would keep the processor from those it waits for
_FULL_NS = 100_000  # pause when the link has no buffers left


class Engine:
    """Sends what the requester wants sent and feeds it what arrives. Never blocks, but in :meth:`turn`.

    Args:
        link: The link; closed with the engine.
        limits: Window and retransmission; no more fragments are asked for at once than the link holds.
        tenant: On whose behalf requests are made.
        generator: Source of request ids; the system's by default, so that they cannot be guessed.
        now: Monotonic ns.

    Attributes:
        closed: Whether it was closed.
        generator: Source of everything that is drawn.
    """

    def __init__(
        self,
        link: Link,
        limits: RequesterLimits | None = None,
        tenant: str = "",
        generator: random.Random | None = None,
        now: Now = time.monotonic_ns,
    ) -> None:
        self.link = link
        self._now = now
        self.closed = self._full = False
        self.generator = generator or random.SystemRandom()
        limits = limits or RequesterLimits()
        asked = min(limits.asked_fragments, max(1, link.capacity // 2))  # more would only be lost
        limits = replace(limits, asked_fragments=asked)
        self.requester = Requester(link.mtu, self.generator, limits, link.smallest, tenant)

    def now(self) -> int:
        """Return the time that the requester goes by, in monotonic ns."""
        return self._now()

    def submit(self, request: Request) -> int:
        """Queue a request outside sessions; return the token of its events.

        Raises:
            ClosedError: The engine was closed.
            LocalProtocolError: The message cannot be encoded.
        """
        self._check_open()
        return self.requester.submit(request, self._now())

    def infer(self, peer: int, header: Header, bodies: Bodies, tokens: NDArray[np.int64], timeout_ns: int) -> None:
        """Queue inferences, as :meth:`Requester.infer` does.

        Raises:
            ClosedError: The engine was closed.
            LocalProtocolError: A message cannot be encoded.
        """
        self._check_open()
        now = self._now()
        self.requester.infer(peer, header, bodies, tokens, now, now + timeout_ns)

    def cancel(self, token: int) -> None:
        """Give a request up; the appliance is told at the next flush."""
        self.requester.cancel(token, self._now())

    def flush(self) -> None:
        """Send what is due, as much of it as the link takes now.

        Raises:
            LinkError: The link is gone.
        """
        self._flush(self.requester.next_timer())

    def _flush(self, timer: int | None) -> None:
        """Send what is due, the requester's next timer being known."""
        self._full = False
        while timer is not None and timer <= (now := self._now()):
            buffers = self.link.allocate(BURST)
            self._full = not len(buffers)
            count = self.requester.to_send(buffers, now)
            if count:
                self.link.send(buffers.first(count))
            if count < len(buffers) or self._full:
                return
            timer = self.requester.next_timer()

    def drain(self) -> None:
        """Take in what has arrived.

        Raises:
            LinkError: The link is gone.
        """
        for _ in range(ROUNDS):
            batch = self.link.receive()
            if len(batch):
                self.requester.receive(batch, self._now())
            if len(batch) < BURST:
                return

    def events(self) -> list[Event]:
        """Take the events so far."""
        return self.requester.events()

    def tickets(self) -> list[bytes]:
        """Return a ticket for every open session, which stays open when the engine is closed."""
        return [msgpack.packb(pair) for pair in self.requester.sessions()]

    def timer_ns(self) -> int | None:
        """Return ns until flush has work at the latest; None while nothing is pending."""
        if self._full:
            return _FULL_NS
        timer = self.requester.next_timer()
        return None if timer is None else max(0, timer - self._now())

    def turn(self, most_ns: int | None = None) -> list[Event]:
        """Send, wait until frames have arrived or the next timer, receive; return what has become of requests.

        Args:
            most_ns: How long to wait at most.

        Raises:
            LinkError: The link is gone.
        """
        timer = self.requester.next_timer()
        if timer is not None and 0 < timer <= self._now():
            self.drain()  # answers come before timers: the owner may not have called for long
            timer = self.requester.next_timer()
        self._flush(timer)
        timeout_ns = self.timer_ns()
        if timeout_ns == 0:
            return self.requester.events()
        if most_ns is not None:
            timeout_ns = most_ns if timeout_ns is None else min(timeout_ns, most_ns)
        if not self._look(timeout_ns):
            if timeout_ns != 0:
                self.link.wait(timeout_ns)
            self.drain()
        return self.requester.events()

    def _look(self, timeout_ns: int | None) -> bool:
        """Look for frames for as long as waking up takes; return whether there were any."""
        if not _LOOKS:
            return False
        now = self._now()
        end = now + (_LOOK_NS if timeout_ns is None else min(_LOOK_NS, timeout_ns))
        while now < end:
            batch = self.link.receive()
            now = self._now()
            if len(batch):
                self.requester.receive(batch, now)
                return True
        return False

    def close(self) -> None:
        """End the sessions that are not kept and close the link; a second call does nothing."""
        if self.closed:
            return
        self.closed = True
        self.requester.leave()
        with suppress(LinkError):  # of a link that is gone the sessions run out by themselves
            self.flush()
        self.link.close()

    def _check_open(self) -> None:
        if self.closed:
            raise ClosedError("this client was closed")


def connect(
    link: Link | str,
    target: str | Sequence[str] | None,
    limits: RequesterLimits | None,
    tenant: str,
    tickets: Sequence[bytes],
    *,
    sealed: bool = False,
) -> tuple[Engine, list[int]]:
    """Open a link and make an engine on it; return it with the peer keys of the targets.

    Over UDP, a name that has several addresses stands for as many targets. On a link that is ``sealed``, inferences
    go to the virtual peers of keys.

    Raises:
        LinkError: The link cannot be opened.
        ConfigError: An address, the link's name, the tenant's or a ticket is wrong.
    """
    addresses = [target] if isinstance(target, str) else list(target or ())
    if len(tenant.encode()) > MAX_TENANT:
        raise ConfigError(f"a tenant's name of {len(tenant.encode())} bytes; at most {MAX_TENANT} are taken")
    sessions = [_read_ticket(ticket) for ticket in tickets]
    opened = open_link(link, port=0, peers=addresses).link if isinstance(link, str) else link
    try:
        named = expand(addresses) if opened.kind == UdpLink.kind else addresses
        targets = [opened.parse_address(address) for address in named]
    except ConfigError:
        if opened is not link:
            opened.close()
        raise
    engine = Engine(_sealing(opened) if sealed else opened, limits, tenant)
    for peer, session in sessions:
        engine.requester.resume(peer, session)
    return engine, targets


def _sealing(link: Link) -> Link:
    # Here, as ciphers take a while to load, and not everybody has an identity.
    from host_sdk.wire.sealed.keys import KeyRing
    from host_sdk.wire.sealed.link import SealedLink, Tally

    return SealedLink(link, KeyRing(), Tally(), time.monotonic_ns, responder=False)


def _read_ticket(ticket: bytes) -> tuple[int, int]:
    """Return peer key and session of a ticket.

    Raises:
        ConfigError: It is none.
    """
    try:
        peer, session = msgpack.unpackb(ticket)
    except (ValueError, TypeError, msgpack.exceptions.UnpackException):
        peer = session = None
    if type(peer) is not int or type(session) is not int or not 0 < session < 1 << 32:
        raise ConfigError("this is no ticket of a session; take one that tickets() gave")
    return peer, session
