"""Taps inside a node: copies of what passes them, written by a thread of their own.

The dataplane's thread copies a batch in one operation and goes on; where the writer is behind by more than a bound,
what comes is lost, and counted.
"""

import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from host_sdk.capture.frames import CapturedFrames, packet_ids
from host_sdk.capture.heads import ethernet_heads, shown_peers, udp_heads
from host_sdk.capture.packet import LINKTYPE_ETHERNET, LINKTYPE_IPV4, Direction, Interface
from host_sdk.capture.pcapng import OPTION_COMMENT, PACKET_VERDICT, VERDICT_HARDWARE, option, text_option
from host_sdk.capture.writer import CaptureWriter, Target
from host_sdk.wire.errors import CaptureError, ConfigError
from host_sdk.wire.header import HEADER_DTYPE
from host_sdk.wire.links.base import FrameBatch, Link, LinkStatistics, records
from host_sdk.wire.schema import HEADER_SIZE, REPLY_BIT, DropReason

TAPS = ("in", "classified", "dla", "out")
_MEANING = {
    "in": "frames as they came from the link",
    "classified": "frames behind the check of their headers, with its verdict; sealed ones opened",
    "dla": "requests as their batch begins: the header of the whole message, without its body",
    "out": "frames as the link took them",
}
MAX_WAITING = 32 * 1024 * 1024  # bytes of copies that wait for the writer
_JOIN_S = 30.0

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Passed:
    """Frames that passed a tap: copies, in rows of equal width."""

    tap: str
    frames: CapturedFrames
    peers: NDArray[np.uint64]
    reasons: NDArray[np.uint8] | None = None
    lost: int = 0  # before them, at this tap


def parse_taps(text: str) -> tuple[str, ...]:
    """Return the taps of a list such as ``in,out``, in the order of a packet's walk.

    Raises:
        ConfigError: One is not known, or there is none.
    """
    named = text.split(",")
    unknown = [name for name in named if name not in TAPS]
    if unknown:
        raise ConfigError(f"no tap is called {unknown[0]!r}; there are: {', '.join(TAPS)}")
    return tuple(name for name in TAPS if name in named)


class NodeCapture:
    """What passes the taps of one node. Its methods but :meth:`close` are for the dataplane's thread alone.

    Args:
        target: Where the capture goes.
        link: The node's link, which says how frames look.
        name: Of the node; its taps' interfaces are called ``name:tap``.
        taps: Which of TAPS.
        time_ns: Time, ns since 1970.

    Raises:
        ConfigError: The file cannot be written.
    """

    def __init__(self, target: Target, link: Link, name: str, taps: Sequence[str], time_ns: Callable[[], int]) -> None:
        self._link, self._taps, self._time_ns, self._snap = link, taps, time_ns, target.snap
        self._udp = link.kind == "udp"
        kind = LINKTYPE_IPV4 if self._udp else LINKTYPE_ETHERNET
        described = [Interface(f"{name}:{tap}", kind, target.snap, _MEANING[tap]) for tap in taps]
        self._writer = CaptureWriter(target, described, {}, time_ns)
        self._queue: queue.SimpleQueue[_Passed | Mapping[str, Any] | None] = queue.SimpleQueue()
        self._put = self._taken = 0  # bytes; each is written by one thread alone
        self._lost = dict.fromkeys(taps, 0)
        self._failed = False
        self._thread = threading.Thread(target=self._work, name="capture", daemon=True)
        self._thread.start()

    # ---- what the dataplane calls --------------------------------------------------------------------------------

    def classified(self, batch: FrameBatch, reasons: NDArray[np.uint8]) -> None:
        """Take frames behind the check of their headers; ``reasons``, uint8 [n], are its DropReasons."""
        if "classified" in self._taps:
            self._pass("classified", batch, Direction.INBOUND, reasons)

    def began(self, peers: NDArray[np.uint64], headers: NDArray[np.void]) -> None:
        """Take requests whose batch begins: who asks, uint64 [n], and a header for each, HEADER_DTYPE [n]."""
        if "dla" not in self._taps:
            return
        count = len(headers)
        memory = headers.view(np.uint8).reshape(-1).copy()
        sizes = np.full(count, HEADER_SIZE, np.int64)
        starts = np.arange(count, dtype=np.int64) * HEADER_SIZE
        lengths = sizes + np.minimum(headers["length"], headers["fragment_size"])
        passed = CapturedFrames(memory, starts, sizes, lengths, *self._moment(count, Direction.INBOUND))
        self._offer(_Passed("dla", passed, peers.copy()))

    def arrived(self, batch: FrameBatch) -> None:
        """Take frames as they came from the link."""
        if "in" in self._taps and len(batch):
            self._pass("in", batch, Direction.INBOUND)

    def copy_sent(self, batch: FrameBatch) -> FrameBatch | None:
        """Return a copy of frames that are about to be sent, for :meth:`sent`; None where they are not wanted."""
        if "out" not in self._taps or not len(batch):
            return None
        memory, starts, _ = self._copy(batch)
        return FrameBatch(memory, starts, batch.lengths.copy(), batch.peers.copy())

    def sent(self, batch: FrameBatch) -> None:
        """Take frames that the link took."""
        if len(batch):
            sizes = np.minimum(batch.lengths, self._width(batch))
            moment = self._moment(len(batch), Direction.OUTBOUND)
            self._offer(
                _Passed("out", CapturedFrames(batch.memory, batch.starts, sizes, batch.lengths, *moment), batch.peers)
            )

    def describe(self, metadata: Mapping[str, Any]) -> None:
        """Say what is kept about the node."""
        self._queue.put(metadata)

    def close(self) -> None:
        """Write what waits, and complete the file."""
        self._queue.put(None)
        self._thread.join(_JOIN_S)
        if self._thread.is_alive():
            _log.error("the capture does not end; its file is not complete")

    # ---- copies --------------------------------------------------------------------------------------------------

    def _pass(
        self, tap: str, batch: FrameBatch, direction: Direction, reasons: NDArray[np.uint8] | None = None
    ) -> None:
        memory, starts, sizes = self._copy(batch)
        moment = self._moment(len(batch), direction)
        frames = CapturedFrames(memory, starts, sizes, batch.lengths.copy(), *moment)
        self._offer(_Passed(tap, frames, batch.peers.copy(), reasons))

    def _width(self, batch: FrameBatch) -> int:
        longest = max(1, int(batch.lengths.max()))
        return min(longest, self._snap) if self._snap else longest

    def _copy(self, batch: FrameBatch) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
        """Return memory with the PDUs, where they begin in it, and how many bytes of each are there."""
        width = self._width(batch)
        rows = records(batch.memory, width)[batch.starts]
        starts = np.arange(len(batch), dtype=np.int64) * width
        return rows.view(np.uint8), starts, np.minimum(batch.lengths, width)

    def _moment(self, count: int, direction: Direction) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        return np.full(count, self._time_ns(), np.int64), np.full(count, direction, np.uint8)

    def _offer(self, passed: _Passed) -> None:
        size = passed.frames.memory.nbytes
        if self._failed or self._put - self._taken + size > MAX_WAITING:
            self._lost[passed.tap] += len(passed.frames)
            return
        passed.lost, self._lost[passed.tap] = self._lost[passed.tap], 0
        self._put += size
        self._queue.put(passed)

    # ---- the writer's thread -------------------------------------------------------------------------------------

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            try:
                if isinstance(item, _Passed):
                    self._taken += item.frames.memory.nbytes
                    if not self._failed:
                        self._write(item)
                else:
                    self._writer.describe(item)
                if self._queue.empty():
                    self._writer.flush()
            except CaptureError as error:
                if not self._failed:
                    _log.error("%s; the node goes on without", error)
                self._failed = True
        try:
            for tap, lost in self._lost.items():
                self._writer.lost(self._taps.index(tap), lost)
            self._writer.close()
        except CaptureError as error:
            _log.error("%s", error)
        for tap, counts in zip(self._taps, self._writer.counts, strict=True):
            level = logging.WARNING if counts.dropped else logging.INFO
            _log.log(level, "capture at tap %s: %d frames, %d of them lost", tap, counts.received, counts.dropped)

    def _write(self, passed: _Passed) -> None:
        tap = self._taps.index(passed.tap)
        if passed.lost:
            self._writer.lost(tap, passed.lost)
        if passed.reasons is None:
            self._write_alike(tap, passed.frames, passed.peers, b"")
            return
        # By runs of one verdict, so that frames keep their order.
        edges = np.flatnonzero(np.diff(passed.reasons)) + 1
        for begin, end in zip([0, *edges.tolist()], [*edges.tolist(), len(passed.reasons)], strict=True):
            run, reason = np.arange(begin, end), DropReason(int(passed.reasons[begin]))
            verdict = option(PACKET_VERDICT, bytes([VERDICT_HARDWARE, reason]))
            comment = text_option(OPTION_COMMENT, f"dropped: {reason.name}") if reason else b""
            self._write_alike(tap, passed.frames.take(run), passed.peers[run], verdict + comment)

    def _write_alike(self, tap: int, frames: CapturedFrames, peers: NDArray[np.uint64], more: bytes) -> None:
        shown = shown_peers(peers, udp=self._udp)
        own = np.full(len(frames), self._link.address, np.uint64)
        outbound = bool(frames.directions[0] == Direction.OUTBOUND)
        sources, destinations = (own, shown) if outbound else (shown, own)
        headers = _headers(frames)
        # The headers of replies name the same session and request; who asked is the other end.
        ids = packet_ids(np.where(headers["opcode"] & REPLY_BIT, destinations, sources), headers)
        heads = udp_heads(sources, destinations, frames.lengths) if self._udp else ethernet_heads(sources, destinations)
        self._writer.write(tap, frames, ids, more, heads)


def _headers(frames: CapturedFrames) -> NDArray[np.void]:
    """Return the headers of copied PDUs, HEADER_DTYPE [n]; of what is shorter, the rest is what follows it."""
    last = max(0, len(frames.memory) - 1)
    raw = frames.memory[np.minimum(frames.starts[:, None] + np.arange(HEADER_SIZE), last)]
    view: NDArray[np.void] = raw.view(HEADER_DTYPE)[:, 0]
    return view


class CapturedLink:
    """A link whose frames are shown to a capture, received and sent; it owns the link.

    Args:
        link: The link; closed with this one.
        capture: Where its frames are shown.
    """

    def __init__(self, link: Link, capture: NodeCapture) -> None:
        self._link, self._capture = link, capture
        self.kind, self.mtu, self.smallest = link.kind, link.mtu, link.smallest
        self.capacity = link.capacity
        self.fileno, self.wait, self.allocate, self.expect = link.fileno, link.wait, link.allocate, link.expect
        self.format_address, self.parse_address = link.format_address, link.parse_address
        self.close = link.close

    @property
    def address(self) -> int:
        """Peer key of this end, which a link that follows its interface may change."""
        return self._link.address

    def receive(self) -> FrameBatch:
        """Receive, and show what was received."""
        batch = self._link.receive()
        self._capture.arrived(batch)
        return batch

    def send(self, batch: FrameBatch) -> int:
        """Send, and show what the link took."""
        copied = self._capture.copy_sent(batch)
        taken = self._link.send(batch)
        if copied is not None:
            self._capture.sent(copied.first(taken))
        return taken

    def statistics(self) -> LinkStatistics:
        """Return the link's counters."""
        return self._link.statistics()
