"""Those who wait, on an event loop, for what becomes of a stream's items."""

import asyncio
from contextlib import suppress

from host_sdk.results import Inference
from host_sdk.streams import Data, InferStream
from host_sdk.wire.errors import NapuError


class Inferences:
    """A stream, and those who wait for it.

    Attributes:
        stream: The stream.
        futures: Of single inferences, by sequence number.
        progress: Set when there are results that have no future.
        learning: What finds out how its items can be sent; None while that is known.
    """

    def __init__(self, stream: InferStream) -> None:
        self.stream = stream
        self.futures: dict[int, asyncio.Future[Inference]] = {}
        self.progress = asyncio.Event()
        self.learning: asyncio.Task[None] | None = None
        self._items: list[Data] = []
        self._numbers: list[int] = []

    def add(self, item: Data, future: asyncio.Future[Inference]) -> int:
        """Take an item that is submitted with others of this turn of the loop."""
        number = self.stream.number()
        self.futures[number] = future
        self._items.append(item)
        self._numbers.append(number)
        return number

    def submit(self) -> None:
        """Submit what was added, but for what was cancelled meanwhile."""
        items, numbers = self._items, self._numbers
        self._items, self._numbers = [], []
        if len(self.futures) < len(numbers):
            pairs = [pair for pair in zip(items, numbers, strict=True) if pair[1] in self.futures]
            items, numbers = [item for item, _ in pairs], [number for _, number in pairs]
        if items:
            self.stream.submit(items, numbers)

    def hand_out(self) -> None:
        """Give results to those who wait for them."""
        results = self.stream.results
        if not results:
            return
        for number in [number for number in results if number in self.futures]:
            future, result = self.futures.pop(number), results.pop(number)
            if future.done():
                continue
            if isinstance(result, NapuError):
                future.set_exception(result)
            else:
                future.set_result(result)
        if results:
            self.progress.set()

    async def progressed(self, most_s: float | None) -> None:
        """Wait until there are results that have no future, so many seconds at most."""
        self.progress.clear()
        if self.stream.results:
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(self.progress.wait(), None if most_s is None else max(0.0, most_s))

    def fail(self, error: NapuError) -> None:
        """Give up all that is under way."""
        for future in self.futures.values():
            if not future.done():
                future.set_exception(error)
        self.futures.clear()
        self.progress.set()
