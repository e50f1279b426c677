"""What executes batches: the dataplane's own thread, or one thread for each DLA core."""

import contextlib
import os
import queue
import threading
from collections import deque
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from appliance.clock import Clock
from appliance.dataplane.table import Loaded
from appliance.pipelines.pipeline import Outcome, Pipeline, Standing

Ended = tuple[int, Outcome | Exception]


class Cores(Protocol):
    """Executes batches, one on each core at a time."""

    @property
    def idle(self) -> bool:
        """Whether a core is free."""

    @property
    def inline(self) -> bool:
        """Whether batches run on the caller's thread."""

    @property
    def fileno(self) -> int:
        """Descriptor that polls readable when collect has something; -1 where nothing runs elsewhere."""

    def begin(self, loaded: Loaded, bodies: NDArray[np.uint8] | list[bytes], standing: Standing) -> int:
        """Execute a batch on a core that is free, and return its number.

        Args:
            loaded: The pipeline.
            bodies: As :meth:`Pipeline.run` takes them.
            standing: As :meth:`Pipeline.run` takes it.
        """

    def collect(self) -> list[Ended]:
        """Return the batches that have ended: their numbers, and what became of them."""

    def close(self) -> None:
        """End the threads; a second call does nothing."""


def _execute(
    pipeline: Pipeline, bodies: NDArray[np.uint8] | list[bytes], clock: Clock, standing: Standing
) -> Outcome | Exception:
    try:
        return pipeline.run(bodies, clock, standing)
    except Exception as error:  # noqa: BLE001 - a body that finds a bug, here or in a library, must not end the node
        return error


class InlineCore:
    """One core, which is the caller's thread."""

    idle, inline, fileno = True, True, -1

    def __init__(self, clock: Clock) -> None:
        self._clock, self._number = clock, 0
        self._ended: list[Ended] = []

    def begin(self, loaded: Loaded, bodies: NDArray[np.uint8] | list[bytes], standing: Standing) -> int:
        """Execute a batch and return its number."""
        self._number += 1
        self._ended.append((self._number, _execute(loaded.pipeline, bodies, self._clock, standing)))
        return self._number

    def collect(self) -> list[Ended]:
        """Return the batches that have ended."""
        ended, self._ended = self._ended, []
        return ended

    def close(self) -> None:
        """Nothing is to be ended."""


@dataclass(frozen=True, slots=True)
class _Order:
    number: int
    loaded: Loaded
    bodies: NDArray[np.uint8] | list[bytes]
    standing: Standing


class ThreadedCores:
    """One thread for each core, which share one dataplane: an invocation of a model releases the interpreter's lock.

    Args:
        count: Cores.
        clock: Measures the stages.
    """

    inline = False

    def __init__(self, count: int, clock: Clock) -> None:
        self._clock, self._number, self._free = clock, 0, count
        self._orders: queue.SimpleQueue[_Order | None] = queue.SimpleQueue()
        self._ended: deque[Ended] = deque()
        self.fileno = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._threads = [threading.Thread(target=self._work, args=(core,), daemon=True) for core in range(count)]
        for thread in self._threads:
            thread.start()

    @property
    def idle(self) -> bool:
        """Whether a core is free."""
        return self._free > 0

    def begin(self, loaded: Loaded, bodies: NDArray[np.uint8] | list[bytes], standing: Standing) -> int:
        """Hand a batch to a core that is free, and return its number."""
        self._number += 1
        self._free -= 1
        self._orders.put(_Order(self._number, loaded, bodies, standing))
        return self._number

    def collect(self) -> list[Ended]:
        """Return the batches that have ended."""
        ended = []
        while self._ended:
            ended.append(self._ended.popleft())
        if ended:
            self._free += len(ended)
            with contextlib.suppress(BlockingIOError):  # it is written after the batch is put here
                os.eventfd_read(self.fileno)
        return ended

    def close(self) -> None:
        """End the threads, after what they run; a second call does nothing."""
        threads, self._threads = self._threads, []
        for _ in threads:
            self._orders.put(None)
        for thread in threads:
            thread.join()
        if threads:
            os.close(self.fileno)

    def _work(self, core: int) -> None:
        while order := self._orders.get():
            pipeline = order.loaded.on_core(core)
            self._ended.append((order.number, _execute(pipeline, order.bodies, self._clock, order.standing)))
            os.eventfd_write(self.fileno, 1)
