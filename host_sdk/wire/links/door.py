"""A door beside a link on Ethernet: for frames that a process of this machine sends to the interface's own address.

A switch does not send a frame back where it came from, so a node cannot be asked through its own interface, unless it
looks at what leaves there. Only a process in the node's network namespace with CAP_NET_RAW can send such a frame: what
arrives from outside is never taken for one.
"""

from time import monotonic_ns

import numpy as np
from numpy.typing import NDArray

from host_sdk.wire.links.base import EMPTY, LOCAL_PEER, FrameBatch, LinkStatistics
from host_sdk.wire.links.classic_bpf import open_tap, outgoing_filter
from host_sdk.wire.links.ethernet import HEADER_SIZE, format_mac
from host_sdk.wire.links.mmsg import count_drops
from host_sdk.wire.links.packet import PacketLink
from host_sdk.wire.links.xdp import XdpLink

_ROWS = 16  # frames that are taken at once
_EVERY = 64  # receives of a busy link after which the door is looked at
_IDLE_EVERY = 8  # and of one without frames, which is asked again at once while one waits at the door
_OPEN_NS = 2_000_000_000  # how long it is looked whether an answer goes out by the door
_MAC = (1 << 48) - 1
_LOCAL = np.uint64(LOCAL_PEER)


class DoorLink:
    """A link on Ethernet with a door; callers' peer keys have LOCAL_PEER beside their address.

    Args:
        link: The link; closed with this one.
        ethertype: The frames' EtherType.

    Raises:
        OSError: The interface is gone.
    """

    def __init__(self, link: PacketLink | XdpLink, ethertype: int) -> None:
        self._link = link
        self.kind, self.address, self.mtu, self.smallest = link.kind, link.address, link.mtu, link.smallest
        self.capacity, self.interface = link.capacity, link.interface
        self.parse_address, self.allocate, self.expect = link.parse_address, link.allocate, link.expect
        self.fileno, self.descriptors, self.wait = link.fileno, link.descriptors, link.wait
        self._door = open_tap(link.interface, outgoing_filter(link.address, ethertype))
        link.wait_also(self._door.fileno())
        self._header = link.address.to_bytes(6, "big") + ethertype.to_bytes(2, "big")
        self._stride = -(-(HEADER_SIZE + link.mtu) // 64) * 64
        self._memory: NDArray[np.uint8] = np.zeros(_ROWS * self._stride, np.uint8)
        self._turns, self._open_until = 0, 0
        self._counted = LinkStatistics()

    def format_address(self, key: int) -> str:
        """Return a MAC address as people write it."""
        return format_mac(key & _MAC)

    def receive(self) -> FrameBatch:
        """Return the PDUs that have arrived, from the wire or by the door.

        Raises:
            LinkError: The interface is gone, down or renamed.
        """
        self._turns += 1
        if self._turns % _EVERY == 0 and len(asked := self._take()):
            return asked
        batch = self._link.receive()
        if not len(batch) and self._turns % _IDLE_EVERY == 0:
            return self._take()
        return batch

    def _take(self) -> FrameBatch:
        starts, lengths, peers = [], [], []
        for row in range(_ROWS):
            begin = row * self._stride
            try:
                size = self._door.recv_into(self._memory.data[begin : begin + self._stride])
            except BlockingIOError:
                break
            except OSError:  # the link finds out what became of the interface
                break
            if size <= HEADER_SIZE:
                continue
            starts.append(begin + HEADER_SIZE)
            lengths.append(min(size - HEADER_SIZE, self.mtu))
            peers.append(LOCAL_PEER | int.from_bytes(self._memory[begin + 6 : begin + 12].tobytes(), "big"))
        if not starts:
            return EMPTY
        self._open_until = monotonic_ns() + _OPEN_NS
        self._counted.rx_frames += len(starts)
        self._counted.rx_bytes += sum(lengths)
        return FrameBatch(self._memory, np.array(starts), np.array(lengths), np.array(peers, np.uint64))

    def send(self, batch: FrameBatch) -> int:
        """Send an allocated batch, or its first frames, each by the way that its peer came.

        Raises:
            LinkError: The interface is gone, down or renamed.
        """
        if self._open_until:
            local = batch.peers >= _LOCAL
            if local.any():
                return self._send_mixed(batch, local)
            if monotonic_ns() > self._open_until:
                self._open_until = 0
        return self._link.send(batch)

    def _send_mixed(self, batch: FrameBatch, local: NDArray[np.bool_]) -> int:
        sent = sum(self._answer(batch, index) for index in np.flatnonzero(local).tolist())
        others = np.flatnonzero(~local).tolist()
        for place, index in enumerate(others):  # buffers are sent in the order in which they were allocated
            size = int(batch.lengths[index])
            start, source = int(batch.starts[place]), int(batch.starts[index])
            batch.memory[start : start + size] = batch.memory[source : source + size]
            batch.lengths[place], batch.peers[place] = size, batch.peers[index]
        return sent + (self._link.send(batch.first(len(others))) if others else 0)

    def _answer(self, batch: FrameBatch, index: int) -> bool:
        destination = (int(batch.peers[index]) & _MAC).to_bytes(6, "big")
        pdu = batch.pdu(index)
        try:
            self._door.send(destination + self._header + pdu.tobytes())
        except OSError:
            count_drops(self._counted.tx_drops, "door_shut", 1)
            return False
        self._counted.tx_frames += 1
        self._counted.tx_bytes += len(pdu)
        return True

    def statistics(self) -> LinkStatistics:
        """Return the counters so far, of both ways."""
        total = self._link.statistics()
        total.add(self._counted)
        return total

    def close(self) -> None:
        """Give everything back; a second call does nothing."""
        self._link.close()
        self._door.close()
