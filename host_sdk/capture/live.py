"""Captures of an interface, as its kernel sees it, until something to stop at happens."""

import selectors
import signal
import socket
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import numpy as np

from host_sdk.capture.filter import FrameFilter
from host_sdk.capture.frames import CapturedFrames, find_pdus, packet_ids
from host_sdk.capture.packet import LINKTYPE_ETHERNET, Direction
from host_sdk.capture.writer import CaptureWriter
from host_sdk.lab.driver import FrameRing
from host_sdk.lab.ring import RETIRE_S, Entry
from host_sdk.wire.schema import REPLY_BIT, UDP_PORT

_DRAIN_TRIES = 50
_LOOK_S = 1.0  # how often losses are asked for while nothing comes


@dataclass(frozen=True, slots=True)
class Selection:
    """What to take of the frames at an interface.

    Attributes:
        frames: Filter of this protocol's frames; None takes all frames, of whatever protocol.
        ports: UDP ports that make a datagram one of this protocol.
        both_ways: Whether outgoing frames are taken; not of a loopback, where each comes in as well.
        directed: Whether it is written which way frames went; not of a switch, which they only cross.
    """

    frames: FrameFilter | None
    ports: Collection[int] = (UDP_PORT,)
    both_ways: bool = True
    directed: bool = True


class LiveCapture:
    """Takes frames out of a ring and writes those that were selected, to interface 0 of a writer.

    Args:
        ring: Where they come from.
        writer: Where they go.
        selection: Which ones.
    """

    def __init__(self, ring: FrameRing, writer: CaptureWriter, selection: Selection) -> None:
        self._ring, self._writer, self._selection = ring, writer, selection
        self._read = 0  # frames out of the ring, whatever became of them
        self._dropped = 0

    def run(self, stop: socket.socket, seconds: float | None, ready: Callable[[], None]) -> None:
        """Capture until ``stop`` is readable, the time is over or the file is full; then drain the ring.

        Args:
            stop: Becomes readable when it shall end.
            seconds: How long at most.
            ready: Called when no later frame is missed.

        Raises:
            CaptureError: The file cannot be written.
        """
        end = None if seconds is None else time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._ring, selectors.EVENT_READ)
            selector.register(stop, selectors.EVENT_READ)
            ready()
            while not self._writer.full:
                left = _LOOK_S if end is None else min(_LOOK_S, end - time.monotonic())
                if left <= 0 or any(key.fileobj is stop for key, _ in selector.select(left)):
                    break
                self._take()
        self._ring.stop()
        for _ in range(_DRAIN_TRIES):
            self._take()
            if self._read >= self._ring.taken():
                break
            time.sleep(RETIRE_S)
        missing = self._ring.taken() - self._read
        if missing > 0:
            self._writer.lost(0, missing)

    def _take(self) -> None:
        for memory, entries in self._ring.entries():
            self._read += len(entries)
            self._write(memory, entries)
        self._ring.taken()
        if self._ring.dropped > self._dropped:
            self._writer.lost(0, self._ring.dropped - self._dropped)
            self._dropped = self._ring.dropped
        self._writer.flush()

    def _write(self, memory: memoryview, entries: list[Entry]) -> None:
        selection = self._selection
        if not selection.both_ways:
            entries = [entry for entry in entries if not entry.outgoing]
        if not entries:
            return
        starts, captured, lengths, times, outgoing = np.array(entries, np.int64).T
        directions = np.where(outgoing, Direction.OUTBOUND, Direction.INBOUND) * selection.directed
        frames = CapturedFrames(
            np.frombuffer(memory, np.uint8), starts, captured, lengths, times, directions.astype(np.uint8)
        )
        if selection.frames is None:
            self._writer.write(0, frames)
            return
        pdus = find_pdus(frames, LINKTYPE_ETHERNET, selection.ports)
        requesters = np.where(pdus.headers["opcode"] & REPLY_BIT, pdus.destinations, pdus.sources)
        ids = packet_ids(requesters, pdus.headers)
        taken = np.flatnonzero(selection.frames.mask(pdus))
        self._writer.filtered(0, len(frames) - len(taken))
        self._writer.write(0, frames.take(taken), ids[taken])


@contextmanager
def stopped_by_signals() -> Iterator[socket.socket]:
    """Give a socket that becomes readable with SIGINT or SIGTERM, which do nothing else meanwhile."""
    wake, writer = socket.socketpair()
    writer.setblocking(False)

    def ignore(_: int, __: FrameType | None) -> None:
        """Do nothing: the descriptor wakes whoever waits."""

    before_fd = signal.set_wakeup_fd(writer.fileno())
    before = {number: signal.signal(number, ignore) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield wake
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(before_fd)
        wake.close()
        writer.close()
