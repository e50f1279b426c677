"""The link that seals and opens frames: any other one, wrapped. Its owner never sees a seal.

A sealed frame arrives as a plain one from a *virtual peer*, which stands for the key and the address that it was
granted to, and what is sent to a virtual peer goes out sealed. So whatever its owner keeps by peer (sessions, answers,
credits) belongs to the key, and a plain frame can reach none of it.
"""

import struct
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from host_sdk.wire.header import HEADER_DTYPE, Header, gather_headers, layout_dtype
from host_sdk.wire.links.base import BURST, EMPTY, SEALED_PEER, FrameBatch, Link, LinkStatistics, records
from host_sdk.wire.message import Message, encode_message
from host_sdk.wire.records import StridedView
from host_sdk.wire.schema import (
    HEADER_SIZE,
    MIN_MTU,
    REPLY_BIT,
    SEAL,
    SEAL_FRAMES,
    SEAL_OVERHEAD,
    DropReason,
    Flag,
    Opcode,
    Status,
    is_notice,
)
from host_sdk.wire.sealed.keys import WHOLE, KeyRing, SealKey

_SEAL_DTYPE, _SEAL = layout_dtype(SEAL), struct.Struct(SEAL.struct_format)
_CLEAR = HEADER_SIZE + SEAL.size  # bytes before the ciphertext
_FLAG_BYTE, _FLAG = 3, int(Flag.SEALED)  # of the header: the lower byte of the flags
_STATUS_BYTE = 29  # of a reply's header: the lower byte of its status
_CREDITS = HEADER_DTYPE.fields["credits"][1] if HEADER_DTYPE.fields else 0
_BELOW = np.uint64(SEALED_PEER - 1)
HINT_NS = 100_000_000  # between two hints to one peer
_HINTS_PER_S = 200  # to all together
_MOST_HINTED = 1024  # peers that are remembered
_Frames = list[tuple[int, memoryview, memoryview, memoryview]]


class Account(Protocol):
    """Where frames that are not handed over are counted, and hints that were sent."""

    def dropped(self, reason: DropReason, count: int) -> None:
        """Count frames under a reason."""

    def answer(self, status: int) -> None:
        """Count one answer by its status."""


class Tally:
    """An account of one's own."""

    def __init__(self) -> None:
        self.drops: dict[DropReason, int] = {}

    def dropped(self, reason: DropReason, count: int) -> None:
        """Count frames under a reason."""
        if count:
            self.drops[reason] = self.drops.get(reason, 0) + count

    def answer(self, status: int) -> None:
        """Do nothing: a requester answers nobody."""


class SealedLink:
    """A link on which frames of granted keys are sealed, beside plain ones.

    Args:
        link: What carries the frames; closed with this one.
        keys: The keys in force.
        account: Where frames that are not handed over are counted.
        clock: Monotonic ns; that of the keys' ends.
        responder: Whether hints are given (else, taken) where a key is not known.

    Attributes:
        keys: The keys in force.
        hinted: Peers that said, or somebody for them, that they do not know a key; the owner takes them out.
    """

    def __init__(
        self, link: Link, keys: KeyRing, account: Account, clock: Callable[[], int], *, responder: bool
    ) -> None:
        self._link, self.keys, self._account, self._clock, self._responder = link, keys, account, clock, responder
        self.kind, self.smallest, self.capacity = link.kind, link.smallest, link.capacity
        self.mtu = link.mtu - SEAL_OVERHEAD
        self.format_address, self.parse_address = link.format_address, link.parse_address
        self.fileno, self.wait, self.expect, self.close = link.fileno, link.wait, link.expect, link.close
        self.hinted: set[int] = set()
        self._stride = link.mtu
        self._starts = np.arange(BURST, dtype=np.int64) * self._stride
        self._opened: NDArray[np.uint8] = np.zeros(BURST * self._stride, np.uint8)
        self._written: NDArray[np.uint8] = np.zeros(BURST * self._stride, np.uint8)
        self._buffers: FrameBatch | None = None
        self._headers_in, self._headers_opened = StridedView(HEADER_SIZE), StridedView(HEADER_SIZE)
        self._headers_written, self._headers_out = StridedView(HEADER_SIZE), StridedView(HEADER_SIZE)
        self._seals_in, self._seals_out = (StridedView(SEAL.size, HEADER_SIZE) for _ in range(2))
        self._unsealed = 0  # frames for a key that was gone, or at its end
        self._hint_at: dict[int, int] = {}
        self._hint_tokens, self._hint_filled = float(_HINTS_PER_S), clock()

    @property
    def address(self) -> int:
        """Peer key of this end, which a link that follows its interface may change."""
        return self._link.address

    # ---- receiving -----------------------------------------------------------------------------------------------

    def receive(self) -> FrameBatch:
        """Return what has arrived, opened, up to BURST frames; valid until the next call.

        Raises:
            LinkError: The link is gone.
        """
        batch = self._link.receive()
        if len(batch) <= 1:
            return self._receive_one(batch) if len(batch) else batch
        sealed = batch.memory[batch.starts + _FLAG_BYTE] & _FLAG != 0
        sealed &= batch.lengths >= HEADER_SIZE
        if not self._responder and not sealed.all():
            self._take_hints(batch.take(~sealed))
        if not sealed.any():
            return batch
        count = len(batch)
        peers, kept = batch.peers.copy(), ~sealed
        rows = np.flatnonzero(sealed)
        long_enough = batch.lengths[rows] >= HEADER_SIZE + SEAL_OVERHEAD
        if not long_enough.all():
            self._account.dropped(DropReason.TRUNCATED, int(np.count_nonzero(~long_enough)))
            rows = rows[long_enough]
        self._open(batch, rows, peers, kept)
        lengths = batch.lengths - sealed * SEAL_OVERHEAD
        if not sealed.all():  # what is plain goes into the same memory
            plain = np.flatnonzero(~sealed)
            width = max(1, int(batch.lengths[plain].max()))
            records(self._opened, width)[self._starts[plain]] = records(batch.memory, width)[batch.starts[plain]]
        found = FrameBatch(self._opened, self._starts[:count], lengths, peers)
        return found if kept.all() else found.take(kept)

    def _receive_one(self, batch: FrameBatch) -> FrameBatch:
        """Return one frame as :meth:`receive` does; plain numbers and bytes are quicker than arrays of one."""
        data, start, length = batch.memory.data, int(batch.starts[0]), int(batch.lengths[0])
        if length < HEADER_SIZE or not data[start + _FLAG_BYTE] & _FLAG:
            if not self._responder and length >= HEADER_SIZE and data[start + _STATUS_BYTE] == Status.UNKNOWN_KEY:
                self._take_hints(batch)
            return batch
        if length < HEADER_SIZE + SEAL_OVERHEAD:
            return self._drop(DropReason.TRUNCATED)
        number, sequence = _SEAL.unpack_from(data, start + HEADER_SIZE)
        key, now = self.keys.get(number), self._clock()
        if key is None or int(batch.peers[0]) != key.peer or now >= key.expires_ns:
            self._strangers(batch, now)
            return EMPTY
        if not 0 < sequence <= SEAL_FRAMES:
            return self._drop(DropReason.BAD_SEAL)
        if not key.window.is_fresh(sequence):
            return self._drop(DropReason.REPLAYED)
        out, size, clear = self._opened.data, length - SEAL_OVERHEAD, data[start : start + _CLEAR]
        if key.open([(sequence, data[start + _CLEAR : start + length], clear, out[HEADER_SIZE:size])]):
            return self._drop(DropReason.BAD_SEAL)
        key.window.take_one(sequence)
        key.used_ns = now
        out[:HEADER_SIZE] = clear[:HEADER_SIZE]
        out[_FLAG_BYTE] &= 0xFF ^ _FLAG
        return FrameBatch(self._opened, self._starts[:1], np.array([size]), np.array([key.virtual_peer], np.uint64))

    def _drop(self, reason: DropReason) -> FrameBatch:
        self._account.dropped(reason, 1)
        return EMPTY

    def _open(
        self, batch: FrameBatch, rows: NDArray[np.intp], peers: NDArray[np.uint64], kept: NDArray[np.bool_]
    ) -> None:
        """Open the frames at ``rows``; note which are to be handed over in ``kept``, and from whom in ``peers``."""
        seals = self._seals_in.of(batch.memory)[batch.starts[rows]].view(_SEAL_DTYPE)
        numbers = seals["key"].astype(np.uint64)
        for number in sorted(set(numbers.tolist())):  # nearly always one
            chosen = numbers == number
            mine = rows[chosen]
            key, now = self.keys.get(number), self._clock()
            own = batch.peers[mine] == (key.peer if key else 0)
            if key is None or now >= key.expires_ns:
                own[:] = False
            if not own.all():
                self._strangers(batch.take(mine[~own]), now)
            if key is not None and own.any():
                sequences = seals["sequence"][chosen][own].astype(np.uint64)
                good = self._open_with(key, batch, mine[own], sequences)
                kept[good], peers[good] = True, key.virtual_peer
                key.used_ns = now if len(good) else key.used_ns

    def _open_with(
        self, key: SealKey, batch: FrameBatch, rows: NDArray[np.intp], raw: NDArray[np.uint64]
    ) -> NDArray[np.intp]:
        """Open frames of one key, with sequences uint64 [n]; return the rows of those that are authentic and new."""
        possible = (raw > 0) & (raw <= SEAL_FRAMES)
        sequences = np.where(possible, raw, 0).astype(np.int64)
        fresh = key.window.fresh(sequences) & possible
        if not fresh.all():
            self._account.dropped(DropReason.BAD_SEAL, int(np.count_nonzero(~possible)))
            self._account.dropped(DropReason.REPLAYED, int(np.count_nonzero(possible & ~fresh)))
            rows, sequences = rows[fresh], sequences[fresh]
        if bad := key.open(self._frames(batch, rows, sequences)):
            self._account.dropped(DropReason.BAD_SEAL, len(bad))
            rows, sequences = np.delete(rows, bad), np.delete(sequences, bad)
        if len(set(sequences.tolist())) < len(sequences):  # copies within the batch
            _, first = np.unique(sequences, return_index=True)
            first.sort()
            self._account.dropped(DropReason.REPLAYED, len(sequences) - len(first))
            rows, sequences = rows[first], sequences[first]
        if len(rows):
            key.window.take(sequences)
            begins = self._starts[rows]
            self._headers_opened.of(self._opened)[begins] = self._headers_in.of(batch.memory)[batch.starts[rows]]
            self._opened[begins + _FLAG_BYTE] &= 0xFF ^ _FLAG
        return rows

    def _frames(self, batch: FrameBatch, rows: NDArray[np.intp], sequences: NDArray[np.int64]) -> _Frames:
        data, out, stride = batch.memory.data, self._opened.data, self._stride
        return [
            (
                sequence,
                data[start + _CLEAR : start + length],
                data[start : start + _CLEAR],
                out[row * stride + HEADER_SIZE : row * stride + length - SEAL_OVERHEAD],
            )
            for row, start, length, sequence in zip(
                rows.tolist(),
                batch.starts[rows].tolist(),
                batch.lengths[rows].tolist(),
                sequences.tolist(),
                strict=True,
            )
        ]

    # ---- keys that are not known ---------------------------------------------------------------------------------

    def _strangers(self, batch: FrameBatch, now: int) -> None:
        """Drop frames whose key was not granted to who sent them; tell each sender so, at a bounded rate."""
        self._account.dropped(DropReason.UNKNOWN_KEY, len(batch))
        if not self._responder:
            return
        headers = gather_headers(batch)
        opcodes, peers = headers["opcode"].tolist(), batch.peers.tolist()
        for row, (opcode, peer) in enumerate(zip(opcodes, peers, strict=True)):
            if opcode & REPLY_BIT or is_notice(opcode) or not self._may_hint(peer, now):
                continue
            asked = headers[row]
            number, session, status = int(asked["request"]), int(asked["session"]), int(Status.UNKNOWN_KEY)
            self._hint(peer, Message(Header(opcode | REPLY_BIT, number, Flag.CRC, session, status=status)))

    def _may_hint(self, peer: int, now: int) -> bool:
        self._hint_tokens = min(_HINTS_PER_S, self._hint_tokens + (now - self._hint_filled) * _HINTS_PER_S / 1e9)
        self._hint_filled = now
        if self._hint_tokens < 1 or self._hint_at.get(peer, now) > now:
            return False
        self._hint_tokens -= 1
        self._hint_at.pop(peer, None)
        self._hint_at[peer] = now + HINT_NS
        if len(self._hint_at) > _MOST_HINTED:
            del self._hint_at[next(iter(self._hint_at))]
        return True

    def _hint(self, peer: int, message: Message) -> None:
        header, payload = encode_message(message, MIN_MTU - HEADER_SIZE)
        pdu = np.frombuffer(header.encode() + payload, np.uint8)
        buffers = self._link.allocate(1)
        if len(buffers):
            start = int(buffers.starts[0])
            buffers.memory[start : start + len(pdu)] = pdu
            buffers.lengths[0], buffers.peers[0] = len(pdu), peer
            self._link.send(buffers)
            self._account.answer(Status.UNKNOWN_KEY)

    def _take_hints(self, batch: FrameBatch) -> None:
        """Note who says, in the clear, that a key is not known; whether it is so has to be asked for over TLS."""
        headers = gather_headers(batch)
        hints = (batch.lengths >= HEADER_SIZE) & (headers["opcode"] & REPLY_BIT != 0)
        hints &= (headers["status"] == Status.UNKNOWN_KEY) & (headers["opcode"] != Opcode.ANNOUNCE)
        if hints.any():
            self.hinted.update({key.peer for key in self.keys.all()}.intersection(batch.peers[hints].tolist()))

    # ---- sending -------------------------------------------------------------------------------------------------

    def allocate(self, count: int) -> FrameBatch:
        """Return up to ``count`` buffers of ``mtu`` bytes, as many as the link has."""
        self._buffers = self._link.allocate(count)
        count = len(self._buffers)
        return FrameBatch(self._written, self._starts[:count], np.zeros(count, np.int64), np.zeros(count, np.uint64))

    def send(self, batch: FrameBatch) -> int:
        """Send an allocated batch, or its first frames, sealed where their peer is a key; return how many went.

        Raises:
            LinkError: The link is gone.
        """
        buffers, self._buffers = self._buffers, None
        if not len(batch) or buffers is None:
            return 0
        if len(batch) == 1 and (peer := int(batch.peers[0])) >= SEALED_PEER:
            return self._send_one(peer - SEALED_PEER, batch, buffers.first(1))
        virtual = batch.peers >= np.uint64(SEALED_PEER)
        if not virtual.any():
            buffers = buffers.first(len(batch))
            self._copy(batch, buffers)
            return self._link.send(buffers)
        numbers, ready, pairs = batch.peers & _BELOW, ~virtual, []
        for number in sorted(set(numbers[virtual].tolist())):  # nearly always one
            mine = np.flatnonzero(virtual & (numbers == number))
            key = self.keys.get(number)
            drawn = key.draw(len(mine)) if key else range(0)
            self._unsealed += len(mine) - len(drawn)
            if key and len(drawn):
                ready[mine[: len(drawn)]] = True
                pairs.append((key, mine[: len(drawn)], drawn))
        places = np.cumsum(ready) - 1  # of each frame in the link's own buffers
        chosen = np.flatnonzero(ready)
        buffers = buffers.first(len(chosen))
        plain = np.flatnonzero(~virtual)
        if len(plain):
            self._copy(batch.take(plain), buffers.take(places[plain]))
        buffers.lengths[:] = batch.lengths[chosen] + virtual[chosen] * SEAL_OVERHEAD
        buffers.peers[:] = batch.peers[chosen]
        for key, rows, drawn in pairs:
            buffers.peers[places[rows]] = key.peer
            self._seal(key, batch.take(rows), buffers.take(places[rows]), drawn)
        return self._link.send(buffers) if len(buffers) else 0

    def _send_one(self, number: int, batch: FrameBatch, buffers: FrameBatch) -> int:
        """Send one frame sealed, as :meth:`send` does."""
        key = self.keys.get(number)
        drawn = key.draw(1) if key else range(0)
        if key is None or not drawn:
            self._unsealed += 1
            return 0
        data, start, length = self._written.data, int(batch.starts[0]), int(batch.lengths[0])
        out, at = buffers.memory.data, int(buffers.starts[0])
        data[start + _FLAG_BYTE] |= _FLAG
        if key.share < WHOLE:
            self._cut_credits(key, batch.starts)
        out[at : at + HEADER_SIZE] = data[start : start + HEADER_SIZE]
        _SEAL.pack_into(out, at + HEADER_SIZE, number, drawn.start)
        cipher = out[at + _CLEAR : at + length + SEAL_OVERHEAD]
        key.seal([(drawn.start, data[start + HEADER_SIZE : start + length], out[at : at + _CLEAR], cipher)])
        buffers.lengths[0], buffers.peers[0] = length + SEAL_OVERHEAD, key.peer
        return self._link.send(buffers)

    def _cut_credits(self, key: SealKey, starts: NDArray[np.int64]) -> None:
        """Leave of the credits in replies what the key's share is; 0, which says nothing, stays so."""
        granted = self._written[starts + _CREDITS].astype(np.int64)
        self._written[starts + _CREDITS] = np.where(granted, np.maximum(1, granted * key.share // WHOLE), 0)

    def _copy(self, batch: FrameBatch, buffers: FrameBatch) -> None:
        width = max(1, int(batch.lengths.max()))
        records(buffers.memory, width)[buffers.starts] = records(batch.memory, width)[batch.starts]
        buffers.lengths[:], buffers.peers[:] = batch.lengths, batch.peers

    def _seal(self, key: SealKey, batch: FrameBatch, buffers: FrameBatch, drawn: range) -> None:
        """Write the frames of one key into buffers, sealed with the sequences that were drawn for them."""
        written = self._written
        written[batch.starts + _FLAG_BYTE] |= _FLAG
        if key.share < WHOLE:
            self._cut_credits(key, batch.starts)
        self._headers_out.of(buffers.memory)[buffers.starts] = self._headers_written.of(written)[batch.starts]
        seals = np.empty(len(batch), _SEAL_DTYPE)
        seals["key"], seals["sequence"] = key.number, np.arange(drawn.start, drawn.stop)
        out_seals = self._seals_out.of(buffers.memory)
        out_seals[buffers.starts] = seals.view(out_seals.dtype)
        data, out = written.data, buffers.memory.data
        key.seal(
            [
                (
                    sequence,
                    data[start + HEADER_SIZE : start + length],
                    out[at : at + _CLEAR],
                    out[at + _CLEAR : at + length + SEAL_OVERHEAD],
                )
                for sequence, start, length, at in zip(
                    drawn, batch.starts.tolist(), batch.lengths.tolist(), buffers.starts.tolist(), strict=True
                )
            ]
        )

    def statistics(self) -> LinkStatistics:
        """Return the link's counters, and frames that could not be sealed among those that were not sent."""
        counted = self._link.statistics()
        if self._unsealed:
            counted.tx_drops["no_key"] = self._unsealed
        return counted
