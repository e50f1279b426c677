"""Replies: headers written in place for a whole batch, or one message at a time where it needs fragments."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from appliance.dataplane.answers import ROWS, AnswerWindows
from appliance.dataplane.counters import Counters
from host_sdk.wire.header import HEADER_DTYPE, Header, scalar_header
from host_sdk.wire.links.base import BURST, Link
from host_sdk.wire.message import Message, crcs_of, encode_message, fragment_size_for, pdu_crc
from host_sdk.wire.records import StridedView
from host_sdk.wire.schema import (
    CRC_SIZE,
    HEADER_SIZE,
    MAX_FRAGMENT_SIZE,
    REPLY_BIT,
    TRAILER,
    VERSION,
    Flag,
    Opcode,
    Status,
    is_notice,
)

# A full transmit ring is waited for so often and so long before frames are dropped and counted.
TX_TRIES = 200
TX_WAIT_NS = 500_000
_CRC, _TRAILER, _PARTS = int(Flag.CRC), int(Flag.TRAILER), int(Flag.CRC | Flag.TRAILER)
_CREDITS = HEADER_DTYPE.fields["credits"][1] if HEADER_DTYPE.fields else 0  # offset in a PDU


def reply_headers(count: int, opcode: Opcode, status: Status, credit: int) -> NDArray[np.void]:
    """Return ``count`` reply headers, HEADER_DTYPE [count], for the caller to complete."""
    headers = np.zeros(count, HEADER_DTYPE)
    headers["version"] = VERSION
    headers["opcode"] = opcode
    headers["status"] = status
    headers["credits"] = credit
    headers["fragment_size"] = MAX_FRAGMENT_SIZE
    return headers


@dataclass(frozen=True, slots=True)
class Keep:
    """Where final answers are kept: places int64 [n], -1 for those of *datagram* requests, and ids uint64 [n]."""

    places: NDArray[np.int64]
    ids: NDArray[np.uint64]
    fragments: NDArray[np.uint16]  # that each requester takes unasked

    def take(self, index: NDArray[np.intp] | NDArray[np.bool_]) -> "Keep":
        """Return what is said of the answers at ``index``."""
        return Keep(self.places[index], self.ids[index], self.fragments[index])


class ReplyWriter:
    """Writes replies to a link, counts them, and keeps those that may be asked for again.

    Args:
        link: Where they go.
        counters: Where they are counted.
        answers: Where they are kept.
    """

    def __init__(self, link: Link, counters: Counters, answers: AnswerWindows) -> None:
        self._link, self._counters, self._answers = link, counters, answers
        self._own_fragment_size = fragment_size_for(link.mtu)
        self._records: dict[int, StridedView] = {}  # by size: at most one for each size that fits a frame

    def batch(
        self,
        peers: NDArray[np.uint64],
        headers: NDArray[np.void],
        bodies: NDArray[np.uint8],
        trailers: NDArray[np.void] | None = None,
        keep: Keep | None = None,
    ) -> None:
        """Send one reply to each peer.

        Args:
            peers: uint64 [n].
            headers: HEADER_DTYPE [n], complete but for flags TRAILER and length; with flag CRC a CRC is added.
            bodies: uint8 [n, m], m may be 0.
            trailers: TRAILER_DTYPE [n], sent where the header has flag TRAILER.
            keep: Where they are kept, if they are final answers.
        """
        self._counters.answers(headers["status"].astype(np.uint16))
        kinds = headers["flags"] & _PARTS
        found = sorted(set(kinds.tolist()))
        for kind in found:  # nearly always one
            parts = [bodies]
            if kind & _TRAILER:
                if trailers is None:
                    raise ValueError("a header announces a trailer and there is none")
                parts.append(trailers.view(np.uint8).reshape(len(trailers), TRAILER.size))
            if len(found) == 1:
                self._uniform(peers, headers, parts, keep, crc=bool(kind & _CRC))
                return
            chosen = np.flatnonzero(kinds == kind)
            chosen_keep = keep.take(chosen) if keep else None
            chosen_parts = [part[chosen] for part in parts]
            self._uniform(peers[chosen], headers[chosen], chosen_parts, chosen_keep, crc=bool(kind & _CRC))

    def _uniform(
        self,
        peers: NDArray[np.uint64],
        headers: NDArray[np.void],
        parts: list[NDArray[np.uint8]],
        keep: Keep | None,
        *,
        crc: bool,
    ) -> None:
        """Send replies of equal size and with the same parts."""
        limits = np.minimum(headers["fragment_size"], self._own_fragment_size)
        headers["length"] = length = sum(part.shape[1] for part in parts) + (CRC_SIZE if crc else 0)
        headers["fragment_size"] = limits
        raw = headers.view(np.uint8).reshape(len(headers), HEADER_SIZE)
        whole = np.concatenate((raw, *parts, np.empty((len(raw), CRC_SIZE if crc else 0), np.uint8)), axis=1)
        if crc:
            seal(whole)
        fits = length <= limits
        if not fits.all():
            self._fragmented(np.flatnonzero(~fits), peers, headers, whole, keep)
            peers, whole, keep = peers[fits], whole[fits], keep.take(fits) if keep else None
        if len(whole):
            pdus = whole.view(np.dtype((np.void, whole.shape[1])))[:, 0]
            if keep:
                self._keep(keep, pdus)
            self.transmit(peers, pdus)

    def _keep(self, keep: Keep, pdus: NDArray[np.void]) -> None:
        """Keep answers of one frame each."""
        once = keep.places >= 0
        if not once.all():
            keep, pdus = keep.take(once), pdus[once]
        if pdus.dtype.itemsize <= ROWS[-1]:
            self._answers.keep(keep.places, keep.ids, pdus)
            return
        for place, number, pdu in zip(keep.places.tolist(), keep.ids.tolist(), pdus, strict=True):
            raw = np.frombuffer(pdu.tobytes(), np.uint8)
            header = scalar_header(raw[:HEADER_SIZE].view(HEADER_DTYPE)[0])
            self._answers.keep_one(place, number, header, raw[HEADER_SIZE:])

    def _fragmented(
        self,
        index: NDArray[np.intp],
        peers: NDArray[np.uint64],
        headers: NDArray[np.void],
        whole: NDArray[np.uint8],
        keep: Keep | None,
    ) -> None:
        """Send answers that need several frames: all of them, or as many as are taken unasked of one that is kept."""
        for at in index.tolist():
            header, payload = scalar_header(headers[at]), whole[at, HEADER_SIZE:]
            if len(whole) > 1:  # what is kept shall not hold the memory of the others
                payload = payload.copy()
            count = header.fragments
            if keep and keep.places[at] >= 0:
                self._answers.keep_one(int(keep.places[at]), int(keep.ids[at]), header, payload)
                count = min(count, int(keep.fragments[at]))
            self.fragments(int(peers[at]), header, payload, np.arange(count))

    def transmit(self, peers: NDArray[np.uint64] | int, pdus: NDArray[np.void]) -> bool:
        """Send equal-sized PDUs, waiting a bounded time for room; return whether all were sent.

        Args:
            peers: Who gets them, uint64 [n], or one for all.
            pdus: Records of one size [n], contiguous.
        """
        size, sent, tries = pdus.dtype.itemsize, 0, 0
        records = self._records.get(size)
        if records is None:
            records = self._records[size] = StridedView(size)
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

    def transmit_one(self, peer: int, pdu: NDArray[np.uint8]) -> None:
        """Send one PDU, uint8 [m], as :meth:`transmit` does."""
        buffers = self._link.allocate(1)
        if not len(buffers):
            self.transmit(peer, pdu.view(np.dtype((np.void, len(pdu)))))
            return
        start, size = int(buffers.starts[0]), len(pdu)
        buffers.memory[start : start + size] = pdu
        buffers.lengths[0], buffers.peers[0] = size, peer
        self._counters.tx_dropped += 1 - self._link.send(buffers)

    def fragments(self, peer: int, header: Header, message: NDArray[np.uint8], which: NDArray[np.int64]) -> None:
        """Send some fragments of a message of several, uint8 [length]: int64 [n], ascending."""
        size, last = header.fragment_size, header.fragments - 1
        raw = np.frombuffer(header.encode(), HEADER_DTYPE)
        pieces = message[: last * size].reshape(last, size)
        full = which[which < last]
        for begin in range(0, len(full), BURST):
            part = full[begin : begin + BURST]
            pdus = np.empty((len(part), HEADER_SIZE + size), np.uint8)
            headers = np.repeat(raw, len(part))
            headers["fragment"] = part
            pdus[:, :HEADER_SIZE] = headers.view(np.uint8).reshape(-1, HEADER_SIZE)
            pdus[:, HEADER_SIZE:] = pieces[part]
            if not self.transmit(peer, pdus.view(np.dtype((np.void, pdus.shape[1])))[:, 0]):
                self._counters.tx_dropped += len(which) - begin - len(part)  # useless without those that were dropped
                return
        if len(full) < len(which):
            self._one(peer, replace(header, fragment=last).encode() + message[last * size :].tobytes())

    def again(self, peer: int, pdu: bytes) -> None:
        """Send a PDU that was sent before."""
        self._counters.replays += 1
        self._one(peer, pdu)

    def _one(self, peer: int, pdu: bytes) -> None:
        self.transmit(peer, np.frombuffer(pdu, np.dtype((np.void, len(pdu)))))

    def encode(self, message: Message, fragment_size: int = MAX_FRAGMENT_SIZE) -> bytes:
        """Return the PDU of a message of one fragment."""
        header, payload = encode_message(message, min(fragment_size, self._own_fragment_size))
        return header.encode() + payload

    def message(self, peer: int, message: Message, fragment_size: int = MAX_FRAGMENT_SIZE) -> None:
        """Send one message, in as many fragments as it needs; replies are counted."""
        opcode = message.header.opcode
        if opcode & REPLY_BIT and not is_notice(opcode):
            self._counters.answer(message.header.status)
        header, payload = encode_message(message, min(fragment_size, self._own_fragment_size))
        if header.fragments == 1:
            self._one(peer, header.encode() + payload)
        else:
            self.fragments(peer, header, np.frombuffer(payload, np.uint8), np.arange(header.fragments))


def seal_one(pdu: NDArray[np.uint8]) -> None:
    """Write the CRC of a whole message, uint8 [PDU], into its last bytes."""
    granted, pdu[_CREDITS] = int(pdu[_CREDITS]), 0  # not covered
    pdu.data[len(pdu) - CRC_SIZE :] = pdu_crc(pdu[:-CRC_SIZE].tobytes()).to_bytes(CRC_SIZE, "big")
    pdu[_CREDITS] = granted


def seal(pdus: NDArray[np.uint8]) -> None:
    """Write the CRC of whole messages, uint8 [n, PDU], into their last bytes."""
    granted = pdus[:, _CREDITS].copy()
    pdus[:, _CREDITS] = 0  # not covered
    crcs = crcs_of(pdus, pdus.shape[1] - CRC_SIZE)
    pdus[:, -CRC_SIZE:] = crcs.astype(">u4").view(np.uint8).reshape(-1, CRC_SIZE)
    pdus[:, _CREDITS] = granted
