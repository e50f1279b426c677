"""What the links on Ethernet interfaces have in common."""

import re
from time import monotonic_ns

from host_sdk.wire import schema
from host_sdk.wire.errors import ClosedError, ConfigError, MtuError
from host_sdk.wire.links.base import LinkStatistics
from host_sdk.wire.links.interface import Interface, InterfaceWatch, find_interface
from host_sdk.wire.links.waiting import Waiter

HEADER_SIZE = 14
SMALLEST = 46  # bytes of payload in the smallest frame
_IDLE_CHECK = 64  # receives without a frame after which a link that nobody waits on looks for notices
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


def format_mac(key: int) -> str:
    """Return a MAC address as ``02:00:00:00:00:01``."""
    return key.to_bytes(6, "big").hex(":")


def parse_mac(text: str) -> int:
    """Return the number of a MAC address.

    Raises:
        ConfigError: The text is not a MAC address.
    """
    if not _MAC.fullmatch(text.lower()):
        raise ConfigError(f"{text!r} is not a MAC address; write it as 02:00:00:00:00:01")
    return int(text.replace(":", ""), 16)


def open_interface(name: str) -> Interface:
    """Return an interface that a link can be opened on.

    Raises:
        InterfaceError: It is missing, down, or not Ethernet.
        MtuError: Its MTU is below the protocol's minimum.
    """
    interface = find_interface(name)
    if interface.mtu < schema.MIN_MTU:
        raise MtuError(
            f"interface {name} has MTU {interface.mtu}, the protocol needs {schema.MIN_MTU}; "
            f"`ip link set dev {name} mtu 1500` sets it"
        )
    return interface


class EthernetLink:
    """Addresses, waiting, watching and counters of a link on an Ethernet interface."""

    def __init__(self, interface: Interface, watch: InterfaceWatch, descriptor: int) -> None:
        self._interface = interface
        self._watch = watch
        self._waiter = Waiter(descriptor, watch.fileno())
        self._counted = LinkStatistics()
        self._idle = 0
        self._closed = False

    @property
    def address(self) -> int:
        """MAC address of the interface."""
        return self._interface.address

    @property
    def mtu(self) -> int:
        """Bytes of the largest PDU: the interface's MTU when the link was opened."""
        return self._interface.mtu

    @property
    def smallest(self) -> int:
        """Bytes up to which a frame may be padded."""
        return SMALLEST

    @property
    def interface(self) -> str:
        """Name of the interface when the link was opened."""
        return self._interface.name

    def format_address(self, key: int) -> str:
        """Return a MAC address as people write it."""
        return format_mac(key)

    def parse_address(self, text: str) -> int:
        """Return the peer key of a MAC address.

        Raises:
            ConfigError: The text is not a MAC address.
        """
        return parse_mac(text)

    def descriptors(self) -> tuple[int, ...]:
        """Return the descriptors behind :meth:`fileno`, for an owner who polls them with others."""
        return self._waiter.descriptors

    def wait_also(self, descriptor: int) -> None:
        """Let a wait end when another descriptor is readable, too; before anybody has the link's own."""
        self._waiter = Waiter(*self._waiter.descriptors, descriptor)

    def fileno(self) -> int:
        """Return the descriptor that polls readable when frames have arrived or an interface has changed."""
        self._check_open()
        return self._waiter.fileno()

    def wait(self, timeout_ns: int | None) -> bool:
        """Wait until frames have arrived, at most ``timeout_ns`` (None: for ever); return whether they have.

        A signal ends it early.

        Raises:
            LinkError: The interface is gone, down or renamed.
        """
        self._check_open()
        begun = monotonic_ns()  # not a clock by argument: what passes in ppoll is the kernel's time
        left = timeout_ns
        while self._waiter.wait(left):
            if self._waiter.ready(1):
                self._watch.check()
            if any(self._waiter.ready(index) for index in range(len(self._waiter.descriptors)) if index != 1):
                return True
            if timeout_ns is not None:  # only a notice of no concern
                left = timeout_ns - (monotonic_ns() - begun)
        return False

    def expect(self, frames: int) -> None:
        """Return at once: it cannot be told how many frames wait."""

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(f"the link on {self._interface.name} is closed")

    def _note_idle(self) -> None:
        """Look for notices now and then, for an owner who polls and never waits."""
        self._idle += 1
        if self._idle % _IDLE_CHECK == 0:
            self._watch.check()

    def _close_watch(self) -> None:
        self._closed = True
        self._waiter.close()
        self._watch.close()
