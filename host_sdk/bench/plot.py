"""A picture of a run: what each system answers, and how fast, for each model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, StrMethodFormatter

from host_sdk.bench.plan import CONCURRENCIES

_OURS, _OTHERS, _INK, _QUIET = "#1f6f8b", "#b8bec4", "#222222", "#6b7278"
_LARGEST = CONCURRENCIES[-1]
_ROW_INCHES, _GAP_INCHES = 0.24, 0.5  # of a system, and of what is between two models
_TOP_INCHES, _FOOT_INCHES = 0.75, 0.45


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Draw a report's mapping as PNG: for each model, rates at the largest concurrency, and latencies at one.

    Args:
        report: As :meth:`host_sdk.bench.report.Report.to_mapping` gives it.
        path: File to write.
    """
    rows = [row for row in report["rows"] if row["mode"] == "closed" and row["system"] != "inprocess"]
    models = list(dict.fromkeys(row["model"] for row in report["rows"]))
    systems = list(dict.fromkeys(row["system"] for row in rows))[::-1]
    inches = _TOP_INCHES + _FOOT_INCHES + len(models) * (_ROW_INCHES * max(1, len(systems)) + _GAP_INCHES)
    figure = Figure(figsize=(10, inches), dpi=150)
    axes = figure.subplots(len(models), 2, squeeze=False, sharex="col", width_ratios=(3, 2))
    for (rates, latencies), model in zip(axes, models, strict=True):
        mine = [row for row in rows if row["model"] == model]
        _draw_rates(rates, mine, systems, _limit(report["rows"], model))
        _draw_latencies(latencies, mine, systems)
        rates.set_title(model, fontsize=10, fontweight="bold", color=_INK, loc="left", x=-0.17)
        _tidy(rates, systems)
        _tidy(latencies, [""] * len(systems))
    top, bottom = 1 - _TOP_INCHES / inches, _FOOT_INCHES / inches
    gap = _GAP_INCHES / (_ROW_INCHES * max(1, len(systems)))
    figure.subplots_adjust(left=0.13, right=0.97, top=top, bottom=bottom, hspace=gap, wspace=0.08)
    _write_texts(figure, report["machine"], inches)
    figure.savefig(path, format="png")


def _write_texts(figure: Figure, machine: Mapping[str, Any], inches: float) -> None:
    """Write what the columns are, and where it was measured."""
    head = 1 - 0.3 / inches
    figure.text(0.13, head, f"inferences/s, {_LARGEST} requests outstanding", fontsize=9, color=_QUIET)
    figure.text(0.645, head, "latency of one request at a time, µs: p50 (dot) to p99", fontsize=9, color=_QUIET)
    where = f"{machine['cpu']}, Linux {machine['kernel']}, {machine['date'][:10]}"
    text = f"One core for the server, another for the load; the dashed line is the interpreter alone. {where}"
    figure.text(0.01, 0.1 / inches, text, fontsize=7, color=_QUIET)


def _limit(rows: Sequence[Mapping[str, Any]], model: str) -> float:
    """Return the median of the limits that a model's rows were compared with."""
    limits = [each["inprocess_per_s"] for row in rows if row["model"] == model for each in row["repeats"]]
    return float(median(limits))


def _colour(system: str) -> str:
    return _OURS if system.startswith("napu") else _OTHERS


def _draw_rates(axis: Axes, rows: Sequence[Mapping[str, Any]], systems: Sequence[str], limit: float) -> None:
    """Draw rates as parts of the limit, so that all models share one scale; the numbers stand beside."""
    for row in rows:
        if row["concurrency"] != _LARGEST:
            continue
        place, part = systems.index(row["system"]), row["ratio_to_inprocess"]
        axis.barh(place, part, color=_colour(row["system"]), height=0.7)
        text = f" {row['inferences_per_s']:,.0f} ({part:.0%})"
        axis.text(part, place, text, va="center", fontsize=7.5, color=_INK)
    axis.axvline(1, color=_INK, linewidth=0.9, linestyle=(0, (3, 2)))
    axis.text(1, len(systems) - 0.4, f"in process {limit:,.0f}", fontsize=7.5, color=_INK, ha="center", va="bottom")
    axis.set_xlim(0, max([1.15, *(row["ratio_to_inprocess"] + 0.2 for row in rows), axis.get_xlim()[1]]))
    axis.xaxis.set_visible(False)


def _draw_latencies(axis: Axes, rows: Sequence[Mapping[str, Any]], systems: Sequence[str]) -> None:
    for row in rows:
        if row["concurrency"] != 1:
            continue
        place, colour = systems.index(row["system"]), _colour(row["system"])
        axis.plot([row["p50_us"], row["p99_us"]], [place, place], color=colour, linewidth=2.5)
        axis.plot([row["p50_us"]], [place], "o", color=colour, markersize=5)
        text = f"{row['p50_us']:,.0f}  "
        axis.text(row["p50_us"], place, text, va="center", ha="right", fontsize=7.5, color=_INK)
    axis.set_xscale("log")
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    low = min([100.0, *(row["p50_us"] for row in rows)])
    high = max([1000.0, *(row["p99_us"] for row in rows)])
    axis.set_xlim(min(axis.get_xlim()[0], low / 2.5), max(axis.get_xlim()[1], high * 1.3))
    axis.grid(axis="x", color="#e6e8ea", linewidth=0.7)
    axis.set_axisbelow(True)


def _tidy(axis: Axes, labels: Sequence[str]) -> None:
    axis.set_yticks(range(len(labels)), labels, fontsize=8.5, color=_INK)
    axis.set_ylim(-0.6, len(labels) - 0.4)
    axis.tick_params(axis="x", labelsize=7.5, colors=_QUIET, length=0)
    axis.tick_params(axis="y", length=0)
    for side in ("top", "right", "left", "bottom"):
        axis.spines[side].set_visible(False)
