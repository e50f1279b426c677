"""What both skins of a cluster client drive: who is there, how they are, and which of them is asked."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from host_sdk.cluster.balance import Candidate, share
from host_sdk.cluster.budget import Budget
from host_sdk.cluster.calls import ClusterStream
from host_sdk.cluster.discovery import Discovery, Peers
from host_sdk.cluster.health import HealthAction, HealthState
from host_sdk.cluster.members import Member, Members, MemberStatus
from host_sdk.cluster.policy import ClusterPolicy
from host_sdk.operations import Operation, Operations, ns
from host_sdk.results import Appliance, Pipeline
from host_sdk.running import Running
from host_sdk.streams import Streams, is_inference
from host_sdk.wire.errors import NapuError, NapuTimeoutError, UncertainError, UnknownPipelineError
from host_sdk.wire.exchange.answers import Announced, Answers, Event

_TICK_NS = 5_000_000  # between two looks at members while anything is outstanding
_IDLE_NS = 100_000_000
_RETRIES = 200.0  # in reserve: what a few appliances have outstanding
_HEDGES = 20.0
_SAMPLES = 512  # answers that the quantile is taken of
_FEW = 32  # that say nothing yet
_SHORTEST_HEDGE_NS = 1_000_000
_PATIENCE = 2.0  # latencies of a member that it may be silent for, between two signs of life
_SETTLING_NS = 100_000_000


@dataclass(slots=True)
class ClusterTally:
    """What a cluster client has done so far.

    Attributes:
        submitted: Requests that it was asked for.
        moved: Times that one was asked for again.
        delayed: Those of them that had to wait, as the budget for it was spent.
        uncertain: Requests that ended with UncertainError.
        hedged: Second copies that were sent.
        hedges_won: Those of them that answered first.
        probes: Signs of life that were asked for.
    """

    submitted: int = 0
    moved: int = 0
    delayed: int = 0
    uncertain: int = 0
    hedged: int = 0
    hedges_won: int = 0
    probes: int = 0


class ClusterCore:
    """The cluster of one client.

    The owner calls :meth:`tick` before each turn of the engine and at the latest after :meth:`timer_ns`, and gives
    :meth:`take` all events.

    Args:
        operations: What asks appliances, and the engine.
        policy: How they are treated.
        peers: Addresses of appliances, or what returns them; None for all that answer a broadcast.

    Attributes:
        streams: Inferences under way.
        retries: What is left for asking again.
        hedges: What is left for second copies.
        tally: What was done so far.
        hedge_after_ns: When a second copy is sent; None for never, or not yet.
    """

    def __init__(self, operations: Operations, policy: ClusterPolicy, peers: Peers) -> None:
        self.operations, self.engine, self.policy = operations, operations.engine, policy
        # Not the engine's generator: what is drawn here may be guessed, and is drawn for every request.
        self._generator = random.Random(self.engine.generator.getrandbits(64))  # noqa: S311
        self.members = Members(policy, self._generator)
        now = self.engine.now()
        self.retries = Budget(policy.retry_budget, _RETRIES if policy.retry_budget else 0.0, now)
        self.hedges = Budget(policy.hedge_budget, _HEDGES if policy.hedge_budget else 0.0, now)
        self.tally = ClusterTally()
        self.streams = Streams(partial(ClusterStream, self))
        self.timeout_ns = ns(operations.timeout.request)
        self.hedge_after_ns = None if policy.hedge_after is None else ns(policy.hedge_after)
        self._samples: NDArray[np.int64] = np.zeros(_SAMPLES, np.int64)
        self._sampled = 0
        self._routes: dict[int, Member] = {}
        self._running: dict[int, tuple[Running, Member | None]] = {}
        self._confirming = False
        self._discovery = Discovery(self.engine, policy, ns(operations.timeout.discovery), peers, self._generator)
        self._due = 0

    # ---- time ----------------------------------------------------------------------------------------------------

    def now(self) -> int:
        """Return the time in monotonic ns."""
        return self.engine.now()

    def wake(self) -> None:
        """Have :meth:`tick` called at once."""
        self._due = 0

    def wake_at(self, due: int | None) -> None:
        """Have :meth:`tick` called at that time at the latest; None asks for nothing."""
        if due is not None:
            self._due = min(self._due, due)

    def timer_ns(self) -> int:
        """Return ns until :meth:`tick` has something to do at the latest."""
        return max(0, self._due - self.engine.now())

    def tick(self) -> None:
        """Look at members, ask what is to be asked, and move on what waits, if it is time."""
        now = self.engine.now()
        if now < self._due:
            return
        busy = False
        for member in self.members:
            busy |= self._look_at(member, now) > 0
        self._discovery.tick(now, urgent=self._urgent(now))
        if self.policy.hedge is not None and self._sampled >= _FEW:
            known = self._samples[: min(self._sampled, _SAMPLES)]
            self.hedge_after_ns = max(_SHORTEST_HEDGE_NS, int(np.quantile(known, self.policy.hedge)))
        if self.operations.doubtful and not self._confirming:
            self._confirming = True
            self._run(self.operations.confirm(), None)
        # Before the streams, which may want to be called earlier.
        busy |= any(stream.waiting for stream in self.streams)
        self._due = now + (_TICK_NS if busy else _IDLE_NS)
        for stream in self.streams:
            stream.pass_time(now)

    def _urgent(self, now: int) -> bool:
        """Whether somebody may come back any moment, at another address maybe, or nobody is there."""
        states = [(member.health.state, now - member.health.since_ns) for member in self.members]
        gone = any(state is not HealthState.UP and since < 10_000_000_000 for state, since in states)
        return gone or not any(state is HealthState.UP for state, _ in states)

    def _look_at(self, member: Member, now: int) -> int:
        """Look at one member; return its load."""
        peer, requester = member.peer, self.engine.requester
        silence = requester.silence(peer)
        heard, rounds = max(silence.heard_ns, member.announced_ns, requester.probed_ns(peer)), silence.rounds
        route = self.operations.route(peer)
        if route is not None and route != peer:
            silence = requester.silence(route)
            heard, rounds = max(heard, silence.heard_ns), silence.rounds
        action = member.health.observe(now, heard, rounds)
        if action is HealthAction.MOVE:
            self._withdraw(
                member, peer, f"it has said nothing to inferences for {(now - (silence.heard_ns or heard)) / 1e9:.1f} s"
            )
        if action is HealthAction.RETURN:
            self.wake()
        if member.health.probe(now, round(_PATIENCE * member.latency.value(now))):
            requester.probe(peer)
            self.tally.probes += 1
        self._learn_from(member, now)
        if self._is_over(member, now):
            self.members.forget(member)
            requester.forget(peer, NapuTimeoutError(f"{member} is gone"))
        return self.operations.load(peer)

    def _is_over(self, member: Member, now: int) -> bool:
        health = member.health
        down_for = now - health.since_ns if health.state is HealthState.DOWN else 0
        return (
            down_for > ns(self.policy.forget_after) and not member.learning and not self._discovery.names(member.peer)
        )

    def _withdraw(self, member: Member, peer: int, reason: str) -> None:
        error, now = UncertainError(str(member), reason), self.engine.now()
        for route, known in self._routes.items():
            if known is member:
                self.engine.requester.withdraw(route, error, now)
        self.engine.requester.withdraw(peer, error, now)
        self.wake()

    # ---- what members serve --------------------------------------------------------------------------------------

    def _learn_from(self, member: Member, now: int) -> None:
        """Ask a member what it serves, and for a key, where that is not known."""
        if member.learning or now < member.learn_at or member.health.state is HealthState.DOWN:
            return
        if self.operations.learnt(member.peer) and self.operations.route(member.peer) is not None:
            return
        self._run(self._ask(member.peer), member)

    def _ask(self, peer: int) -> Operation[None]:
        yield from self.operations.pipelines(peer)
        yield from self.operations.grant(peer)

    def _run(self, operation: Operation[None], member: Member | None) -> None:
        self._follow(Running(self.engine, operation), member)

    def _follow(self, running: Running, member: Member | None) -> None:
        if running.token is not None:
            self._running[running.token] = (running, member)
            if member:
                member.learning = running
            return
        self.wake()
        if member is None:
            self._confirming = False
            return
        member.learning = None
        if running.error is None:
            member.learnt()
            route = self.operations.route(member.peer)
            if route is not None:
                self._routes[route] = member
        elif isinstance(running.error, NapuError):
            member.put_off(self.engine.now())
        else:
            raise running.error

    def _stop_learning(self, member: Member) -> None:
        """Ask no more where a member is no more."""
        if member.learning and member.learning.token is not None:
            self._running.pop(member.learning.token, None)
            self.engine.cancel(member.learning.token)
        member.learning = None

    def doubt(self, member: Member, pipeline: Pipeline) -> None:
        """Have it asked anew what a member serves."""
        self.operations.doubt(member.peer, pipeline)
        member.learn_at = 0
        self.wake()

    def served(self, member: Member, name: str) -> tuple[Pipeline, int]:
        """Return a pipeline of a member that is ready, and the peer key that its inferences go to."""
        pipeline, route = self.operations.known(member.peer, name), self.operations.route(member.peer)
        assert pipeline is not None  # noqa: S101 - else it would not be ready
        assert route is not None  # noqa: S101
        self._routes[route] = member
        return pipeline, route

    def ready(self, name: str) -> list[Member]:
        """Return the members that a pipeline's inferences can go to: those that are up, else suspects."""
        operations = self.operations
        able = [
            member
            for member in self.members
            if member.wanted and operations.known(member.peer, name) and operations.route(member.peer) is not None
        ]
        return [member for member in able if member.health.state is HealthState.UP] or able

    def settling(self, now: int) -> bool:
        """Whether the first appliances are just being asked what they serve, so that the quickest would get it all."""
        began = self._discovery.began_ns
        return now < began + _SETTLING_NS and any(member.learning for member in self.members)

    def hopeless(self, name: str) -> NapuError | None:
        """Return why waiting for a member is of no use; None where it may be."""
        if not self._discovery.rounds:
            return None
        if not len(self.members) and not self._discovery.listed:
            return NapuTimeoutError(
                f"no appliance answered within {self.operations.timeout.discovery:g} s on {self.engine.link.kind}; "
                "is one on this link? 'napu link' shows the links, 'napu lab status' the labs"
            )
        learnt = [member for member in self.members if self.operations.learnt(member.peer)]
        if not learnt or len(learnt) < len(self.members) or len(learnt) < self._discovery.expected:
            return None
        if any(self.operations.known(member.peer, name) for member in learnt):
            return None
        serves = sorted({served for member in learnt for served in self.operations.names(member.peer)})
        return UnknownPipelineError(
            f"no appliance of the cluster serves a pipeline {name!r}; they serve: {', '.join(serves) or 'none'}"
        )

    def shortage(self, name: str) -> str:
        """Return why no member takes a pipeline's inferences, as people read it."""
        shown = [f"{each.name} ({each.address}) {each.state}" for each in self.status()]
        return f"no appliance of the cluster can take {name!r}: {', '.join(shown) or 'none is known'}"

    # ---- inferences ----------------------------------------------------------------------------------------------

    def earn(self, requests: int) -> None:
        """Take in that so many requests were asked for."""
        self.tally.submitted += requests
        self.retries.earn(requests)
        self.hedges.earn(requests)
        self.wake_at(self.engine.now() + _TICK_NS)

    def share(self, members: Sequence[Member], count: int) -> list[tuple[Member, int]]:
        """Return how many of so many requests go to which of the members."""
        if len(members) == 1:
            return [(members[0], count)]
        now, load = self.engine.now(), self.operations.load
        candidates = [
            Candidate(
                load(member.peer),
                max(1, member.appliance.credits),
                member.latency.value(now) if member.latency.known else None,
                member.weight,
            )
            for member in members
        ]
        counts = share(candidates, count, self._generator)
        return [pair for pair in zip(members, counts, strict=True) if pair[1]]

    def took(self, elapsed_ns: int) -> None:
        """Take in how long an answer took from its submission."""
        self._samples[self._sampled % _SAMPLES] = elapsed_ns
        self._sampled += 1

    # ---- events --------------------------------------------------------------------------------------------------

    def take(self, event: Event) -> bool:
        """Take an event of the engine; return whether it was one of the cluster's own."""
        if isinstance(event, Answers) and is_inference(event):
            if event.error is None:
                member = self._routes.get(event.peer)
                if member:
                    mean = float(np.add.reduce(event.latency_ns)) / len(event)
                    member.latency.observe(mean, self.engine.now())
            self.streams.take(event)
            return True
        if isinstance(event, Announced) and self._discovery.knows(event.token):
            appliance = self._discovery.take(event)
            if appliance:
                self._announced(appliance)
            else:
                self.wake()
            return True
        running, member = self._running.pop(event.token, (None, None))
        if running is None:
            return False
        running.take(event)
        self._follow(running, member)
        return True

    def _announced(self, appliance: Appliance) -> None:
        if self.operations.secure:
            self.operations.secure.announced(appliance.key, appliance.device)
        member, left = self.members.announced(appliance, self.engine.now())
        if member is None:
            return
        if left is not None:
            self._stop_learning(member)
            self._withdraw(member, left, f"it has moved to {appliance.address}")
        for name, handle in appliance.pipelines.items() if member.appliance is appliance else ():
            known = self.operations.known(member.peer, name)
            if known is None or known.handle != handle:
                self.operations.unlearn(member.peer)
                break
        self.wake()

    # ---- what the owner asks -------------------------------------------------------------------------------------

    @property
    def usable(self) -> int:
        """Members that may get something new, at least 1."""
        return max(1, sum(member.wanted for member in self.members))

    def status(self) -> list[MemberStatus]:
        """Return what is known of each member, by name, those that were listed and never answered at the end."""
        now = self.engine.now()
        known = [member.status(self.operations.load(member.peer), now) for member in self.members]
        known.sort(key=lambda status: (status.name, status.device))
        seen = {member.peer for member in self.members}
        silent = self._discovery.silent(seen)
        since = (now - (self._discovery.began_ns or now)) / 1e9
        return known + [MemberStatus("", "", address, HealthState.DOWN.name.lower(), since) for address in silent]

    def load(self, member: Member) -> int:
        """Return how many requests a member has of this client."""
        return self.operations.load(member.peer)

    @property
    def settled(self) -> bool:
        """Whether a round of discovery is over."""
        return self._discovery.rounds > 0

    def ask_round(self) -> Callable[[], bool]:
        """Begin a round of discovery, after the one that is under way; return what tells whether it is over."""
        upto = self._discovery.hurry()
        self.wake()
        return lambda: self._discovery.rounds >= upto
