"""The blocking client."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from host_sdk.engine import Engine
from host_sdk.operations import Data, InferOptions, Operation, Operations, Timeout
from host_sdk.results import Appliance, Inference, Pipeline
from host_sdk.running import Running
from host_sdk.wire.errors import NapuError
from host_sdk.wire.exchange.requester import RequesterLimits
from host_sdk.wire.links.auto import open_link
from host_sdk.wire.links.base import Link

Result = TypeVar("Result")


class NapuClient:
    """A connection to appliances, used from one thread.

    Args:
        link: A link, or what opens one: ``auto``, ``auto:IFACE``, ``xdp:IFACE``, ``packet:IFACE``, ``udp``.
        target: Address or addresses of appliances; by default all that answer a broadcast, over which requests are
            spread.
        timeout: How long things may take.
        limits: Window and retransmission.

    Raises:
        LinkError: The link cannot be opened; the message says what would allow it.
        ConfigError: An address or the link's name is wrong.
    """

    def __init__(
        self,
        link: Link | str = "auto",
        target: str | Sequence[str] | None = None,
        *,
        timeout: Timeout | None = None,
        limits: RequesterLimits | None = None,
    ) -> None:
        addresses = [target] if isinstance(target, str) else list(target or ())
        opened = open_link(link, port=0, peers=addresses).link if isinstance(link, str) else link
        self._engine = Engine(opened, limits)
        targets = [opened.parse_address(address) for address in addresses]
        self._operations = Operations(self._engine, timeout or Timeout(), targets)
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

    def infer(
        self,
        pipeline: str,
        data: Data,
        *,
        deadline: float | None = None,
        priority: int = 0,
        crc: bool = True,
        trailer: bool = True,
    ) -> Inference:
        """Run one inference and wait for its answer.

        Args:
            pipeline: Name of the pipeline.
            data: Encoded media as bytes; or the input tensor as an array, or as its raw bytes.
            deadline: Seconds after its arrival at which the appliance shall no longer begin it.
            priority: 0 to 255; higher goes first.
            crc: Whether request and reply carry a CRC-32C, end to end.
            trailer: Whether the answer says how it was made.

        Raises:
            ConfigError: The data is not what the pipeline takes.
            StatusError: The appliance refuses; one class for each status.
            NapuTimeoutError: It does not answer.
        """
        options = InferOptions(deadline, priority, crc, trailer)
        return self._run(self._operations.infer(pipeline, data, options))

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
        chosen = options or InferOptions()
        targets = self._run(self._operations.prepare(pipeline))
        room = window or self._limits.window * len(targets)
        source, started = iter(items), deque[Running]()
        try:
            while True:
                while len(started) < room and (item := next(source, None)) is not None:
                    started.append(self._start(self._operations.infer(pipeline, item, chosen)))
                if not started:
                    return
                first = started[0]
                while not first.done:
                    self._turn()
                started.popleft()
                if isinstance(first.error, NapuError) and return_errors:
                    yield first.error
                    continue
                if first.error:
                    raise first.error
                yield first.result
        finally:
            for running in started:
                self._abandon(running)

    def close(self) -> None:
        """Close the link; a second call does nothing."""
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, operation: Operation[Result]) -> Result:
        running = self._start(operation)
        try:
            while not running.done:
                self._turn()
        finally:
            self._abandon(running)
        if running.error:
            raise running.error
        result: Result = running.result
        return result

    def _start(self, operation: Operation[Any]) -> Running:
        running = Running(self._engine, operation)
        if running.token is not None:
            self._running[running.token] = running
        return running

    def _abandon(self, running: Running) -> None:
        if running.token is not None:
            self._running.pop(running.token, None)
            self._engine.requester.cancel(running.token)

    def _turn(self) -> None:
        """Send, wait, receive, and move on the operations that something became of."""
        self._engine.flush()
        self._engine.wait()
        self._engine.drain()
        self._engine.flush()
        for event in self._engine.events():
            running = self._running.pop(event.token, None)
            if running:
                running.take(event)
                if running.token is not None:
                    self._running[running.token] = running
