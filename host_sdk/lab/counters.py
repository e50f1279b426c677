"""Counters of the interfaces of network namespaces, as /proc has them."""

from pathlib import Path
from typing import Final

from host_sdk.lab.driver import LinkCounters

NOTHING: Final = LinkCounters(0, 0, 0, 0)
_HEADINGS: Final = 2  # lines


def read_counters(pid: int) -> dict[str, LinkCounters]:
    """Return the counters of all interfaces in the network namespace of a process; nothing when it is gone."""
    try:
        return parse_counters(Path("/proc", str(pid), "net/dev").read_text())
    except OSError:
        return {}


def parse_counters(text: str) -> dict[str, LinkCounters]:
    """Return the counters of all interfaces that a file ``/proc/net/dev`` has."""
    found = {}
    for line in text.splitlines()[_HEADINGS:]:
        name, _, numbers = line.partition(":")
        values = [int(number) for number in numbers.split()]
        found[name.strip()] = LinkCounters(values[1], values[0], values[9], values[8])
    return found
