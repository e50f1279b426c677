"""From frames to queued requests: whole batches where frames carry whole requests, one by one for everything else."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from appliance.clock import Clock
from appliance.dataplane.admission import Admitter, Arrivals
from appliance.dataplane.messages import Messages
from appliance.dataplane.refusal import Refusals
from appliance.dataplane.state import State
from host_sdk.wire.exchange.fragments import Fragments, indices_of, split_runs
from host_sdk.wire.header import classify_headers, decode_header, gather_headers
from host_sdk.wire.links.base import BROADCAST, FrameBatch, Link
from host_sdk.wire.message import batch_crcs
from host_sdk.wire.schema import CRC_SIZE, HEADER_SIZE, REPLY_BIT, DropReason, Flag, Opcode, Status

_CRC, _INFER, _REPLY = int(Flag.CRC), int(Opcode.INFER), int(REPLY_BIT)
_PLAIN_FLAGS = ~int(Flag.CRC | Flag.TRAILER | Flag.ONCE) & 0xFFFF
_UNANSWERABLE = int(DropReason.UNANSWERABLE)
_BARRIERS = (Opcode.CLOSE, Opcode.CANCEL)  # what came before them is taken first


@dataclass(frozen=True, slots=True)
class _Frames:
    """A batch, its headers, and which of its frames are whole INFER requests, or something else that is sound."""

    batch: FrameBatch
    headers: NDArray[np.void]
    plain: NDArray[np.bool_]
    other: NDArray[np.bool_]


class Intake:
    """Takes frames from the link.

    Args:
        link: Where they come from.
        clock: Time.
        state: Counters.
        refusals: For requests that are damaged.
        admitter: Queues whole requests.
        messages: Takes everything else.
    """

    def __init__(
        self, link: Link, clock: Clock, state: State, refusals: Refusals, admitter: Admitter, messages: Messages
    ) -> None:
        self._link, self._clock, self._refusals = link, clock, refusals
        self._admitter, self._messages, self._counters = admitter, messages, state.counters

    def frames(self, batch: FrameBatch, now: int) -> None:
        """Check, count and take a batch of frames that arrived at ``now``."""
        headers = gather_headers(batch)
        reasons = self.classify(batch, headers)
        opcodes = headers["opcode"]
        self._counters.frames(reasons)
        good = reasons == 0
        whole = headers["length"] <= headers["fragment_size"]
        plain = good & whole & (opcodes == _INFER) & (headers["flags"] & _PLAIN_FLAGS == 0)
        found = _Frames(batch, headers, plain, good & ~plain)
        begin = 0
        if found.other.any():
            barriers = found.other & np.isin(opcodes, _BARRIERS)
            for end in (np.flatnonzero(barriers) + 1).tolist():
                self._take(found, begin, end, now)
                begin = end
        self._take(found, begin, len(batch), now)

    def classify(self, batch: FrameBatch, headers: NDArray[np.void]) -> NDArray[np.uint8]:
        """Say of each frame whether it can be a request, by its header alone: DropReason values, uint8 [n]."""
        reasons = classify_headers(headers, batch.lengths, self._link.smallest)
        peers = batch.peers
        reasons[(reasons == 0) & (headers["opcode"] & _REPLY != 0)] = DropReason.NOT_A_REQUEST
        reasons[(reasons == 0) & ((peers == BROADCAST) | (peers == self._link.address) | (peers == 0))] = _UNANSWERABLE
        return reasons

    def _take(self, found: _Frames, begin: int, end: int, now: int) -> None:
        """Take the frames of a part of a batch."""
        plain = np.flatnonzero(found.plain[begin:end]) + begin
        if len(plain):
            self._plain(found.batch, found.headers[plain], plain, now)
        others = np.flatnonzero(found.other[begin:end]) + begin
        if len(others):
            self._others(found.batch, found.headers, others, now)

    def _others(self, batch: FrameBatch, headers: NDArray[np.void], index: NDArray[np.intp], now: int) -> None:
        """Take what are no plain requests: fragments of one message together, as far as they follow one another."""
        headers, batch = headers[index], batch.take(index)
        several = headers["length"] > headers["fragment_size"]
        words = headers.view(np.uint64).reshape(-1, 4)
        for begin, end in split_runs(words, batch.peers):
            if several[begin]:
                run = batch.after(begin).first(end - begin)
                header = decode_header(run.pdu(0).data, self._link.smallest)
                fragments = Fragments(header, indices_of(words[begin:end]), run)
                self._messages.take_fragments(int(run.peers[0]), fragments, now)
            else:
                for at in range(begin, end):
                    self._messages.take(batch.after(at).first(1), now)

    def _plain(self, batch: FrameBatch, headers: NDArray[np.void], index: NDArray[np.intp], now: int) -> None:
        lengths = headers["length"].astype(np.int64)
        crc = (headers["flags"] & _CRC) != 0
        arrivals = Arrivals(
            batch.peers[index],
            headers,
            batch.memory,
            batch.starts[index] + HEADER_SIZE,
            lengths - crc * CRC_SIZE,
            lengths + HEADER_SIZE,
        )
        if crc.any():
            arrivals = self._verify(arrivals, crc)
        if len(arrivals):
            self._admitter.admit(arrivals, now, now)

    def _verify(self, arrivals: Arrivals, crc: NDArray[np.bool_]) -> Arrivals:
        """Refuse requests whose CRC is wrong."""
        short = arrivals.sizes < 0  # no room for the CRC that the flag announces
        if short.any():
            torsos = arrivals.take(short)
            self._refusals.batch(torsos.peers, torsos.headers, Status.BAD_CRC)
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
        return arrivals.take(np.delete(np.arange(len(arrivals)), bad))
