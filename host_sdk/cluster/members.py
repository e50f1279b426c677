"""The appliances of a cluster, by the device that each says it is, wherever on the link it is at the time."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from host_sdk.cluster.balance import Latency
from host_sdk.cluster.health import Health, HealthLimits, HealthState
from host_sdk.cluster.policy import ClusterPolicy
from host_sdk.results import Appliance
from host_sdk.running import Running
from host_sdk.wire.errors import ConfigError

_MOST = 1024  # more are taken for a flood
_FIRST_PAUSE_NS = 100_000_000  # before a member is asked again what it serves
_MOST_PAUSE_NS = 2_000_000_000


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """What is known of an appliance of a cluster.

    Attributes:
        device: Its device id, by which it is known; empty of a listed one that never answered.
        name: What it calls itself.
        address: Where it is now.
        state: ``up``, ``suspect``, ``down``, or ``draining`` of one that is up.
        since_s: Seconds that it has been up, suspect or down.
        load: Requests that it has of this client.
        credits: Requests that it lets a session have outstanding.
        latency_us: What is thought of its latency; None where nothing is known.
        weight: Its share of requests, against those of others.
        epoch: Of its firmware.
        version: Of its firmware.
        pipelines: What it serves.
    """

    device: str
    name: str
    address: str
    state: str
    since_s: float
    load: int = 0
    credits: int = 0
    latency_us: float | None = None
    weight: float = 1.0
    epoch: int = 0
    version: str = ""
    pipelines: tuple[str, ...] = ()


class Member:
    """An appliance of a cluster.

    Args:
        appliance: Its announcement.
        health: What is thought of it.

    Attributes:
        peer: Peer key of where it is.
        announced_ns: When it announced itself last.
        latency: What is thought of its latency.
        draining: Whether it shall get nothing new.
        weight: Its share of requests.
        busy_until: When it may be asked again, as it said, in ns.
        learning: What asks it for its pipelines, and for a key.
        learn_at: When it may be asked, in ns.
    """

    def __init__(self, appliance: Appliance, health: Health) -> None:
        self.appliance, self.health = appliance, health
        self.peer = appliance.key
        self.announced_ns = health.heard_ns
        self.latency = Latency()
        self.draining = False
        self.weight = 1.0
        self.busy_until = 0
        self.learning: Running | None = None
        self.learn_at = 0
        self._pause = _FIRST_PAUSE_NS

    def __str__(self) -> str:
        return f"{self.appliance.name} ({self.appliance.address})"

    @property
    def wanted(self) -> bool:
        """Whether it may get anything new."""
        return not self.draining and self.weight > 0 and self.health.state is not HealthState.DOWN

    def learnt(self) -> None:
        """Note that it has said what it serves."""
        self._pause, self.learn_at = _FIRST_PAUSE_NS, 0

    def put_off(self, now: int) -> None:
        """Note that it did not say; it is asked again after a pause that grows."""
        self.learn_at = now + self._pause
        self._pause = min(2 * self._pause, _MOST_PAUSE_NS)

    def status(self, load: int, now: int) -> MemberStatus:
        """Return what is known of it, and that it has such a load."""
        state = self.health.state.name.lower()
        if self.draining and self.health.state is HealthState.UP:
            state = "draining"
        latency = self.latency.value(now) / 1000 if self.latency.known else None
        said = self.appliance
        return MemberStatus(
            device=said.device,
            name=said.name,
            address=said.address,
            state=state,
            since_s=max(0, now - self.health.since_ns) / 1e9,
            load=load,
            credits=said.credits,
            latency_us=latency,
            weight=self.weight,
            epoch=said.firmware["epoch"],
            version=said.firmware["version"],
            pipelines=tuple(sorted(said.pipelines)),
        )


class Members:
    """All that announced themselves.

    Args:
        policy: How soon they are given up.
        generator: Spreads probes in time.
    """

    def __init__(self, policy: ClusterPolicy, generator: random.Random) -> None:
        self._policy, self._generator = policy, generator
        self._limits = HealthLimits(policy.suspect_after, policy.down_after, round(policy.quiet * 1e9))
        self._known: dict[str, Member] = {}

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> Iterator[Member]:
        return iter(list(self._known.values()))

    def announced(self, appliance: Appliance, now: int) -> tuple[Member | None, int | None]:
        """Take in an announcement.

        A device that is known and announces itself from elsewhere has moved, unless it was heard from where it is
        since the round of discovery before: then it is on this link twice, or another says that it is the same.

        Returns:
            The member, None where there are too many; and the peer key that it has left, if it has.
        """
        member = self._known.get(appliance.device)
        if member is None:
            if len(self._known) >= _MOST:
                return None, None
            member = Member(appliance, Health(self._limits, self._generator, now))
            self._known[appliance.device] = member
            return member, None
        left = None
        if appliance.key != member.peer:
            heard = max(member.announced_ns, member.health.heard_ns)
            fresh = now - heard < round(self._policy.refresh * 0.5e9)
            if member.health.state is HealthState.UP and fresh:
                return member, None
            left, member.peer = member.peer, appliance.key
            member.learn_at = 0
        member.appliance, member.announced_ns = appliance, now
        return member, left

    def forget(self, member: Member) -> None:
        """Forget a member."""
        self._known.pop(member.appliance.device, None)

    def find(self, name: str) -> Member:
        """Return the member of a device id, a name or an address.

        Raises:
            ConfigError: There is none, or several; the message says which there are.
        """
        if name in self._known:
            return self._known[name]
        found = [each for each in self._known.values() if name in (each.appliance.name, each.appliance.address)]
        if len(found) == 1:
            return found[0]
        known = ", ".join(sorted(f"{each} device {each.appliance.device}" for each in self._known.values())) or "none"
        raise ConfigError(f"{'several members' if found else 'no member'} {name!r}; the cluster's are: {known}")
