"""Bursts of datagrams through recvmmsg(2) and sendmmsg(2).

The kernel's structures are numpy arrays, so that lengths and addresses of a burst are read and written by a
fixed number of numpy calls, and no Python object is made for a datagram.
"""

import ctypes
import errno
import os
import socket
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from host_sdk.wire.links.base import BURST, FrameBatch, LinkStatistics
from host_sdk.wire.links.waiting import wait_writable

_MSGHDR = np.dtype(
    [
        ("name", np.uintp),
        ("name_length", np.uint32),
        ("iov", np.uintp),
        ("iov_count", np.uintp),
        ("control", np.uintp),
        ("control_length", np.uintp),
        ("flags", np.int32),
    ],
    align=True,
)
_MMSGHDR = np.dtype([("header", _MSGHDR), ("length", np.uint32)], align=True)
_IOVEC = np.dtype([("base", np.uintp), ("length", np.uintp)], align=True)

_LIBC = ctypes.CDLL(None, use_errno=True)
_recvmmsg = _LIBC.recvmmsg
_recvmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)
_sendmmsg = _LIBC.sendmmsg
_sendmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)

_BUFFER_SIZE = 8 << 20  # bytes asked of the kernel for each direction of a socket
_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33

_PAGE = 4096
_BLOCK_OVERHEAD = 640  # bytes in a frame's block beside its payload: headroom, headers, and what tells of more pages
_BUFFER_OVERHEAD = 1024  # bytes beside the block: the socket buffer's structure and a head

_FULL_WAITS = 4  # times that a send waits for room before it drops the rest
_FULL_WAIT_NS = 250_000

_BROKEN = frozenset({errno.EBADF, errno.ENOTSOCK, errno.EFAULT})
_FULL = (errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM)
_REASONS: Mapping[int, str] = {
    errno.EMSGSIZE: "too_large",
    errno.ECONNREFUSED: "refused",
    errno.ENETUNREACH: "unreachable",
    errno.EHOSTUNREACH: "unreachable",
    errno.EPERM: "forbidden",
    errno.EACCES: "forbidden",
    errno.EAGAIN: "queue_full",
    errno.ENOBUFS: "queue_full",
}


class Messages:
    """Slab, addresses and kernel structures of one direction.

    Attributes:
        slab: uint8 [BURST * stride], one buffer for each datagram.
        starts: int64 [BURST], where each buffer begins.
        addresses: structured [BURST], the socket addresses, in the dtype given.
        lengths: uint32 [BURST], bytes that the kernel received, or uintp [BURST], bytes that it shall send.
    """

    def __init__(self, room: int, address: np.dtype[np.void], *, receiving: bool) -> None:
        stride = -(-room // 64) * 64  # a cache line, so that headers are aligned
        self.slab: NDArray[np.uint8] = np.zeros(BURST * stride, np.uint8)
        self.starts: NDArray[np.int64] = np.arange(BURST, dtype=np.int64) * stride
        self.addresses: NDArray[np.void] = np.zeros(BURST, address)
        self._iovecs = np.zeros(BURST, _IOVEC)
        self._headers = np.zeros(BURST, _MMSGHDR)
        self._iovecs["base"] = self.slab.ctypes.data + self.starts
        self._iovecs["length"] = room
        header = self._headers["header"]
        header["name"] = self.addresses.ctypes.data + np.arange(BURST) * address.itemsize
        # The kernel writes the length of the address back, which of one family is always the same.
        header["name_length"] = address.itemsize
        header["iov"] = self._iovecs.ctypes.data + np.arange(BURST) * _IOVEC.itemsize
        header["iov_count"] = 1
        self.flags: NDArray[np.int32] = header["flags"]
        self.lengths: NDArray[np.unsignedinteger] = self._headers["length"] if receiving else self._iovecs["length"]
        self.pointer = self._headers.ctypes.data


class MessageSocket:
    """Bursts through one datagram socket.

    Args:
        sock: The socket; it stays the caller's.
        address: Layout of its addresses.
        room: Bytes of the largest datagram.
        fatal: Errors after which the socket is of no use; any other concerns one datagram, and is counted.

    Attributes:
        rx: What was received; valid until the next :meth:`receive`.
        tx: What shall be sent; the owner fills ``slab`` and ``addresses``.
        counted: Datagrams sent, and both directions' drops by reason; the owner counts what it receives.
    """

    def __init__(
        self,
        sock: socket.socket,
        address: np.dtype[np.void],
        room: int,
        fatal: frozenset[int] = frozenset(),
    ) -> None:
        self._fd = sock.fileno()
        self._fatal = fatal | _BROKEN
        self.rx = Messages(room, address, receiving=True)
        self.tx = Messages(room, address, receiving=False)
        self._slots = np.zeros(BURST, np.int64)
        self._peers = np.zeros(BURST, np.uint64)
        self.counted = LinkStatistics()

    def receive(self) -> int:
        """Receive into the first buffers of :attr:`rx` and return how many; never blocks.

        Raises:
            OSError: An error that is fatal.
        """
        while True:
            count = int(_recvmmsg(self._fd, self.rx.pointer, BURST, socket.MSG_DONTWAIT, None))
            if count >= 0:
                return count
            code = ctypes.get_errno()
            if code == errno.EAGAIN:
                return 0
            if code in self._fatal:
                raise OSError(code, os.strerror(code))
            if code != errno.EINTR:  # reported once for each ICMP message, so this ends
                count_error(self.counted.rx_drops, code)

    def allocate(self, count: int) -> FrameBatch:
        """Return the first ``count`` (at most BURST) buffers of :attr:`tx`, lengths 0."""
        count = min(count, BURST)
        lengths = self._slots[:count]
        lengths.fill(0)
        return FrameBatch(self.tx.slab, self.tx.starts[:count], lengths, self._peers[:count])

    def send(self, lengths: NDArray[np.int64]) -> int:
        """Send the first ``len(lengths)`` buffers of :attr:`tx` and return how many the kernel took.

        Where the socket is full it waits, a millisecond in all, and then drops the rest. What is refused is
        counted by reason.

        Raises:
            OSError: An error that is fatal.
        """
        total = len(lengths)
        self.tx.lengths[:total] = lengths
        sent = int(_sendmmsg(self._fd, self.tx.pointer, total, socket.MSG_DONTWAIT))
        if sent == total:
            size = int(np.add.reduce(lengths))
        else:
            taken = self._send_rest(sent, total)
            sent, size = len(taken), int(lengths[taken].sum())
        self.counted.tx_frames += sent
        self.counted.tx_bytes += size
        return sent

    def _send_rest(self, result: int, total: int) -> list[int]:
        """Go on after the first call sent ``result`` (-1: failed) of ``total``; return which were sent."""
        taken: list[int] = []
        done = waits = 0
        while True:
            if result > 0:
                taken += range(done, done + result)
                done += result
            elif (code := ctypes.get_errno()) in _FULL:
                if waits == _FULL_WAITS:
                    count_drops(self.counted.tx_drops, "queue_full", total - done)
                    return taken
                waits += 1
                wait_writable(self._fd, _FULL_WAIT_NS)
            elif code in self._fatal:
                raise OSError(code, os.strerror(code))
            elif code != errno.EINTR:
                count_error(self.counted.tx_drops, code)
                done += 1
            if done == total:
                return taken
            pointer = self.tx.pointer + done * _MMSGHDR.itemsize
            result = int(_sendmmsg(self._fd, pointer, total - done, socket.MSG_DONTWAIT))


def count_error(drops: dict[str, int], code: int) -> None:
    """Count one datagram lost to the error ``code``, under its reason."""
    count_drops(drops, _REASONS.get(code) or errno.errorcode.get(code, str(code)).lower(), 1)


def count_drops(drops: dict[str, int], reason: str, number: int) -> None:
    """Count ``number`` frames lost for a reason; none is no entry."""
    if number:
        drops[reason] = drops.get(reason, 0) + number


def receive_capacity(sock: socket.socket, room: int) -> int:
    """Return how many frames of ``room`` bytes of payload fit a socket's receive buffer for sure.

    The kernel compares SO_RCVBUF with the memory that frames take (their truesize), not with their bytes. A frame
    takes a block of a power of two for data, headroom and what belongs to it, or whole pages where a driver receives
    into those, and beside it the socket buffer's own structure, and a small head. So each is taken to need the block
    that holds it, a page at the least, and a kibibyte. Most take less: a full Ethernet frame on veth 2304 bytes of the
    5120 that are reckoned here.
    """
    block = max(_PAGE, 1 << (room + _BLOCK_OVERHEAD - 1).bit_length())
    return max(1, sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // (block + _BUFFER_OVERHEAD))


def enlarge_buffers(sock: socket.socket) -> None:
    """Give a socket large buffers: beyond the system's limit where allowed, else up to it."""
    for forced, plain in ((_SO_RCVBUFFORCE, socket.SO_RCVBUF), (_SO_SNDBUFFORCE, socket.SO_SNDBUF)):
        try:
            sock.setsockopt(socket.SOL_SOCKET, forced, _BUFFER_SIZE)
        except PermissionError:
            sock.setsockopt(socket.SOL_SOCKET, plain, _BUFFER_SIZE)
