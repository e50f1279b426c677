"""The blocking client of a cluster."""

from collections.abc import Sequence
from dataclasses import replace

from host_sdk.access.identity import Identity
from host_sdk.client import NapuClient
from host_sdk.cluster.core import ClusterCore, ClusterTally
from host_sdk.cluster.discovery import Peers
from host_sdk.cluster.members import MemberStatus
from host_sdk.cluster.policy import ClusterPolicy
from host_sdk.operations import Timeout
from host_sdk.streams import InferStream
from host_sdk.wire.errors import ConfigError
from host_sdk.wire.exchange.answers import Event
from host_sdk.wire.exchange.pace import RequesterLimits
from host_sdk.wire.links.base import Link


def opening(target: str | Peers, limits: RequesterLimits | None) -> tuple[Peers, Sequence[str], RequesterLimits]:
    """Return the peers to look for, those to open the link with, and limits that hand refused requests back."""
    peers: Peers = [target] if isinstance(target, str) else target
    named = () if peers is None or callable(peers) else peers
    return peers, named, replace(limits or RequesterLimits(), hand_back=True)


class NapuCluster(NapuClient):
    """A client of many appliances as one, used from one thread.

    It can do all that :class:`host_sdk.client.NapuClient` does. Besides, it finds out who comes and goes, asks the
    appliance that is likely to answer soonest, and asks another one where that is safe. What it has to do in the
    background it does while it is called.

    Args:
        link: As for NapuClient.
        target: Addresses of appliances, or a function that returns them, called at every round of discovery; by
            default all that answer a broadcast. Links without a broadcast, as ``udp``, need them.
        timeout: How long things may take; ``request`` bounds an inference with all that is tried.
        limits: Window at each appliance, and retransmission.
        policy: How appliances and requests are treated.
        tenant: On whose behalf requests are made.
        identity: Who asks.

    Raises:
        LinkError: The link cannot be opened.
        ConfigError: An address, the link's name, the tenant's or the identity is wrong.
    """

    def __init__(
        self,
        link: Link | str = "auto",
        target: str | Peers = None,
        *,
        timeout: Timeout | None = None,
        limits: RequesterLimits | None = None,
        policy: ClusterPolicy | None = None,
        tenant: str = "",
        identity: Identity | None = None,
    ) -> None:
        peers, named, own = opening(target, limits)
        super().__init__(link, named or None, timeout=timeout, limits=own, tenant=tenant, identity=identity)
        self._core = ClusterCore(self._operations, policy or ClusterPolicy(), peers)
        self._streams = self._core.streams

    @property
    def tally(self) -> ClusterTally:
        """What was done so far."""
        return self._core.tally

    def members(self) -> list[MemberStatus]:
        """Return what is known of each appliance; the first time, once those that are there had time to answer."""
        while not self._core.settled:
            self._turn()
        return self._core.status()

    def refresh(self) -> list[MemberStatus]:
        """Ask now who is there, wait for the answers, and return what is known of each appliance."""
        done = self._core.ask_round()
        while not done():
            self._turn()
        return self._core.status()

    def drain(self, member: str) -> None:
        """Give an appliance no new requests, and return when it has none any more.

        Args:
            member: Its device id, name or address.

        Raises:
            ConfigError: There is no such member.
        """
        self.members()
        chosen = self._core.members.find(member)
        chosen.draining = True
        while self._core.load(chosen):
            self._turn()

    def undrain(self, member: str) -> None:
        """Give an appliance requests again.

        Raises:
            ConfigError: There is no such member.
        """
        self._core.members.find(member).draining = False

    def weight(self, member: str, weight: float) -> None:
        """Set how often an appliance is asked, in proportion to the others, which begin with 1; 0 is never.

        Raises:
            ConfigError: There is no such member, or the weight is negative.
        """
        if not 0 <= weight < float("inf"):
            raise ConfigError(f"weight {weight}; it must be 0 or more")
        self.members()
        self._core.members.find(member).weight = weight

    def _prepare(self, pipeline: str) -> None:
        """Do nothing: what has to be known is found out while requests wait for it."""

    def _room(self) -> int:
        return self._limits.window * self._core.usable

    def _advance(self, stream: InferStream, most_ns: int | None = None) -> None:  # noqa: ARG002 - all go on
        self._turn(most_ns)

    def _turn(self, most_ns: int | None = None) -> None:
        self._core.tick()
        timer = self._core.timer_ns()
        super()._turn(timer if most_ns is None else min(timer, most_ns))

    def _take(self, event: Event) -> None:
        if not self._core.take(event):
            super()._take(event)
