"""The AF_XDP socket: its memory (UMEM) and its four rings, as numpy arrays shared with the kernel.

Memory ordering. A ring is written by one side, which then moves the producer index, and read by the other,
which then moves the consumer index. This needs stores not to pass earlier stores or loads, and loads not to
pass earlier loads. On x86-64 the processor guarantees that for ordinary instructions (total store order); the
one reordering that it does, a load before an earlier store to another place, concerns only the need-wakeup
flags, where the kernel copes. The compiler cannot reorder either, for every access below is a call into the
interpreter or into numpy. Processors with weaker ordering need acquire and release fences, which Python does
not have, so these machines are refused.
"""

import contextlib
import ctypes
import errno
import mmap
import os
import platform
import socket
import struct

import numpy as np
from numpy.typing import NDArray

from host_sdk.wire.errors import LinkError, LinkPrivilegeError
from host_sdk.wire.links.base import BURST
from host_sdk.wire.links.mmsg import enlarge_buffers

_AF_XDP = 44
_SOL_XDP = 283
_MMAP_OFFSETS, _RX_RING, _TX_RING, _UMEM_REG, _FILL_RING, _COMPLETION_RING, _STATISTICS = range(1, 8)
_MAX_TX_BUDGET = 9
_PAGE_OFFSETS = {_RX_RING: 0, _TX_RING: 0x8000_0000, _FILL_RING: 1 << 32, _COMPLETION_RING: 0x1_8000_0000}
_COPY, _NEED_WAKEUP = 1 << 1, 1 << 3

KERNEL_HEADROOM = 256  # bytes that the kernel keeps free in front of every frame that it receives
HEADROOM = 2  # and we: puts the PDU behind Ethernet's 14 bytes at a multiple of 16
RING_NEEDS_WAKEUP = 1
INDEX = 0xFFFF_FFFF  # producer and consumer indices count modulo 2^32

_libc_bind = ctypes.CDLL(None, use_errno=True).bind
_libc_bind.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)


class Ring:
    """One ring.

    Attributes:
        size: Entries, a power of two.
        producer: memoryview [1] of uint32: entries ever written.
        consumer: memoryview [1] of uint32: entries ever read.
        flags: memoryview [1] of uint32: RING_NEEDS_WAKEUP while the kernel waits for a system call before it looks.
        cells: memoryview of uint64, the entries: in rx and tx rings address and length in turn, else addresses; for
            an entry alone, which costs a tenth of what it does by the arrays.
        addresses: int64 [size], where in the UMEM each entry's frame begins.
        lengths: uint32 [size], bytes of the frame; without meaning in fill and completion rings.
    """

    def __init__(self, area: mmap.mmap, offsets: tuple[int, ...], size: int, entry: int) -> None:
        producer, consumer, entries, flags = offsets
        words = memoryview(area).cast("I")
        # One aligned 32-bit load or store each, as an index needs; and several times faster than numpy's.
        self.producer = words[producer // 4 : producer // 4 + 1]
        self.consumer = words[consumer // 4 : consumer // 4 + 1]
        self.flags = words[flags // 4 : flags // 4 + 1]
        self.cells = memoryview(area).cast("Q")[entries // 8 :]
        self.size = size
        self.addresses: NDArray[np.int64] = np.ndarray((size,), np.int64, area, entries, (entry,))
        self.lengths: NDArray[np.uint32] = np.ndarray((size,), np.uint32, area, entries + entry - 8, (entry,))
        self._steps = np.arange(BURST)

    def places(self, index: int, count: int) -> slice | NDArray[np.int64]:
        """Return where ``count`` entries (at most BURST) from an index on are in the arrays."""
        first = index & (self.size - 1)
        if first + count <= self.size:
            return slice(first, first + count)
        return (first + self._steps[:count]) & (self.size - 1)

    def close(self) -> None:
        """Let go of the mapping, which keeps the socket alive, whoever still has the ring (as a traceback may)."""
        del self.producer, self.consumer, self.flags, self.cells, self.addresses, self.lengths


class XdpSocket:
    """An AF_XDP socket with its own UMEM, half of whose chunks are for receiving and half for sending.

    Attributes:
        area: uint8 [PAGESIZE + chunks * chunk_size], the UMEM behind a page that is not part of it, so that a
            view may begin a little before the first frame.
        umem: uint8 [chunks * chunk_size], the frames.
        rx: Frames received.
        fill: Chunks that the kernel may receive into.
        tx: Frames to send.
        completion: Chunks of frames that were sent.

    Raises:
        LinkPrivilegeError: CAP_NET_RAW is missing, or the limit on locked memory is too low.
        LinkError: This machine, kernel or interface has no AF_XDP.
    """

    def __init__(self, chunk_size: int, chunks: int) -> None:
        if platform.machine() != "x86_64":
            raise LinkError(f"xdp links need x86-64, this is {platform.machine()}; use a packet link")
        # Shared, lest a fork make pages of one's own of those that the kernel has pinned.
        area = mmap.mmap(-1, mmap.PAGESIZE + chunk_size * chunks, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
        self.area: NDArray[np.uint8] = np.frombuffer(area, np.uint8)
        self.umem = self.area[mmap.PAGESIZE :]
        with contextlib.ExitStack() as opened:
            self.socket = opened.enter_context(_open_socket())
            self._register(chunk_size)
            for ring in _PAGE_OFFSETS:
                self.socket.setsockopt(_SOL_XDP, ring, chunks // 2)
            # Of rx, tx, fill and completion ring: producer, consumer, entries, flags.
            offsets = struct.unpack("=16Q", self.socket.getsockopt(_SOL_XDP, _MMAP_OFFSETS, 128))
            self.rx = self._map(_RX_RING, offsets[0:4], chunks // 2, 16)
            self.tx = self._map(_TX_RING, offsets[4:8], chunks // 2, 16)
            self.fill = self._map(_FILL_RING, offsets[8:12], chunks // 2, 8)
            self.completion = self._map(_COMPLETION_RING, offsets[12:16], chunks // 2, 8)
            enlarge_buffers(self.socket)
            with contextlib.suppress(OSError):  # frames that one call sends: 32 before Linux 6.17
                self.socket.setsockopt(_SOL_XDP, _MAX_TX_BUDGET, min(BURST, chunks // 2))
            opened.pop_all()

    def _register(self, chunk_size: int) -> None:
        """Give the UMEM to the kernel, which pins it."""
        at, size = self.umem.ctypes.data, len(self.umem)
        registration = struct.pack("=QQIIII", at, size, chunk_size, HEADROOM, 0, 0)
        try:
            self.socket.setsockopt(_SOL_XDP, _UMEM_REG, registration)
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise LinkError(f"the kernel refuses the UMEM: {error.strerror}; use a packet link") from error
            raise LinkPrivilegeError(
                f"the limit on locked memory is too low for a UMEM of {size >> 10} KiB; raise it "
                "(`ulimit -l`, docker run --ulimit memlock=-1), give CAP_IPC_LOCK, or use a packet link"
            ) from error

    def _map(self, ring: int, offsets: tuple[int, ...], size: int, entry: int) -> Ring:
        flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
        length = offsets[2] + size * entry
        area = mmap.mmap(self.socket.fileno(), length, flags, offset=_PAGE_OFFSETS[ring])
        return Ring(area, offsets, size, entry)

    def bind(self, interface: int, queue: int, *, copy: bool) -> None:
        """Bind to one receive queue of an interface; ``copy`` means not to ask the driver for zero-copy.

        Raises:
            OSError: EBUSY where the queue has a socket already, EINVAL where there is no such queue.
        """
        flags = _NEED_WAKEUP | (_COPY if copy else 0)
        address = struct.pack("=HHIII", _AF_XDP, flags, interface, queue, 0)
        if _libc_bind(self.socket.fileno(), address, len(address)):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))

    def drops(self) -> dict[str, int]:
        """Return the kernel's counters of frames lost, those that are not 0."""
        raw = self.socket.getsockopt(_SOL_XDP, _STATISTICS, 48)
        dropped, _, _, ring_full, fill_empty, _ = struct.unpack("=6Q", raw)
        # The kernel counts a frame that found no chunk both as dropped and as a look at the empty fill ring;
        # drivers also look there without a frame.
        starved = min(dropped, fill_empty)
        counts = {"rx_ring_full": ring_full, "rx_fill_ring_empty": starved, "rx_dropped": dropped - starved}
        return {reason: count for reason, count in counts.items() if count}

    def close(self) -> None:
        """Close the socket and unmap its rings; the UMEM stays while somebody has an array over it."""
        self.socket.close()
        for ring in (self.rx, self.fill, self.tx, self.completion):
            ring.close()


def _open_socket() -> socket.socket:
    try:
        sock = socket.socket(_AF_XDP, socket.SOCK_RAW, 0)
    except PermissionError as error:
        raise LinkPrivilegeError(
            "an xdp link needs CAP_NET_RAW, and CAP_BPF with CAP_NET_ADMIN (or CAP_SYS_ADMIN): run with sudo, "
            "give the container these, or use the link udp:HOST"
        ) from error
    except OSError as error:
        raise LinkError(f"this kernel has no AF_XDP ({error.strerror}); use a packet link") from error
    sock.setblocking(False)
    return sock
