"""A link that writes down what goes through it, to a pcap file as a rule: for where no switch can be tapped."""

import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

from host_sdk.capture.heads import udp_heads
from host_sdk.capture.packet import LINKTYPE_ETHERNET, LINKTYPE_IPV4
from host_sdk.wire.links.base import BROADCAST, FrameBatch, Link, LinkStatistics
from host_sdk.wire.schema import ETHERTYPE, UDP_PORT

_EVERYBODY = 0xFFFFFFFF << 16 | UDP_PORT
_FILE_HEADER = struct.Struct("<IHHiIII")
_NS_MAGIC = 0xA1B23C4D  # timestamps in ns
_SNAP = 262144
_RECORD = struct.Struct("<IIII")
_ETHERTYPE = ETHERTYPE.to_bytes(2, "big")


class FrameSink(Protocol):
    """What a tap gives its PDUs to."""

    def write(self, time_ns: int, source: int, destination: int, pdu: bytes) -> None:
        """Take one PDU from one peer key to another."""

    def flush(self) -> None:
        """Have everything where it shall be."""

    def close(self) -> None:
        """Take no more; a second call does nothing."""


class PcapWriter:
    """Writes PDUs to a pcap file, with headers made up of their addresses; timestamps are in ns.

    Args:
        path: File to write; an old one is replaced.
        udp: Whether addresses are peer keys of UDP; else they are MAC addresses.
    """

    def __init__(self, path: Path, *, udp: bool = False) -> None:
        self._file: BinaryIO = path.open("wb")
        self._udp = udp
        kind = LINKTYPE_IPV4 if udp else LINKTYPE_ETHERNET
        self._file.write(_FILE_HEADER.pack(_NS_MAGIC, 2, 4, 0, 0, _SNAP, kind))

    def write(self, time_ns: int, source: int, destination: int, pdu: bytes) -> None:
        """Write one PDU from one peer key to another."""
        if self._udp:
            headers = ip_udp_headers(source, destination, len(pdu))
        else:
            headers = destination.to_bytes(6, "big") + source.to_bytes(6, "big") + _ETHERTYPE
        size = len(headers) + len(pdu)
        self._file.write(_RECORD.pack(time_ns // 1_000_000_000, time_ns % 1_000_000_000, size, size) + headers + pdu)

    def flush(self) -> None:
        """Have everything in the file that was written; of a closed one it is."""
        if not self._file.closed:
            self._file.flush()

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._file.close()


class TappedLink:
    """A link whose PDUs are written, sent and received, in the order in which its owner sees them.

    For what cannot be captured from outside: loopback without privilege, memory, and what is behind a link with faults.
    A broadcast over UDP is written once, to 255.255.255.255. PDUs of one batch have one time.

    Args:
        link: The link; closed with this one.
        sink: What takes them; or a pcap file to write, and an old one is replaced.
        now: Time in ns.
    """

    def __init__(self, link: Link, sink: FrameSink | Path, now: Callable[[], int] = time.time_ns) -> None:
        self._link, self._now = link, now
        self._file: FrameSink = PcapWriter(sink, udp=link.kind == "udp") if isinstance(sink, Path) else sink
        self.kind, self.address, self.mtu, self.smallest = link.kind, link.address, link.mtu, link.smallest
        self.capacity = link.capacity
        self.fileno, self.wait, self.allocate = link.fileno, link.wait, link.allocate
        self.format_address, self.parse_address = link.format_address, link.parse_address

    def receive(self) -> FrameBatch:
        """Receive, and write what was received."""
        batch = self._link.receive()
        self._write(batch, received=True)
        return batch

    def send(self, batch: FrameBatch) -> int:
        """Write what is sent, and send it."""
        self._write(batch, received=False)
        return self._link.send(batch)

    def expect(self, frames: int) -> None:
        """Wait for the rest of what began to arrive."""
        self._link.expect(frames)

    def statistics(self) -> LinkStatistics:
        """Return the link's counters."""
        return self._link.statistics()

    def flush(self) -> None:
        """Have everything in the file that went through so far."""
        self._file.flush()

    def close(self) -> None:
        """Close file and link; a second call does nothing."""
        self._file.close()
        self._link.close()

    def _write(self, batch: FrameBatch, *, received: bool) -> None:
        now = self._now()
        for index, key in enumerate(batch.peers.tolist()):
            peer = _EVERYBODY if key == BROADCAST and self.kind == "udp" else key
            source, destination = (peer, self.address) if received else (self.address, peer)
            self._file.write(now, source, destination, batch.pdu(index).tobytes())


def ip_udp_headers(source: int, destination: int, size: int) -> bytes:
    """Return IPv4 and UDP headers for ``size`` bytes between two peer keys; the UDP checksum is 0: none."""
    peers = np.array([[source], [destination]], np.uint64)
    return udp_heads(peers[0], peers[1], np.array([size])).tobytes()
