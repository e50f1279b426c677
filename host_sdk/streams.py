"""Inferences on their way: submitted by the batch, and each told what became of it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from host_sdk.operations import InferOptions, Operation, Operations, ns
from host_sdk.results import Inference, Layout, Pipeline
from host_sdk.wire.errors import (
    ConfigError,
    NapuError,
    RemoteProtocolError,
    UnknownPipelineError,
    UnknownSessionError,
)
from host_sdk.wire.exchange.answers import Answers
from host_sdk.wire.header import Header
from host_sdk.wire.message import encode_extensions

Data = bytes | NDArray[Any]
_MENDS = 2  # times that an inference is asked for again because a session or a handle was forgotten
SEQUENCE_BITS = 32  # of a token; the bits above are the stream's number
_SEQUENCE = (1 << SEQUENCE_BITS) - 1
_MOST_KEPT = 64  # streams with options of their own that are kept between calls
_FORGOTTEN = (UnknownPipelineError, UnknownSessionError)
_RAW = (bytes, bytearray, memoryview)


class Plan:
    """A pipeline as one appliance serves it, and how a stream asks for it."""

    __slots__ = ("address", "header", "layout", "peer", "pipeline")

    def __init__(self, peer: int, address: str, pipeline: Pipeline, header: Header) -> None:
        self.peer, self.address, self.pipeline, self.header = peer, address, pipeline, header
        self.layout = Layout(pipeline.outputs)


@dataclass(slots=True)
class _Chunk:
    """Items that were submitted together, with the sequence number of each."""

    plan: Plan
    items: Sequence[Data]
    sequence: Sequence[int]
    tries: int

    def item(self, number: int) -> Data:
        return self.items[self.sequence.index(number)]


@dataclass(frozen=True, slots=True)
class _Held:
    """An item that waits for its pipeline to be learnt at a target, any where that is None."""

    number: int
    item: Data
    peer: int | None
    tries: int


class Stream:
    """Inferences with the same pipeline and options, numbered in the order of their submission.

    Args:
        operations: What is known of appliances.
        number: Its own.
        name: The pipeline's.
        options: How each is asked for.

    Attributes:
        results: By sequence number, what has become of items and was not taken yet.
        held: Items that wait for :meth:`advance`.

    Raises:
        ConfigError: An option is out of range.
    """

    def __init__(self, operations: Operations, number: int, name: str, options: InferOptions) -> None:
        options.header(0)
        self._block = encode_extensions(options.extensions) if options.extensions else b""
        self.name = name
        self.results: dict[int, Inference | NapuError] = {}
        self.held: list[_Held] = []
        self._operations, self._options = operations, options
        self._base = number << SEQUENCE_BITS
        self._following = 0
        self._plans: dict[int, Plan] = {}
        self._chunks: dict[int, _Chunk] = {}  # of what is under way, by sequence number

    def __len__(self) -> int:
        return len(self._chunks) + len(self.held) + len(self.results)

    def number(self) -> int:
        """Return the sequence number of the next item."""
        self._following += 1
        return self._following - 1

    def submit(self, items: Sequence[Data], sequence: Sequence[int]) -> None:
        """Submit items under their numbers, spread over the targets; what cannot be sent yet is held."""
        if not self._operations.targets:
            self.held.extend(_Held(*pair, None, 0) for pair in zip(sequence, items, strict=True))
            return
        begin = 0
        for peer, count in self._operations.share(len(items)):
            end = begin + count
            self._submit_to(peer, items[begin:end], sequence[begin:end], 0)
            begin = end

    def _submit_to(self, peer: int, items: Sequence[Data], sequence: Sequence[int], tries: int) -> None:
        pipeline = self._operations.known(peer, self.name)
        route = self._operations.route(peer)
        if pipeline is None or route is None:
            self.held.extend(_Held(*pair, peer, tries) for pair in zip(sequence, items, strict=True))
            return
        plan = self._plans.get(peer)
        if plan is None or plan.pipeline is not pipeline:
            address = self._operations.engine.link.format_address(peer)
            plan = self._plans[peer] = Plan(peer, address, pipeline, self._options.header(pipeline.handle))
        try:
            self._send(route, _Chunk(plan, items, sequence, tries), encode_inputs(pipeline, items))
        except NapuError as error:
            if len(items) == 1:
                self.results[sequence[0]] = error
                return
            for number, item in zip(sequence, items, strict=True):
                self._submit_to(peer, [item], [number], tries)

    def _send(self, route: int, chunk: _Chunk, bodies: NDArray[np.uint8] | list[bytes]) -> None:
        operations, sequence = self._operations, chunk.sequence
        tokens = np.array(sequence, np.int64)
        tokens += self._base
        if self._block:
            bodies = [self._block + bytes(body) for body in bodies]
        operations.engine.infer(route, chunk.plan.header, bodies, tokens, ns(operations.timeout.request))
        self._chunks.update(dict.fromkeys(sequence, chunk))

    def advance(self) -> Operation[None]:
        """Learn what is needed for the items that are held, and submit them."""
        held, self.held = self.held, []
        try:
            targets = yield from self._operations.find_targets()
        except NapuError as error:
            self.results.update((each.number, error) for each in held)
            return
        for peer in {each.peer for each in held}:
            mine = [each for each in held if each.peer == peer]
            chosen = targets[0] if peer is None else peer
            try:
                yield from self._operations.pipeline(chosen, self.name)
                yield from self._operations.grant(chosen)
            except NapuError as error:
                self.results.update((each.number, error) for each in mine)
                continue
            if peer is None:
                self.submit([each.item for each in mine], [each.number for each in mine])
                continue
            for tries in {each.tries for each in mine}:
                alike = [each for each in mine if each.tries == tries]
                self._submit_to(peer, [each.item for each in alike], [each.number for each in alike], tries)

    def take(self, number: int, answers: Answers, row: int) -> None:
        """Take what became of one item."""
        chunk = self._chunks.pop(number, None)
        if chunk is None:
            return
        plan, error = chunk.plan, answers.error
        if error is None:
            size = answers.bodies.shape[1]
            if size == plan.layout.size:
                self.results[number] = Inference(plan.layout, plan.address, answers, row)
            else:
                self.results[number] = RemoteProtocolError(
                    f"answer of {size} bytes; its tensors have {plan.layout.size}"
                )
        elif isinstance(error, _FORGOTTEN) and chunk.tries < _MENDS:
            # The handle is of an earlier load, or of an earlier life of the appliance: learn the new one.
            self._operations.doubt(plan.peer, plan.pipeline)
            self.held.append(_Held(number, chunk.item(number), plan.peer, chunk.tries + 1))
        else:
            self.results[number] = error

    def cancel(self, number: int) -> None:
        """Give one item up; the appliance is told at the next flush."""
        self.results.pop(number, None)
        self.held = [each for each in self.held if each.number != number]
        if self._chunks.pop(number, None):
            self._operations.engine.cancel(self._base + number)

    def cancel_all(self) -> None:
        """Give every item up."""
        for number in list(self._chunks):
            self.cancel(number)
        self.held.clear()
        self.results.clear()


class InferStream(Protocol):
    """Inferences with the same pipeline and options, numbered in the order of their submission.

    Attributes:
        results: By sequence number, what has become of items and was not taken yet.
    """

    results: dict[int, Inference | NapuError]

    def __len__(self) -> int: ...

    def number(self) -> int:
        """Return the sequence number of the next item."""

    def submit(self, items: Sequence[Data], sequence: Sequence[int]) -> None:
        """Submit items under their numbers."""

    def take(self, number: int, answers: Answers, row: int) -> None:
        """Take what became of one item."""

    def cancel(self, number: int) -> None:
        """Give one item up."""

    def cancel_all(self) -> None:
        """Give every item up."""


AnyStream = TypeVar("AnyStream", bound=InferStream)


class Streams(Generic[AnyStream]):
    """The streams of one client.

    Args:
        make: Makes one of a number, a pipeline's name and options.
    """

    def __init__(self, make: Callable[[int, str, InferOptions], AnyStream]) -> None:
        self._make = make
        self._open: dict[int, AnyStream] = {}
        self._kept: dict[tuple[Any, ...], AnyStream] = {}
        self._numbers = 0

    def __iter__(self) -> Iterator[AnyStream]:
        return iter(self._open.values())

    def open(self, name: str, options: InferOptions) -> AnyStream:
        """Return a new stream, to be closed."""
        self._numbers += 1
        stream = self._open[self._numbers] = self._make(self._numbers, name, options)
        return stream

    def has(self, stream: AnyStream) -> bool:
        """Return whether a stream is open."""
        return stream in self._open.values()

    def close(self, stream: AnyStream) -> None:
        """Give up what is under way in a stream, and forget it."""
        stream.cancel_all()
        self._open = {number: each for number, each in self._open.items() if each is not stream}

    def kept(self, name: str, *options: Any) -> AnyStream:
        """Return the stream that single inferences with such options share."""
        key = (name, *options)
        stream = self._kept.get(key)
        if stream is None:
            if len(self._kept) >= _MOST_KEPT:
                for old in [old for old, each in self._kept.items() if not len(each)]:
                    self.close(self._kept.pop(old))
            stream = self._kept[key] = self.open(name, InferOptions(*options))
        return stream

    def take(self, answers: Answers) -> None:
        """Tell the streams what became of their items."""
        for row, token in enumerate(answers.tokens.tolist()):
            stream = self._open.get(token >> SEQUENCE_BITS)
            if stream:
                stream.take(token & _SEQUENCE, answers, row)


def is_inference(answers: Answers) -> bool:
    """Return whether these are answers to inferences, and not to an operation."""
    return answers.token > _SEQUENCE


def encode_inputs(pipeline: Pipeline, items: Sequence[Data]) -> NDArray[np.uint8] | list[bytes]:
    """Return the bodies of requests: uint8 [n, size] for tensors, a list for media.

    Raises:
        ConfigError: An item is not what the pipeline takes; the message says what it does.
    """
    tensor = pipeline.input
    if tensor is None:
        return [_encode_media(pipeline, item) for item in items]
    if len(items) > 1 and all(isinstance(item, np.ndarray) for item in items):
        dtype, shape = tensor.numpy_dtype, tensor.shape
        if all(item.dtype == dtype and item.shape == shape for item in items):  # type: ignore[union-attr]
            return np.array(items).reshape(len(items), -1).view(np.uint8)
    return np.frombuffer(b"".join([_encode_tensor(pipeline, item) for item in items]), np.uint8).reshape(len(items), -1)


def _encode_media(pipeline: Pipeline, data: Data) -> bytes:
    if not isinstance(data, _RAW):
        raise ConfigError(f"pipeline {pipeline.name} takes encoded media ({', '.join(pipeline.formats)}) as bytes")
    if len(data) > pipeline.max_bytes:
        raise ConfigError(f"{len(data)} bytes; pipeline {pipeline.name} takes at most {pipeline.max_bytes}")
    return bytes(data)


def _encode_tensor(pipeline: Pipeline, data: Data) -> bytes:
    tensor = pipeline.input
    assert tensor is not None  # noqa: S101 - encode_inputs has looked
    if isinstance(data, np.ndarray):
        shape = tensor.shape
        if data.dtype != tensor.dtype or data.shape not in (shape, (1, *shape)):
            raise ConfigError(
                f"{data.dtype} {list(data.shape)}; pipeline {pipeline.name} takes {tensor.dtype} {list(shape)}"
            )
        return np.ascontiguousarray(data, tensor.numpy_dtype).tobytes()
    if not isinstance(data, _RAW):
        raise ConfigError(f"{type(data).__name__}; pipeline {pipeline.name} takes an array or its bytes")
    if len(data) != tensor.size:
        raise ConfigError(f"{len(data)} bytes; pipeline {pipeline.name} takes exactly {tensor.size}")
    return bytes(data)
