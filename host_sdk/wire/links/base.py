"""The protocol of a link, and the batch of frames that goes through it."""

from dataclasses import dataclass, field, fields
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

BROADCAST = 0xFFFF_FFFF_FFFF  # peer key that stands for everybody on the link
# From here on a peer key stands for a key that frames are sealed with; what links see themselves has 48 bits.
SEALED_PEER = 1 << 63
# With this bit, the MAC address of a process on this machine that asks by a door (links/door.py).
LOCAL_PEER = 1 << 62
BURST = 256  # frames that a link hands over at most at one call


@dataclass(slots=True)
class FrameBatch:
    """PDUs as a structure of arrays over the link's own memory; no Python object for a frame.

    Attributes:
        memory: uint8 [m], the ring or slab that the PDUs lie in.
        starts: int64 [n], where in ``memory`` each PDU begins (at its NIP header, behind Ethernet's).
        lengths: int64 [n], bytes of each PDU, Ethernet's padding included.
        peers: uint64 [n], who sent it, or shall get it: a MAC address as a number on Ethernet, IPv4 address
            << 16 | port in UDP, :data:`BROADCAST` for everybody.
    """

    memory: NDArray[np.uint8]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    peers: NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.starts)

    def first(self, count: int) -> "FrameBatch":
        """Return a view of the first ``count`` frames."""
        return FrameBatch(self.memory, self.starts[:count], self.lengths[:count], self.peers[:count])

    def after(self, count: int) -> "FrameBatch":
        """Return a view without the first ``count`` frames."""
        return FrameBatch(self.memory, self.starts[count:], self.lengths[count:], self.peers[count:])

    def take(self, index: NDArray[np.intp] | NDArray[np.bool_]) -> "FrameBatch":
        """Return the frames at ``index``, in the same memory."""
        return FrameBatch(self.memory, self.starts[index], self.lengths[index], self.peers[index])

    def pdu(self, index: int) -> NDArray[np.uint8]:
        """Return a view of one PDU, uint8 [length]."""
        start = int(self.starts[index])
        return self.memory[start : start + int(self.lengths[index])]


def records(memory: NDArray[np.uint8], width: int) -> NDArray[np.void]:
    """Return a memory as overlapping records of ``width`` bytes, one at every byte where a whole one fits.

    Indexed by starts they are gathered or scattered in one operation. A link's memory has ``mtu`` bytes from each
    start on, so a burst can be copied at the width of its longest PDU.
    """
    return np.ndarray((len(memory) - width + 1,), np.dtype((np.void, width)), memory, 0, (1,))


EMPTY = FrameBatch(np.empty(0, np.uint8), np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.uint64))


@dataclass(slots=True)
class LinkStatistics:
    """Counters of a link since it was opened.

    Attributes:
        rx_frames: Frames handed to the owner.
        rx_bytes: Bytes of their PDUs.
        tx_frames: Frames handed to the kernel.
        tx_bytes: Bytes of their PDUs.
        rx_drops: Frames lost before the owner saw them, by the reason that the kernel or the link gives.
        tx_drops: Frames that could not be sent, by reason.
        faults: Frames that a link with faults delivered otherwise than they were, by direction and fault.
        losses: Times that the interface of a link that is followed went away.
        outage_ns: How long it was away, in all.
    """

    rx_frames: int = 0
    rx_bytes: int = 0
    tx_frames: int = 0
    tx_bytes: int = 0
    rx_drops: dict[str, int] = field(default_factory=dict)
    tx_drops: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    losses: int = 0
    outage_ns: int = 0

    def add(self, other: "LinkStatistics") -> None:
        """Add the counters of another link."""
        for one in fields(self):
            mine, more = getattr(self, one.name), getattr(other, one.name)
            if isinstance(more, dict):
                for reason, count in more.items():
                    mine[reason] = mine.get(reason, 0) + count
            else:
                setattr(self, one.name, mine + more)


class Link(Protocol):
    """What carries frames.

    A link has one owner and is used from one thread. Receiving and sending never block; :meth:`wait` does.
    """

    @property
    def kind(self) -> str:
        """``xdp``, ``packet``, ``udp`` or ``memory``."""

    @property
    def address(self) -> int:
        """Peer key of this end."""

    @property
    def mtu(self) -> int:
        """Bytes of the largest PDU that one frame carries."""

    @property
    def smallest(self) -> int:
        """Bytes up to which a frame may be padded: 46 on Ethernet, 0 elsewhere."""

    @property
    def capacity(self) -> int:
        """Frames of any size that can wait, beside those in the owner's hands, before one is dropped; a safe guess."""

    def fileno(self) -> int:
        """Return the descriptor that polls readable when frames have arrived."""

    def format_address(self, key: int) -> str:
        """Return a peer key as people write it: ``02:…:01`` or ``127.0.0.1:34997``."""

    def parse_address(self, text: str) -> int:
        """Return the peer key of an address as people write it.

        Raises:
            ConfigError: The text is not an address of this link's kind.
        """

    def receive(self) -> FrameBatch:
        """Return what has arrived, up to BURST frames, possibly none.

        The batch is valid until the next call of receive.

        Raises:
            LinkError: The link is gone (interface down, removed).
        """

    def allocate(self, count: int) -> FrameBatch:
        """Return up to ``count`` (and BURST) buffers of ``mtu`` bytes to write PDUs into.

        Fewer, possibly none, when the kernel has not yet sent what it was given. Lengths are 0; the caller fills
        memory, lengths and peers and hands the batch, or its first frames, to :meth:`send` before it allocates
        again.
        """

    def send(self, batch: FrameBatch) -> int:
        """Send an allocated batch and return how many frames the kernel took; the rest is counted as dropped.

        Raises:
            LinkError: The link is gone.
        """

    def wait(self, timeout_ns: int | None) -> bool:
        """Wait until frames have arrived, at most ``timeout_ns`` (None: for ever); return whether they have."""

    def expect(self, frames: int) -> None:
        """Wait without sleeping, for some µs at most, until so many frames have arrived: the rest of what began to.

        A link that cannot tell how many frames wait returns at once.
        """

    def statistics(self) -> LinkStatistics:
        """Return the counters so far."""

    def close(self) -> None:
        """Give everything back; a second call does nothing."""
