"""Asking again and again who is there: everybody on the link, or those on a list."""

import random
from collections.abc import Callable, Sequence

from host_sdk.cluster.policy import ClusterPolicy
from host_sdk.engine import Engine
from host_sdk.results import Appliance, unpack_map
from host_sdk.wire.errors import ConfigError, RemoteProtocolError
from host_sdk.wire.exchange.answers import Announced
from host_sdk.wire.exchange.request import Request
from host_sdk.wire.header import Header
from host_sdk.wire.links.base import BROADCAST
from host_sdk.wire.links.names import PeerNames
from host_sdk.wire.links.udp import UdpLink
from host_sdk.wire.schema import Flag, Opcode

Peers = Sequence[str] | Callable[[], Sequence[str]] | None
_URGENT = 4  # times as often, while somebody is missed


class Discovery:
    """Rounds of DISCOVER.

    Args:
        engine: What asks.
        policy: How often.
        wait_ns: How long answers are waited for.
        peers: Addresses, or what returns them at every round; None for a broadcast.
        generator: Spreads rounds in time, so that clients do not ask in step.

    Attributes:
        rounds: Those that are over.
        began_ns: When the first began; 0 before.
    """

    def __init__(
        self, engine: Engine, policy: ClusterPolicy, wait_ns: int, peers: Peers, generator: random.Random
    ) -> None:
        if peers is not None and not callable(peers) and engine.link.kind == UdpLink.kind:
            peers = PeerNames(peers).texts  # a name may stand for several addresses, and for others in a while
        self._engine, self._policy, self._wait_ns = engine, policy, wait_ns
        self._peers, self._generator = peers, generator
        self._addresses: list[str] = [] if peers is None or callable(peers) else list(peers)
        self._keys: dict[int, str] = {}
        self._open: set[int] = set()
        self.rounds = self._next = self.began_ns = 0

    @property
    def listed(self) -> bool:
        """Whether appliances are named, and not whoever answers."""
        return self._peers is not None

    @property
    def expected(self) -> int:
        """How many are named."""
        return len(self._keys)

    def names(self, peer: int) -> bool:
        """Return whether an appliance is named now."""
        return peer in self._keys

    def silent(self, seen: set[int]) -> list[str]:
        """Return the addresses that are named and not among the peers seen."""
        return [address for key, address in self._keys.items() if key not in seen]

    def tick(self, now: int, *, urgent: bool) -> None:
        """Begin a round, if it is time and none is under way."""
        rest = self._policy.refresh / _URGENT if urgent else self._policy.refresh
        if self._open or now < self._next - (round((self._policy.refresh - rest) * 0.8e9) if urgent else 0):
            return
        self.began_ns = self.began_ns or now
        self._next = now + round(self._policy.refresh * self._generator.uniform(0.8, 1.2) * 1e9)
        for peer in self._asked():
            request = Request(peer, Header(Opcode.DISCOVER, 0, Flag.CRC), b"", self._wait_ns)
            self._open.add(self._engine.submit(request))
        if not self._open:
            self.rounds += 1

    def _asked(self) -> list[int]:
        if self._peers is None:
            return [BROADCAST]
        if callable(self._peers):
            self._addresses = list(self._peers())
        self._keys = {}
        for address in self._addresses:
            try:
                self._keys[self._engine.link.parse_address(address)] = address
            except ConfigError:  # a name that nobody knows now, as of a container that is being started
                continue
        return list(self._keys)

    def hurry(self) -> int:
        """Begin the next round as soon as the one that is under way is over; return its number, from 1."""
        self._next = 0
        return self.rounds + 1 + bool(self._open)

    def knows(self, token: int) -> bool:
        """Return whether an event belongs to a round."""
        return token in self._open

    def take(self, event: Announced) -> Appliance | None:
        """Take an answer, or the end of a question; return the appliance that has announced itself."""
        if event.body is None:
            self._open.discard(event.token)
            self.rounds += not self._open
            return None
        try:
            address = self._engine.link.format_address(event.peer)
            return Appliance.parse(event.peer, address, unpack_map(event.body))
        except RemoteProtocolError:
            self._engine.requester.ignore()
            return None
