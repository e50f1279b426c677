"""Pictures of a capture: how long requests took, and what happened in time to the most remarkable ones."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from host_sdk.capture.explain import Summary, duration, outcome
from host_sdk.capture.history import Kind, RequestHistory

FORMATS = (".png", ".svg")
MAX_ROWS = 40  # requests in the time-sequence picture
MAX_POINTS = 50_000  # in the latency plot: of more, the slowest and an even choice of the others
_INK, _QUIET, _OURS = "#222222", "#6b7278", "#1f6f8b"
_BAD = "#c0392b"
_ROW_INCHES = 0.26
_FAR = 20
# Kind to marker, colour and name; what is not here is not drawn.
_MARKS: dict[Kind, tuple[str, str, str]] = {
    Kind.SENT: ("|", _INK, "sent"),
    Kind.RETRANSMITTED: (">", "#d35400", "sent again"),
    Kind.FRAGMENT_LATE: ("*", _BAD, "fragment lost (inferred)"),
    Kind.ANSWER_FRAGMENT_LATE: ("*", _BAD, "fragment lost (inferred)"),
    Kind.ANSWER_LOST: ("*", _BAD, "fragment lost (inferred)"),
    Kind.DUPLICATED: ("d", "#8e44ad", "duplicated (inferred)"),
    Kind.ANSWER_DUPLICATED: ("d", "#8e44ad", "duplicated (inferred)"),
    Kind.PAUSED: ("s", "#e0a800", "BUSY or the like"),
    Kind.WORKING: (".", _QUIET, "WORKING, GRANT, RESEND"),
    Kind.GRANT: (".", _QUIET, "WORKING, GRANT, RESEND"),
    Kind.RESEND: (".", _QUIET, "WORKING, GRANT, RESEND"),
    Kind.DAMAGED: ("x", _BAD, "damaged"),
    Kind.ANSWER_DAMAGED: ("x", _BAD, "damaged"),
    Kind.UNKNOWN: ("P", _BAD, "UNKNOWN"),
    Kind.CANCEL: ("X", _INK, "CANCEL"),
    Kind.BEGAN: ("^", "#27ae60", "batch began"),
    Kind.ANSWERED: ("o", _OURS, "answered"),
    Kind.ANSWERED_AGAIN: ("o", "#9cc3d0", "answered again"),
}


def draw(summary: Summary, rows: Sequence[RequestHistory], path: Path, title: str) -> None:
    """Draw latencies over time, and below it what happened to some requests.

    Args:
        summary: Of all requests.
        rows: Those that are drawn one by one; the first MAX_ROWS of them.
        path: File to write; its suffix is one of FORMATS.
        title: What is shown.
    """
    rows = sorted(rows[:MAX_ROWS], key=lambda history: history.began_ns)
    below = 0.9 + _ROW_INCHES * max(4, len(rows))
    figure = Figure(figsize=(11, 4.2 + below), dpi=130, layout="constrained")
    above, under = figure.subplots(2, 1, height_ratios=(3.2, below))
    times, latencies = summary.latencies()
    starts = [int(times.min())] if len(times) else []
    start = min(starts + [history.began_ns for history in rows], default=0)
    _draw_latencies(above, times - start, latencies)
    _draw_sequence(under, rows, start)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold", color=_INK)
    figure.savefig(path, format=path.suffix[1:])


def _draw_latencies(axes: Axes, times: NDArray[np.int64], latencies: NDArray[np.int64]) -> None:
    axes.set_title("latency of INFER requests at the point of capture", loc="left", fontsize=9, color=_QUIET)
    _tidy(axes)
    axes.set_xlabel("seconds from the first request", fontsize=8, color=_QUIET)
    if not len(latencies):
        axes.text(0.5, 0.5, "no request has an answer", transform=axes.transAxes, ha="center", color=_QUIET)
        return
    shown = _choice(latencies)
    size = 4 if len(shown) > 5000 else 12
    axes.scatter(
        times[shown] / 1e9, latencies[shown] / 1e3, s=size, color=_OURS, alpha=0.5, linewidths=0, rasterized=True
    )
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: duration(round(value * 1000))))
    axes.yaxis.set_minor_formatter("")
    for name, share in (("median", 0.5), ("p99", 0.99)):
        value = float(np.quantile(latencies, share))
        axes.axhline(value / 1e3, color=_INK, linewidth=0.7, linestyle="--" if share < 0.9 else ":")
        axes.text(
            1.0,
            value / 1e3,
            f" {name} {duration(round(value))}",
            transform=axes.get_yaxis_transform(),
            fontsize=8,
            va="center",
        )


def _choice(latencies: NDArray[np.int64]) -> NDArray[np.intp]:
    """Return which points are drawn, intp: all, or the slowest and an even choice of the others."""
    if len(latencies) <= MAX_POINTS:
        return np.arange(len(latencies))
    slowest = np.argpartition(latencies, -MAX_POINTS // 10)[-MAX_POINTS // 10 :]
    even = np.linspace(0, len(latencies) - 1, MAX_POINTS - len(slowest)).astype(np.intp)
    return np.union1d(slowest, even)


def _draw_sequence(axes: Axes, rows: Sequence[RequestHistory], start: int) -> None:
    axes.set_title(
        "what happened to the most remarkable requests, from the first frame of each",
        loc="left",
        fontsize=9,
        color=_QUIET,
    )
    _tidy(axes)
    axes.set_xlabel("time since its first frame", fontsize=8, color=_QUIET)
    if not rows:
        axes.text(0.5, 0.5, "nothing remarkable happened", transform=axes.transAxes, ha="center", color=_QUIET)
        axes.set_yticks([])
        return
    segments, colours = [], []
    points: dict[tuple[str, str, str], list[tuple[float, int]]] = {}
    for row, history in enumerate(rows):
        last = max((event.time_ns for event in history.events), default=history.began_ns)
        segments.append([(0.0, row), ((last - history.began_ns) / 1e3, row)])
        colours.append(_QUIET if outcome(history) == "answered" else _BAD)
        for event in history.events:
            if event.kind in _MARKS:
                points.setdefault(_MARKS[event.kind], []).append(((event.time_ns - history.began_ns) / 1e3, row))
    axes.add_collection(LineCollection(segments, colors=colours, linewidths=0.8, zorder=1))
    for (marker, colour, _), found in points.items():
        across, down = zip(*found, strict=True)
        axes.scatter(across, down, marker=marker, s=34, color=colour, zorder=2, linewidths=1.1)
    ends = [segment[1][0] for segment in segments]
    if max(ends) > _FAR * float(np.median(ends)):  # a few took so much longer that the others would be dots
        axes.set_xscale("symlog", linthresh=max(1.0, float(np.min(ends))))
    axes.set_xlim(left=-max(ends) / 80)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: duration(round(value * 1000)) if value else "0"))
    labels = [f"{_short(history.request)} at {(history.began_ns - start) / 1e9:.3f} s" for history in rows]
    axes.set_yticks(range(len(rows)), labels, fontsize=7, family="monospace")
    axes.set_ylim(len(rows) - 0.5, -0.5)
    entries: dict[str, Any] = {
        name: Line2D([], [], marker=marker, color=colour, linestyle="", markersize=6) for marker, colour, name in points
    }
    axes.legend(entries.values(), entries, fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))


def _short(request: int) -> str:
    return str(request) if request < 10**9 else f"…{request & 0xFFFFFF:06x}"


def _tidy(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(labelsize=8, colors=_INK)
    axes.grid(axis="x", color="#e6e8ea", linewidth=0.6)
    axes.set_axisbelow(True)
