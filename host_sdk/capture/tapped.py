"""A link that writes what goes through it to a pcap file: for where no switch can be tapped."""

import struct
import time
from pathlib import Path
from typing import BinaryIO

import numpy as np

from host_sdk.capture.heads import udp_heads
from host_sdk.capture.packet import LINKTYPE_IPV4
from host_sdk.wire.links.base import BROADCAST, FrameBatch, Link, LinkStatistics
from host_sdk.wire.schema import UDP_PORT

_EVERYBODY = 0xFFFFFFFF << 16 | UDP_PORT
_FILE_HEADER = struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262144, LINKTYPE_IPV4)  # timestamps in ns
_RECORD = struct.Struct("<IIII")


class TappedUdpLink:
    """A UDP link whose PDUs are written, sent and received, in the order in which its owner sees them.

    Loopback cannot be captured without privilege; this shows what the owner sends and gets instead. The IPv4 and UDP
    headers are made up of the addresses; a broadcast is written once, to 255.255.255.255.

    Args:
        link: The UDP link; closed with this one.
        path: File to write; an old one is replaced.
    """

    def __init__(self, link: Link, path: Path) -> None:
        self._link = link
        self._file: BinaryIO = path.open("wb")
        self._file.write(_FILE_HEADER)
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

    def close(self) -> None:
        """Close file and link; a second call does nothing."""
        self._file.close()
        self._link.close()

    def _write(self, batch: FrameBatch, *, received: bool) -> None:
        now = time.time_ns()
        for index, key in enumerate(batch.peers.tolist()):
            peer = _EVERYBODY if key == BROADCAST else key
            source, destination = (peer, self.address) if received else (self.address, peer)
            pdu = batch.pdu(index).tobytes()
            headers = ip_udp_headers(source, destination, len(pdu))
            size = len(headers) + len(pdu)
            self._file.write(_RECORD.pack(now // 1_000_000_000, now % 1_000_000_000, size, size) + headers + pdu)


def ip_udp_headers(source: int, destination: int, size: int) -> bytes:
    """Return IPv4 and UDP headers for ``size`` bytes between two peer keys; the UDP checksum is 0: none."""
    peers = np.array([[source], [destination]], np.uint64)
    return udp_heads(peers[0], peers[1], np.array([size])).tobytes()
