"""What the demo in containers found, as a table and as an object."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import quantiles
from typing import Any, Self

from rich.console import Console

from host_sdk.cli.output import table
from host_sdk.lab.state import NodeState


@dataclass(frozen=True, slots=True)
class ClusterReport:
    """What became of the images.

    Attributes:
        sent: Images that were sent.
        answered: Those that were answered.
        lost: Those that were not.
        right: Answers with the true label.
        moved: Times that one was asked for again at another appliance.
        killed: The appliance that was killed.
        killed_after: Images that were answered by then.
        healthy_again_s: Seconds from the last answer until all were healthy that were to be.
        seconds: From the first image to the last answer.
        latency_us: 50th and 99th percentile, from first transmission to answer.
        answered_by: Answers by appliance.
        conditions: How each appliance was in the end.
        errors: What was said of those that were lost.
    """

    sent: int
    answered: int
    lost: int
    right: int
    moved: int
    killed: str
    killed_after: int
    healthy_again_s: float
    seconds: float
    latency_us: dict[str, float]
    answered_by: dict[str, int]
    conditions: dict[str, str]
    errors: list[str]

    @classmethod
    def make(
        cls, result: dict[str, Any], appliances: Sequence[NodeState], killed: str, killed_after: int, again_s: float
    ) -> Self:
        """Return the report of what the host found and how the appliances were after it."""
        latencies: list[float] = result["latency_us"]
        cuts = quantiles(latencies, n=100) if len(latencies) > 1 else [0.0] * 99
        return cls(
            sent=result["sent"],
            answered=len(latencies),
            lost=result["sent"] - len(latencies),
            right=result["right"],
            moved=result["moved"],
            killed=killed,
            killed_after=killed_after,
            healthy_again_s=again_s,
            seconds=result["seconds"],
            latency_us={"p50": cuts[49], "p99": cuts[98]},
            answered_by={node.name: result["answered_by"].get(node.mac, 0) for node in appliances},
            conditions={node.name: node.condition for node in appliances},
            errors=result["errors"],
        )

    @property
    def accuracy(self) -> float:
        """Share of right answers among the images."""
        return self.right / self.sent

    def to_mapping(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return {**asdict(self), "accuracy": self.accuracy}

    def print(self, console: Console) -> None:
        """Print the report."""
        shown = table("APPLIANCE", "ANSWERED", "", "IN THE END")
        for name, count in self.answered_by.items():
            note = f"killed after {self.killed_after} images" if name == self.killed else ""
            shown.add_row(name, str(count), note, self.conditions[name])
        console.print(shown)
        p50, p99 = (self.latency_us[key] / 1000 for key in ("p50", "p99"))
        console.print(
            f"{self.sent} images in {self.seconds:.1f} s: {self.answered} answered, [bold]{self.lost} lost[/bold], "
            f"{self.right} right ({self.accuracy:.1%}); {self.moved} asked for again at another appliance; "
            f"p50 {p50:.1f} ms, p99 {p99:.1f} ms"
        )
        for error in self.errors[:10]:
            console.print(f"lost: {error}", style="red", markup=False)
