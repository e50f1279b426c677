"""Captured frames as arrays: where the PDU of each lies, and who sent it to whom."""

import socket
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from host_sdk.capture.packet import LINKTYPE_ETHERNET, LINKTYPE_IPV4, LINKTYPE_RAW, CapturedPacket
from host_sdk.wire.header import HEADER_DTYPE
from host_sdk.wire.links.ethernet import format_mac
from host_sdk.wire.schema import ETHERTYPE, HEADER_SIZE, UDP_PORT

ETHERNET_SIZE, IP_SIZE, UDP_SIZE = 14, 20, 8
_IPV4, _UDP = 0x0800, 17
_FRAGMENT_BITS = 0x3FFF  # more fragments, and the offset


@dataclass(slots=True)
class CapturedFrames:
    """Frames of one interface.

    Attributes:
        memory: uint8 [m], which they lie in.
        starts: int64 [n], where each begins.
        captured: int64 [n], bytes that are there.
        lengths: int64 [n], bytes that it had.
        times: int64 [n], ns since 1970.
        directions: uint8 [n], values of Direction.
    """

    memory: NDArray[np.uint8]
    starts: NDArray[np.int64]
    captured: NDArray[np.int64]
    lengths: NDArray[np.int64]
    times: NDArray[np.int64]
    directions: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.starts)

    def take(self, index: NDArray[np.intp] | NDArray[np.bool_]) -> "CapturedFrames":
        """Return the frames at ``index``, in the same memory."""
        places = self.starts[index], self.captured[index], self.lengths[index], self.times[index]
        return CapturedFrames(self.memory, *places, self.directions[index])

    @classmethod
    def of(cls, packets: Sequence[CapturedPacket]) -> "CapturedFrames":
        """Return packets of one interface as arrays, copied into one memory."""
        captured = np.array([len(packet.data) for packet in packets], np.int64)
        return cls(
            np.frombuffer(b"".join(packet.data for packet in packets), np.uint8),
            np.cumsum(captured) - captured,
            captured,
            np.array([packet.length for packet in packets], np.int64),
            np.array([packet.time_ns for packet in packets], np.int64),
            np.array([packet.direction for packet in packets], np.uint8),
        )


@dataclass(slots=True)
class CapturedPdus:
    """What frames carry of this protocol; each array [n] has an element for every frame.

    Attributes:
        found: bool, whether the frame is of this protocol's EtherType or UDP port, and the header was captured.
        starts: int64, where the PDU begins in the frames' memory.
        captured: int64, bytes of it that are there, Ethernet's padding included.
        lengths: int64, bytes that it had.
        sources: uint64, MAC address as a number, or IPv4 address << 16 | port.
        destinations: uint64, the same.
        udp: bool, whether it came in UDP.
        headers: HEADER_DTYPE; without meaning where no PDU was found.
    """

    found: NDArray[np.bool_]
    starts: NDArray[np.int64]
    captured: NDArray[np.int64]
    lengths: NDArray[np.int64]
    sources: NDArray[np.uint64]
    destinations: NDArray[np.uint64]
    udp: NDArray[np.bool_]
    headers: NDArray[np.void]


def format_peer(key: int, *, udp: bool) -> str:
    """Return an address as people write it."""
    return f"{socket.inet_ntoa((key >> 16).to_bytes(4, 'big'))}:{key & 0xFFFF}" if udp else format_mac(key)


def find_pdus(frames: CapturedFrames, link_type: int, ports: Collection[int] = (UDP_PORT,)) -> CapturedPdus:
    """Find the PDUs in frames, over Ethernet and in UDP over IPv4.

    Args:
        frames: Of one interface.
        link_type: What they begin with.
        ports: UDP ports, of either end, that make a datagram one of this protocol.
    """
    count, memory = len(frames), frames.memory
    starts, sizes = frames.starts, frames.captured
    nobody = np.zeros(count, np.uint64)
    plain, sources, destinations = np.zeros(count, np.bool_), nobody, nobody
    ip_at, ip = starts, np.full(count, link_type in (LINKTYPE_RAW, LINKTYPE_IPV4))
    if link_type == LINKTYPE_ETHERNET:
        head = _gather(memory, starts, ETHERNET_SIZE)
        kinds = _number(head[:, 12:14])
        plain = (sizes >= ETHERNET_SIZE + HEADER_SIZE) & (kinds == ETHERTYPE)
        sources, destinations = _number(head[:, 6:12]), _number(head[:, :6])
        ip_at, ip = starts + ETHERNET_SIZE, kinds == _IPV4
    udp, udp_at, source, destination = _find_udp(memory, ip_at, ip, ports)
    before = np.where(udp, udp_at + UDP_SIZE - starts, ETHERNET_SIZE)
    udp &= sizes - before >= HEADER_SIZE
    begin = starts + before
    raw = _gather(memory, begin, HEADER_SIZE)
    return CapturedPdus(
        plain | udp,
        begin,
        sizes - before,
        frames.lengths - before,
        np.where(udp, source, sources),
        np.where(udp, destination, destinations),
        udp,
        raw.view(HEADER_DTYPE)[:, 0],
    )


def _find_udp(
    memory: NDArray[np.uint8], at: NDArray[np.int64], ip: NDArray[np.bool_], ports: Collection[int]
) -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.uint64], NDArray[np.uint64]]:
    """Return which frames are whole datagrams of one of the ports, where UDP begins, and the peers' keys."""
    if not ip.any():
        nobody = np.zeros(len(at), np.uint64)
        return ip, at, nobody, nobody
    head = _gather(memory, at, IP_SIZE)
    size = (head[:, 0] & 15).astype(np.int64) * 4
    udp = ip & (head[:, 0] >> 4 == 4) & (size >= IP_SIZE) & (head[:, 9] == _UDP)
    udp &= _number(head[:, 6:8]) & _FRAGMENT_BITS == 0
    ends = _gather(memory, at + size, UDP_SIZE)
    from_port, to_port = _number(ends[:, :2]), _number(ends[:, 2:4])
    known = np.array(sorted(ports), np.uint64)
    udp &= np.isin(from_port, known) | np.isin(to_port, known)
    shift = np.uint64(16)
    return udp, at + size, _number(head[:, 12:16]) << shift | from_port, _number(head[:, 16:20]) << shift | to_port


def _gather(memory: NDArray[np.uint8], starts: NDArray[np.int64], width: int) -> NDArray[np.uint8]:
    """Return ``width`` bytes from each start on, uint8 [n, width]; behind the memory's end the last byte again."""
    if len(memory) == 0:
        return np.zeros((len(starts), width), np.uint8)
    raw: NDArray[np.uint8] = memory[np.minimum(starts[:, None] + np.arange(width), len(memory) - 1)]
    return raw


def _number(columns: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return big-endian numbers of up to 8 bytes, uint8 [n, bytes], as uint64 [n]."""
    wide = np.zeros((len(columns), 8), np.uint8)
    wide[:, 8 - columns.shape[1] :] = columns
    return wide.view(">u8")[:, 0].astype(np.uint64)


def packet_ids(sources: NDArray[np.uint64], headers: NDArray[np.void]) -> NDArray[np.uint64]:
    """Return what makes frames the same message's wherever they were captured, uint64 [n].

    It is made of the requester, session, request and opcode, and so the same for all fragments and all copies.

    Args:
        sources: The requester's peer key of each, uint64 [n].
        headers: HEADER_DTYPE [n].
    """
    mixed = sources.copy()
    with np.errstate(over="ignore"):
        for name in ("session", "request", "opcode"):
            mixed ^= headers[name].astype(np.uint64)
            mixed *= np.uint64(0x9E3779B97F4A7C15)  # odd, so nothing is lost; the golden ratio spreads neighbours
            mixed ^= mixed >> np.uint64(29)
    return mixed
