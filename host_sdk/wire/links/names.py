"""UDP peers as people write them: addresses, and names that may stand for several appliances each."""

import socket
import threading
from collections.abc import Callable, Sequence
from time import monotonic

from host_sdk.wire import schema
from host_sdk.wire.errors import ConfigError

AGAIN_S = 5.0  # age at which what a name stands for is looked up again


class PeerNames:
    """The peers of a broadcast: addresses, and names whose addresses are looked up again as time goes by.

    A service of many appliances has one name with an address for each, as ``tasks.appliance`` in a Swarm or a
    headless service in Kubernetes. Its appliances come and go, so what was found is used until it is
    :data:`AGAIN_S` old; then the next call has a thread look again, since a resolver may take seconds and a link
    never blocks. A name that cannot be looked up any more keeps the addresses that it had.

    Args:
        peers: ``host:port`` or ``host``; without a port it is the protocol's own.
        look_up: Returns the IPv4 addresses of a host.
        now: Monotonic seconds.

    Raises:
        ConfigError: A peer is written wrong, or has no IPv4 address.
    """

    def __init__(
        self,
        peers: Sequence[str],
        look_up: Callable[[str], list[str]] | None = None,
        now: Callable[[], float] = monotonic,
    ) -> None:
        self._peers = [split_address(peer) for peer in peers]
        self._look_up = look_up or resolve_all
        self._now = now
        self._changing = any(not is_address(host) for host, _ in self._peers)
        self._found = {host: self._look_up(host) for host, _ in self._peers}
        self._looked = now()
        self._looking: threading.Thread | None = None

    def addresses(self) -> list[tuple[str, int]]:
        """Return address and port of every peer, each once, as they were found last."""
        if self._changing and self._now() - self._looked >= AGAIN_S and not self._is_looking():
            self._looking = threading.Thread(target=self._look_again, name="napu-peer-names", daemon=True)
            self._looking.start()
        found = self._found  # replaced as a whole by the thread
        return list(dict.fromkeys((address, port) for host, port in self._peers for address in found[host]))

    def texts(self) -> list[str]:
        """Return :meth:`addresses` as people write them."""
        return [f"{address}:{port}" for address, port in self.addresses()]

    def _is_looking(self) -> bool:
        return self._looking is not None and self._looking.is_alive()

    def _look_again(self) -> None:
        found = dict(self._found)
        for host in found:
            try:
                found[host] = self._look_up(host)
            except ConfigError:  # the resolver is away, or for a moment no appliance is there
                continue
        self._found = found
        self._looked = self._now()


def split_address(text: str) -> tuple[str, int]:
    """Return host and port of ``host:port`` or ``host``, whose port is the protocol's own.

    Raises:
        ConfigError: The text is neither.
    """
    host, colon, port = text.partition(":")
    if not host or (colon and not port.isdecimal()):
        raise ConfigError(f"{text!r} is not an address; write it as 192.0.2.7:{schema.UDP_PORT} or 192.0.2.7")
    number = int(port or schema.UDP_PORT)
    if not 1 <= number <= 0xFFFF:
        raise ConfigError(f"{text!r}: a UDP port is a number from 1 to 65535")
    return host, number


def is_address(host: str) -> bool:
    """Return whether a host is written as an IPv4 address, so that nothing is to be looked up."""
    try:
        socket.inet_pton(socket.AF_INET, host)
    except (OSError, UnicodeError):
        return False
    return True


def resolve_all(host: str) -> list[str]:
    """Return the IPv4 addresses of a host, in the resolver's order, each once.

    Raises:
        ConfigError: It has none.
    """
    try:
        found = socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"host {host!r} has no IPv4 address: {error}") from error
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def expand(texts: Sequence[str]) -> list[str]:
    """Return ``address:port`` for every address that any of the texts stands for, each once.

    Raises:
        ConfigError: A text is no address, or its host has none.
    """
    pairs = [split_address(text) for text in texts]
    return list(dict.fromkeys(f"{address}:{port}" for host, port in pairs for address in resolve_all(host)))
