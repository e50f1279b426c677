"""A link that goes on when its interface goes away: on the one that comes in its place."""

import logging
import select
from collections.abc import Callable
from time import monotonic_ns
from typing import Protocol

import numpy as np

from host_sdk.wire.errors import ClosedError, LinkError, MtuError
from host_sdk.wire.links.base import BURST, EMPTY, FrameBatch, Link, LinkStatistics
from host_sdk.wire.links.interface import LinkNotices
from host_sdk.wire.links.mmsg import count_drops
from host_sdk.wire.links.waiting import Timer, Waiter

RETRY_NS = 1_000_000_000  # between two looks at the interfaces when the kernel tells of no change
_log = logging.getLogger(__name__)


class InterfaceLink(Link, Protocol):
    """A link on an interface, which can be gone."""

    @property
    def interface(self) -> str:
        """Name of the interface when the link was opened."""

    def descriptors(self) -> tuple[int, ...]:
        """Return what to poll: the descriptors behind fileno."""


class FollowedLink:
    """A link on an interface that may go away, be renamed, or get another address: then it is opened anew.

    While no interface is there, nothing arrives, and what is sent is dropped and counted as ``link_down``. It sleeps
    until the kernel tells of a change of some interface, and looks once a second besides, for what hinders a link
    without being a change. Whoever owns it keeps sessions and all else, and sees another :attr:`address` where the
    new interface has one.

    Args:
        reopen: Opens the link; raises LinkError while that cannot be. Called again for each loss, in whatever
            namespace the caller is in then.
        now: Monotonic, in ns.

    Raises:
        LinkError: It cannot be opened in the first place.
    """

    def __init__(self, reopen: Callable[[], InterfaceLink], now: Callable[[], int] = monotonic_ns) -> None:
        self._reopen, self._now = reopen, now
        self._inner: InterfaceLink | None = None
        self._fault: Exception | None = None  # why the inner link, if there is one, is of no use
        self._epoll = select.epoll()
        self._waiter = Waiter(self._epoll.fileno())
        self._notices, self._timer = LinkNotices(), Timer()
        self._epoll.register(self._timer, select.EPOLLIN)
        self._past = LinkStatistics()
        self._lost_at = self._retry_at = 0
        self._hindrance = ""
        self._lent: InterfaceLink | None = None
        self._scratch: FrameBatch | None = None
        self._closed = False
        try:
            link = reopen()
        except BaseException:
            self.close()
            raise
        self.kind, self.mtu, self.smallest, self.capacity = link.kind, link.mtu, link.smallest, link.capacity
        self.format_address, self.parse_address = link.format_address, link.parse_address
        self._attach(link)

    @property
    def address(self) -> int:
        """MAC address of the interface; while there is none, of the last one."""
        return self._address

    @property
    def interface(self) -> str:
        """Name of the interface; while there is none, of the last one."""
        return self._name

    @property
    def up(self) -> bool:
        """Whether there is an interface."""
        return self._fault is None

    def fileno(self) -> int:
        """Return a descriptor, the same for ever, that polls readable when there is a reason to receive."""
        self._check_open()
        return self._epoll.fileno()

    def receive(self) -> FrameBatch:
        """Return the PDUs that have arrived; none while the interface is away.

        Raises:
            MtuError: What came in place of the interface carries smaller frames than the owner was told.
        """
        inner = self._inner
        if inner is not None and self._fault is None:
            try:
                return inner.receive()
            except (LinkError, OSError) as error:
                self._fault = error
        self._mend()
        return EMPTY

    def allocate(self, count: int) -> FrameBatch:
        """Return up to ``count`` buffers to write PDUs into."""
        inner = self._inner
        self._lent = inner if self._fault is None else None
        if inner is not None and self._fault is None:
            return inner.allocate(count)
        self._check_open()
        if self._scratch is None:
            starts = np.arange(BURST, dtype=np.int64) * self.mtu
            memory = np.zeros(BURST * self.mtu, np.uint8)
            self._scratch = FrameBatch(memory, starts, np.zeros(BURST, np.int64), np.zeros(BURST, np.uint64))
        lent = self._scratch.first(min(count, BURST))
        lent.lengths.fill(0)
        return lent

    def send(self, batch: FrameBatch) -> int:
        """Send an allocated batch, or its first frames, and return how many the kernel took; none while it is away."""
        inner = self._inner
        if inner is not None and self._fault is None and self._lent is inner:
            try:
                return inner.send(batch)
            except (LinkError, OSError) as error:
                self._fault = error  # closed at the next receive: its memory may be in the owner's hands
        self._check_open()
        count_drops(self._past.tx_drops, "link_down", len(batch))
        return 0

    def wait(self, timeout_ns: int | None) -> bool:
        """Wait until frames have arrived, at most ``timeout_ns`` (None: for ever); return whether they have.

        A signal ends it early, and so does the return of the interface.

        Raises:
            MtuError: What came in place of the interface carries smaller frames than the owner was told.
        """
        self._check_open()
        end = None if timeout_ns is None else self._now() + timeout_ns
        if self._inner is not None and self._fault is None:
            try:
                return self._inner.wait(timeout_ns)
            except (LinkError, OSError) as error:
                self._fault = error
        self._mend()
        while self._fault is not None:
            if not self._waiter.wait(None if end is None else max(0, end - self._now())):
                return False
            self._mend()
        return False

    def expect(self, frames: int) -> None:
        """Wait without sleeping, for some µs at most, until so many frames have arrived."""
        if self._inner is not None and self._fault is None:
            self._inner.expect(frames)

    def statistics(self) -> LinkStatistics:
        """Return the counters over all interfaces that there were, with losses and the time without one."""
        total = LinkStatistics()
        total.add(self._past)
        if self._inner is not None:
            total.add(self._inner.statistics())
        elif not self._closed:
            total.outage_ns += self._now() - self._lost_at
        return total

    def close(self) -> None:
        """Give everything back; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self._retire()
        self._fault = ClosedError("the link is closed")
        for part in (self._epoll, self._timer, self._notices):
            part.close()

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the link was closed; open another")

    def _attach(self, link: InterfaceLink) -> None:
        self._inner, self._fault, self._lent = link, None, None
        self._address, self._name = link.address, link.interface
        for descriptor in link.descriptors():
            self._epoll.register(descriptor, select.EPOLLIN)

    def _retire(self) -> None:
        """Close what is of no use any more, and keep its counters."""
        inner, self._inner = self._inner, None
        if inner is not None:
            for descriptor in inner.descriptors():
                self._epoll.unregister(descriptor)
            inner.close()
            self._past.add(inner.statistics())

    def _mend(self) -> None:
        """Open the link anew, if there is a reason to try."""
        self._check_open()
        now = self._now()
        if self._inner is not None:
            self._retire()
            self._notices.drain()
            self._epoll.register(self._notices, select.EPOLLIN)
            self._lost_at, self._hindrance = now, ""
            self._past.losses += 1
            _log.warning("the link is lost: %s", self._fault)
        elif not self._notices.drain() and now < self._retry_at:
            return
        try:
            link = self._reopen()
        except (LinkError, OSError) as error:
            self._retry_at = now + RETRY_NS
            self._timer.set(RETRY_NS)
            if str(error) != self._hindrance:
                self._hindrance = str(error)
                _log.info("the link waits for an interface: %s", error)
            return
        if link.mtu < self.mtu:
            short = MtuError(f"interface {link.interface} has MTU {link.mtu}; {self.mtu} was told, so start anew")
            link.close()
            raise short
        self._timer.set(None)
        self._epoll.unregister(self._notices)
        self._past.outage_ns += now - self._lost_at
        self._attach(link)
        address = link.format_address(link.address)
        _log.warning("the link is back on %s, %s, after %.3f s", self._name, address, (now - self._lost_at) / 1e9)
