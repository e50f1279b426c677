"""Frames written by hand from the protocol's text: nothing here is derived from the codec under test."""

import itertools
import socket
import struct
from dataclasses import dataclass
from typing import Self

import msgpack

HEADER = struct.Struct(">BBHIQIHBBHHI")
HEADER_SIZE = 32
CRC_FLAG, TRAILER_FLAG, EXTENSION_FLAG = 1, 2, 4
DISCOVER, OPEN, CLOSE, CONTROL, INFER = 0x01, 0x02, 0x03, 0x04, 0x10
REPLY = 0x80
TRAILER_SIZE = 64

OK, BUSY, DEADLINE_EXCEEDED, UNAVAILABLE, INTERNAL = 0, 16, 17, 18, 19
MALFORMED, UNKNOWN_OPCODE, UNSUPPORTED_FLAG, BAD_CRC = 32, 33, 34, 35
TOO_LARGE, FRAGMENT_CONFLICT, REASSEMBLY_TIMEOUT = 36, 37, 38
UNKNOWN_SESSION, UNKNOWN_PIPELINE, WRONG_SIZE, UNDECODABLE = 48, 49, 50, 51
UNKNOWN_OPERATION, BAD_ARGUMENT, BAD_PIPELINE, NO_SPACE = 64, 65, 66, 67

_requests = itertools.count(0x1000)


def _crc_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)  # Castagnoli's polynomial, reflected
        table.append(value)
    return table


_TABLE = _crc_table()


def crc32c(data: bytes) -> int:
    """Return the CRC-32C, byte by byte: slow, and independent of any library."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


@dataclass(frozen=True)
class Pdu:
    """One PDU. ``length`` and ``fragment_size`` follow from the payload where they are None.

    ``tail`` is the deadline of a request, or status << 16 | retry_after of a reply.
    """

    opcode: int
    payload: bytes = b""
    request: int = 0
    flags: int = 0
    session: int = 0
    pipeline: int = 0
    priority: int = 0
    credits: int = 0
    fragment: int = 0
    length: int | None = None
    fragment_size: int | None = None
    tail: int = 0
    version: int = 1

    def encode(self) -> bytes:
        length = len(self.payload) if self.length is None else self.length
        fragment_size = max(1, len(self.payload)) if self.fragment_size is None else self.fragment_size
        return (
            HEADER.pack(
                self.version,
                self.opcode,
                self.flags,
                self.session,
                self.request,
                length,
                self.pipeline,
                self.priority,
                self.credits,
                self.fragment,
                fragment_size,
                self.tail,
            )
            + self.payload
        )

    @property
    def status(self) -> int:
        return self.tail >> 16

    @property
    def retry_after(self) -> int:
        return self.tail & 0xFFFF

    @property
    def text(self) -> str:
        """The sentence of a reply that is not OK, without its CRC."""
        return self.payload[: len(self.payload) - 4 * (self.flags & CRC_FLAG)].decode()


def decode(data: bytes) -> Pdu:
    """Return the PDU in a datagram."""
    fields = HEADER.unpack_from(data)
    version, opcode, flags, session, request, length, pipeline, priority, credit, fragment, size, tail = fields
    payload = data[HEADER_SIZE:]
    return Pdu(
        opcode, payload, request, flags, session, pipeline, priority, credit, fragment, length, size, tail, version
    )


def message(pdu: Pdu, fragment_size: int = 1400, *, spoil_crc: bool = False) -> list[bytes]:
    """Return the datagrams of a whole message: ``pdu.payload`` is its body, a CRC is added where its flag asks."""
    body = pdu.payload
    length = len(body) + 4 * (pdu.flags & CRC_FLAG)
    shared = {**{name: getattr(pdu, name) for name in pdu.__dataclass_fields__}, "fragment_size": fragment_size}
    shared |= {"length": length}
    if pdu.flags & CRC_FLAG:
        covered = Pdu(**{**shared, "payload": b"", "fragment": 0, "credits": 0}).encode()
        body += struct.pack(">I", crc32c(body + covered) ^ spoil_crc)
    cuts = range(0, max(1, len(body)), fragment_size)
    return [
        Pdu(**{**shared, "payload": body[at : at + fragment_size], "fragment": index}).encode()
        for index, at in enumerate(cuts)
    ]


def next_request() -> int:
    """Return a request id that no other frame of this process has."""
    return next(_requests)


class Wire:
    """A plain UDP socket that talks to a node in bytes."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 21)
        self._socket.connect(address)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, *datagrams: bytes) -> None:
        for datagram in datagrams:
            self._socket.send(datagram)

    def receive(self, timeout: float = 5.0) -> Pdu:
        """Return the next reply.

        Raises:
            TimeoutError: There is none.
        """
        self._socket.settimeout(timeout)
        return decode(self._socket.recv(65536))

    def answer(self, request: int, timeout: float = 5.0) -> Pdu:
        """Return the reply to a request, passing over notices and those to others."""
        while (reply := self.receive(timeout)).request != request or reply.opcode & 0x60 == 0x20:
            pass
        return reply

    def quiet(self, timeout: float = 0.05) -> bool:
        """Return whether nothing arrives for a while."""
        try:
            self.receive(timeout)
        except TimeoutError:
            return True
        return False

    def pending(self) -> list[Pdu]:
        """Return what has arrived, until nothing does for a moment."""
        found = []
        try:
            while True:
                found.append(self.receive(0.05))
        except TimeoutError:
            return found

    def ask(self, pdu: Pdu, timeout: float = 5.0) -> Pdu:
        """Send a message of one PDU with a request id of its own, and return its answer."""
        number = next_request()
        fields = {name: getattr(pdu, name) for name in pdu.__dataclass_fields__}
        self.send(Pdu(**{**fields, "request": number}).encode())
        return self.answer(number, timeout)

    def open(self, fragment_size: int = 1400) -> int:
        """Open a session and return its id."""
        reply = self.ask(Pdu(OPEN, msgpack.packb({"fragment_size": fragment_size})))
        assert (reply.opcode, reply.status) == (OPEN | REPLY, OK), reply
        return reply.session
