"""The asyncio client: the same operations as the blocking one, on the event loop's own thread."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from functools import partial
from itertools import islice
from types import TracebackType
from typing import Any, Self, TypeVar

from host_sdk.access.identity import Identity
from host_sdk.attestation import collect_evidence, new_nonce
from host_sdk.engine import connect
from host_sdk.inferences import Inferences
from host_sdk.operations import InferOptions, Operation, Operations, Timeout, seal_inference, secure_control
from host_sdk.results import Appliance, Inference, Pipeline
from host_sdk.running import Running
from host_sdk.streams import Data, InferStream, Stream, Streams, is_inference
from host_sdk.wire.attest.collected import Evidence
from host_sdk.wire.errors import ClosedError, LinkError, NapuError
from host_sdk.wire.exchange.answers import Announced, Event
from host_sdk.wire.exchange.pace import RequesterLimits
from host_sdk.wire.links.base import Link

Result = TypeVar("Result")
_SECURE_OPERATIONS = 8  # that are under way at once


class AsyncNapuClient:
    """A connection to appliances, used from one event loop; made while it runs.

    Arguments and errors are those of :class:`host_sdk.client.NapuClient`. No thread is used: frames are read when the
    loop says that the link has some, and inferences that are asked for in the same turn of the loop go out together.
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
        self._loop = asyncio.get_running_loop()
        self._engine, targets = connect(link, target, limits, tenant, resume, sealed=identity is not None)
        secure = secure_control(self._engine, identity)
        sealing = seal_inference(self._engine, secure)
        self._operations = Operations(self._engine, timeout or Timeout(), targets, secure, sealing)
        self._streams: Streams[Any] = Streams(partial(Stream, self._operations))
        self._limits = limits or RequesterLimits()
        self._waiting: dict[int, tuple[Running, asyncio.Future[Any]]] = {}
        self._inferences: dict[InferStream, Inferences] = {}
        self._added: dict[InferStream, Inferences] = {}  # with items to submit at the next turn
        self._dead: NapuError | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._confirming: asyncio.Task[None] | None = None
        # Each operation that is under way takes a stream of its own, of which an appliance holds only some.
        self._secured = asyncio.Semaphore(_SECURE_OPERATIONS)
        self._loop.add_reader(self._engine.link.fileno(), self._turn)

    @property
    def link(self) -> Link:
        """The link that frames go over."""
        return self._engine.link

    async def discover(self) -> list[Appliance]:
        """Ask everybody on the link who they are, and return the appliances that answered in time."""
        return await self._run(self._operations.discover())

    async def pipelines(self, target: str | None = None) -> list[Pipeline]:
        """Return the pipelines of an appliance, by default of the first target."""
        return await self._run(self._operations.on(target, self._operations.pipelines))

    async def stats(self, target: str | None = None) -> dict[str, Any]:
        """Return the counters of an appliance by name, by default of the first target."""
        return await self.control("stats", target=target)

    async def control(self, operation: str, *, target: str | None = None, **arguments: Any) -> dict[str, Any]:
        """Run an operation of the control plane, as :meth:`host_sdk.client.NapuClient.control` does."""
        return await self._run(
            self._operations.on(target, lambda peer: self._operations.control(peer, operation, **arguments))
        )

    async def attest(self, target: str | None = None, nonce: bytes | None = None) -> Evidence:
        """Ask an appliance for evidence, as :meth:`host_sdk.client.NapuClient.attest` does."""
        fresh = new_nonce() if nonce is None else nonce
        return await self._run(
            self._operations.on(target, lambda peer: collect_evidence(self._operations, peer, fresh))
        )

    async def infer(
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
        """Run one inference, as :meth:`host_sdk.client.NapuClient.infer` does."""
        self._check()
        inferences = self._follow_stream(self._streams.kept(pipeline, deadline, priority, crc, trailer, once))
        future: asyncio.Future[Inference] = self._loop.create_future()
        number = inferences.add(data, future)
        if not self._added:
            self._loop.call_soon(self._turn)
        self._added[inferences.stream] = inferences
        try:
            return await future
        except asyncio.CancelledError:
            inferences.futures.pop(number, None)
            inferences.stream.cancel(number)
            self._turn_soon()
            raise

    async def infer_many(
        self,
        pipeline: str,
        items: Iterable[Data],
        *,
        window: int | None = None,
        options: InferOptions | None = None,
        return_errors: bool = False,
    ) -> AsyncIterator[Inference | NapuError]:
        """Run many inferences, as :meth:`host_sdk.client.NapuClient.infer_many` does."""
        stream = self._streams.open(pipeline, options or InferOptions())
        inferences = self._follow_stream(stream)
        try:
            await self._prepare(pipeline)
            source, following = iter(items), 0
            while True:
                chunk = list(islice(source, max(0, (window or self._room()) - len(stream))))
                if chunk:
                    self._check()
                    stream.submit(chunk, [stream.number() for _ in chunk])
                    self._turn()
                if not len(stream):
                    return
                while following not in stream.results:
                    inferences.progress.clear()
                    await inferences.progress.wait()
                    self._check()
                while (result := stream.results.pop(following, None)) is not None:
                    following += 1
                    if isinstance(result, NapuError) and not return_errors:
                        raise result
                    yield result
        finally:
            self._leave_stream(inferences)

    async def infer_steadily(
        self, pipeline: str, items: Iterable[Data], rate: float, *, options: InferOptions | None = None
    ) -> AsyncIterator[Inference | NapuError]:
        """Run inferences at a steady rate, as :meth:`host_sdk.client.NapuClient.infer_steadily` does."""
        stream = self._streams.open(pipeline, options or InferOptions())
        inferences = self._follow_stream(stream)
        try:
            await self._prepare(pipeline)
            source, sent, ended = iter(items), 0, False
            start = self._loop.time()
            while True:
                self._check()
                room, due = self._room(), int((self._loop.time() - start) * rate) + 1 - sent
                chunk = [] if ended else list(islice(source, max(0, min(due, room - len(stream)))))
                ended = ended or (due > 0 and len(stream) < room and not chunk)
                if chunk:
                    stream.submit(chunk, [stream.number() for _ in chunk])
                    sent += len(chunk)
                    self._turn()
                elif ended and not len(stream):
                    return
                waits = ended or len(stream) >= room
                await inferences.progressed(None if waits else start + sent / rate - self._loop.time())
                results = list(stream.results.values())
                stream.results.clear()
                for result in results:
                    yield result
        finally:
            self._leave_stream(inferences)

    def tickets(self) -> list[bytes]:
        """Return tickets of open sessions, as :meth:`host_sdk.client.NapuClient.tickets` does."""
        return self._engine.tickets()

    async def close(self) -> None:
        """Close the link and fail what is under way; a second call does nothing."""
        if self._engine.closed:
            return
        self._loop.remove_reader(self._engine.link.fileno())
        if self._timer:
            self._timer.cancel()
        if self._confirming:
            self._confirming.cancel()
        self._engine.close()
        self._fail(ClosedError("this client was closed"))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # ---- streams -------------------------------------------------------------------------------------------------

    async def _prepare(self, pipeline: str) -> None:
        """Find out what is to be known before inferences are submitted to a stream."""
        await self._run(self._operations.prepare(pipeline))

    def _room(self) -> int:
        """Return how many inferences may be outstanding at once."""
        return self._limits.window * len(self._operations.targets)

    def _follow_stream(self, stream: InferStream) -> Inferences:
        inferences = self._inferences.get(stream)
        if inferences is None:
            self._inferences = {each: known for each, known in self._inferences.items() if self._streams.has(each)}
            inferences = self._inferences[stream] = Inferences(stream)
        return inferences

    def _leave_stream(self, inferences: Inferences) -> None:
        if inferences.learning:
            inferences.learning.cancel()
        self._inferences.pop(inferences.stream, None)
        self._streams.close(inferences.stream)
        self._turn_soon()

    async def _learn(self, inferences: Inferences) -> None:
        """Submit what a stream holds, once it is known how."""
        try:
            while isinstance(inferences.stream, Stream) and inferences.stream.held:
                await self._run(inferences.stream.advance())
                inferences.hand_out()
        except NapuError as error:
            inferences.fail(error)
        finally:
            inferences.learning = None

    # ---- the loop ------------------------------------------------------------------------------------------------

    async def _run(self, operation: Operation[Result]) -> Result:
        if self._operations.secure is None:
            return await self._run_at_once(operation)
        async with self._secured:
            return await self._run_at_once(operation)

    async def _run_at_once(self, operation: Operation[Result]) -> Result:
        future: asyncio.Future[Result] = self._loop.create_future()
        running = Running(self._engine, operation)
        self._follow(running, future)
        self._turn()
        try:
            return await future
        except asyncio.CancelledError:
            if running.token in self._waiting:
                del self._waiting[running.token]
                self._engine.cancel(running.token)
            raise

    def _follow(self, running: Running, future: asyncio.Future[Any]) -> None:
        """Wait for the operation's next event, or settle its future."""
        if running.token is not None:
            self._waiting[running.token] = (running, future)
        elif future.done():
            return
        elif running.error:
            future.set_exception(running.error)
        else:
            future.set_result(running.result)

    def _turn_soon(self) -> None:
        if not self._engine.closed:
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Receive, move on what something became of, and send; called by the loop."""
        if self._engine.closed or self._dead:
            return
        try:
            added, self._added = self._added, {}
            for inferences in added.values():
                inferences.submit()
            self._engine.drain()
            self._engine.flush()
            while events := self._engine.events():
                for event in events:
                    self._take(event)
                self._engine.flush()
        except LinkError as error:
            self._loop.remove_reader(self._engine.link.fileno())  # a dead link polls readable for ever
            self._dead = error
            self._fail(error)
            return
        for inferences in self._inferences.values():
            inferences.hand_out()
        self._find_out()
        self._arm(self._engine.timer_ns())

    def _find_out(self) -> None:
        """Begin to ask for what is not known and has to be."""
        for inferences in self._inferences.values():
            if isinstance(inferences.stream, Stream) and inferences.stream.held and inferences.learning is None:
                inferences.learning = self._loop.create_task(self._learn(inferences))
        if self._operations.doubtful and self._confirming is None:
            self._confirming = self._loop.create_task(self._confirm())

    async def _confirm(self) -> None:
        """Find out whether keys are still in force, where there are hints that they are not."""
        try:
            await self._run(self._operations.confirm())
        except NapuError:
            pass  # of a client that was closed, or a link that is gone: those who wait are told
        finally:
            self._confirming = None

    def _take(self, event: Event) -> None:
        if not isinstance(event, Announced) and is_inference(event):
            self._streams.take(event)
            return
        running, future = self._waiting.pop(event.token, (None, None))
        if running is not None and future is not None:
            running.take(event)
            self._follow(running, future)

    def _arm(self, timer: int | None) -> None:
        """Have the loop call again after so many ns; None is never."""
        if self._timer:
            self._timer.cancel()
        self._timer = None if timer is None else self._loop.call_later(timer / 1e9, self._turn)

    def _check(self) -> None:
        """Raise what ended the client, if anything did."""
        if self._engine.closed:
            raise ClosedError("this client was closed")
        if self._dead:
            raise self._dead

    def _fail(self, error: NapuError) -> None:
        waiting, self._waiting = self._waiting, {}
        for _, future in waiting.values():
            if not future.done():
                future.set_exception(error)
        for inferences in self._inferences.values():
            inferences.fail(error)
