"""A request window on its own: frames go into buffers and come from bytes that the test makes."""

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from host_sdk.wire.exchange.alike import Alike
from host_sdk.wire.exchange.answers import Announced, Answers, Event
from host_sdk.wire.exchange.arrived import Arrived
from host_sdk.wire.exchange.course import Shared
from host_sdk.wire.exchange.fragments import Fragments
from host_sdk.wire.exchange.pace import Bounds, RequesterLimits, RoundTrip
from host_sdk.wire.exchange.reassembly import Reassembler
from host_sdk.wire.exchange.window import RequestWindow
from host_sdk.wire.header import Header, decode_header
from host_sdk.wire.links.base import FrameBatch
from host_sdk.wire.message import Message, decode_message, encode_message, fragment_frames
from host_sdk.wire.schema import HEADER_SIZE, REPLY_BIT, Flag, Opcode, Status

MS = 1_000_000
PEER = 7
SESSION = 0x9F3A0007
BASE = 0x1000
FRAGMENT_SIZE = 20
LIMITS = RequesterLimits(
    window=64, fragments=8, asked_fragments=8, first_rto_ns=250 * MS, min_rto_ns=10 * MS, max_rto_ns=1000 * MS
)
ONCE = int(Flag.ONCE)


def buffers(count: int, mtu: int = 2048) -> FrameBatch:
    starts = np.arange(count, dtype=np.int64) * mtu
    return FrameBatch(
        np.zeros(count * mtu + mtu, np.uint8), starts, np.zeros(count, np.int64), np.zeros(count, np.uint64)
    )


def filled(pdus: Sequence[bytes], peer: int = PEER) -> FrameBatch:
    """Return a batch of PDUs as they come from a link."""
    batch = buffers(len(pdus))
    for index, pdu in enumerate(pdus):
        start = int(batch.starts[index])
        batch.memory[start : start + len(pdu)] = np.frombuffer(pdu, np.uint8)
        batch.lengths[index], batch.peers[index] = len(pdu), peer
    return batch


def taken(batch: FrameBatch, count: int) -> list[bytes]:
    return [batch.pdu(index).tobytes() for index in range(count)]


class WindowBench:
    """A window that is open, a clock, and the frames that it sent last."""

    def __init__(self, opcode: Opcode = Opcode.INFER, limits: RequesterLimits = LIMITS, **bounds: int) -> None:
        shown = {"credits": 64, "window": 128, "fragments": 64, "fragment_size": FRAGMENT_SIZE, **bounds}
        self.events: list[Event] = []
        self.round_trip = RoundTrip(limits)
        shared = Shared(self.events, Reassembler(), random.Random(5).getrandbits)
        self.window = RequestWindow(PEER, opcode, limits, self.round_trip, shared)
        self.window.opened(Bounds(SESSION, BASE + 1, **shown))
        self.now = 1000 * MS
        self.tokens = 1 << 32

    def submit(
        self, bodies: Sequence[bytes] | NDArray[np.uint8], flags: int = ONCE, timeout_ms: int = 5000, **fields: int
    ) -> list[int]:
        """Submit requests; return their tokens."""
        tokens = list(range(self.tokens, self.tokens + len(bodies)))
        self.tokens += len(bodies)
        header = Header(Opcode.INFER, 0, flags, **{"pipeline": 257, **fields})
        given = bodies if isinstance(bodies, np.ndarray) else list(bodies)
        self.window.submit(header, given, np.array(tokens), self.now, self.now + timeout_ms * MS)
        return tokens

    def send(self, room: int = 256) -> list[bytes]:
        """Return the PDUs that are sent now."""
        batch = buffers(room)
        count = self.window.to_send(batch, self.now)
        assert set(batch.peers[:count].tolist()) <= {PEER}
        return taken(batch, count)

    def headers(self, room: int = 256) -> list[Header]:
        return [decode_header(pdu) for pdu in self.send(room)]

    def wait(self) -> list[bytes]:
        """Let time pass until there is something to do, and return what is sent then."""
        timer = self.window.next_timer()
        assert timer is not None
        self.now = max(self.now, timer)
        return self.send()

    def take(self, *pdus: bytes) -> list[Event]:
        """Have frames arrive one by one; return what became of requests."""
        for pdu in pdus:
            self.window.take(decode_header(pdu), pdu, self.now)
        return self.became()

    def take_fragments(self, *pdus: bytes) -> list[Event]:
        """Have fragments of one answer arrive together."""
        header = decode_header(pdus[0])
        indices = np.array([decode_header(pdu).fragment for pdu in pdus])
        self.window.take_fragments(Fragments(header, indices, filled(pdus)), self.now)
        return self.became()

    def take_alike(self, *pdus: bytes) -> list[Event]:
        """Have frames arrive together that are alike but for their request and body."""
        headers = [decode_header(pdu) for pdu in pdus]
        assert Alike.plain(headers[0])
        ids = np.array([header.request for header in headers], np.uint64)
        self.window.take_alike(Alike(headers[0]), filled(pdus), ids, self.now)
        return self.became()

    def became(self) -> list[Event]:
        events = self.events.copy()
        self.events.clear()
        return events


def answer(asked: Header, body: bytes = b"", fragment_size: int = FRAGMENT_SIZE, **changes: int) -> list[bytes]:
    """Return the PDUs of an answer, with status OK but for the changes."""
    flags = asked.flags & (Flag.CRC | Flag.ONCE)
    header = Header(asked.opcode | REPLY_BIT, asked.request, int(flags), asked.session)
    return list(fragment_frames(*encode_message(Message(replace(header, **changes), body), fragment_size)))


def notice(opcode: Opcode, asked: Header, body: bytes = b"", **fields: int) -> bytes:
    header = Header(opcode, asked.request, asked.flags & int(Flag.CRC | Flag.ONCE), asked.session, **fields)
    (pdu,) = fragment_frames(*encode_message(Message(header, body), 544))
    return pdu


def grant(asked: Header, have: str, window: int = 64) -> bytes:
    """Return a GRANT that says of each fragment, 0 or 1, whether it has arrived."""
    flags = np.array([digit == "1" for digit in have])
    return notice(Opcode.GRANT, asked, Arrived.of(asked.opcode, flags, window).encode())


def said(pdu: bytes) -> Arrived:
    """Return what a RESEND says."""
    header = decode_header(pdu)
    assert header.opcode == Opcode.RESEND
    return Arrived.decode(decode_message(header, pdu[HEADER_SIZE:]).body)


def only(events: list[Event]) -> Answers:
    """Return the one thing that happened, which is no announcement."""
    (event,) = events
    assert not isinstance(event, Announced)
    return event


def joined(pdus: Sequence[bytes]) -> bytes:
    """Return the message in PDUs, in any order."""
    return b"".join(pdu[HEADER_SIZE:] for pdu in sorted(pdus, key=lambda pdu: decode_header(pdu).fragment))


BUSY = int(Status.BUSY)
