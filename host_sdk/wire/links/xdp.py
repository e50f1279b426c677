"""The link over AF_XDP: frames by shared memory, past the kernel's network stack."""

import contextlib
import copy
import errno
import os
import socket
import struct
from time import monotonic_ns

import numpy as np
from numpy.typing import NDArray

from host_sdk.wire.errors import ConfigError, LinkError
from host_sdk.wire.links.base import BURST, EMPTY, FrameBatch, LinkStatistics
from host_sdk.wire.links.ethernet import HEADER_SIZE, EthernetLink, open_interface
from host_sdk.wire.links.interface import InterfaceWatch
from host_sdk.wire.links.mmsg import count_drops
from host_sdk.wire.links.rings import HEADROOM, INDEX, RING_NEEDS_WAKEUP, XdpSocket
from host_sdk.wire.links.steering import Mode, choose_chunk, steer, unlock_memory
from host_sdk.wire.schema import ETHERTYPE

UMEM_SIZE = 8 << 20  # bytes: as much as may be locked in a container by default
_LEAST_CHUNKS = 256  # for each direction 64 frames in the owner's hands and 64 in the kernel's
_EXPECT_NS = 10_000  # within which the next frame of a burst comes
_RETRY_NS = 500_000  # pause before frames that the kernel did not take are offered again

_ADDRESSES = struct.Struct(">QI").unpack_from  # of a frame: destination << 16 | source >> 32, rest of the source
_DESTINATION = struct.Struct(">Q").pack_into
_TWO_BYTES = np.uint64(16)
_MAC_MASK = np.uint64(0xFFFF_FFFF_FFFF)
_GONE = (errno.ENETDOWN, errno.ENXIO, errno.ENODEV)


class XdpLink(EthernetLink):
    """Frames of one EtherType through an AF_XDP socket on one receive queue.

    A veth has one queue, and network cards put what is not IP on queue 0, so that queue is the default;
    frames of the EtherType that come in by another queue go to the kernel, which has no use for them.

    The XDP program is attached by a descriptor that belongs to this process, so nothing stays behind when it
    ends, however it does. Taps (tcpdump) on the interface see neither what is received nor what is sent.

    Args:
        interface: Name of an Ethernet interface that is up.
        ethertype: The frames' EtherType.
        mode: ``native`` or ``generic``; None tries native first.
        queue: Receive queue.
        umem_size: Bytes of the frames' memory, which is locked.

    Raises:
        ConfigError: The UMEM is too small.
        InterfaceError: The interface is missing, down, or not Ethernet.
        LinkPrivilegeError: A capability or the limit on locked memory is missing.
        LinkError: The interface has another XDP program, or no AF_XDP.
        MtuError: The interface's MTU is below the protocol's minimum, or its frames are larger than a chunk.
    """

    kind = "xdp"

    def __init__(
        self,
        interface: str,
        *,
        ethertype: int = ETHERTYPE,
        mode: Mode | None = None,
        queue: int = 0,
        umem_size: int = UMEM_SIZE,
    ) -> None:
        facts = open_interface(interface)
        chunk_size = choose_chunk(facts)
        if umem_size < _LEAST_CHUNKS * chunk_size:
            raise ConfigError(f"a UMEM of {umem_size} bytes is too small; {_LEAST_CHUNKS * chunk_size} will do")
        chunks = 1 << (umem_size // chunk_size).bit_length() - 1  # rings have powers of two
        unlock_memory()
        with contextlib.ExitStack() as opened:
            xsk = self._xsk = XdpSocket(chunk_size, chunks)
            opened.callback(xsk.close)
            watch = InterfaceWatch(facts)
            opened.callback(watch.close)
            super().__init__(facts, watch, xsk.socket.fileno())
            self._rx, self._fill, self._tx, self._completion = xsk.rx, xsk.fill, xsk.tx, xsk.completion
            self._prepare_receiving(chunk_size, chunks)
            self._prepare_sending(chunk_size, chunks, ethertype)
            self._attachment, self._mode = steer(xsk, facts, ethertype, mode, queue)
            opened.pop_all()

    def _prepare_receiving(self, chunk_size: int, chunks: int) -> None:
        umem = self._xsk.umem
        # In this array a PDU begins at the address of its frame, which saves adding the header to each.
        self._memory = umem[HEADER_SIZE:]
        # The 8 bytes at any place: those at a frame's beginning have its destination, those 4 on end with its
        # source.
        count = len(self._memory)
        self._destinations: NDArray[np.uint64] = np.ndarray((count,), np.uint64, umem, 0, (1,))
        self._sources: NDArray[np.uint64] = np.ndarray((count,), np.uint64, umem, 4, (1,))
        own = self._interface.address.to_bytes(6, "big")
        self._own = np.uint64(int.from_bytes(own, "little") << 16)
        self._everybody = np.uint64(int.from_bytes(b"\xff" * 6, "little") << 16)
        half = chunks // 2
        self._fill.addresses[:] = np.arange(half) * chunk_size
        self._fill.producer[0] = half
        self._burst = min(BURST, half // 2)
        self._capacity = half - self._burst
        self._ring_mask = half - 1
        self._frames = umem.data
        self._rx_head = 0
        self._held = 0
        self._received = (np.zeros(1, np.int64), np.zeros(1, np.int64), np.zeros(1, np.uint64))
        self._received_cells = [array.data for array in self._received]
        self._ones = np.ones(BURST, np.int64)

    def _prepare_sending(self, chunk_size: int, chunks: int, ethertype: int) -> None:
        half = chunks // 2
        self._kick = self._xsk.socket.send
        # A stack, so that the chunks used last, which are in the processor's cache, are used next.
        self._free = np.arange(chunks - 1, half - 1, -1) * chunk_size + HEADROOM
        self._free_count = half
        self._tx_head = 0
        self._tx_done = 0
        self._slots = np.zeros(BURST, np.int64)
        self._peers = np.zeros(BURST, np.uint64)
        self._free_cells = self._free.data
        self._allocated = (np.zeros(1, np.int64), self._slots[:1], self._peers[:1])
        self._allocated_cells = [array.data for array in self._allocated]
        # Ethernet's header is the same in all but for the destination.
        header = self._interface.address.to_bytes(6, "big") + ethertype.to_bytes(2, "big")
        rows = self._xsk.umem.reshape(chunks, chunk_size)[half:]
        rows[:, HEADROOM + 6 : HEADROOM + HEADER_SIZE] = np.frombuffer(header, np.uint8)
        # A destination as 8 bytes: two that are 0 go before the frame, which is why there is a page before it.
        area = self._xsk.area
        offset = len(area) - len(self._xsk.umem) - 2
        self._heads: NDArray[np.uint64] = np.ndarray((len(self._memory),), np.uint64, area, offset, (1,))

    @property
    def mode(self) -> Mode:
        """How the XDP program runs: ``native`` or ``generic``."""
        return self._mode

    @property
    def capacity(self) -> int:
        """Chunks for receiving but for a burst, which the owner may have in hand: exact, as a frame takes one chunk."""
        return self._capacity

    def receive(self) -> FrameBatch:
        """Return the PDUs that have arrived for this interface's address or for everybody.

        Raises:
            LinkError: The interface is gone, down or renamed.
        """
        if self._closed:
            self._check_open()
        if self._tx_head != self._tx_done:
            self._flush()
        if self._held:  # the chunks of the last batch, which are written in the fill ring since then
            fill = self._fill
            fill.producer[0] = (fill.producer[0] + self._held) & INDEX
            self._held = 0
            if fill.flags[0] & RING_NEEDS_WAKEUP:
                self._wake_receiver()
        count = (self._rx.producer[0] - self._rx_head) & INDEX
        if count == 1:
            return self._receive_one()
        if count:
            return self._receive_burst(min(count, self._burst))
        self._note_idle()
        return EMPTY

    def _receive_one(self) -> FrameBatch:
        """Return the one frame that waits: as a burst of one, at a quarter of the time."""
        rx, head = self._rx, self._rx_head
        place = head & self._ring_mask
        start = rx.cells[2 * place]
        length = (rx.cells[2 * place + 1] & INDEX) - HEADER_SIZE
        self._fill.cells[place] = start
        destination, source = _ADDRESSES(self._frames, start)
        self._rx_head = rx.consumer[0] = (head + 1) & INDEX
        self._held = 1
        starts, lengths, peers = self._received_cells
        starts[0] = start
        lengths[0] = length
        peers[0] = (destination & 0xFFFF) << 32 | source
        batch = FrameBatch(self._memory, *self._received)
        if destination >> 16 != self.address:
            batch = self._sift(batch)
            if not len(batch):
                return batch
        counted = self._counted
        counted.rx_frames += 1
        counted.rx_bytes += length
        return batch

    def _receive_burst(self, count: int) -> FrameBatch:
        rx = self._rx
        places = rx.places(self._rx_head, count)
        starts = rx.addresses[places].copy()
        lengths = rx.lengths[places].astype(np.int64)
        lengths -= HEADER_SIZE
        # Both rings have as many entries as there are chunks, so that an entry's place in the one is free in
        # the other. The kernel rounds an address down to its chunk.
        self._fill.addresses[places] = starts
        ours = np.left_shift(self._destinations[starts], _TWO_BYTES) == self._own
        peers = self._sources[starts].byteswap(inplace=True)
        peers &= _MAC_MASK
        self._rx_head = (self._rx_head + count) & INDEX
        rx.consumer[0] = self._rx_head
        self._held = count
        batch = FrameBatch(self._memory, starts, lengths, peers)
        if np.count_nonzero(ours) != count:
            batch = self._sift(batch)
        self._counted.rx_frames += len(batch)
        self._counted.rx_bytes += int(batch.lengths.dot(self._ones[: len(batch)]))  # the fastest way to a sum
        return batch

    def _sift(self, batch: FrameBatch) -> FrameBatch:
        """Return the frames for us and for everybody, and count the others."""
        shifted = np.left_shift(self._destinations[batch.starts], _TWO_BYTES)
        kept = (shifted == self._own) | (shifted == self._everybody)
        count_drops(self._counted.rx_drops, "not_for_us", int(np.count_nonzero(~kept)))
        return FrameBatch(batch.memory, batch.starts[kept], batch.lengths[kept], batch.peers[kept])

    def allocate(self, count: int) -> FrameBatch:
        """Return up to ``count`` buffers to write PDUs into; fewer while the kernel has not sent others."""
        if self._closed:
            self._check_open()
        if self._tx_head != self._tx_done:
            self._flush()
        if self._completion.producer[0] != self._completion.consumer[0]:
            self._reap()
        top = self._free_count
        if count == 1 and top:
            starts, slots, _ = self._allocated_cells
            starts[0] = self._free_cells[top - 1]
            slots[0] = 0
            return FrameBatch(self._memory, *self._allocated)
        count = min(count, BURST, top)
        lengths = self._slots[:count]
        lengths.fill(0)
        return FrameBatch(self._memory, self._free[top - count : top][::-1], lengths, self._peers[:count])

    def _reap(self) -> None:
        """Take back the chunks of frames that were sent."""
        ring = self._completion
        index = ring.consumer[0]
        while count := (ring.producer[0] - index) & INDEX:
            top = self._free_count
            if count == 1:
                self._free_cells[top] = ring.cells[index & self._ring_mask]
            else:
                count = min(count, BURST)
                self._free[top : top + count] = ring.addresses[ring.places(index, count)]
            self._free_count = top + count
            index = ring.consumer[0] = (index + count) & INDEX

    def send(self, batch: FrameBatch) -> int:
        """Send an allocated batch, or its first frames, and return how many frames the kernel took: all.

        What it cannot send at once it sends at the next calls; meanwhile :meth:`allocate` has fewer buffers.

        Raises:
            LinkError: The interface is gone, down or renamed.
        """
        if self._closed:
            self._check_open()
        count = len(batch.starts)
        if not count:
            return 0
        tx = self._tx
        if count == 1:
            start, length = batch.starts.item(), batch.lengths.item()
            _DESTINATION(self._frames, start - 2, batch.peers.item())
            place = 2 * (self._tx_head & self._ring_mask)
            tx.cells[place] = start
            tx.cells[place + 1] = length + HEADER_SIZE
        else:
            self._heads[batch.starts] = batch.peers.byteswap()
            places = tx.places(self._tx_head, count)
            tx.addresses[places] = batch.starts
            tx.lengths[places] = batch.lengths + HEADER_SIZE
            length = int(batch.lengths.dot(self._ones[:count]))
        self._free_count -= count
        self._tx_head = tx.producer[0] = (self._tx_head + count) & INDEX
        self._counted.tx_frames += count
        self._counted.tx_bytes += length
        self._flush()
        return count

    def _flush(self) -> None:
        """Have the kernel look at the TX ring, for as long as it makes headway."""
        tx = self._tx
        done = tx.consumer[0]
        while done != self._tx_head and tx.flags[0] & RING_NEEDS_WAKEUP:
            try:
                self._kick(b"", socket.MSG_DONTWAIT)
            except OSError as error:
                self._note_send_error(error)
            before, done = done, tx.consumer[0]
            if done == before:
                break
        self._tx_done = done

    def _note_send_error(self, error: OSError) -> None:
        if error.errno in _GONE:
            raise self._watch.explain(error) from error
        if error.errno == errno.EBUSY:  # the interface did not take one frame, which is lost
            count_drops(self._counted.tx_drops, "interface_busy", 1)
        elif error.errno not in (errno.EAGAIN, errno.ENOBUFS, errno.EINTR):
            raise LinkError(f"interface {self.interface}: cannot send: {error.strerror}") from error

    def _wake_receiver(self) -> None:
        try:
            self._xsk.socket.recv(0, socket.MSG_DONTWAIT)
        except BlockingIOError:
            pass
        except OSError as error:
            raise self._watch.explain(error) from error

    def wait(self, timeout_ns: int | None) -> bool:
        """Wait until frames have arrived, at most ``timeout_ns`` (None: for ever); return whether they have.

        A signal ends it early.

        Raises:
            LinkError: The interface is gone, down or renamed.
        """
        self._check_open()
        if self._rx.producer[0] != self._rx_head:
            return True
        while self._tx_head != self._tx_done:  # nothing tells when the kernel can go on sending, so try
            self._flush()
            pause = _RETRY_NS if timeout_ns is None else min(_RETRY_NS, timeout_ns)
            if super().wait(pause):
                return True
            if timeout_ns is not None and (timeout_ns := timeout_ns - pause) <= 0:
                return False
        return super().wait(timeout_ns)

    def expect(self, frames: int) -> None:
        """Wait without sleeping until so many frames have arrived, or none has for 10 µs."""
        producer, head, seen = self._rx.producer, self._rx_head, 0
        end = monotonic_ns() + _EXPECT_NS
        while (waiting := (producer[0] - head) & INDEX) < frames:
            now = monotonic_ns()
            if waiting > seen:
                seen, end = waiting, now + _EXPECT_NS
            elif now > end:
                return

    def statistics(self) -> LinkStatistics:
        """Return the counters so far, with those of the kernel for this socket."""
        counted = copy.deepcopy(self._counted)
        if not self._closed:
            counted.rx_drops |= self._xsk.drops()
        return counted

    def close(self) -> None:
        """Detach the program and give the socket back; a second call does nothing."""
        if self._closed:
            return
        self._counted = self.statistics()
        self._close_watch()
        os.close(self._attachment)
        self._xsk.close()
