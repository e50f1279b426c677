"""The blocking client."""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from host_sdk.access.identity import Identity
from host_sdk.attestation import collect_evidence, new_nonce
from host_sdk.engine import connect
from host_sdk.operations import InferOptions, Operation, Operations, Timeout, seal_inference, secure_control
from host_sdk.results import Appliance, Inference, Pipeline
from host_sdk.running import Running
from host_sdk.streams import Data, InferStream, Stream, Streams, is_inference
from host_sdk.wire.attest.collected import Evidence
from host_sdk.wire.errors import LinkError, NapuError
from host_sdk.wire.exchange.answers import Announced, Event
from host_sdk.wire.exchange.pace import RequesterLimits
from host_sdk.wire.links.base import Link

if TYPE_CHECKING:
    from host_sdk.wire.sealed.keys import SealKey

Result = TypeVar("Result")


class NapuClient:
    """A connection to appliances, used from one thread.

    Args:
        link: A link, or what opens one: ``auto``, ``auto:IFACE``, ``xdp:IFACE``, ``packet:IFACE``, ``udp``.
        target: Address or addresses of appliances; by default all that answer a broadcast, over which requests are
            spread.
        timeout: How long things may take.
        limits: Window and retransmission.
        tenant: On whose behalf requests are made.
        resume: Tickets of sessions to go on with, as :meth:`tickets` of another client gave them.
        identity: Who asks: operations of the control plane go through TLS then, and inferences sealed, or not at all.

    Raises:
        LinkError: The link cannot be opened; the message says what would allow it.
        ConfigError: An address, the link's name, the tenant's, a ticket or the identity is wrong.
    """

    def __init__(
        self,
        link: Link | str = "auto",
        target: str | Sequence[str] | None = None,
        *,
        timeout: Timeout | None = None,
        limits: RequesterLimits | None = None,
        tenant: str = "",
        resume: Sequence[bytes] = (),
        identity: Identity | None = None,
    ) -> None:
        self._engine, targets = connect(link, target, limits, tenant, resume, sealed=identity is not None)
        secure = secure_control(self._engine, identity)
        sealing = seal_inference(self._engine, secure)
        self._operations = Operations(self._engine, timeout or Timeout(), targets, secure, sealing)
        self._streams: Streams[Any] = Streams(partial(Stream, self._operations))
        self._limits = limits or RequesterLimits()
        self._running: dict[int, Running] = {}

    @property
    def link(self) -> Link:
        """The link that frames go over."""
        return self._engine.link

    def discover(self) -> list[Appliance]:
        """Ask everybody on the link who they are, and return the appliances that answered in time."""
        return self._run(self._operations.discover())

    def pipelines(self, target: str | None = None) -> list[Pipeline]:
        """Return the pipelines of an appliance, by default of the first target."""
        return self._run(self._operations.on(target, self._operations.pipelines))

    def stats(self, target: str | None = None) -> dict[str, Any]:
        """Return the counters of an appliance by name, by default of the first target."""
        return self.control("stats", target=target)

    def control(self, operation: str, *, target: str | None = None, **arguments: Any) -> dict[str, Any]:
        """Run an operation of the control plane, as listed in docs/protocol.md, and return its answer.

        Raises:
            StatusError: The appliance refuses.
            NapuTimeoutError: It does not answer.
        """
        return self._run(
            self._operations.on(target, lambda peer: self._operations.control(peer, operation, **arguments))
        )

    def attest(self, target: str | None = None, nonce: bytes | None = None) -> Evidence:
        """Ask an appliance for evidence of what runs on it, for ``check_evidence`` of :mod:`host_sdk.wire.attest`.

        Args:
            target: The appliance; by default the first target.
            nonce: 32 bytes that nobody can foresee and that were never used before: :func:`new_nonce`, which is taken
                by default.

        Raises:
            AttestationError: The answer is no evidence.
            StatusError: The appliance refuses.
            NapuTimeoutError: It does not answer.
        """
        fresh = new_nonce() if nonce is None else nonce
        return self._run(self._operations.on(target, lambda peer: collect_evidence(self._operations, peer, fresh)))

    def seal_key(self, target: str) -> "SealKey | None":
        """Return the key that frames to an appliance are sealed with; None without an identity.

        Raises:
            StatusError: The appliance grants none.
            NapuTimeoutError: It does not answer.
        """
        return self._run(self._operations.on(target, self._operations.seal_key))

    def proven_device(self, target: str) -> str:
        """Return the device that has proved by its certificate that it is at an address; empty without an identity.

        Raises:
            NotAuthenticatedError: It was not asked for anything yet, or its certificate does not count any more.
        """
        secure = self._operations.secure
        return secure.device(self._engine.link.parse_address(target)) if secure else ""

    def infer(
        self,
        pipeline: str,
        data: Data,
        *,
        deadline: float | None = None,
        priority: int = 0,
        crc: bool = True,
        trailer: bool = True,
        once: bool = True,
    ) -> Inference:
        """Run one inference and wait for its answer.

        Args:
            pipeline: Name of the pipeline.
            data: Encoded media as bytes; or the input tensor as an array, or as its raw bytes.
            deadline: Seconds after its arrival at which the appliance shall no longer begin it.
            priority: 0 to 255; higher goes first.
            crc: Whether request and reply carry a CRC-32C, end to end; those of class *once* always do.
            trailer: Whether the answer says how it was made.
            once: Whether it is executed at most once, however often it is sent.

        Raises:
            ConfigError: The data is not what the pipeline takes.
            StatusError: The appliance refuses; one class for each status.
            NapuTimeoutError: It does not answer.
        """
        stream = self._streams.kept(pipeline, deadline, priority, crc, trailer, once)
        number = stream.number()
        stream.submit((data,), (number,))
        try:
            while number not in stream.results:
                self._advance(stream)
        except BaseException:
            stream.cancel(number)
            self._tell()
            raise
        result: Inference | NapuError = stream.results.pop(number)
        if isinstance(result, NapuError):
            raise result
        return result

    def infer_many(
        self,
        pipeline: str,
        items: Iterable[Data],
        *,
        window: int | None = None,
        options: InferOptions | None = None,
        return_errors: bool = False,
    ) -> Iterator[Inference | NapuError]:
        """Run many inferences, a window of them outstanding at once, and yield the answers in the items' order.

        Args:
            pipeline: Name of the pipeline.
            items: As ``data`` of :meth:`infer`; taken as the window has room.
            window: Requests outstanding over all targets; by default as many as the limits allow at each.
            options: How each is asked for.
            return_errors: Yield the error in the place of an answer, instead of raising it.
        """
        stream = self._streams.open(pipeline, options or InferOptions())
        try:
            self._prepare(pipeline)
            source, following = iter(items), 0
            while True:
                chunk = list(islice(source, max(0, (window or self._room()) - len(stream))))
                if chunk:
                    stream.submit(chunk, [stream.number() for _ in chunk])
                if not len(stream):
                    return
                while following not in stream.results:
                    self._advance(stream)
                while (result := stream.results.pop(following, None)) is not None:
                    following += 1
                    if isinstance(result, NapuError) and not return_errors:
                        raise result
                    yield result
        finally:
            self._streams.close(stream)
            self._tell()

    def infer_steadily(
        self,
        pipeline: str,
        items: Iterable[Data],
        rate: float,
        *,
        options: InferOptions | None = None,
    ) -> Iterator[Inference | NapuError]:
        """Run inferences at a steady rate, and yield what became of each as soon as it is known.

        Each is submitted when it is due, whether or not those before were answered, unless the window is full.

        Args:
            pipeline: Name of the pipeline.
            items: As ``data`` of :meth:`infer`; taken when they are due. What comes of them ends with them.
            rate: Inferences in a second, over all targets; more than 0.
            options: How each is asked for.
        """
        stream = self._streams.open(pipeline, options or InferOptions())
        try:
            self._prepare(pipeline)
            source, sent, ended = iter(items), 0, False
            start = time.monotonic_ns()
            while True:
                room = self._room()
                due = int((time.monotonic_ns() - start) * rate / 1e9) + 1 - sent
                chunk = [] if ended else list(islice(source, max(0, min(due, room - len(stream)))))
                ended = ended or (due > 0 and len(stream) < room and not chunk)
                if chunk:
                    stream.submit(chunk, [stream.number() for _ in chunk])
                    sent += len(chunk)
                elif ended and not len(stream):
                    return
                until_due = start + int(sent / rate * 1e9) - time.monotonic_ns()
                self._advance(stream, None if ended or len(stream) >= room else max(0, until_due))
                results = list(stream.results.values())
                stream.results.clear()
                yield from results
        finally:
            self._streams.close(stream)
            self._tell()

    def tickets(self) -> list[bytes]:
        """Return a ticket for each open session, with which another client, at the same address, goes on with it.

        These sessions stay open when this client is closed.
        """
        return self._engine.tickets()

    def close(self) -> None:
        """Close the link; a second call does nothing."""
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _prepare(self, pipeline: str) -> None:
        """Find out what is to be known before inferences are submitted to a stream."""
        self._run(self._operations.prepare(pipeline))

    def _room(self) -> int:
        """Return how many inferences may be outstanding at once."""
        return self._limits.window * len(self._operations.targets)

    def _advance(self, stream: InferStream, most_ns: int | None = None) -> None:
        """Bring a stream on by one turn, which waits so long at most."""
        if isinstance(stream, Stream) and stream.held:
            self._run(stream.advance())
        elif self._operations.doubtful:
            self._run(self._operations.confirm())
        else:
            self._turn(most_ns)

    def _run(self, operation: Operation[Result]) -> Result:
        running = self._start(operation)
        try:
            while not running.done:
                self._turn()
        finally:
            if running.token is not None:
                self._running.pop(running.token, None)
                self._engine.cancel(running.token)
        if running.error:
            raise running.error
        result: Result = running.result
        return result

    def _start(self, operation: Operation[Any]) -> Running:
        running = Running(self._engine, operation)
        if running.token is not None:
            self._running[running.token] = running
        return running

    def _turn(self, most_ns: int | None = None) -> None:
        """Send, wait, receive, and move on what something became of."""
        for event in self._engine.turn(most_ns):
            self._take(event)

    def _take(self, event: Event) -> None:
        """Take what became of a request."""
        if not isinstance(event, Announced) and is_inference(event):
            self._streams.take(event)
            return
        running = self._running.pop(event.token, None)
        if running:
            running.take(event)
            if running.token is not None:
                self._running[running.token] = running

    def _tell(self) -> None:
        """Send what is to be sent at once, such as that requests are given up."""
        if not self._engine.closed:
            with suppress(LinkError):
                self._engine.flush()
