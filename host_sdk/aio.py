"""The asyncio client: the same operations as the blocking one, on the event loop's own thread."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from host_sdk.engine import Engine
from host_sdk.operations import Data, InferOptions, Operation, Operations, Timeout
from host_sdk.results import Appliance, Inference, Pipeline
from host_sdk.running import Running
from host_sdk.wire.errors import ClosedError, LinkError, NapuError
from host_sdk.wire.exchange.requester import RequesterLimits
from host_sdk.wire.links.auto import open_link
from host_sdk.wire.links.base import Link

Result = TypeVar("Result")


class AsyncNapuClient:
    """A connection to appliances, used from one event loop; made while it runs.

    Arguments and errors are those of :class:`host_sdk.client.NapuClient`. No thread is used: frames are read when the
    loop says that the link has some.
    """

    def __init__(
        self,
        link: Link | str = "auto",
        target: str | Sequence[str] | None = None,
        *,
        timeout: Timeout | None = None,
        limits: RequesterLimits | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        addresses = [target] if isinstance(target, str) else list(target or ())
        opened = open_link(link, port=0, peers=addresses).link if isinstance(link, str) else link
        self._engine = Engine(opened, limits)
        targets = [opened.parse_address(address) for address in addresses]
        self._operations = Operations(self._engine, timeout or Timeout(), targets)
        self._limits = limits or RequesterLimits()
        self._waiting: dict[int, tuple[Running, asyncio.Future[Any]]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._loop.add_reader(opened.fileno(), self._turn)

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

    async def infer(
        self,
        pipeline: str,
        data: Data,
        *,
        deadline: float | None = None,
        priority: int = 0,
        crc: bool = True,
        trailer: bool = True,
    ) -> Inference:
        """Run one inference, as :meth:`host_sdk.client.NapuClient.infer` does."""
        options = InferOptions(deadline, priority, crc, trailer)
        return await self._run(self._operations.infer(pipeline, data, options))

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
        chosen = options or InferOptions()
        targets = await self._run(self._operations.prepare(pipeline))
        room = window or self._limits.window * len(targets)
        source, started = iter(items), deque[asyncio.Future[Inference]]()
        try:
            while True:
                while len(started) < room and (item := next(source, None)) is not None:
                    started.append(self._start(self._operations.infer(pipeline, item, chosen)))
                if not started:
                    return
                try:
                    yield await started[0]
                except NapuError as error:
                    if not return_errors:
                        raise
                    yield error
                started.popleft()
        finally:
            for future in started:
                if not future.cancel() and not future.cancelled():
                    future.exception()  # looked at, or asyncio complains that nobody did

    async def close(self) -> None:
        """Close the link and fail what is under way; a second call does nothing."""
        if self._engine.closed:
            return
        self._loop.remove_reader(self._engine.link.fileno())
        if self._timer:
            self._timer.cancel()
        self._engine.close()
        self._fail(ClosedError("this client was closed"))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self, operation: Operation[Result]) -> Result:
        result: Result = await self._start(operation)
        return result

    def _start(self, operation: Operation[Any]) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loop.create_future()
        self._follow(Running(self._engine, operation), future)
        self._turn()
        return future

    def _follow(self, running: Running, future: asyncio.Future[Any]) -> None:
        """Wait for the operation's next event, or settle its future."""
        if running.token is not None:
            self._waiting[running.token] = (running, future)
        elif running.error:
            future.set_exception(running.error)
        else:
            future.set_result(running.result)

    def _turn(self) -> None:
        """Receive, move on the operations that something became of, and send; called by the loop."""
        try:
            self._engine.drain()
            self._engine.flush()
            for event in self._engine.events():
                running, future = self._waiting.pop(event.token, (None, None))
                if running is None or future is None:
                    continue
                if future.cancelled():
                    self._engine.requester.cancel(event.token)
                    continue
                running.take(event)
                self._follow(running, future)
            self._engine.flush()
        except LinkError as error:
            self._loop.remove_reader(self._engine.link.fileno())  # a dead link polls readable for ever
            self._fail(error)
            return
        self._forget_cancelled()
        self._arm()

    def _arm(self) -> None:
        """Have the loop call again when the next timer is due."""
        if self._timer:
            self._timer.cancel()
        timer = self._engine.timer_ns()
        self._timer = None if timer is None else self._loop.call_later(timer / 1e9, self._turn)

    def _forget_cancelled(self) -> None:
        for token in [token for token, (_, future) in self._waiting.items() if future.cancelled()]:
            del self._waiting[token]
            self._engine.requester.cancel(token)

    def _fail(self, error: NapuError) -> None:
        waiting, self._waiting = self._waiting, {}
        for _, future in waiting.values():
            if not future.done():
                future.set_exception(error)
