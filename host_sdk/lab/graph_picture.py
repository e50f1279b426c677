"""A lab as a picture: the switch, hosts above it, appliances below, and what is special about their cables."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from host_sdk.lab.graph import LinkRates, cable_words, quantity
from host_sdk.lab.state import LabState
from host_sdk.lab.topology import Appliance, Host, Topology
from host_sdk.wire.errors import ConfigError

_COLUMNS: Final = 8
_PITCH: Final = 1.75  # inches from one column to the next
_BOX: Final = (1.35, 0.62)  # inches
_ROW: Final = 0.92  # inches from one row to the next, without notes
_NOTE: Final = 0.12  # inches of a line of them
_MOST_NOTES: Final = 4
_GAP: Final = 0.75  # inches between the switch and a row
_INK: Final = "#1f2933"
_QUIET: Final = "#66727f"
_CABLE: Final = "#9aa5b1"
_DAMAGED: Final = "#c2570c"
_PLAIN: Final = ("#eef2f6", "#7b8794")
_CONDITIONS: Final = {  # fill and edge
    "up": ("#e6f4ea", "#2e7d43"),
    "paused": ("#fff6db", "#b7791f"),
    "unplugged": ("#fff6db", "#b7791f"),
    "starting": ("#fff6db", "#b7791f"),
    "restarting": ("#fff6db", "#b7791f"),
    "unhealthy": ("#fdecea", "#b3261e"),
    "ended": ("#fdecea", "#b3261e"),
}


class _Drawing:
    """Places nodes and draws them; coordinates are inches, with y downwards from the switch."""

    def __init__(self, axes: Axes, state: LabState | None, rates: Mapping[str, LinkRates]) -> None:
        self._axes, self._state, self._rates = axes, state, rates

    def switch(self, width: float, label: str) -> None:
        """Draw the switch as a bar."""
        self._box(-width / 2, -0.19, width, 0.38, ("#d9e2ec", "#486581"))
        self._axes.text(0, 0, label, ha="center", va="center", fontsize=9, weight="bold", color=_INK)

    def node(self, node: Host | Appliance, x: float, y: float, gutter: float) -> None:
        """Draw a node with its cable; ``gutter`` is where that runs down, left of the node, or x itself."""
        side = -1 if y < 0 else 1
        damaged = isinstance(node, Appliance) and bool(node.faults_in or node.faults_out)
        colour = _DAMAGED if damaged else _CABLE
        width, height = _BOX
        if gutter == x:
            path = ([x, x], [0.19 * side, y - side * height / 2])
        else:
            path = ([gutter, gutter, x - width / 2], [0.19 * side, y, y])
        self._axes.plot(*path, color=colour, linewidth=1.6, linestyle="--" if damaged else "-", zorder=1)
        found = self._state.node(node.name) if self._state else None
        self._box(
            x - width / 2, y - height / 2, width, height, _CONDITIONS.get(found.condition, _PLAIN) if found else _PLAIN
        )
        what = node.profile.rpartition("/")[2] if isinstance(node, Appliance) else "host"
        if found and found.condition != "up":
            what = f"{what} · {found.condition}"
        self._axes.text(x, y - 0.12, node.name, ha="center", va="center", fontsize=9, weight="bold", color=_INK)
        self._axes.text(x, y + 0.04, what, ha="center", va="center", fontsize=7, color=_INK)
        self._axes.text(x, y + 0.19, node.mac, ha="center", va="center", fontsize=6, color=_QUIET, family="monospace")
        self._notes(node, x, y + side * (height / 2 + 0.06), side)

    def notes(self, node: Host | Appliance) -> tuple[list[str], list[str]]:
        """Return the lines that stand at a node: rates, and what is special about its cable."""
        rates = []
        if rate := self._rates.get(node.name):
            rates.append(f"in {quantity(rate.frames_in)}/s · out {quantity(rate.frames_out)}/s")
        damage = [line for part in cable_words(node).split(",") for line in textwrap.wrap(part, 26)]
        return rates, damage if len(damage) <= _MOST_NOTES else [*damage[: _MOST_NOTES - 1], "…"]

    def row_height(self, nodes: Sequence[Host | Appliance]) -> float:
        """Return how far apart rows of these nodes are."""
        return _ROW + _NOTE * max(sum(map(len, self.notes(node))) for node in nodes)

    def _notes(self, node: Host | Appliance, x: float, y: float, side: int) -> None:
        rates, damage = self.notes(node)
        for index, line in enumerate([*rates, *damage]):
            colour = _QUIET if index < len(rates) else _DAMAGED
            place = y + side * _NOTE * index
            self._axes.text(x, place, line, ha="center", va="top" if side > 0 else "bottom", fontsize=6, color=colour)

    def _box(self, x: float, y: float, width: float, height: float, colours: tuple[str, str]) -> None:
        style = "round,pad=0,rounding_size=0.07"
        fill, edge = colours
        self._axes.add_patch(
            FancyBboxPatch(
                (x, y), width, height, boxstyle=style, facecolor=fill, edgecolor=edge, linewidth=1.2, zorder=2
            )
        )


def draw(
    path: Path,
    topology: Topology,
    state: LabState | None = None,
    rates: Mapping[str, LinkRates] | None = None,
) -> None:
    """Draw a lab to a file.

    Args:
        path: The file; its ending says whether it becomes PNG or SVG.
        topology: The lab.
        state: How it is, if it is up.
        rates: What goes over its cables, by node.

    Raises:
        ConfigError: The ending is another one, or the file cannot be written.
    """
    if path.suffix.lower() not in (".png", ".svg"):
        raise ConfigError(f"{path}: a picture ends with .png or .svg")
    columns = min(max(len(topology.appliances), len(topology.hosts)), _COLUMNS)
    figure = Figure(facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    drawing = _Drawing(axes, state, rates or {})
    above = _GAP + 0.4 + _place(drawing, topology.hosts, -1)
    below = _GAP + _place(drawing, topology.appliances, 1)
    width = max(columns * _PITCH, 4.0) + 0.5
    figure.set_size_inches(width, above + below)
    axes.set_xlim(-width / 2, width / 2)
    axes.set_ylim(below, -above)
    axes.axis("off")
    trunk = "switch" if topology.cabling == "switch" else "one cable"
    drawing.switch(columns * _PITCH + 0.2, f"{trunk} · mtu {topology.mtu}")
    driver = state.driver if state else topology.driver
    title = f"lab {topology.name}{f' · {driver}' if driver else ''}"
    axes.text(-width / 2 + 0.2, -above + 0.2, title, ha="left", va="center", fontsize=11, weight="bold", color=_INK)
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from None


def _place(drawing: _Drawing, nodes: Sequence[Host | Appliance], side: int) -> float:
    """Draw nodes in rows, of which the first hangs at the switch, and cables of the others run between them.

    Returns:
        How high the rows are together, in inches.
    """
    rows = [nodes[start : start + _COLUMNS] for start in range(0, len(nodes), _COLUMNS)]
    height = drawing.row_height(nodes)
    step = min(0.07, (_PITCH - _BOX[0] - 0.06) / len(rows))  # between cables of further rows
    for index, row in enumerate(rows):
        columns = len(rows[0]) if index else len(row)
        for column, node in enumerate(row):
            x = (column - (columns - 1) / 2) * _PITCH
            # The nearest row's cable runs nearest to its boxes, so that none crosses another.
            gutter = x if index == 0 else x - _PITCH / 2 + (len(rows) / 2 - index) * step
            drawing.node(node, x, side * (_GAP + _BOX[1] / 2 + index * height), gutter)
    return len(rows) * height
