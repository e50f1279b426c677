"""The link through memory: a switch inside one process, for tests and the virtual lab."""

import copy
import os
import threading

import numpy as np
from numpy.typing import NDArray

from host_sdk.wire import schema
from host_sdk.wire.errors import ClosedError, ConfigError, MtuError
from host_sdk.wire.links.base import BROADCAST, BURST, EMPTY, FrameBatch, LinkStatistics, records
from host_sdk.wire.links.ethernet import format_mac, parse_mac
from host_sdk.wire.links.mmsg import count_drops
from host_sdk.wire.links.waiting import Waiter

_FIRST_ADDRESS = 0x0200_0000_0001  # locally administered


class MemorySwitch:
    """Delivers unicast to the port with the address, broadcast to all ports but the sender's.

    Nothing is learnt or flooded: every port is known. Ports may be used from different threads.

    Attributes:
        undeliverable: Unicast frames to an address that no port has.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ports: dict[int, MemoryLink] = {}
        self.undeliverable = 0

    def attach(self, address: int | None = None, *, mtu: int = 1500, queue: int = 1024) -> "MemoryLink":
        """Return a new port.

        Args:
            address: Its MAC address as a number; None chooses the next one that is free.
            mtu: Bytes of the largest PDU.
            queue: Frames that wait for the port at most; more are dropped and counted as ``queue_full``.

        Raises:
            ConfigError: The address is taken or not unicast, or the queue is shorter than two frames.
            MtuError: The mtu is below the protocol's minimum.
        """
        if mtu < schema.MIN_MTU:
            raise MtuError(f"a memory link carries PDUs of {schema.MIN_MTU} bytes or more, not {mtu}")
        if queue < 2:
            raise ConfigError(f"a memory link needs a queue of 2 frames or more, not {queue}")
        with self._lock:
            if address is None:
                address = next(free for free in range(_FIRST_ADDRESS, BROADCAST) if free not in self._ports)
            if not 0 < address < BROADCAST or address >> 40 & 1:
                raise ConfigError(f"{address:#x} is not the MAC address of one port")
            if address in self._ports:
                raise ConfigError(f"there is a port {format_mac(address)} already; choose another address")
            link = self._ports[address] = MemoryLink(self, self._lock, address, mtu, queue)
        return link

    def deliver(self, sender: "MemoryLink", batch: FrameBatch) -> None:
        """Copy every frame to the queues of the ports that it is for."""
        with self._lock:
            known = everybody = batch.peers == BROADCAST
            for port in self._ports.values():
                own = batch.peers == port.address
                known = known | own
                chosen = np.flatnonzero(own if port is sender else own | everybody)
                if len(chosen):
                    port.enqueue(batch, chosen, sender.address)
            self.undeliverable += len(batch) - int(np.count_nonzero(known))

    def detach(self, link: "MemoryLink") -> None:
        """Forget a port; one that is not attached is no error."""
        with self._lock:
            self._ports.pop(link.address, None)


class MemoryLink:
    """One port of a :class:`MemorySwitch`, which makes it."""

    kind = "memory"

    def __init__(self, switch: MemorySwitch, lock: threading.Lock, address: int, mtu: int, queue: int) -> None:
        self._switch = switch
        self._lock = lock  # the switch's: guards the queue, whose ends are in different threads
        self._address = address
        self._mtu = mtu
        self._limit = queue
        self._burst = min(BURST, queue // 2)
        self._queue: NDArray[np.uint8] = np.zeros(queue * mtu, np.uint8)
        self._queued_lengths = np.zeros(queue, np.int64)
        self._queued_peers = np.zeros(queue, np.uint64)
        self._head = 0  # frames ever taken by the owner
        self._held = 0  # frames of the last batch, whose memory the owner may still read
        self._tail = 0  # frames ever queued
        self._slab: NDArray[np.uint8] = np.zeros(BURST * mtu, np.uint8)
        self._starts = np.arange(BURST, dtype=np.int64) * mtu
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._waiter = Waiter(self._event)
        self._counted = LinkStatistics()
        self._closed = False

    @property
    def address(self) -> int:
        """MAC address of the port, as a number."""
        return self._address

    @property
    def mtu(self) -> int:
        """Bytes of the largest PDU."""
        return self._mtu

    @property
    def smallest(self) -> int:
        """0: nothing is padded."""
        return 0

    @property
    def capacity(self) -> int:
        """Frames of the queue but for a burst, which the owner may have in hand."""
        return self._limit - self._burst

    def fileno(self) -> int:
        """Return the descriptor that polls readable while frames wait."""
        self._check_open()
        return self._event

    def format_address(self, key: int) -> str:
        """Return a MAC address as people write it."""
        return format_mac(key)

    def parse_address(self, text: str) -> int:
        """Return the peer key of a MAC address.

        Raises:
            ConfigError: The text is not a MAC address.
        """
        return parse_mac(text)

    def enqueue(self, batch: FrameBatch, chosen: NDArray[np.int64], source: int) -> None:
        """Copy the chosen frames into the queue while there is room; for the switch, which has the lock."""
        fitting = chosen[batch.lengths[chosen] <= self._mtu]
        room = self._limit - (self._tail - self._head + self._held)
        taken = fitting[:room]
        count_drops(self._counted.rx_drops, "too_large", len(chosen) - len(fitting))
        count_drops(self._counted.rx_drops, "queue_full", len(fitting) - len(taken))
        if not len(taken):
            return
        rows = (self._tail + np.arange(len(taken))) % self._limit
        lengths = batch.lengths[taken]
        width = max(int(lengths.max()), 1)
        records(self._queue, width)[rows * self._mtu] = records(batch.memory, width)[batch.starts[taken]]
        self._queued_lengths[rows] = lengths
        self._queued_peers[rows] = source
        if self._tail == self._head:
            os.eventfd_write(self._event, 1)
        self._tail += len(taken)

    def receive(self) -> FrameBatch:
        """Return the PDUs that wait, up to a burst, which is no more than half of the queue."""
        self._check_open()
        with self._lock:
            self._held = 0
            count = min(self._tail - self._head, self._burst)
            if not count:
                return EMPTY
            rows = (self._head + np.arange(count)) % self._limit
            self._head += count
            self._held = count
            if self._head == self._tail:
                os.eventfd_read(self._event)
        lengths = self._queued_lengths[rows]
        self._counted.rx_frames += count
        self._counted.rx_bytes += int(lengths.sum())
        return FrameBatch(self._queue, rows * self._mtu, lengths, self._queued_peers[rows])

    def allocate(self, count: int) -> FrameBatch:
        """Return up to ``count`` buffers to write PDUs into."""
        self._check_open()
        count = min(count, BURST)
        empty = np.zeros(count, np.int64)
        return FrameBatch(self._slab, self._starts[:count], empty, np.zeros(count, np.uint64))

    def send(self, batch: FrameBatch) -> int:
        """Hand frames to the switch, which takes all that are no longer than the mtu, and return how many."""
        self._check_open()
        fitting = batch.lengths <= self._mtu
        count = int(np.count_nonzero(fitting))
        count_drops(self._counted.tx_drops, "too_large", len(batch) - count)
        if count < len(batch):
            starts, lengths, peers = batch.starts[fitting], batch.lengths[fitting], batch.peers[fitting]
            batch = FrameBatch(batch.memory, starts, lengths, peers)
        self._switch.deliver(self, batch)
        self._counted.tx_frames += count
        self._counted.tx_bytes += int(batch.lengths.sum())
        return count

    def wait(self, timeout_ns: int | None) -> bool:
        """Wait until frames have arrived, at most ``timeout_ns`` (None: for ever); return whether they have.

        A signal ends it early.
        """
        self._check_open()
        return self._waiter.wait(timeout_ns)

    def expect(self, frames: int) -> None:
        """Return at once: it cannot be told how many frames wait."""

    def statistics(self) -> LinkStatistics:
        """Return the counters so far."""
        with self._lock:
            return copy.deepcopy(self._counted)

    def close(self) -> None:
        """Leave the switch; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self._switch.detach(self)
        os.close(self._event)

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(f"the memory link {format_mac(self._address)} is closed")
