"""Replies: headers written in place for a whole batch, or one message at a time where it needs fragments."""

import numpy as np
from numpy.typing import NDArray

from appliance.dataplane.counters import Counters
from appliance.dataplane.records import StridedView
from host_sdk.wire.header import HEADER_DTYPE, scalar_header
from host_sdk.wire.links.base import Link
from host_sdk.wire.message import Message, batch_crcs, encode_message, fragment_frames, fragment_size_for
from host_sdk.wire.schema import (
    CRC_SIZE,
    HEADER_SIZE,
    MAX_FRAGMENT_SIZE,
    TRAILER,
    VERSION,
    Flag,
    Opcode,
    Status,
)

# A full transmit ring is waited for so often and so long before frames are dropped and counted.
TX_TRIES = 200
TX_WAIT_NS = 500_000


def reply_headers(count: int, opcode: Opcode, status: Status, credit: int) -> NDArray[np.void]:
    """Return ``count`` reply headers, HEADER_DTYPE [count], for the caller to complete."""
    headers = np.zeros(count, HEADER_DTYPE)
    headers["version"] = VERSION
    headers["opcode"] = opcode
    headers["status"] = status
    headers["credits"] = credit
    headers["fragment_size"] = MAX_FRAGMENT_SIZE
    return headers


class ReplyWriter:
    """Writes replies to a link and counts them.

    Args:
        link: Where they go.
        counters: Where they are counted.
    """

    def __init__(self, link: Link, counters: Counters) -> None:
        self._link, self._counters = link, counters
        self._own_fragment_size = fragment_size_for(link.mtu)
        self._records: dict[int, StridedView] = {}  # by size: at most one for each size that fits a frame

    def batch(
        self,
        peers: NDArray[np.uint64],
        headers: NDArray[np.void],
        bodies: NDArray[np.uint8],
        trailers: NDArray[np.void] | None = None,
    ) -> None:
        """Send one reply to each peer.

        Args:
            peers: uint64 [n].
            headers: HEADER_DTYPE [n], complete but for flags TRAILER and length; with flag CRC a CRC is added.
            bodies: uint8 [n, m], m may be 0.
            trailers: TRAILER_DTYPE [n], sent where the header has flag TRAILER.
        """
        self._counters.answers(headers["status"].astype(np.uint16))
        kinds = headers["flags"] & (Flag.CRC | Flag.TRAILER)
        for kind in sorted(set(kinds.tolist())):  # nearly always one
            chosen = np.flatnonzero(kinds == kind)
            parts = [bodies[chosen]]
            if kind & Flag.TRAILER:
                if trailers is None:
                    raise ValueError("a header announces a trailer and there is none")
                parts.append(trailers[chosen].view(np.uint8).reshape(len(chosen), TRAILER.size))
            self._uniform(peers[chosen], headers[chosen], np.concatenate(parts, axis=1), bool(kind & Flag.CRC))

    def _uniform(
        self, peers: NDArray[np.uint64], headers: NDArray[np.void], payloads: NDArray[np.uint8], crc: bool
    ) -> None:
        """Send replies of equal size and with the same parts."""
        length = payloads.shape[1] + (CRC_SIZE if crc else 0)
        headers["length"] = length
        limits = np.minimum(headers["fragment_size"], self._own_fragment_size)
        headers["fragment_size"] = limits
        if crc:
            payloads = np.concatenate((payloads, self._crcs(headers, payloads)), axis=1)
        fits = length <= limits
        for index in np.flatnonzero(~fits).tolist():
            self._fragmented(int(peers[index]), headers[index], payloads[index])
        raw = headers.view(np.uint8).reshape(len(headers), HEADER_SIZE)
        whole = np.concatenate((raw, payloads), axis=1)[fits]
        if len(whole):
            self.transmit(peers[fits], whole.view(np.dtype((np.void, whole.shape[1])))[:, 0])

    def _crcs(self, headers: NDArray[np.void], payloads: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the CRC of each reply, uint8 [n, 4]."""
        count, size = payloads.shape
        starts = np.arange(count) * size
        crcs = batch_crcs(headers, np.ascontiguousarray(payloads).reshape(-1), starts, np.full(count, size))
        return crcs.astype(">u4").view(np.uint8).reshape(-1, CRC_SIZE)

    def transmit(self, peers: NDArray[np.uint64] | int, pdus: NDArray[np.void]) -> bool:
        """Send equal-sized PDUs, waiting a bounded time for room; return whether all were sent.

        Args:
            peers: Who gets them, uint64 [n], or one for all.
            pdus: Records of one size [n], contiguous.
        """
        size, sent, tries = pdus.dtype.itemsize, 0, 0
        records = self._records.setdefault(size, StridedView(size))
        raw = pdus.view(records.dtype)
        while sent < len(raw):
            buffers = self._link.allocate(len(raw) - sent)
            room = len(buffers)
            if room:
                records.of(buffers.memory)[buffers.starts] = raw[sent : sent + room]
                buffers.lengths[:] = size
                buffers.peers[:] = peers if isinstance(peers, int) else peers[sent : sent + room]
                self._counters.tx_dropped += room - self._link.send(buffers)
                sent += room
            elif tries < TX_TRIES:
                tries += 1
                self._link.wait(TX_WAIT_NS)
            else:
                self._counters.tx_dropped += len(raw) - sent
                return False
        return True

    def _fragmented(self, peer: int, header: np.void, payload: NDArray[np.uint8]) -> None:
        self._pdus(peer, list(fragment_frames(scalar_header(header), payload.tobytes())))

    def _pdus(self, peer: int, pdus: list[bytes]) -> None:
        for index, pdu in enumerate(pdus):
            if not self.transmit(peer, np.frombuffer(pdu, np.dtype((np.void, len(pdu))))):
                self._counters.tx_dropped += len(pdus) - index - 1  # useless without the one that was dropped
                return

    def message(self, peer: int, message: Message, fragment_size: int = MAX_FRAGMENT_SIZE) -> None:
        """Send one message, in as many fragments as it needs."""
        if message.header.is_reply:
            self._counters.answer(message.header.status)
        header, payload = encode_message(message, min(fragment_size, self._own_fragment_size))
        self._pdus(peer, list(fragment_frames(header, payload)))
