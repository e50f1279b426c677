"""The link over UDP and IPv4: for routed networks, overlay networks, and people without CAP_NET_RAW."""

import contextlib
import copy
import errno
import ipaddress
import os
import socket
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from host_sdk.wire import schema
from host_sdk.wire.errors import (
    ClosedError,
    ConfigError,
    InterfaceError,
    LinkError,
    LinkPrivilegeError,
    MtuError,
)
from host_sdk.wire.links.base import BROADCAST, EMPTY, FrameBatch, LinkStatistics
from host_sdk.wire.links.mmsg import MessageSocket, count_drops, count_error, enlarge_buffers, receive_capacity
from host_sdk.wire.links.names import PeerNames, resolve_all, split_address
from host_sdk.wire.links.waiting import Waiter

ETHERNET_MTU = 1472  # bytes: an Ethernet frame of 1500 without the headers of IPv4 and UDP
LARGEST_MTU = 65507  # bytes: an IPv4 packet without its headers

_FRAGMENT = 1480  # bytes of a datagram, UDP's header included, that each IP fragment carries over Ethernet
_UDP_HEADER = 8

_ADDRESS = np.dtype([("family", "=u2"), ("port", ">u2"), ("host", ">u4"), ("zero", "V8")])  # sockaddr_in


class UdpLink:
    """PDUs as datagrams of one IPv4 UDP socket.

    Path MTU discovery is left as the system has it, which on Linux is: a datagram larger than what the kernel
    knows of the path is sent in IP fragments, any other with "do not fragment". So the default ``mtu`` goes
    unfragmented over Ethernet, and what is too large for a tunnel on the way gets through as soon as ICMP has
    told.

    Args:
        host: Address or name to bind to.
        port: UDP port to bind to; 0 has the kernel choose one.
        peers: Who a broadcast goes to, ``host:port`` or ``host``, one datagram to each address. A name may have
            several, and is looked up again while broadcasts go on: :class:`PeerNames`.
        mtu: Bytes of the largest PDU, schema.MIN_MTU to 65507; more than 1472 suits loopback.

    Raises:
        ConfigError: An address in ``peers``, the host or the port makes no sense.
        InterfaceError: No interface here has the address ``host``.
        LinkPrivilegeError: The port is reserved.
        LinkError: The port is taken.
        MtuError: The mtu is out of range.
    """

    kind = "udp"

    def __init__(
        self,
        host: str = "0.0.0.0",  # noqa: S104 - a link listens where frames may come from, as on Ethernet
        port: int = schema.UDP_PORT,
        *,
        peers: Sequence[str] = (),
        mtu: int = ETHERNET_MTU,
    ) -> None:
        if not schema.MIN_MTU <= mtu <= LARGEST_MTU:
            raise MtuError(f"a udp link carries PDUs of {schema.MIN_MTU} to {LARGEST_MTU} bytes, not {mtu}")
        if not 0 <= port <= 0xFFFF:
            raise ConfigError(f"a UDP port is a number up to 65535, not {port}")
        self._mtu = mtu
        self._peers = PeerNames(peers)
        with contextlib.ExitStack() as opened:
            self._socket = opened.enter_context(_open_socket(resolve_all(host)[0], port))
            self._messages = MessageSocket(self._socket, _ADDRESS, mtu)
            opened.pop_all()
        self._messages.tx.addresses["family"] = socket.AF_INET
        self._waiter = Waiter(self._socket.fileno())
        bound_host, bound_port = self._socket.getsockname()
        self._address = _key(bound_host, bound_port)
        self._counted = self._messages.counted
        fragments = -(-(mtu + _UDP_HEADER) // _FRAGMENT)
        # A quarter of the buffer may be charged for datagrams that were read already: the kernel gives back in lumps.
        self._capacity = max(1, receive_capacity(self._socket, min(mtu, _FRAGMENT)) * 3 // (4 * fragments))
        self._closed = False

    @property
    def address(self) -> int:
        """Peer key of the address that the socket is bound to."""
        return self._address

    @property
    def mtu(self) -> int:
        """Bytes of the largest PDU."""
        return self._mtu

    @property
    def smallest(self) -> int:
        """0: datagrams are not padded."""
        return 0

    @property
    def capacity(self) -> int:
        """Full datagrams that the socket's receive buffer has room for, in as many fragments as Ethernet makes of them.

        See :func:`receive_capacity`.
        """
        return self._capacity

    def fileno(self) -> int:
        """Return the descriptor that polls readable when datagrams have arrived."""
        self._check_open()
        return self._waiter.fileno()

    def format_address(self, key: int) -> str:
        """Return an address as people write it: ``127.0.0.1:34997``, or ``broadcast``."""
        return "broadcast" if key == BROADCAST else f"{ipaddress.IPv4Address(key >> 16)}:{key & 0xFFFF}"

    def parse_address(self, text: str) -> int:
        """Return the peer key of ``host:port``, ``host`` (the protocol's own port) or ``broadcast``.

        Raises:
            ConfigError: The text is no such address, or the host has none.
        """
        if text == "broadcast":
            return BROADCAST
        host, port = split_address(text)
        return _key(resolve_all(host)[0], port)

    def receive(self) -> FrameBatch:
        """Return the PDUs that have arrived.

        Raises:
            LinkError: The socket is broken.
        """
        self._check_open()
        try:
            count = self._messages.receive()
        except OSError as error:
            raise self._broken(error) from error
        if not count:
            return EMPTY
        rx = self._messages.rx
        lengths = rx.lengths[:count].astype(np.int64)
        peers = rx.addresses["host"][:count].astype(np.uint64)
        peers <<= 16
        peers |= rx.addresses["port"][:count].astype(np.uint64)
        batch = FrameBatch(rx.slab, rx.starts[:count], lengths, peers)
        if rx.flags[:count].any():
            whole = (rx.flags[:count] & socket.MSG_TRUNC) == 0
            count_drops(self._counted.rx_drops, "too_large", int(np.count_nonzero(~whole)))
            batch = FrameBatch(rx.slab, batch.starts[whole], lengths[whole], peers[whole])
        self._counted.rx_frames += len(batch)
        self._counted.rx_bytes += int(np.add.reduce(batch.lengths))
        return batch

    def allocate(self, count: int) -> FrameBatch:
        """Return up to ``count`` buffers to write PDUs into."""
        self._check_open()
        return self._messages.allocate(count)

    def send(self, batch: FrameBatch) -> int:
        """Send an allocated batch, or its first frames, and return how many frames the kernel took.

        A broadcast is one frame, taken when it could be sent to any of the peers.

        Raises:
            LinkError: The socket is broken.
        """
        self._check_open()
        count = len(batch)
        if not count:
            return 0
        if int(np.maximum.reduce(batch.peers)) == BROADCAST:
            return self._send_mixed(batch)
        addresses = self._messages.tx.addresses
        addresses["host"][:count] = batch.peers >> 16
        addresses["port"][:count] = batch.peers & 0xFFFF
        try:
            return self._messages.send(batch.lengths)
        except OSError as error:
            raise self._broken(error) from error

    def _send_mixed(self, batch: FrameBatch) -> int:
        """Send frame by frame a batch with broadcasts in it, which are few: discovery and beacons."""
        taken = 0
        for index, key in enumerate(batch.peers.tolist()):
            one = (str(ipaddress.IPv4Address(key >> 16)), key & 0xFFFF)
            hosts = self._peers.addresses() if key == BROADCAST else [one]
            count_drops(self._counted.tx_drops, "no_peers", int(not hosts))
            pdu = batch.pdu(index)
            if sum(self._send_one(pdu, host) for host in hosts):
                taken += 1
                self._counted.tx_frames += 1
                self._counted.tx_bytes += len(pdu)
        return taken

    def _send_one(self, pdu: NDArray[np.uint8], host: tuple[str, int]) -> bool:
        try:
            self._socket.sendto(pdu.data, host)
        except OSError as error:
            count_error(self._counted.tx_drops, error.errno or 0)
            return False
        return True

    def wait(self, timeout_ns: int | None) -> bool:
        """Wait until datagrams have arrived, at most ``timeout_ns`` (None: for ever); return whether any did.

        A signal ends it early.
        """
        self._check_open()
        return self._waiter.wait(timeout_ns)

    def expect(self, frames: int) -> None:
        """Return at once: it cannot be told how many frames wait."""

    def statistics(self) -> LinkStatistics:
        """Return the counters so far."""
        return copy.deepcopy(self._counted)

    def close(self) -> None:
        """Give the socket back; a second call does nothing."""
        self._closed = True
        self._waiter.close()
        self._socket.close()

    def _broken(self, error: OSError) -> LinkError:
        return LinkError(f"udp:{self.format_address(self._address)}: {error.strerror}; open the link again")

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(f"the link udp:{self.format_address(self._address)} is closed")


def _key(host: str, port: int) -> int:
    return int(ipaddress.IPv4Address(host)) << 16 | port


def _open_socket(host: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)  # a peer may be a subnet's broadcast
        enlarge_buffers(sock)
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise _refused(host, port, error) from error
    return sock


def _refused(host: str, port: int, error: OSError) -> LinkError:
    """Return what it means that the kernel did not bind."""
    if error.errno == errno.EADDRINUSE:
        return LinkError(f"UDP port {port} of {host} is taken; choose another, as in udp:{host}:{port + 1}")
    if error.errno == errno.EADDRNOTAVAIL:
        return InterfaceError(f"no interface here has the address {host}; use one of `ip address` or 0.0.0.0")
    if error.errno == errno.EACCES:
        return LinkPrivilegeError(f"UDP port {port} is reserved; use one from 1024 on, or run with sudo")
    return LinkError(f"UDP port {port} of {host}: {os.strerror(error.errno or 0)}")
