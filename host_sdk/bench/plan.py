"""What is measured, and in which order: the repeats interleaved, so that what drifts meets every system alike."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from host_sdk.bench.system import System
from host_sdk.wire.schema import Flag

CONCURRENCIES = (1, 16, 64)
OPEN_FRACTIONS = (0.5, 0.8)  # of what the closed loop reaches at the largest concurrency
BATCHED_CONCURRENCY = 16  # enough that a server never waits for requests which carry a batch each

# Other ways to ask an appliance, and how results call them.
VARIANTS = {0: ", datagrams", int(Flag.ONCE | Flag.CRC | Flag.TRAILER): ", with CRC and trailer"}


@dataclass(frozen=True, slots=True)
class Point:
    """One load to measure.

    Attributes:
        mode: ``closed`` or ``open``.
        concurrency: Requests outstanding in a closed loop; 0 in an open one.
        fraction: Of an open loop: its rate as a part of saturation.
        batch: Inferences in a request.
        flags: Of an appliance's requests: by default executed once, as what goes over TCP is, with a trailer.
    """

    mode: str
    concurrency: int = 0
    fraction: float = 0.0
    batch: int = 1
    flags: int = int(Flag.ONCE | Flag.TRAILER)

    @property
    def label(self) -> str:
        """How results call it."""
        if self.mode == "open":
            return f"open at {self.fraction:.0%}"
        suffix = f", {self.batch} in a request" if self.batch > 1 else VARIANTS.get(self.flags, "")
        return self.mode + suffix

    @property
    def description(self) -> str:
        """How messages call it."""
        return f"{self.label}, {self.concurrency} outstanding" if self.concurrency else self.label


@dataclass(frozen=True, slots=True)
class Step:
    """One point of one system in one repeat."""

    repeat: int
    system: System
    point: Point


def points(system: System, *, quick: bool) -> list[Point]:
    """Return what is measured of a system; an open loop comes after the closed one that tells its rate."""
    if quick:
        return [Point("closed", 1), Point("closed", CONCURRENCIES[-1])]
    closed = [Point("closed", concurrency) for concurrency in CONCURRENCIES]
    batched = [Point("closed", BATCHED_CONCURRENCY, batch=batch) for batch in system.batches if batch > 1]
    opened = [Point("open", fraction=fraction) for fraction in OPEN_FRACTIONS] if system.open_loop else []
    varied = [Point("closed", CONCURRENCIES[-1], flags=flags) for flags in VARIANTS] if system.open_loop else []
    return closed + batched + varied + opened


def schedule(systems: Sequence[System], repeat: int, *, quick: bool) -> Iterator[Step]:
    """Yield the steps of one repeat: every system once, in every other repeat the other way round."""
    for system in systems if repeat % 2 == 0 else reversed(systems):
        for point in points(system, quick=quick):
            yield Step(repeat, system, point)
