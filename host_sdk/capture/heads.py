"""Headers for PDUs that were captured behind them, where a capture wants whole frames."""

import numpy as np
from numpy.typing import NDArray

from host_sdk.capture.frames import ETHERNET_SIZE, IP_SIZE, UDP_SIZE
from host_sdk.wire.links.base import BROADCAST, SEALED_PEER
from host_sdk.wire.schema import ETHERTYPE, UDP_PORT

_EVERYBODY = 0xFFFFFFFF << 16 | UDP_PORT
_SEALED_MAC, _SEALED_IP = 0x0A << 40, 0xF0 << 40  # locally administered; of IPv4 addresses that nobody has
_LOW = (1 << 40) - 1


def shown_peers(peers: NDArray[np.uint64], *, udp: bool) -> NDArray[np.uint64]:
    """Return addresses that stand for peers, uint64 [n].

    A peer whose frames were sealed is shown as 0a:… or 240.…, with the low 40 bits of its key's number.
    """
    shown = np.where(peers == BROADCAST, np.uint64(_EVERYBODY), peers) if udp else peers
    sealed = peers >= np.uint64(SEALED_PEER)
    if not sealed.any():
        return shown
    virtual = peers & np.uint64(_LOW) | np.uint64(_SEALED_IP if udp else _SEALED_MAC)
    return np.where(sealed, virtual, shown)


def ethernet_heads(sources: NDArray[np.uint64], destinations: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Return Ethernet headers between MAC addresses as numbers, uint64 [n] each: uint8 [n, 14]."""
    heads = np.empty((len(sources), ETHERNET_SIZE), np.uint8)
    heads[:, :6], heads[:, 6:12] = _bytes(destinations, 6), _bytes(sources, 6)
    heads[:, 12:] = divmod(ETHERTYPE, 256)
    return heads


def udp_heads(
    sources: NDArray[np.uint64], destinations: NDArray[np.uint64], sizes: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """Return IPv4 and UDP headers, uint8 [n, 28], for payloads of so many bytes; the UDP checksum is 0: none.

    Args:
        sources: IPv4 address << 16 | port, uint64 [n].
        destinations: The same.
        sizes: int64 [n].
    """
    heads = np.zeros((len(sources), IP_SIZE + UDP_SIZE), np.uint8)
    heads[:, 0], heads[:, 8], heads[:, 9] = 0x45, 64, 17  # version and length, time to live, UDP
    heads[:, 2:4] = _bytes(sizes + IP_SIZE + UDP_SIZE, 2)
    heads[:, 12:16], heads[:, 16:20] = _bytes(sources, 6)[:, :4], _bytes(destinations, 6)[:, :4]
    words = np.ascontiguousarray(heads[:, :IP_SIZE]).view(">u2").astype(np.uint32).sum(axis=1)
    for _ in range(2):
        words = (words & 0xFFFF) + (words >> 16)
    heads[:, 10:12] = _bytes(~words & 0xFFFF, 2)
    heads[:, 20:22], heads[:, 22:24] = _bytes(sources, 6)[:, 4:], _bytes(destinations, 6)[:, 4:]
    heads[:, 24:26] = _bytes(sizes + UDP_SIZE, 2)
    return heads


def _bytes(numbers: NDArray[np.generic], width: int) -> NDArray[np.uint8]:
    """Return the low bytes of numbers, big-endian, uint8 [n, width]."""
    return numbers.astype(">u8").view(np.uint8).reshape(-1, 8)[:, 8 - width :]
