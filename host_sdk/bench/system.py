"""What every system under test can do, and what is learnt from one load on it."""

from dataclasses import dataclass
from typing import Protocol

from host_sdk.bench.models import Workload


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Median and tails of latencies, in µs."""

    p50_us: float
    p99_us: float
    p999_us: float


@dataclass(frozen=True, slots=True)
class Sample:
    """What one load found.

    Attributes:
        inferences_per_s: Inferences answered in a second.
        quantiles: Latencies of requests; under an open loop counted from when each was due.
        requests: Requests answered while it counted.
        lost: Requests never answered, or refused.
        sent_again: Requests that had to be sent more than once.
        restarts: Times that the server died and was started again before the load came to its end.
        server_cpu_us: µs of processor that the server took for an inference.
        rss_mb: MB that the server had resident after the load.
    """

    inferences_per_s: float
    quantiles: Quantiles
    requests: int
    lost: int
    sent_again: int = 0
    restarts: int = 0
    server_cpu_us: float = 0.0
    rss_mb: float = 0.0


@dataclass(frozen=True, slots=True)
class Load:
    """A load to put on a system.

    Attributes:
        mode: ``closed``: so many requests always outstanding; ``open``: requests at random times.
        concurrency: Of a closed loop: requests outstanding.
        rate_per_s: Of an open loop: mean arrivals in a second.
        batch: Inferences in a request.
        flags: Of an appliance's requests.
        warmup_s: Seconds before it counts.
        seconds: Seconds that it counts.
        seed: Of the arrivals.
    """

    mode: str
    concurrency: int
    rate_per_s: float
    batch: int
    flags: int
    warmup_s: float
    seconds: float
    seed: int


class System(Protocol):
    """A system under test, serving one model at a time on the server's core."""

    @property
    def name(self) -> str:
        """What it is called on the command line and in results."""

    @property
    def batches(self) -> tuple[int, ...]:
        """Inferences that a request can carry, of those that are measured."""

    @property
    def open_loop(self) -> bool:
        """Whether it can be loaded by an open loop."""

    def prepare(self) -> None:
        """Get what it needs onto this machine.

        Raises:
            NapuError: It cannot be had; the message says why and what would help.
        """

    def start(self, workload: Workload) -> None:
        """Start serving a model.

        Raises:
            NapuError: It does not come up.
        """

    def check(self) -> int:
        """Compare its answers with those in process, byte for byte; return on how many inputs.

        Raises:
            DeviceError: They differ.
        """

    def load(self, load: Load) -> Sample:
        """Put a load on it, bounded in time.

        Raises:
            NapuError: It does not answer, or wrongly.
        """

    def stop(self) -> None:
        """End it; a second call does nothing."""
