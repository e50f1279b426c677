"""The link over AF_PACKET: plain frames through any Ethernet interface, with CAP_NET_RAW alone."""

import contextlib
import copy
import errno
import socket
import struct

import numpy as np

from host_sdk.wire.errors import LinkPrivilegeError
from host_sdk.wire.links.base import EMPTY, FrameBatch, LinkStatistics
from host_sdk.wire.links.ethernet import EthernetLink, open_interface
from host_sdk.wire.links.interface import Interface, InterfaceWatch, has_xdp_program
from host_sdk.wire.links.mmsg import MessageSocket, count_drops, enlarge_buffers, receive_capacity
from host_sdk.wire.schema import ETHERTYPE

_SOL_PACKET = 263
_PACKET_STATISTICS = 6
_PACKET_IGNORE_OUTGOING = 23
_FATAL = frozenset({errno.ENETDOWN, errno.ENODEV, errno.ENXIO})
_STATISTICS = struct.Struct("=II")  # packets, drops

# sockaddr_ll. A MAC address takes six of the address field's bytes, so that this reads as MAC << 16.
_ADDRESS = np.dtype(
    [
        ("family", "=u2"),
        ("protocol", ">u2"),
        ("interface", "=i4"),
        ("hardware", "=u2"),
        ("packet", "u1"),
        ("length", "u1"),
        ("address", ">u8"),
    ]
)
_PACKET_BROADCAST = 1  # packet types: 0 is to this host, 1 broadcast, from 2 on it is none of ours


class PacketLink(EthernetLink):
    """Frames of one EtherType through an AF_PACKET socket.

    The socket is of type SOCK_DGRAM: the kernel takes Ethernet's header off and writes it, from the addresses
    beside the slab, so that PDUs lie aligned in the slab and nothing is copied to get at them.

    Args:
        interface: Name of an Ethernet interface that is up.
        ethertype: The frames' EtherType.

    Attributes:
        behind_xdp: Whether the interface had an XDP program when the link was opened. One of an xdp link takes all
            frames of its EtherType, and this link sees none of them.

    Raises:
        InterfaceError: The interface is missing, down, or not Ethernet.
        LinkPrivilegeError: CAP_NET_RAW is missing.
        MtuError: The interface's MTU is below the protocol's minimum.
    """

    kind = "packet"

    def __init__(self, interface: str, *, ethertype: int = ETHERTYPE) -> None:
        facts = open_interface(interface)
        with contextlib.ExitStack() as opened:
            self._socket = opened.enter_context(_open_socket(facts, ethertype))
            watch = InterfaceWatch(facts)
            opened.callback(watch.close)
            super().__init__(facts, watch, self._socket.fileno())
            self._messages = MessageSocket(self._socket, _ADDRESS, facts.mtu, _FATAL)
            opened.pop_all()
        self.behind_xdp = has_xdp_program(facts.index)
        addresses = self._messages.tx.addresses
        addresses["family"] = socket.AF_PACKET
        addresses["protocol"] = ethertype
        addresses["interface"] = facts.index
        addresses["length"] = 6
        self._sent_to = addresses["address"]
        self._received_from = self._messages.rx.addresses["address"]
        self._packet_types = self._messages.rx.addresses["packet"]
        self._counted = self._messages.counted
        self._capacity = receive_capacity(self._socket, facts.mtu)

    @property
    def capacity(self) -> int:
        """Full frames that the socket's receive buffer has room for; see :func:`receive_capacity`."""
        return self._capacity

    def receive(self) -> FrameBatch:
        """Return the PDUs that have arrived for this interface's address or for everybody.

        Raises:
            LinkError: The interface is gone, down or renamed.
        """
        self._check_open()
        try:
            count = self._messages.receive()
        except OSError as error:
            raise self._watch.explain(error) from error
        if not count:
            self._note_idle()
            return EMPTY
        rx = self._messages.rx
        lengths = rx.lengths[:count].astype(np.int64)
        peers = self._received_from[:count].astype(np.uint64)
        peers >>= 16
        batch = FrameBatch(rx.slab, rx.starts[:count], lengths, peers)
        # Both reductions are over nothing but zeros and ones as long as all is well.
        if np.maximum.reduce(self._packet_types[:count]) > _PACKET_BROADCAST or rx.flags[:count].any():
            batch = self._sift(batch)
        self._counted.rx_frames += len(batch)
        self._counted.rx_bytes += int(np.add.reduce(batch.lengths))
        return batch

    def _sift(self, batch: FrameBatch) -> FrameBatch:
        """Return the frames for us that are whole, and count the others."""
        count = len(batch)
        ours = self._packet_types[:count] <= _PACKET_BROADCAST
        whole = (self._messages.rx.flags[:count] & socket.MSG_TRUNC) == 0
        drops = self._counted.rx_drops
        for reason, lost in (("not_for_us", ~ours), ("too_large", ours & ~whole)):
            count_drops(drops, reason, int(np.count_nonzero(lost)))
        kept = ours & whole
        return FrameBatch(batch.memory, batch.starts[kept], batch.lengths[kept], batch.peers[kept])

    def allocate(self, count: int) -> FrameBatch:
        """Return up to ``count`` buffers to write PDUs into."""
        self._check_open()
        return self._messages.allocate(count)

    def send(self, batch: FrameBatch) -> int:
        """Send an allocated batch, or its first frames, and return how many frames the kernel took.

        Raises:
            LinkError: The interface is gone, down or renamed.
        """
        self._check_open()
        count = len(batch)
        if not count:
            return 0
        self._sent_to[:count] = np.left_shift(batch.peers, 16)
        try:
            return self._messages.send(batch.lengths)
        except OSError as error:
            raise self._watch.explain(error) from error

    def statistics(self) -> LinkStatistics:
        """Return the counters so far; ``kernel_ring_full``: frames that the socket had no room for."""
        if not self._closed:
            answer = self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, _STATISTICS.size)
            # The kernel begins anew each time that it is asked.
            count_drops(self._counted.rx_drops, "kernel_ring_full", _STATISTICS.unpack(answer)[1])
        return copy.deepcopy(self._counted)

    def close(self) -> None:
        """Give the socket back; a second call does nothing."""
        if not self._closed:
            self.statistics()
            self._close_watch()
            self._socket.close()


def _open_socket(interface: Interface, ethertype: int) -> socket.socket:
    try:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
    except PermissionError as error:
        raise LinkPrivilegeError(
            "a packet link needs CAP_NET_RAW: run with sudo, give the container NET_RAW, or use udp:HOST"
        ) from error
    sock.setblocking(False)
    sock.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
    enlarge_buffers(sock)
    # Protocol 0 at the beginning: not a frame of another interface gets in before this.
    sock.bind((interface.name, ethertype))
    return sock
