"""Results: rows of medians over repeats, with what was measured in each; as JSON and as cells of a table."""

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from host_sdk.bench.plan import Point
from host_sdk.bench.system import Sample

COLUMNS = (
    "MODEL",
    "SYSTEM",
    "LOAD",
    "AT",
    "INF/S",
    "OF LIMIT",
    "p50 µs",
    "p99 µs",
    "p99.9 µs",
    "CPU µs",
    "BUSY",
    "MB",
    "LOST",
)
LEFT_ALIGNED = 3  # columns of text; the others are numbers


@dataclass(frozen=True, slots=True)
class Repeat:
    """One sample, and the limit measured just before it.

    Attributes:
        sample: What the load found.
        limit: Inferences/s in process, run one by one.
        limit_batched: The same in batches of 32.
        offered_per_s: Of an open loop: mean arrivals in a second; else 0.
    """

    sample: Sample
    limit: float
    limit_batched: float
    offered_per_s: float = 0.0

    def to_mapping(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            **_figures(self.sample),
            "requests": self.sample.requests,
            "lost": self.sample.lost,
            "sent_again": self.sample.sent_again,
            "server_restarts": self.sample.restarts,
            "offered_per_s": _rounded(self.offered_per_s),
            "inprocess_per_s": _rounded(self.limit),
            "inprocess_batch32_per_s": _rounded(self.limit_batched),
        }


@dataclass(slots=True)
class Row:
    """All repeats of one point.

    Attributes:
        system: Name of the system.
        model: Name of the model.
        point: The load.
        repeats: At least one.
    """

    system: str
    model: str
    point: Point
    repeats: list[Repeat] = field(default_factory=list)

    def to_mapping(self) -> dict[str, Any]:
        """Return it as plain data: medians, then the repeats."""
        figures = [_figures(repeat.sample) for repeat in self.repeats]
        medians = {key: round(statistics.median(each[key] for each in figures), 2) for key in figures[0]}
        ratios = [repeat.sample.inferences_per_s / repeat.limit for repeat in self.repeats]
        batched = [repeat.sample.inferences_per_s / repeat.limit_batched for repeat in self.repeats]
        return {
            "system": self.system,
            "model": self.model,
            "mode": self.point.label,
            "concurrency": self.point.concurrency,
            "inferences_per_request": self.point.batch,
            "ratio_to_inprocess": round(statistics.median(ratios), 4),
            "ratio_to_inprocess_batch32": round(statistics.median(batched), 4),
            **medians,
            "lost": sum(repeat.sample.lost for repeat in self.repeats),
            "repeats": [repeat.to_mapping() for repeat in self.repeats],
        }


@dataclass(frozen=True, slots=True)
class Report:
    """A whole run.

    Attributes:
        machine: Where it was measured, with what versions.
        parameters: With what it was asked for.
        rows: What was measured.
        verified: For each model and system, on how many inputs its outputs were compared.
        left_out: Systems that cannot be had here, and why.
        failed: Systems that could be had and were not measured to the end, and why.
    """

    machine: dict[str, Any]
    parameters: dict[str, Any]
    rows: list[Row]
    verified: dict[str, dict[str, int]]
    left_out: dict[str, str]
    failed: dict[str, str]

    def to_mapping(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "machine": self.machine,
            "parameters": self.parameters,
            "verified_inputs": self.verified,
            "left_out": self.left_out,
            "failed": self.failed,
            "rows": [row.to_mapping() for row in self.rows],
        }

    def to_json(self) -> str:
        """Return it as JSON."""
        return json.dumps(self.to_mapping(), indent=1) + "\n"


def _figures(sample: Sample) -> dict[str, float]:
    return {
        "inferences_per_s": _rounded(sample.inferences_per_s),
        "p50_us": _rounded(sample.quantiles.p50_us),
        "p99_us": _rounded(sample.quantiles.p99_us),
        "p999_us": _rounded(sample.quantiles.p999_us),
        "server_cpu_us_per_inference": round(sample.server_cpu_us, 2),
        # Where this stays below 1 under many requests, something else than the server is the limit.
        "server_core_share": round(sample.inferences_per_s * sample.server_cpu_us / 1e6, 3),
        "rss_mb": _rounded(sample.rss_mb),
    }


def _rounded(value: float) -> float:
    return round(value, 1)


def cells(rows: Iterable[dict[str, Any]]) -> list[Sequence[str]]:
    """Return the rows of a report's mapping as cells under COLUMNS."""
    return [
        (
            row["model"],
            row["system"],
            row["mode"],
            str(row["concurrency"] or ""),
            f"{row['inferences_per_s']:,.0f}",
            f"{row['ratio_to_inprocess']:.0%}",
            *(f"{row[key]:,.0f}" for key in ("p50_us", "p99_us", "p999_us")),
            f"{row['server_cpu_us_per_inference']:,.1f}",
            f"{row['server_core_share']:.0%}",
            f"{row['rss_mb']:,.0f}",
            str(row["lost"] or ""),
        )
        for row in rows
    ]
