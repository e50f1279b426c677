"""Frames as the kernel shows them to a tap: an AF_PACKET socket with a ring of TPACKET_V3 blocks.

The kernel fills whole blocks in memory that both share, so that a burst needs no system call for each frame,
and the room for it does not depend on the limit for socket buffers, which only root may exceed.
See ``Documentation/networking/packet_mmap.rst`` of Linux.
"""

import mmap
import socket
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from host_sdk.wire.errors import InterfaceError, LinkPrivilegeError

ALL_PROTOCOLS: Final = 0x0003  # ETH_P_ALL
RETIRE_S: Final = 0.008  # after which the kernel hands over a block that is not full

_SOL_PACKET: Final = 263  # <linux/socket.h>; the rest: <linux/if_packet.h>
_ADD_MEMBERSHIP: Final = 1
_RX_RING: Final = 5
_STATISTICS: Final = 6
_VERSION: Final = 10
_TPACKET_V3: Final = 2
_MR_PROMISC: Final = 1
_TP_STATUS_USER: Final = 1  # the block is ours; 0: the kernel's

_BLOCK_SIZE: Final = 1 << 20
_BLOCKS: Final = 64
_FRAME_SIZE: Final = 1 << 11  # only the kernel's arithmetic needs it; frames of any size fit into a block

_REQUEST: Final = struct.Struct("=7I")  # tpacket_req3
_MEMBERSHIP: Final = struct.Struct("=iHH8s")  # packet_mreq
_BLOCK_STATUS: Final = struct.Struct("=8xI")  # tpacket_block_desc
_BLOCK: Final = struct.Struct("=12xII")  # the same: number of frames, offset of the first
_FRAME: Final = struct.Struct("=5I4xH")  # tpacket3_hdr: next, s, ns, captured, length, offset of Ethernet
_PACKET_TYPE: Final = 58  # offset in the same of sockaddr_ll's, which follows it: 48 + 10
_OUTGOING: Final = 4
_COUNTS: Final = struct.Struct("=3I")  # tpacket_stats_v3: frames, of them dropped, times full
_RECORD: Final = struct.Struct("=4I")  # of a pcap file: s, ns, captured, length


class Entry(NamedTuple):
    """Where a frame is in a ring's memory.

    Attributes:
        start: Where it begins.
        captured: Bytes that are there.
        length: Bytes that it has.
        time_ns: When the kernel had it, ns since 1970.
        outgoing: Whether it left by the interface.
    """

    start: int
    captured: int
    length: int
    time_ns: int
    outgoing: bool


class Ring:
    """All frames of one interface, each once, in the order and with the timestamps of the kernel.

    Args:
        interface: Name of the interface, which becomes promiscuous for as long as the ring is there.
        protocol: EtherType of the frames to take, or ALL_PROTOCOLS.

    Raises:
        LinkPrivilegeError: The kernel refuses the socket to this user.
        InterfaceError: There is no such interface.
    """

    def __init__(self, interface: str, protocol: int) -> None:
        try:
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)  # 0: nothing until it is bound
        except PermissionError as error:
            raise LinkPrivilegeError("a tap needs CAP_NET_RAW; run it in the lab's namespaces") from error
        try:
            index = socket.if_nametoindex(interface)
        except OSError as error:
            self._socket.close()
            raise InterfaceError(f"there is no interface {interface} to tap; is the lab up?") from error
        self._socket.setsockopt(_SOL_PACKET, _VERSION, _TPACKET_V3)
        size = _BLOCK_SIZE * _BLOCKS
        retire_ms = int(RETIRE_S * 1000)
        request = _REQUEST.pack(_BLOCK_SIZE, _BLOCKS, _FRAME_SIZE, size // _FRAME_SIZE, retire_ms, 0, 0)
        self._socket.setsockopt(_SOL_PACKET, _RX_RING, request)
        self._ring = mmap.mmap(self._socket.fileno(), size)
        self._socket.setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP, _MEMBERSHIP.pack(index, _MR_PROMISC, 0, b""))
        self._protocol = protocol
        self._socket.bind((interface, protocol))
        self._block = 0
        self._frames = 0
        self.dropped = 0

    def fileno(self) -> int:
        """Return the descriptor that polls readable when a block is there."""
        return self._socket.fileno()

    def read(self) -> tuple[int, bytes]:
        """Return the frames of the next block: how many, and their records for a nanosecond pcap file."""
        start = self._block * _BLOCK_SIZE
        if not self._ready(start):
            return 0, b""
        frames, first = _BLOCK.unpack_from(self._ring, start)
        records = _records(self._ring, start + first, frames)
        self._hand_back(start)
        return frames, records

    def entries(self) -> Iterator[tuple[memoryview, list[Entry]]]:
        """Yield the frames of each block that is there: the ring's memory, and where in it they are.

        A block goes back to the kernel when the next one is asked for; what is kept of it has to be copied before.
        """
        with memoryview(self._ring) as memory:
            while self._ready(start := self._block * _BLOCK_SIZE):
                frames, first = _BLOCK.unpack_from(self._ring, start)
                yield memory, _entries(self._ring, start + first, frames)
                self._hand_back(start)

    def _ready(self, start: int) -> bool:
        return bool(_BLOCK_STATUS.unpack_from(self._ring, start)[0] & _TP_STATUS_USER)

    def _hand_back(self, start: int) -> None:
        struct.pack_into("=I", self._ring, start + 8, 0)
        self._block = (self._block + 1) % _BLOCKS

    def stop(self) -> None:
        """Take no further frames; those taken before are still to be read.

        The descriptor no longer tells when: the kernel hands the last block over within RETIRE_S.
        """
        # Binding elsewhere returns after the last frame in flight, and the switch's loopback carries nothing.
        self._socket.bind(("lo", self._protocol))

    def taken(self) -> int:
        """Return how many frames the kernel has put into the ring so far; updates :attr:`dropped`."""
        counts = self._socket.getsockopt(_SOL_PACKET, _STATISTICS, _COUNTS.size)
        frames, dropped, _ = _COUNTS.unpack(counts)  # reading sets the kernel's to 0
        self._frames += frames - dropped
        self.dropped += dropped
        return self._frames

    def close(self) -> None:
        """Give everything back."""
        self._ring.close()
        self._socket.close()


def _records(ring: mmap.mmap, at: int, frames: int) -> bytes:
    """Return the frames of one block as records of a pcap file."""
    header, record, pieces = _FRAME.unpack_from, _RECORD.pack, []
    for _ in range(frames):
        step, seconds, nanoseconds, captured, length, offset = header(ring, at)
        start = at + offset
        pieces.append(record(seconds, nanoseconds, captured, length))
        pieces.append(ring[start : start + captured])
        at += step
    return b"".join(pieces)


def _entries(ring: mmap.mmap, at: int, frames: int) -> list[Entry]:
    """Return where the frames of one block are."""
    header, found = _FRAME.unpack_from, []
    for _ in range(frames):
        step, seconds, nanoseconds, captured, length, offset = header(ring, at)
        time_ns = seconds * 1_000_000_000 + nanoseconds
        found.append(Entry(at + offset, captured, length, time_ns, ring[at + _PACKET_TYPE] == _OUTGOING))
        at += step
    return found
