"""Requests that were serialised before: a load as light as h2load puts on the other servers.

It keeps to the protocol's bounds (credits, window, fragments under way) and looks at every answer, but asks for nothing
again: what a wire between two namespaces does not lose need not be. What is lost all the same is counted.
"""

import struct
import sys
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from host_sdk.bench.loops import Answered, Clock
from host_sdk.wire.errors import DeviceError
from host_sdk.wire.header import Header, decode_header
from host_sdk.wire.links.base import FrameBatch, Link
from host_sdk.wire.message import Message, decode_message, encode_message, fragment_frames, fragment_size_for
from host_sdk.wire.records import StridedView
from host_sdk.wire.schema import HEADER_SIZE, REPLY_BIT, Flag, Opcode

_RING = 4096  # requests that are told apart; a power of two, more than are ever outstanding
_OPEN_NS = 2_000_000_000
_STATUS = 0xFFFF_FFFF << 32  # of a header's last word as this machine reads it: status and retry_after
_WORDS, _NUMBER, _NUMBER_AT = struct.Struct("=QQQQ"), struct.Struct(">Q"), 8  # a header as words; its request id


class PreparedWindow:
    """Requests with one body, outstanding at one appliance, in a session of their own.

    Args:
        link: Where they go; not used by anybody else meanwhile.
        peer: The appliance.
        header: Pipeline and flags, without CRC.
        body: What each carries.
        clock: Gives the time in ns.

    Attributes:
        outstanding: Requests that have no answer.
        room: Requests that may be outstanding.
        lost: Requests that were refused, or never answered.
        sent_again: 0.

    Raises:
        DeviceError: The appliance opens no session.
    """

    def __init__(self, link: Link, peer: int, header: Header, body: bytes, clock: Clock) -> None:
        self._link, self._peer, self._clock = link, peer, clock
        size = fragment_size_for(link.mtu)
        session, opened = self._open(size)
        self._next = int(opened["next"])
        request = Header(header.opcode, 1, header.flags, session, pipeline=header.pipeline)
        pdus = list(fragment_frames(*encode_message(Message(request, body), size)))
        self._fragments = len(pdus)
        under_way = max(1, int(opened["fragments"]) // self._fragments)
        # Where fragments are what bounds them, by a power of two: servers batch in these.
        self.room = min(int(opened["credits"]), 1 << under_way.bit_length() - 1)
        self._lengths = np.tile(np.array([len(pdu) for pdu in pdus], np.int64), self.room)
        # All fragments of a request but the last are of one size, and are written in one piece.
        self._fulls = np.frombuffer(b"".join(pdus[:-1]), np.uint8).reshape(len(pdus) - 1, -1) if len(pdus) > 1 else None
        if self._fulls is not None:
            self._fulls = np.tile(self._fulls, (self.room, 1, 1))
        self._lasts = np.tile(np.frombuffer(pdus[-1], np.uint8), (self.room, 1))
        self._full_target, self._last_target = StridedView(len(pdus[0])), StridedView(len(pdus[-1]))
        self._headers = StridedView(HEADER_SIZE)
        self._expected = np.frombuffer(
            Header(header.opcode | REPLY_BIT, 1, header.flags & (Flag.ONCE | Flag.TRAILER), session).encode(), np.uint64
        )
        self._due = np.zeros(_RING, np.int64)
        self._waits = np.zeros(_RING, np.bool_)
        self.outstanding = self.lost = self.sent_again = 0

    def _open(self, fragment_size: int) -> tuple[int, dict[str, Any]]:
        """Open a session; return its number and what OPENED says."""
        number = self._clock() & (1 << 61) - 1
        header, payload = encode_message(
            # Without CRC, as what is asked in the session.
            Message(Header(Opcode.OPEN, number), msgpack.packb({"fragment_size": fragment_size})),
            fragment_size,
        )
        (pdu,) = fragment_frames(header, payload)
        self._send(pdu)
        end = self._clock() + _OPEN_NS
        while self._clock() < end:
            batch = self._link.receive()
            for index in range(len(batch)):
                raw = batch.pdu(index).tobytes()
                reply = decode_header(raw, self._link.smallest)
                if reply.opcode == Opcode.OPENED and reply.request == number and reply.session:
                    message = decode_message(reply, raw[HEADER_SIZE : HEADER_SIZE + reply.payload_size])
                    return reply.session, msgpack.unpackb(message.body)
        raise DeviceError("the appliance opened no session within 2 s")

    def _send(self, pdu: bytes) -> None:
        buffers = self._link.allocate(1)
        start = int(buffers.starts[0])
        buffers.memory[start : start + len(pdu)] = np.frombuffer(pdu, np.uint8)
        buffers.lengths[0], buffers.peers[0] = len(pdu), self._peer
        self._link.send(buffers)

    def submit(self, due_ns: NDArray[np.int64]) -> None:
        """Send requests that were due at these times, int64 [n], at most ``room``."""
        count, done = len(due_ns), 0
        if count == 1 and self._submit_one(int(due_ns[0])):
            return
        ids = np.arange(self._next, self._next + count, dtype=np.uint64)
        places = (ids % np.uint64(_RING)).astype(np.int64)
        self._due[places], self._waits[places] = due_ns, True
        self._next += count
        self.outstanding += count
        raw = ids.astype(">u8").view(np.uint8).reshape(count, 8)
        self._lasts[:count, 8:16] = raw
        if self._fulls is not None:
            self._fulls[:count, :, 8:16] = raw[:, None]
        while done < count:
            buffers = self._link.allocate((count - done) * self._fragments)
            fit = len(buffers) // self._fragments
            if fit == 0:
                self._link.wait(100_000)
                continue
            self._write(buffers, done, fit)
            done += fit

    def _submit_one(self, due_ns: int) -> bool:
        """Send one request, with few operations; return whether the link had room."""
        fragments, number = self._fragments, self._next
        buffers = self._link.allocate(fragments)
        if len(buffers) < fragments:
            return False
        starts, memory, pdu = buffers.starts, buffers.memory, self._lasts[0]
        if self._fulls is not None:
            rows = self._fulls[0]
            rows[:, _NUMBER_AT : _NUMBER_AT + 8] = np.frombuffer(_NUMBER.pack(number), np.uint8)
            self._full_target.of(memory)[starts[:-1]] = rows.view(self._full_target.dtype)[:, 0]
        start = int(starts[-1])
        memory[start : start + len(pdu)] = pdu
        _NUMBER.pack_into(memory.data, start + _NUMBER_AT, number)
        buffers.lengths[:], buffers.peers[:] = self._lengths[:fragments], self._peer
        self._due[number % _RING], self._waits[number % _RING] = due_ns, True
        self._next += 1
        self.outstanding += 1
        self._link.send(buffers)
        return True

    def _write(self, buffers: FrameBatch, begin: int, count: int) -> None:
        """Write whole requests, fragment after fragment, and send them."""
        frames = buffers.first(count * self._fragments)
        starts = frames.starts.reshape(count, self._fragments)
        chosen, last, full = slice(begin, begin + count), self._last_target, self._full_target
        last.of(frames.memory)[starts[:, -1]] = self._lasts[chosen].view(last.dtype)[:, 0]
        if self._fulls is not None:
            full.of(frames.memory)[starts[:, :-1]] = self._fulls[chosen].view(full.dtype)[:, :, 0]
        frames.lengths[:] = self._lengths[: len(frames)]
        frames.peers[:] = self._peer
        self._link.send(frames)

    def receive(self) -> Answered | None:
        """Take the answers that have arrived, without waiting; None where none have."""
        batch = self._link.receive()
        if not len(batch):
            return None
        now = self._clock()
        if len(batch) == 1:
            return self._take_one(batch, now)
        words = self._headers.of(batch.memory)[batch.starts].view(np.uint64).reshape(len(batch), 4)
        ours = words[:, 0] == self._expected[0]
        places = (words[:, 1].byteswap() % np.uint64(_RING)).astype(np.int64)
        ours &= self._waits[places]
        if not ours.all():
            words, places = words[ours], places[ours]
        good = (words[:, 3] & np.uint64(_STATUS)) == 0
        self._waits[places] = False
        self.outstanding -= len(places)
        self.lost += int(np.count_nonzero(~good))
        return Answered(self._due[places[good]], now)

    def _take_one(self, batch: FrameBatch, now: int) -> Answered:
        first, number, _, last = _WORDS.unpack_from(batch.memory.data, int(batch.starts[0]))
        place = int.from_bytes(number.to_bytes(8, sys.byteorder), "big") % _RING
        ours = first == int(self._expected[0]) and bool(self._waits[place])
        good = ours and not last & _STATUS
        if ours:
            self._waits[place] = False
            self.outstanding -= 1
            self.lost += not good
        return Answered(self._due[place : place + good].copy(), now)  # the place is used again

    def abandon(self) -> None:
        """Give up what is outstanding, as lost."""
        self.lost += self.outstanding
        self._waits[:] = False
        self.outstanding = 0

    def close(self) -> None:
        """End the session, without waiting for an answer."""
        session = decode_header(self._lasts[0].tobytes()).session
        header, payload = encode_message(Message(Header(Opcode.CLOSE, 1, int(Flag.CRC), session)), 1024)
        (pdu,) = fragment_frames(header, payload)
        self._send(pdu)
