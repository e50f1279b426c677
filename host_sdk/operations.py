"""What a client can do, once, for both skins: generators that yield requests and are sent what became of them."""

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgpack
import numpy as np
from numpy.typing import NDArray

from host_sdk.engine import Engine
from host_sdk.results import Appliance, Inference, Pipeline, unpack_map, unpack_outputs
from host_sdk.wire.errors import (
    ConfigError,
    NapuTimeoutError,
    RemoteProtocolError,
    UnknownPipelineError,
    UnknownSessionError,
)
from host_sdk.wire.exchange.requester import Event, Request
from host_sdk.wire.header import Header
from host_sdk.wire.links.base import BROADCAST
from host_sdk.wire.message import Message
from host_sdk.wire.schema import Flag, Opcode

Result = TypeVar("Result")
Operation = Generator[Request, list[Event], Result]
_MENDS = 2  # times that an inference is asked for again because a session or a handle was forgotten
Data = bytes | NDArray[Any]


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
        crc: Whether request and reply carry a CRC-32C, end to end.
        trailer: Whether the reply says how it was made.
    """

    deadline: float | None = None
    priority: int = 0
    crc: bool = True
    trailer: bool = True

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
        flags = (Flag.CRC if self.crc else 0) | (Flag.TRAILER if self.trailer else 0)
        return Header(Opcode.INFER, 0, flags, pipeline=handle, priority=self.priority, deadline=deadline)


@dataclass(slots=True)
class Operations:
    """The operations over one engine, and what they have learnt of appliances.

    Attributes:
        targets: Peer keys that requests go to; found by discovery where nobody named any.
    """

    engine: Engine
    timeout: Timeout
    targets: list[int]
    _pipelines: dict[int, dict[str, Pipeline]] = field(default_factory=dict)

    def discover(self) -> Operation[list[Appliance]]:
        """Ask everybody on the link who they are; appliances are sorted by address."""
        body = Header(Opcode.DISCOVER, 0, Flag.CRC)
        events = yield Request(BROADCAST, body, timeout_ns=_ns(self.timeout.discovery), gathers=True)
        found: dict[int, Appliance] = {}
        for event in events:
            if event.reply is not None:
                address = self.engine.link.format_address(event.peer)
                try:
                    found[event.peer] = Appliance.parse(event.peer, address, unpack_map(event.reply.body))
                except RemoteProtocolError:
                    self.engine.requester.bad_frames += 1
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

    def control(self, peer: int, operation: str, **arguments: Any) -> Operation[dict[str, Any]]:
        """Run an operation of the control plane and return its answer.

        Raises:
            StatusError: The appliance refuses.
            NapuTimeoutError: It does not answer.
        """
        body = msgpack.packb({"op": operation, **arguments})
        timeout_ns = _ns(self.timeout.control)
        reply = _reply((yield Request(peer, Header(Opcode.CONTROL, 0, Flag.CRC), body, timeout_ns)))
        return unpack_map(reply.body)

    def pipelines(self, peer: int) -> Operation[list[Pipeline]]:
        """Return what an appliance serves, asked anew."""
        answer = yield from self.control(peer, "pipelines")
        listed = answer.get("pipelines")
        if not isinstance(listed, list):
            raise RemoteProtocolError("answer has no list of pipelines")
        found = [Pipeline.parse(entry) for entry in listed]
        self._pipelines[peer] = {pipeline.name: pipeline for pipeline in found}
        return found

    def _pipeline(self, peer: int, name: str) -> Operation[Pipeline]:
        if name not in self._pipelines.get(peer, {}):
            yield from self.pipelines(peer)
        try:
            return self._pipelines[peer][name]
        except KeyError:
            known = ", ".join(sorted(self._pipelines[peer])) or "none"
            address = self.engine.link.format_address(peer)
            raise UnknownPipelineError(f"{address} serves no pipeline {name!r}; it serves: {known}") from None

    def prepare(self, name: str) -> Operation[list[int]]:
        """Find the targets and learn what the pipeline is on each of them; return the targets.

        Raises:
            UnknownPipelineError: One does not serve it.
        """
        targets = yield from self.find_targets()
        for peer in list(targets):
            yield from self._pipeline(peer, name)
        return targets

    def infer(self, name: str, data: Data, options: InferOptions) -> Operation[Inference]:
        """Run one inference on the target that has the fewest to answer.

        Raises:
            ConfigError: The data is not what the pipeline takes.
            StatusError: The appliance refuses.
            NapuTimeoutError: It does not answer.
        """
        targets = yield from self.find_targets()
        peer = min(targets, key=self.engine.requester.load)
        self.targets = [*(target for target in targets if target != peer), peer]  # among equals: in turn
        for _ in range(_MENDS):
            pipeline = yield from self._pipeline(peer, name)
            try:
                return (yield from self._infer(peer, pipeline, data, options))
            except (UnknownPipelineError, UnknownSessionError):
                # The handle is of an earlier load, or of an earlier life of the appliance: learn the new one.
                if self._pipelines.get(peer, {}).get(name) is pipeline:  # else another operation has learnt it already
                    del self._pipelines[peer]
        pipeline = yield from self._pipeline(peer, name)
        return (yield from self._infer(peer, pipeline, data, options))

    def _infer(self, peer: int, pipeline: Pipeline, data: Data, options: InferOptions) -> Operation[Inference]:
        header, body = options.header(pipeline.handle), encode_input(pipeline, data)
        events = yield Request(peer, header, body, _ns(self.timeout.request), in_session=True)
        reply = _reply(events)
        return Inference(
            outputs=unpack_outputs(pipeline.outputs, reply.body),
            appliance=self.engine.link.format_address(peer),
            latency_us=events[0].latency_ns / 1000,
            transmissions=events[0].transmissions,
            trailer=reply.trailer,
        )


def encode_input(pipeline: Pipeline, data: Data) -> bytes:
    """Return the body of a request.

    Raises:
        ConfigError: The data is not what the pipeline takes; the message says what it does.
    """
    raw = isinstance(data, bytes | bytearray | memoryview)
    if pipeline.input is None:
        if not raw:
            raise ConfigError(f"pipeline {pipeline.name} takes encoded media ({', '.join(pipeline.formats)}) as bytes")
        if len(data) > pipeline.max_bytes:
            raise ConfigError(f"{len(data)} bytes; pipeline {pipeline.name} takes at most {pipeline.max_bytes}")
        return bytes(data)
    if isinstance(data, np.ndarray):
        shape = pipeline.input.shape
        if data.dtype != pipeline.input.dtype or data.shape not in (shape, (1, *shape)):
            raise ConfigError(
                f"{data.dtype} {list(data.shape)}; pipeline {pipeline.name} takes {pipeline.input.dtype} {list(shape)}"
            )
        return np.ascontiguousarray(data, pipeline.input.numpy_dtype).tobytes()
    if not raw:
        raise ConfigError(f"{type(data).__name__}; pipeline {pipeline.name} takes an array or its bytes")
    if len(data) != pipeline.input.size:
        raise ConfigError(f"{len(data)} bytes; pipeline {pipeline.name} takes exactly {pipeline.input.size}")
    return bytes(data)


def _reply(events: list[Event]) -> Message:
    event = events[0]
    if event.error is not None:
        raise event.error
    if event.reply is None:
        raise RemoteProtocolError("a request ended without answer")
    return event.reply


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
