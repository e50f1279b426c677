"""The pipelines that are loaded, and the queue of each."""

from collections.abc import Iterator
from dataclasses import dataclass

from appliance.dataplane.queue import JobQueue
from appliance.pipelines.pipeline import Pipeline
from host_sdk.wire.errors import ConfigError
from host_sdk.wire.schema import RETRY_AFTER_UNIT_US

SLOTS = 256
GENERATIONS = 256
_OUTLIER = 4  # times the pace: what one batch counts at most


@dataclass(slots=True)
class Loaded:
    """A pipeline and the requests that wait for it.

    Attributes:
        others: The same pipeline on the DLA cores after the first, where each has a thread of its own.
        sealed: Whether it takes sealed requests alone.
        pace_ns: Smoothed ns that one request took lately; what retry_after is cut from.
    """

    pipeline: Pipeline
    queue: JobQueue
    others: tuple[Pipeline, ...] = ()
    sealed: bool = False
    pace_ns: float = 100_000.0

    def on_core(self, core: int) -> Pipeline:
        """Return the pipeline as one DLA core runs it."""
        return self.others[core - 1] if core else self.pipeline

    def description(self) -> dict[str, object]:
        """Return what a client needs to use it, of types that msgpack carries."""
        return {**self.pipeline.description(), "sealed": self.sealed}

    @property
    def retry_after(self) -> int:
        """When about half of what waits will have been served, in units of 100 µs."""
        wait_ns = self.pace_ns * max(1, len(self.queue)) / 2
        return min(max(1, int(wait_ns / (RETRY_AFTER_UNIT_US * 1000))), 0xFFFF)

    def served(self, count: int, took_ns: int) -> None:
        """Take a batch into the pace; one that took very long, as when the processor was away, only in part."""
        took = max(took_ns / count, 1.0)  # on a clock that stands still meanwhile it would come to nothing
        self.pace_ns += (min(took, _OUTLIER * self.pace_ns) - self.pace_ns) / 8


class PipelineTable:
    """Slots for pipelines.

    A handle is the slot in its lower 8 bits and the slot's generation above, which moves on with every load: so a
    handle of a pipeline that was replaced is unknown, never another pipeline's.

    Args:
        capacity: Pipelines that can be loaded, at most 255.

    Attributes:
        version: Moves on with every change, so that what was remembered of pipelines can be dropped.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._slots: dict[int, Loaded] = {}
        self._all: tuple[Loaded, ...] = ()
        self._generations = [0] * SLOTS
        self.version = 0

    def __iter__(self) -> Iterator[Loaded]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._slots)

    def get(self, handle: int) -> Loaded | None:
        """Return what a handle names."""
        loaded = self._slots.get(handle % SLOTS)
        return loaded if loaded and loaded.pipeline.handle == handle else None

    def named(self, name: str) -> Loaded | None:
        """Return what a name names."""
        return next((loaded for loaded in self if loaded.pipeline.manifest.name == name), None)

    def next_handle(self, replaced: Loaded | None = None) -> int:
        """Return the handle that the next pipeline gets.

        Args:
            replaced: The pipeline whose slot it takes over, if any.

        Raises:
            ConfigError: Every slot is taken.
        """
        own = replaced.pipeline.handle % SLOTS if replaced else None
        for slot in range(1, self._capacity + 1):
            if slot == own or (own is None and slot not in self._slots):
                return (self._generations[slot] + 1) % GENERATIONS * SLOTS + slot
        raise ConfigError(f"all {self._capacity} pipeline slots are taken; remove a pipeline first")

    def insert(self, loaded: Loaded) -> None:
        """Put a pipeline into the slot of its handle."""
        slot = loaded.pipeline.handle % SLOTS
        self.version += 1
        self._generations[slot] = loaded.pipeline.handle // SLOTS
        self._slots[slot] = loaded
        self._all = tuple(self._slots.values())

    def remove(self, loaded: Loaded) -> None:
        """Empty the slot of a pipeline."""
        slot = loaded.pipeline.handle % SLOTS
        if self._slots.get(slot) is loaded:
            del self._slots[slot]
            self._all = tuple(self._slots.values())
            self.version += 1
