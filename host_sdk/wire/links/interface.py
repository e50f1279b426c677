"""Facts of a network interface, and word of its changes.

Everything is asked of the kernel by socket, not of /sys, which shows the namespace that it was mounted in.
"""

import errno
import fcntl
import os
import socket
import struct
from dataclasses import dataclass

from host_sdk.wire.errors import InterfaceError, LinkError, MtuError

_SIOCGIFNAME = 0x8910
_SIOCGIFFLAGS = 0x8913
_SIOCGIFMTU = 0x8921
_SIOCGIFHWADDR = 0x8927
_IFF_UP = 0x1
_ARPHRD_ETHER = 1
_IFREQ = struct.Struct("16s24s")
_RTMGRP_LINK = 1
_NOTICE_SIZE = 16384
# Of rtnetlink: a request for one link, and where in its answer it says whether an XDP program is attached.
_RTM_GETLINK, _NLM_REQUEST = 18, 1
_LINK_REQUEST = struct.Struct("=IHHIIBxHiII")
_ATTRIBUTE = struct.Struct("=HH")
_ATTRIBUTES_AT = 32  # after the headers of the answer
_IFLA_XDP, _IFLA_XDP_ATTACHED = 43, 2
_NESTED = 0x8000


@dataclass(frozen=True, slots=True)
class Interface:
    """An Ethernet interface.

    Attributes:
        name: Its name now; it can be renamed.
        index: Its number, which stays.
        address: MAC address as a number.
        mtu: Bytes of the largest PDU that one frame carries.
        up: Whether it was set up.
        ethernet: Whether its frames are Ethernet's.
    """

    name: str
    index: int
    address: int
    mtu: int
    up: bool
    ethernet: bool


def list_interfaces() -> list[Interface]:
    """Return the interfaces of this namespace, in the order of their numbers."""
    return [interface for index, _ in sorted(socket.if_nameindex()) if (interface := read_interface(index))]


def read_interface(index: int) -> Interface | None:
    """Return the facts of an interface, or None where this number has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        return _read_interface(control, index)


def find_interface(name: str) -> Interface:
    """Return the facts of an Ethernet interface that is up.

    Raises:
        InterfaceError: It is missing, down, or not Ethernet.
    """
    try:
        interface = read_interface(socket.if_nametoindex(name))
    except OSError:
        interface = None
    if interface is None:
        known = ", ".join(name for _, name in sorted(socket.if_nameindex())) or "none"
        raise InterfaceError(f"there is no interface {name!r}; interfaces that exist: {known}")
    if not interface.ethernet:
        raise InterfaceError(f"interface {name} does not carry Ethernet frames; use udp:HOST over it")
    if not interface.up:
        raise InterfaceError(_down(name))
    return interface


def has_xdp_program(index: int) -> bool:
    """Return whether an interface has an XDP program, which may take frames before sockets see them.

    False too where the kernel does not say.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.settimeout(1.0)
        netlink.send(_LINK_REQUEST.pack(_LINK_REQUEST.size, _RTM_GETLINK, _NLM_REQUEST, 1, 0, 0, 0, index, 0, 0))
        try:
            answer = netlink.recv(_NOTICE_SIZE)
        except OSError:
            return False
    xdp = _attribute(answer[_ATTRIBUTES_AT:], _IFLA_XDP)
    return any(_attribute(xdp, _IFLA_XDP_ATTACHED))


def _attribute(data: bytes, wanted: int) -> bytes:
    """Return the value of one of a row of attributes; empty where it is not there."""
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            break
        if kind & ~_NESTED == wanted:
            return data[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3
    return b""


def _down(name: str) -> str:
    return f"interface {name} is down; `ip link set dev {name} up` brings it up"


def _read_interface(control: socket.socket, index: int) -> Interface | None:
    try:
        request = fcntl.ioctl(control, _SIOCGIFNAME, _IFREQ.pack(b"", struct.pack("i", index)))
        label = _IFREQ.unpack(request)[0]

        def ask(number: int, layout: str) -> tuple[int, ...]:
            answer = fcntl.ioctl(control, number, _IFREQ.pack(label, b""))
            return struct.unpack_from(layout, answer, 16)

        (flags,) = ask(_SIOCGIFFLAGS, "H")
        (mtu,) = ask(_SIOCGIFMTU, "i")
        kind, high, low = ask(_SIOCGIFHWADDR, "=H") + ask(_SIOCGIFHWADDR, ">2xHI")
    except OSError as error:
        if error.errno in (errno.ENODEV, errno.ENXIO):
            return None
        raise
    name = os.fsdecode(label.rstrip(b"\0"))
    return Interface(name, index, high << 32 | low, mtu, bool(flags & _IFF_UP), kind == _ARPHRD_ETHER)


class LinkNotices:
    """The kernel's notices that some interface of the namespace has changed."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.setblocking(False)
        self._socket.bind((0, _RTMGRP_LINK))

    def fileno(self) -> int:
        """Return the descriptor that polls readable when there are notices."""
        return self._socket.fileno()

    def drain(self) -> bool:
        """Read what has come; return whether there was anything."""
        changed = False
        while True:
            try:
                changed = bool(self._socket.recv(_NOTICE_SIZE))
            except BlockingIOError:
                return changed
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                changed = True  # more notices than the socket holds

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()


class InterfaceWatch:
    """Tells when an interface that a link is open on is not what it was.

    Its descriptor polls readable when anything changes on any interface; :meth:`check` then finds out whether
    that concerns this one. Works for the namespace that it was made in, whichever its caller has gone to
    since.
    """

    def __init__(self, interface: Interface) -> None:
        self._opened = interface
        self._control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._notices = LinkNotices()

    def fileno(self) -> int:
        """Return the descriptor that polls readable when something has changed."""
        return self._notices.fileno()

    def check(self) -> None:
        """Read the notices that have come, and where there are any, look at the interface.

        Raises:
            InterfaceError: It is gone, down, renamed, or has another address.
            MtuError: It carries smaller frames than when it was opened.
        """
        if self._notices.drain() and (fault := self.diagnose()):
            raise fault

    def diagnose(self) -> LinkError | None:
        """Return what is wrong with the interface, or None."""
        opened, now = self._opened, _read_interface(self._control, self._opened.index)
        if now is None:
            return InterfaceError(f"interface {opened.name} was removed; open a link on one that exists")
        if now.name != opened.name:
            return InterfaceError(f"interface {opened.name} is called {now.name} now; open the link on that")
        if not now.up:
            return InterfaceError(_down(now.name))
        if now.address != opened.address:
            return InterfaceError(f"interface {now.name} has another MAC address now; open the link again")
        if now.mtu < opened.mtu:
            return MtuError(f"the MTU of interface {now.name} is now {now.mtu}, was {opened.mtu}; open the link again")
        return None

    def explain(self, error: OSError) -> LinkError:
        """Return what became of the interface, for an error of a socket on it."""
        name = self._opened.name
        return self.diagnose() or LinkError(f"interface {name}: {error.strerror}; open the link again")

    def close(self) -> None:
        """Give the sockets back."""
        self._control.close()
        self._notices.close()
