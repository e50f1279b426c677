"""Requests that are submitted together: alike but for their id and their body, and sent in few array operations."""

import struct
from dataclasses import replace

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from host_sdk.wire.errors import LocalProtocolError
from host_sdk.wire.exchange.scoreboard import Scoreboard
from host_sdk.wire.header import HEADER_DTYPE, Header
from host_sdk.wire.links.base import FrameBatch
from host_sdk.wire.message import LONG, MAX_FRAGMENTS, crcs_of
from host_sdk.wire.records import StridedView, StridedViews
from host_sdk.wire.schema import CRC_SIZE, HEADER_SIZE, MAX_MESSAGE, Flag

Bodies = NDArray[np.uint8] | list[bytes]
_CRC, _ONCE = int(Flag.CRC), int(Flag.ONCE)
_NUMBER = struct.Struct(">Q")
_NUMBER_AT, _FRAGMENT_AT, _FRAGMENT_END = 8, 24, 26


class Flight:
    """Requests submitted together.

    Args:
        header: What they share; session, length and fragment size are filled in.
        bodies: uint8 [n, size], or a list of bodies of any sizes.
        tokens: int64 [n], what their answers are told by.
        submitted: When, in ns.
        expires: When those without answer fail.

    Attributes:
        count: Requests.
        taken: How many of them have an id.
        fragments: Frames of each; 0 until :meth:`prepare`.

    Raises:
        LocalProtocolError: A value does not fit, or a body is too long.
    """

    __slots__ = (
        *(
            "_boards",
            "_parts",
            "_pdus",
            "_records",
            "_sizes",
            "_tail",
            "count",
            "expires",
            "fragments",
            "has_crc",
            "have",
            "header",
        ),
        *("once", "size", "submitted", "taken", "tokens"),
    )

    def __init__(self, header: Header, bodies: Bodies, tokens: NDArray[np.int64], submitted: int, expires: int) -> None:
        self.header, self.tokens, self.submitted, self.expires = header, tokens, submitted, expires
        self.once, self.has_crc = bool(header.flags & _ONCE), bool(header.flags & _CRC)
        self.count, self.taken, self.fragments, self.size = len(bodies), 0, 0, 0
        self._boards: dict[int, Scoreboard] = {}  # of requests of several fragments that have an id, by row
        self._tail = CRC_SIZE if self.has_crc else 0
        self._parts: list[bytes] | None = None
        self._sizes: NDArray[np.int64] | None = None
        if isinstance(bodies, list) and len(bodies) > 1:
            self._parts, longest = bodies, max(map(len, bodies))
        else:
            if isinstance(bodies, list):
                bodies = np.frombuffer(bodies[0], np.uint8).reshape(1, -1)
            longest = bodies.shape[1]
            # Header, body and CRC of each lie together, so that a request of one frame is sent by one copy.
            self._pdus: NDArray[np.uint8] = np.empty((self.count, HEADER_SIZE + longest + self._tail), np.uint8)
            self._pdus[:, HEADER_SIZE : HEADER_SIZE + longest] = bodies
        if longest + self._tail > MAX_MESSAGE:
            raise LocalProtocolError(f"{longest + self._tail} bytes; at most {MAX_MESSAGE} are taken")

    @property
    def length(self) -> int:
        """Bytes of each message; 0 where they differ."""
        return 0 if self._parts else self._pdus.shape[1] - HEADER_SIZE

    def fits(self, size: int) -> bool:
        """Return whether every request fits one fragment of so many bytes."""
        return (max(map(len, self._parts)) + self._tail if self._parts else self.length) <= size

    def split(self) -> list["Flight"]:
        """Return a flight for each request, where their sizes differ and they need several fragments."""
        parts = self._parts or []
        return [
            Flight(self.header, [part], self.tokens[index : index + 1], self.submitted, self.expires)
            for index, part in enumerate(parts)
        ]

    def drop(self, row: int) -> None:
        """Take out a request that has no id yet."""
        self.count -= 1
        self.tokens = np.delete(self.tokens, row)
        if self._parts and not self.fragments:
            self._parts = self._parts[:row] + self._parts[row + 1 :]
            return
        self._pdus = np.delete(self._pdus, row, axis=0)
        if self._sizes is not None:
            self._sizes = np.delete(self._sizes, row)
        if self.fragments:
            self._records = self._pdus.view(np.dtype((np.void, self._pdus.shape[1])))[:, 0]

    def prepare(self, session: int, fragment_size: int, template: bytes | None = None) -> bytes:
        """Fix how the requests are sent; return the header that they share, which spares the next flight encoding it.

        Raises:
            LocalProtocolError: A request needs more fragments than there can be.
        """
        self.size = fragment_size
        if self._parts:
            self._lay_out(self._parts)
        length = self.length
        if template is None:
            template = replace(self.header, session=session, length=length, fragment_size=fragment_size).encode()
        self.fragments = max(1, -(-length // fragment_size))
        if self.fragments > MAX_FRAGMENTS:
            raise LocalProtocolError(f"{length} bytes need more than {MAX_FRAGMENTS} fragments of {fragment_size}")
        self._pdus[:, :HEADER_SIZE] = np.frombuffer(template, np.uint8)
        if self._sizes is not None:
            self._pdus[:, :HEADER_SIZE].view(HEADER_DTYPE)["length"][:, 0] = self._sizes - HEADER_SIZE
        self._records = self._pdus.view(np.dtype((np.void, self._pdus.shape[1])))[:, 0]
        return template

    def _lay_out(self, parts: list[bytes]) -> None:
        """Put bodies of different sizes into rows of the longest."""
        self._sizes = np.array([HEADER_SIZE + len(part) + self._tail for part in parts], np.int64)
        self._pdus = np.zeros((self.count, int(self._sizes.max())), np.uint8)
        for row, part in zip(self._pdus, parts, strict=True):
            row[HEADER_SIZE : HEADER_SIZE + len(part)] = np.frombuffer(part, np.uint8)

    def number(self, row: int, ids: NDArray[np.uint64]) -> None:
        """Give the requests from a row on their ids, uint64 [n], and their CRCs."""
        self.taken = row + len(ids)
        pdus = self._pdus[row : self.taken]
        pdus[:, _NUMBER_AT : _NUMBER_AT + 8].view(np.uint64)[:, 0] = ids.byteswap()
        if not self._tail:
            return
        if self._sizes is None:
            crcs = crcs_of(pdus, pdus.shape[1] - CRC_SIZE)
            pdus[:, -CRC_SIZE:] = crcs.astype(">u4").view(np.uint8).reshape(-1, CRC_SIZE)
        else:
            for pdu, size in zip(pdus, self._sizes[row : self.taken].tolist(), strict=True):
                pdu[size - CRC_SIZE : size] = np.frombuffer(_crc_bytes(pdu[: size - CRC_SIZE]), np.uint8)

    def number_one(self, row: int, number: int) -> None:
        """Give one request its id and its CRC."""
        self.taken = row + 1
        pdu = self._pdus[row].data
        _NUMBER.pack_into(pdu, _NUMBER_AT, number)
        if self._tail:
            size = len(pdu) if self._sizes is None else int(self._sizes[row])
            pdu[size - CRC_SIZE : size] = _crc_bytes(pdu[: size - CRC_SIZE])

    def board(self, row: int) -> Scoreboard:
        """Return what became of the fragments of a request that has an id, and several of them."""
        board = self._boards.get(row)
        if board is None:
            board = self._boards[row] = Scoreboard(self.fragments)
        return board

    def pdu(self, row: int) -> memoryview:
        """Return the PDU of a request that has one fragment."""
        whole: memoryview = self._pdus[row].data
        return whole if self._sizes is None else whole[: int(self._sizes[row])]

    def sizes(self, row: int, count: int) -> int | NDArray[np.int64]:
        """Return the bytes of the PDUs of so many requests of one fragment from a row on."""
        return self._pdus.shape[1] if self._sizes is None else self._sizes[row : row + count]

    def records(self, row: int, count: int) -> NDArray[np.void]:
        """Return the PDUs of so many requests of one fragment from a row on, each as long as the longest."""
        return self._records[row : row + count]

    def headers(self, row: int, fragments: NDArray[np.int64]) -> NDArray[np.void]:
        """Return the headers of some fragments of a request, void [n]."""
        raw: NDArray[np.uint8] = np.empty((len(fragments), HEADER_SIZE), np.uint8)
        raw[:] = self._pdus[row, :HEADER_SIZE]
        raw[:, _FRAGMENT_AT:_FRAGMENT_END] = fragments.astype(">u2").view(np.uint8).reshape(-1, 2)
        return raw.view(np.dtype((np.void, HEADER_SIZE)))[:, 0]

    def bytes_from(self, row: int) -> NDArray[np.uint8]:
        """Return the bytes of a request's message, uint8 [length]."""
        return self._pdus[row, HEADER_SIZE:]


def _crc_bytes(covered: memoryview | NDArray[np.uint8]) -> bytes:
    """Return the CRC of a message behind its header, whose fragment and credits are 0."""
    data = np.asarray(covered) if len(covered) > LONG else bytes(covered)
    crc: int = google_crc32c.extend(google_crc32c.value(data[HEADER_SIZE:]), bytes(data[:HEADER_SIZE]))
    return crc.to_bytes(CRC_SIZE, "big")


def write_pdu(buffers: FrameBatch, at: int, peer: int, pdu: bytes | memoryview) -> None:
    """Write one PDU into a buffer."""
    start, size = int(buffers.starts[at]), len(pdu)
    buffers.memory.data[start : start + size] = pdu
    buffers.lengths[at] = size
    buffers.peers[at] = peer


class FrameWriter:
    """Writes PDUs into a link's buffers.

    Args:
        peer: Whom they are for.
    """

    def __init__(self, peer: int) -> None:
        self._peer = peer
        self._headers = StridedView(HEADER_SIZE)
        self._wholes, self._bodies = StridedViews(), StridedViews(HEADER_SIZE)

    def whole(self, flight: Flight, row: int, count: int, buffers: FrameBatch, at: int) -> None:
        """Write so many requests of one frame each, from a row on, into the buffers from ``at`` on."""
        end = at + count
        sizes = flight.sizes(row, count)
        if isinstance(sizes, int):
            records = flight.records(row, count)
            self._wholes.of(buffers.memory, records.dtype.itemsize)[buffers.starts[at:end]] = records
        else:
            for index, start in enumerate(buffers.starts[at:end].tolist()):
                pdu = flight.pdu(row + index)
                buffers.memory[start : start + len(pdu)] = np.frombuffer(pdu, np.uint8)
        buffers.lengths[at:end] = sizes
        buffers.peers[at:end] = self._peer

    def one(self, pdu: bytes | memoryview, buffers: FrameBatch, at: int) -> None:
        """Write one PDU into a buffer."""
        write_pdu(buffers, at, self._peer, pdu)

    def fragments(self, flight: Flight, row: int, which: NDArray[np.int64], buffers: FrameBatch, at: int) -> None:
        """Write some fragments of one request, ascending: two scatters, or a third where the last is among them."""
        end = at + len(which)
        starts, size = buffers.starts[at:end], flight.size
        self._headers.of(buffers.memory)[starts] = flight.headers(row, which)
        message = flight.bytes_from(row)
        buffers.lengths[at:end] = HEADER_SIZE + size
        if int(which[-1]) == flight.fragments - 1:
            tail = message[int(which[-1]) * size :]
            begin = int(starts[-1]) + HEADER_SIZE
            buffers.memory[begin : begin + len(tail)] = tail
            buffers.lengths[end - 1] = HEADER_SIZE + len(tail)
            starts, which = starts[:-1], which[:-1]
        if len(which):
            pieces = StridedView(size).of(message)[which * size]
            self._bodies.of(buffers.memory, size)[starts] = pieces
        buffers.peers[at:end] = self._peer
