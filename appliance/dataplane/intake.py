"""From frames to queued requests: the fast path for whole batches, the slow path for everything else."""

from dataclasses import dataclass, replace

import msgpack
import numpy as np
from numpy.typing import NDArray

from appliance.clock import Clock
from appliance.dataplane.queue import JOB_DTYPE, NEVER
from appliance.dataplane.refusal import Refusals, answer_header
from appliance.dataplane.replies import ReplyWriter
from appliance.dataplane.state import State
from appliance.dataplane.table import Loaded
from host_sdk.wire.errors import FrameError
from host_sdk.wire.header import (
    classify_headers,
    decode_header,
    gather_headers,
    vector_header,
)
from host_sdk.wire.links.base import BROADCAST, FrameBatch, Link
from host_sdk.wire.message import Message, batch_crcs, check_flags, decode_message
from host_sdk.wire.schema import (
    CRC_SIZE,
    HEADER_SIZE,
    MAX_FRAGMENT_SIZE,
    MIN_MTU,
    REPLY_BIT,
    RETRY_AFTER_UNIT_US,
    DropReason,
    Flag,
    Opcode,
    Status,
)

SESSION_RETRY = 1000  # in units of 100 µs: when a full session table may have room
CONTROL_RETRY = 200
_FAST_FLAGS = ~int(Flag.CRC | Flag.TRAILER) & 0xFFFF


@dataclass(slots=True)
class TokenBucket:
    """Lets through ``rate`` a second, and as many at once."""

    rate: int
    tokens: float = 0.0
    filled: int | None = None

    def take(self, now: int) -> bool:
        """Take a token at ``now`` (ns); return whether there was one."""
        if self.filled is None:
            self.tokens = float(self.rate)
        else:
            self.tokens = min(self.rate, self.tokens + (now - self.filled) * self.rate / 1e9)
        self.filled = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


@dataclass(frozen=True, slots=True)
class Arrivals:
    """INFER requests whose frames are whole and sound: headers HEADER_DTYPE [n] and where their bodies lie."""

    peers: NDArray[np.uint64]
    headers: NDArray[np.void]
    memory: NDArray[np.uint8]
    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    wire_bytes: NDArray[np.int64]

    def take(self, index: NDArray[np.intp] | NDArray[np.bool_]) -> "Arrivals":
        """Return the requests at ``index``."""
        return Arrivals(
            self.peers[index],
            self.headers[index],
            self.memory,
            self.starts[index],
            self.sizes[index],
            self.wire_bytes[index],
        )


class Intake:
    """Takes frames from the link and puts requests into queues, sessions and the firmware's mailbox."""

    def __init__(
        self,
        link: Link,
        clock: Clock,
        state: State,
        replies: ReplyWriter,
        refusals: Refusals,
    ) -> None:
        self._link, self._clock, self._replies, self._refusals = link, clock, replies, refusals
        self._counters, self._sessions, self._table = state.counters, state.sessions, state.table
        self._control, self._reassembler = state.control, state.reassembler
        self._credits = state.credits
        self._discovery = TokenBucket(state.discovery_per_s)

    # ---- batches -------------------------------------------------------------------------------------------------

    def frames(self, batch: FrameBatch, now: int) -> None:
        """Check, count and queue a batch of frames that arrived at ``now``."""
        headers = gather_headers(batch)
        reasons = classify_headers(headers, batch.lengths, self._link.smallest)
        opcodes = headers["opcode"]
        reasons[(reasons == 0) & (opcodes & REPLY_BIT != 0)] = DropReason.NOT_A_REQUEST
        nobody = (batch.peers == BROADCAST) | (batch.peers == self._link.address) | (batch.peers == 0)
        reasons[(reasons == 0) & nobody] = DropReason.UNANSWERABLE
        self._counters.frames(reasons)
        good = reasons == DropReason.ACCEPTED
        whole = headers["length"] <= headers["fragment_size"]
        fast = good & whole & (opcodes == Opcode.INFER) & (headers["flags"] & _FAST_FLAGS == 0)
        if fast.any():
            self._fast(batch, headers, np.flatnonzero(fast), now)
        for index in np.flatnonzero(good & ~fast).tolist():
            self._slow(int(batch.peers[index]), batch.pdu(index), now)

    def _fast(self, batch: FrameBatch, headers: NDArray[np.void], index: NDArray[np.intp], now: int) -> None:
        chosen = headers[index]
        lengths = chosen["length"].astype(np.int64)
        crc = (chosen["flags"] & Flag.CRC) != 0
        arrivals = Arrivals(
            batch.peers[index],
            chosen,
            batch.memory,
            batch.starts[index] + HEADER_SIZE,
            lengths - crc * CRC_SIZE,
            lengths + HEADER_SIZE,
        )
        if crc.any():
            arrivals = self._verify(arrivals, crc)
        self._admit(arrivals, now, now)

    def _verify(self, arrivals: Arrivals, crc: NDArray[np.bool_]) -> Arrivals:
        """Refuse requests whose CRC is wrong."""
        short = arrivals.sizes < 0  # no room for the CRC that the flag announces
        if short.any():
            torsos = arrivals.take(short)
            self._refusals.batch(torsos.peers, torsos.headers, Status.MALFORMED)
            arrivals, crc = arrivals.take(~short), crc[~short]
        index = np.flatnonzero(crc)
        ends = arrivals.starts[index] + arrivals.sizes[index]
        expected = batch_crcs(arrivals.headers[index], arrivals.memory, arrivals.starts[index], arrivals.sizes[index])
        found = arrivals.memory[ends[:, None] + np.arange(CRC_SIZE)].view(">u4")[:, 0]
        bad = index[found != expected]
        if len(bad) == 0:
            return arrivals
        broken = arrivals.take(bad)
        self._refusals.batch(broken.peers, broken.headers, Status.BAD_CRC)
        return arrivals.take(np.delete(np.arange(len(arrivals.peers)), bad))

    def _admit(self, arrivals: Arrivals, began: int, now: int) -> None:
        """Queue what has an open session and a loaded pipeline; refuse the rest."""
        known, fragment_sizes = self._sessions.lookup(arrivals.headers["session"], arrivals.peers, now)
        if not known.all():
            strangers = arrivals.take(~known)
            self._refusals.batch(strangers.peers, strangers.headers, Status.UNKNOWN_SESSION)
            arrivals, fragment_sizes = arrivals.take(known), fragment_sizes[known]
        handles = arrivals.headers["pipeline"]
        for handle in sorted(set(handles.tolist())):  # nearly always one; np.unique would first import numpy.ma
            same = np.flatnonzero(handles == handle)
            group = arrivals.take(same)
            loaded = self._table.get(handle)
            if loaded is None:
                self._refusals.batch(group.peers, group.headers, Status.UNKNOWN_PIPELINE)
            else:
                self._enqueue(loaded, group, fragment_sizes[same], began)

    def _enqueue(self, loaded: Loaded, arrivals: Arrivals, fragment_sizes: NDArray[np.uint16], began: int) -> None:
        size = loaded.pipeline.input_size
        if size is None:
            fits, status = arrivals.sizes <= loaded.pipeline.max_body, Status.TOO_LARGE
        else:
            fits, status = arrivals.sizes == size, Status.WRONG_SIZE
        if not fits.all():
            misfits = arrivals.take(~fits)
            self._refusals.batch(misfits.peers, misfits.headers, status)
            arrivals, fragment_sizes = arrivals.take(fits), fragment_sizes[fits]
        room = loaded.queue.room
        if len(arrivals.peers) > room:
            late = arrivals.take(np.arange(room, len(arrivals.peers)))
            self._refusals.batch(late.peers, late.headers, Status.BUSY, self._retry_after(loaded))
            arrivals, fragment_sizes = arrivals.take(np.arange(room)), fragment_sizes[:room]
        if len(arrivals.peers) == 0:
            return
        bodies: NDArray[np.uint8] | list[bytes]
        if size is None:
            ends = arrivals.starts + arrivals.sizes
            bodies = [
                arrivals.memory[begin:end].tobytes()
                for begin, end in zip(arrivals.starts.tolist(), ends.tolist(), strict=True)
            ]
        else:
            bodies = arrivals.memory[arrivals.starts[:, None] + np.arange(size)]
        loaded.queue.push(self._jobs(arrivals, fragment_sizes, began), bodies)

    def _jobs(self, arrivals: Arrivals, fragment_sizes: NDArray[np.uint16], began: int) -> NDArray[np.void]:
        headers = arrivals.headers
        jobs = np.zeros(len(headers), JOB_DTYPE)
        for name in ("request", "session", "flags", "priority"):
            jobs[name] = headers[name]
        jobs["peer"] = arrivals.peers
        jobs["arrival"] = began
        relative = headers["deadline"].astype(np.int64) * 1000
        jobs["deadline"] = np.where(relative > 0, began + relative, NEVER)
        jobs["wire_bytes"] = arrivals.wire_bytes
        jobs["fragment_size"] = fragment_sizes
        jobs["rx_ns"] = min(self._clock.now_ns() - began, 0xFFFF_FFFF)
        return jobs

    def _retry_after(self, loaded: Loaded) -> int:
        """Return when about half of a full queue will have been served, in units of 100 µs."""
        wait_ns = loaded.pace_ns * loaded.queue.depth / 2
        return min(max(1, int(wait_ns / (RETRY_AFTER_UNIT_US * 1000))), 0xFFFF)

    # ---- one by one ----------------------------------------------------------------------------------------------

    def _slow(self, peer: int, pdu: NDArray[np.uint8], now: int) -> None:
        header = decode_header(pdu.data, self._link.smallest)
        payload = pdu[HEADER_SIZE : HEADER_SIZE + header.payload_size].tobytes()
        try:
            check_flags(header.flags)
            whole = self._reassembler.add(peer, header, payload, now)
            if whole is None:
                return
            message = decode_message(header, whole.payload)
        except FrameError as error:
            if isinstance(error.reason, DropReason):
                self._counters.move(error.reason)
            else:
                self._refusals.one(peer, header, error.reason, str(error))
            return
        if header.opcode == Opcode.INFER:
            self._admit(_single(peer, message, whole.wire_bytes), whole.began, now)
        else:
            self._dispatch(peer, message, now)

    def _dispatch(self, peer: int, message: Message, now: int) -> None:
        header = message.header
        if header.opcode == Opcode.DISCOVER:
            self._discover(peer, message, now)
        elif header.opcode == Opcode.CONTROL:
            if not self._control.ready:
                self._refusals.one(peer, header, Status.UNAVAILABLE, "the firmware is not running", CONTROL_RETRY)
            elif not self._control.post(peer, message):
                self._refusals.one(peer, header, Status.BUSY, "the firmware's mailbox is full", CONTROL_RETRY)
        elif header.opcode == Opcode.OPEN:
            self._open(peer, message, now)
        elif header.opcode == Opcode.CLOSE:
            closed = self._sessions.close(header.session, peer)
            status = Status.OK if closed else Status.UNKNOWN_SESSION
            self._replies.message(peer, Message(answer_header(header, status, self._credits)))
        else:
            self._refusals.one(peer, header, Status.UNKNOWN_OPCODE, f"opcode {header.opcode:#04x}")

    def _discover(self, peer: int, message: Message, now: int) -> None:
        if not self._discovery.take(now):
            self._counters.move(DropReason.DISCOVERY_RATE)
        elif not self._control.post(peer, message):
            self._counters.move(DropReason.MAILBOX_FULL)
        else:
            self._counters.discoveries += 1

    def _open(self, peer: int, message: Message, now: int) -> None:
        header = message.header
        size = _fragment_size(message.body)
        if size is None:
            detail = f"OPEN needs a map with fragment_size, {MIN_MTU - HEADER_SIZE} to {MAX_FRAGMENT_SIZE}"
            self._refusals.one(peer, header, Status.BAD_ARGUMENT, detail)
            return
        session = self._sessions.open(peer, header.request, size, now)
        if session is None:
            self._refusals.one(peer, header, Status.BUSY, "every session is in use", SESSION_RETRY)
            return
        body = msgpack.packb({"credits": self._credits, "max_message": self._reassembler.limits.message})
        opened = replace(answer_header(header, Status.OK, self._credits), session=session)
        self._replies.message(peer, Message(opened, body), size)

    def expire(self, now: int) -> None:
        """Give up messages whose fragments stay away, and say so."""
        for peer, header in self._reassembler.expire(now):
            self._refusals.one(peer, header, Status.REASSEMBLY_TIMEOUT)


def _single(peer: int, message: Message, wire_bytes: int) -> Arrivals:
    """Return one reassembled request as a batch of one."""
    return Arrivals(
        np.array([peer], np.uint64),
        vector_header(message.header),
        np.frombuffer(message.body, np.uint8),
        np.zeros(1, np.int64),
        np.array([len(message.body)], np.int64),
        np.array([wire_bytes], np.int64),
    )


def _fragment_size(body: bytes) -> int | None:
    """Return the fragment size that an OPEN asks for, None where its body is not one."""
    try:
        arguments = msgpack.unpackb(body, max_map_len=32, max_array_len=0)
    except (ValueError, msgpack.exceptions.UnpackException):
        return None
    size = arguments.get("fragment_size") if isinstance(arguments, dict) else None
    return size if type(size) is int and MIN_MTU - HEADER_SIZE <= size <= MAX_FRAGMENT_SIZE else None
