"""A packet of a capture, and the interface that it was captured at, whatever the format of the file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType

LINKTYPE_ETHERNET = 1
LINKTYPE_RAW = 101  # IPv4 or IPv6
LINKTYPE_IPV4 = 228


class Direction(IntEnum):
    """Which way a packet went at its interface."""

    UNKNOWN = 0
    INBOUND = 1
    OUTBOUND = 2


@dataclass(frozen=True, slots=True)
class Interface:
    """Where packets were captured.

    Attributes:
        name: Its name; empty where the file does not say.
        link_type: What a packet begins with: a LINKTYPE number of tcpdump.org.
        snap: Bytes that were kept of a packet at most; 0 is no limit.
        description: For people.
    """

    name: str
    link_type: int = LINKTYPE_ETHERNET
    snap: int = 0
    description: str = ""


@dataclass(frozen=True, slots=True)
class InterfaceStatistics:
    """What became of the packets at an interface, from the beginning of the capture on.

    Attributes:
        received: Packets that arrived, those that were lost among them; None where the file does not say.
        dropped: Packets that were lost before they could be written.
        filtered: Packets that the capture's filter let through; None where the file does not say.
    """

    received: int | None = None
    dropped: int | None = None
    filtered: int | None = None


@dataclass(frozen=True, slots=True)
class CapturedPacket:
    """One packet.

    Attributes:
        interface: Index of its interface in the reader's ``interfaces``.
        time_ns: When it was captured, ns since 1970.
        data: What was kept of it.
        length: Bytes that it had.
        direction: Which way it went.
        packet_id: The same for the same message wherever it was captured; None where the file does not say.
        lost: Packets that were lost at this interface between the one before and this.
        verdicts: Verdict type to bytes (type 0: hardware); in files of ours the byte is a DropReason.
        comments: For people.
    """

    interface: int
    time_ns: int
    data: bytes
    length: int
    direction: Direction = Direction.UNKNOWN
    packet_id: int | None = None
    lost: int = 0
    verdicts: Mapping[int, bytes] = field(default_factory=lambda: MappingProxyType({}))
    comments: tuple[str, ...] = ()
