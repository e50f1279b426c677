"""The asyncio client of a cluster."""

import asyncio

from host_sdk.access.identity import Identity
from host_sdk.aio import AsyncNapuClient
from host_sdk.cluster.client import opening
from host_sdk.cluster.core import ClusterCore, ClusterTally
from host_sdk.cluster.discovery import Peers
from host_sdk.cluster.members import MemberStatus
from host_sdk.cluster.policy import ClusterPolicy
from host_sdk.operations import Timeout
from host_sdk.wire.errors import ConfigError, NapuError
from host_sdk.wire.exchange.answers import Event
from host_sdk.wire.exchange.pace import RequesterLimits
from host_sdk.wire.links.base import Link


class AsyncNapuCluster(AsyncNapuClient):
    """A client of many appliances as one, used from one event loop; made while it runs.

    Arguments and errors are those of :class:`host_sdk.cluster.client.NapuCluster`, and it can do all that
    :class:`host_sdk.aio.AsyncNapuClient` does. Appliances are looked after for as long as the loop runs.
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
        self._progress: asyncio.Future[None] = self._loop.create_future()
        self._turn_soon()

    @property
    def tally(self) -> ClusterTally:
        """What was done so far."""
        return self._core.tally

    async def members(self) -> list[MemberStatus]:
        """Return what is known of each appliance, as :meth:`host_sdk.cluster.client.NapuCluster.members` does."""
        while not self._core.settled:
            await self._next_turn()
        return self._core.status()

    async def refresh(self) -> list[MemberStatus]:
        """Ask now who is there, as :meth:`host_sdk.cluster.client.NapuCluster.refresh` does."""
        done = self._core.ask_round()
        while not done():
            await self._next_turn()
        return self._core.status()

    async def drain(self, member: str) -> None:
        """Give an appliance no new requests, as :meth:`host_sdk.cluster.client.NapuCluster.drain` does."""
        await self.members()
        chosen = self._core.members.find(member)
        chosen.draining = True
        while self._core.load(chosen):
            await self._next_turn()
        self._check()

    def undrain(self, member: str) -> None:
        """Give an appliance requests again."""
        self._core.members.find(member).draining = False

    async def weight(self, member: str, weight: float) -> None:
        """Set how often an appliance is asked, as :meth:`host_sdk.cluster.client.NapuCluster.weight` does."""
        if not 0 <= weight < float("inf"):
            raise ConfigError(f"weight {weight}; it must be 0 or more")
        await self.members()
        self._core.members.find(member).weight = weight

    async def _prepare(self, pipeline: str) -> None:
        """Do nothing: what has to be known is found out while requests wait for it."""

    def _room(self) -> int:
        return self._limits.window * self._core.usable

    async def _next_turn(self) -> None:
        """Wait until something has happened."""
        self._check()
        await asyncio.shield(self._progress)

    def _turn(self) -> None:
        if not self._engine.closed and not self._dead:
            self._core.tick()
        super()._turn()
        if not self._progress.done():
            self._progress.set_result(None)
        self._progress = self._loop.create_future()

    def _fail(self, error: NapuError) -> None:
        super()._fail(error)
        if not self._progress.done():
            self._progress.set_result(None)

    def _take(self, event: Event) -> None:
        if not self._core.take(event):
            super()._take(event)

    def _find_out(self) -> None:
        """Do nothing: the cluster does that itself."""

    def _arm(self, timer: int | None) -> None:
        due = self._core.timer_ns()
        super()._arm(due if timer is None else min(timer, due))
