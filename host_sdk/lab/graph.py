"""A lab as a tree of text, with what goes over its cables."""

from collections.abc import Mapping
from dataclasses import dataclass

from host_sdk.lab.driver import LinkCounters
from host_sdk.lab.state import LabState
from host_sdk.lab.topology import Appliance, Host, Topology

_PREFIXES = ("", "k", "M", "G", "T")


@dataclass(frozen=True, slots=True)
class LinkRates:
    """What goes over a node's cable in a second, as the node sees it.

    Attributes:
        frames_in: Frames in a second that come to the node.
        bits_in: Bits of them, with their Ethernet headers.
        frames_out: Frames that it sends.
        bits_out: Bits of them.
    """

    frames_in: float
    bits_in: float
    frames_out: float
    bits_out: float

    def words(self) -> str:
        """Return the rates for people."""
        there = f"in {quantity(self.frames_in)}/s {quantity(self.bits_in)}bit/s"
        return f"{there}, out {quantity(self.frames_out)}/s {quantity(self.bits_out)}bit/s"


def quantity(value: float) -> str:
    """Return a number with three digits and a prefix, as ``12.3 k``; without a prefix the blank stays: ``640 ``."""
    scale = 0
    while value >= 999.5 and scale < len(_PREFIXES) - 1:
        value, scale = value / 1000, scale + 1
    digits = 0 if value >= 99.95 or scale == 0 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f} {_PREFIXES[scale]}"


def link_rates(
    before: Mapping[str, LinkCounters], after: Mapping[str, LinkCounters], seconds: float
) -> dict[str, LinkRates]:
    """Return the rates between two looks at the counters; of nodes that both have.

    Counters that are smaller afterwards are those of a new cable, which began at 0.
    """

    def rate(old: int, new: int) -> float:
        return (new - old if new >= old else new) / seconds

    return {
        node: LinkRates(
            rate(old.frames_in, new.frames_in),
            8 * rate(old.bytes_in, new.bytes_in),
            rate(old.frames_out, new.frames_out),
            8 * rate(old.bytes_out, new.bytes_out),
        )
        for node, new in after.items()
        if (old := before.get(node)) is not None
    }


def cable_words(node: Host | Appliance) -> str:
    """Return what is special about a node's cable; nothing where nothing is."""
    words = [f"mtu {node.mtu}"] if node.mtu else []
    if isinstance(node, Appliance) and node.faults_in == node.faults_out and node.faults_in:
        words.append(f"both ways {node.faults_in}")
    elif isinstance(node, Appliance):
        words += [f"{way} {text}" for way, text in (("in", node.faults_in), ("out", node.faults_out)) if text]
    return "; ".join(words)


def tree(topology: Topology, state: LabState | None = None, rates: Mapping[str, LinkRates] | None = None) -> list[str]:
    """Return the lines of the tree.

    Args:
        topology: The lab.
        state: How it is, if it is up.
        rates: What goes over its cables, by node.
    """
    driver = state.driver if state else topology.driver or "any driver"
    trunk = "switch" if topology.cabling == "switch" else "cable"
    lines = [f"{topology.name} ({driver})", f"└── {trunk} (mtu {topology.mtu})"]
    kinds = [node.profile.rpartition("/")[2] if isinstance(node, Appliance) else "host" for node in topology.nodes]
    width, kind_width = max(len(node.name) for node in topology.nodes), max(map(len, kinds))
    for node, kind in zip(topology.nodes, kinds, strict=True):
        branch = "└──" if node is topology.nodes[-1] else "├──"
        parts = [f"{node.name:{width}}", node.mac, f"{kind:{kind_width}}"]
        found = state.node(node.name) if state else None
        parts += [found.condition if found.exit_code is None else f"ended with {found.exit_code}"] if found else []
        parts += [words] if (words := cable_words(node)) else []
        parts += [rates[node.name].words()] if rates and node.name in rates else []
        lines.append(f"    {branch} {'  '.join(parts)}".rstrip())
    return lines
