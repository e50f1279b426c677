"""What a client can do, once, for both skins: generators that yield requests and are sent what became of them."""

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import msgpack

from host_sdk.access.identity import Identity
from host_sdk.engine import Engine
from host_sdk.results import Appliance, Pipeline, unpack_map
from host_sdk.wire.errors import ConfigError, NapuTimeoutError, RemoteProtocolError, UnknownPipelineError
from host_sdk.wire.exchange.answers import Announced, Event
from host_sdk.wire.exchange.request import Request
from host_sdk.wire.header import Header
from host_sdk.wire.links.base import BROADCAST
from host_sdk.wire.message import Extension
from host_sdk.wire.schema import Flag, Opcode

if TYPE_CHECKING:  # TLS takes a while to load, and not everybody has an identity
    from host_sdk.access.control import SecureControl
    from host_sdk.access.sealing import Sealing
    from host_sdk.wire.sealed.keys import SealKey

Result = TypeVar("Result")
Operation = Generator[Request, list[Event], Result]


@dataclass(frozen=True, slots=True)
class Timeout:
    """How long things may take, in seconds.

    Attributes:
        request: An inference, from its submission to its answer.
        control: An operation of the control plane.
        discovery: How long answers to a broadcast are waited for.
    """

    request: float = 5.0
    control: float = 10.0
    discovery: float = 0.3


@dataclass(frozen=True, slots=True)
class InferOptions:
    """How an inference is asked for.

    Attributes:
        deadline: Seconds after its arrival at which the appliance shall no longer begin it; None is never.
        priority: 0 to 255; higher goes first.
        crc: Whether request and reply carry a CRC-32C, end to end; those of class *once* always do.
        trailer: Whether the reply says how it was made.
        once: Whether it is executed at most once, however often it is sent; else, at least once if it is answered.
        extensions: What the request carries besides, as :mod:`host_sdk.wire.trace_context`. Appliances take requests
            with extensions one by one, so that many of them are slower.
    """

    deadline: float | None = None
    priority: int = 0
    crc: bool = True
    trailer: bool = True
    once: bool = True
    extensions: tuple[Extension, ...] = ()

    def header(self, handle: int) -> Header:
        """Return the header of a request with these options.

        Raises:
            ConfigError: The deadline or the priority is out of range.
        """
        if not 0 <= self.priority <= 255:
            raise ConfigError(f"priority {self.priority}; it must be 0 to 255")
        deadline = 0 if self.deadline is None else round(self.deadline * 1e6)
        if self.deadline is not None and not 1 <= deadline < 1 << 32:
            raise ConfigError(f"deadline of {self.deadline} s; it must be 1 µs to 4294 s")
        chosen = (
            (self.crc or self.once, Flag.CRC),
            (self.trailer, Flag.TRAILER),
            (self.once, Flag.ONCE),
            (self.extensions, Flag.EXTENSION),
        )
        flags = sum(int(flag) for wanted, flag in chosen if wanted)
        return Header(Opcode.INFER, 0, flags, pipeline=handle, priority=self.priority, deadline=deadline)


@dataclass(slots=True)
class Operations:
    """The operations over one engine, and what they have learnt of appliances.

    Attributes:
        targets: Peer keys that requests go to; found by discovery where nobody named any.
        secure: What control goes through for a client with an identity.
        sealing: The keys that its inferences are sealed with.
    """

    engine: Engine
    timeout: Timeout
    targets: list[int]
    secure: "SecureControl | None" = None
    sealing: "Sealing | None" = None
    _pipelines: dict[int, dict[str, Pipeline]] = field(default_factory=dict)

    def discover(self) -> Operation[list[Appliance]]:
        """Ask everybody on the link who they are; appliances are sorted by address."""
        events = yield Request(BROADCAST, Header(Opcode.DISCOVER, 0, Flag.CRC), b"", ns(self.timeout.discovery))
        found: dict[int, Appliance] = {}
        for event in events:
            if isinstance(event, Announced) and event.body is not None:
                address = self.engine.link.format_address(event.peer)
                try:
                    found[event.peer] = Appliance.parse(event.peer, address, unpack_map(event.body))
                    if self.secure:
                        self.secure.announced(event.peer, found[event.peer].device)
                except RemoteProtocolError:
                    self.engine.requester.ignore()
        return sorted(found.values(), key=lambda appliance: appliance.key)

    def find_targets(self) -> Operation[list[int]]:
        """Return the targets, discovering them first where there are none.

        Raises:
            NapuTimeoutError: Nobody answers.
        """
        if not self.targets:
            found = yield from self.discover()
            if not found:
                raise NapuTimeoutError(
                    f"no appliance answered within {self.timeout.discovery:g} s on {self.engine.link.kind}; "
                    "is one on this link? 'napu link' shows the links, 'napu lab status' the labs"
                )
            self.targets = [appliance.key for appliance in found]
        return self.targets

    def on(self, target: str | None, operation: Callable[[int], Operation[Result]]) -> Operation[Result]:
        """Run an operation on one appliance: the one at an address, or the first target.

        Raises:
            ConfigError: The address is none of the link's kind.
            NapuTimeoutError: Nobody answers a discovery.
        """
        if target is not None:
            return (yield from operation(self.engine.link.parse_address(target)))
        targets = yield from self.find_targets()
        return (yield from operation(targets[0]))

    def seal_key(self, peer: int) -> "Operation[SealKey | None]":
        """Return the key that frames to an appliance are sealed with, which may be asked for; None without identity."""
        if self.sealing is None:
            return None
        yield from self.sealing.grant(peer, ns(self.timeout.control))
        return self.sealing.key(peer)

    def control(self, peer: int, operation: str, **arguments: Any) -> Operation[dict[str, Any]]:
        """Run an operation of the control plane and return its answer.

        Raises:
            StatusError: The appliance refuses.
            NapuTimeoutError: It does not answer.
        """
        if self.secure:
            address, asked = self.engine.link.format_address(peer), {"op": operation, **arguments}
            return (yield from self.secure.ask(peer, address, asked, ns(self.timeout.control)))
        body = msgpack.packb({"op": operation, **arguments})
        (answer,) = yield Request(peer, Header(Opcode.CONTROL, 0, Flag.CRC), body, ns(self.timeout.control))
        if isinstance(answer, Announced):
            raise RemoteProtocolError("an announcement is no answer to an operation")
        if answer.error is not None:
            raise answer.error
        return unpack_map(answer.bodies[0].tobytes())

    def pipelines(self, peer: int) -> Operation[list[Pipeline]]:
        """Return what an appliance serves, asked anew."""
        answer = yield from self.control(peer, "pipelines")
        listed = answer.get("pipelines")
        if not isinstance(listed, list):
            raise RemoteProtocolError("answer has no list of pipelines")
        found = [Pipeline.parse(entry) for entry in listed]
        self._pipelines[peer] = {pipeline.name: pipeline for pipeline in found}
        return found

    def known(self, peer: int, name: str) -> Pipeline | None:
        """Return a pipeline as it was learnt last; None where it has to be asked for."""
        return self._pipelines.get(peer, {}).get(name)

    def learnt(self, peer: int) -> bool:
        """Return whether it is known what an appliance serves."""
        return peer in self._pipelines

    def names(self, peer: int) -> list[str]:
        """Return the names of the pipelines that an appliance was learnt to serve."""
        return list(self._pipelines.get(peer, ()))

    def unlearn(self, peer: int) -> None:
        """Forget what an appliance serves."""
        self._pipelines.pop(peer, None)

    def doubt(self, peer: int, pipeline: Pipeline) -> None:
        """Forget what an appliance serves, as its handles may be others now, unless that was learnt anew already."""
        if self.known(peer, pipeline.name) is pipeline:
            del self._pipelines[peer]

    def pipeline(self, peer: int, name: str) -> Operation[Pipeline]:
        """Return a pipeline of an appliance, asked for where it is not known.

        Raises:
            UnknownPipelineError: The appliance does not serve it.
        """
        if self.known(peer, name) is None:
            yield from self.pipelines(peer)
        found = self.known(peer, name)
        if found is None:
            serves = ", ".join(sorted(self._pipelines[peer])) or "none"
            address = self.engine.link.format_address(peer)
            raise UnknownPipelineError(f"{address} serves no pipeline {name!r}; it serves: {serves}")
        return found

    def route(self, peer: int) -> int | None:
        """Return the peer key that inferences for an appliance go to; None where a key has to be asked for first."""
        return self.sealing.route(peer) if self.sealing else peer

    def grant(self, peer: int) -> Operation[None]:
        """Ask an appliance for the key that inferences are sealed with, where there is none that is good.

        Raises:
            StatusError: The appliance grants none.
            NapuTimeoutError: It does not answer.
        """
        if self.sealing:
            yield from self.sealing.grant(peer, ns(self.timeout.control))

    @property
    def doubtful(self) -> bool:
        """Whether there are hints that keys are not known any more."""
        return self.sealing is not None and self.sealing.doubtful

    def confirm(self) -> Operation[None]:
        """Find out whether the keys are in force that there are hints about."""
        if self.sealing:
            yield from self.sealing.confirm(ns(min(self.timeout.control, self.timeout.request)))

    def load(self, peer: int) -> int:
        """Return how many inferences are outstanding at an appliance or wait to be sent to it."""
        return self.sealing.load(peer) if self.sealing else self.engine.requester.load(peer)

    def prepare(self, name: str) -> Operation[list[int]]:
        """Find the targets and learn what the pipeline is on each of them; return the targets.

        Raises:
            UnknownPipelineError: One does not serve it.
        """
        targets = yield from self.find_targets()
        for peer in list(targets):
            yield from self.pipeline(peer, name)
            yield from self.grant(peer)
        return targets

    def share(self, count: int) -> list[tuple[int, int]]:
        """Return how many of so many requests go to which target, so that all have as equal a load as can be."""
        if len(self.targets) == 1:
            return [(self.targets[0], count)]
        loads = [self.load(peer) for peer in self.targets]
        shares, last = [0] * len(loads), 0
        for _ in range(count):
            last = loads.index(min(loads))
            loads[last] += 1
            shares[last] += 1
        chosen = [(peer, share) for peer, share in zip(self.targets, shares, strict=True) if share]
        self.targets = [*self.targets[:last], *self.targets[last + 1 :], self.targets[last]]  # among equals: in turn
        return chosen


def secure_control(engine: Engine, identity: Identity | None) -> "SecureControl | None":
    """Return what control goes through for a client with an identity; None for one without.

    Raises:
        ConfigError: The identity cannot be used; the engine is closed then.
    """
    if identity is None:
        return None
    from host_sdk.access.control import SecureControl

    try:
        return SecureControl(identity, engine.generator.getrandbits, time.time)
    except ConfigError:
        engine.close()
        raise


def seal_inference(engine: Engine, secure: "SecureControl | None") -> "Sealing | None":
    """Return what a client with an identity seals its inferences with; None for one without."""
    if secure is None:
        return None
    from host_sdk.access.sealing import Sealing
    from host_sdk.wire.sealed.link import SealedLink

    assert isinstance(engine.link, SealedLink)  # noqa: S101 - it was connected so for its identity
    return Sealing(engine.link, engine.requester, secure, time.monotonic_ns)


def ns(seconds: float) -> int:
    """Return seconds in ns."""
    return round(seconds * 1e9)
