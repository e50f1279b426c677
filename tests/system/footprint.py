"""What many appliances take of one machine at rest: ``python -m tests.system.footprint --nodes 32``, as root.

Each has a network namespace at one bridge, is asked for its health every so often, and is else left alone. Told are
memory beyond pages that are shared (USS), memory with a share of those (PSS), and processor time, by part.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from tests.rig.nodes import NodeProcess, node_process
from tests.rig.switched import Switched, switched

_MB = 1000


@dataclass(frozen=True)
class Memory:
    """Memory of one process, in kB: its own pages, those with its share of others, and all that is resident."""

    own: int
    shared_out: int
    resident: int


def memory(pid: int) -> Memory:
    """Return the memory of a process."""
    sums: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, rest = line.partition(":")
        sums[name] = int(rest.split()[0])
    return Memory(sums["Private_Clean"] + sums["Private_Dirty"], sums["Pss"], sums["Rss"])


def cpu_s(pid: int) -> float:
    """Return the processor time of a process, by the scheduler's clock rather than by ticks where it tells."""
    schedstat = Path(f"/proc/{pid}/task")
    return sum(int((task / "schedstat").read_text().split()[0]) for task in schedstat.iterdir()) / 1e9


def wakes(pid: int) -> int:
    """Return how often the threads of a process have gone to sleep."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        lines = (task / "status").read_text().splitlines()
        total += next(int(line.split()[1]) for line in lines if line.startswith("voluntary"))
    return total


def child(pid: int) -> int:
    """Return the firmware of a node."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return next(int(one) for task in tasks for one in (task / "children").read_text().split())


def probe(lab: Switched, name: str) -> float:
    """Ask a node for its health; return the processor time that took."""
    before = os.times()
    with lab.places[name].entered():
        done = subprocess.run([sys.executable, "-m", "appliance.health"], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name}: {done.stdout}")
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def rest(lab: Switched, nodes: dict[str, NodeProcess], seconds: float, every: float) -> dict[str, float]:
    """Leave nodes alone for a while, but for their health checks; return what each took, in the mean."""
    pids = [pid for node in nodes.values() for pid in (node.process.pid, child(node.process.pid))]
    before = {pid: (cpu_s(pid), wakes(pid)) for pid in pids}
    end, probes, count = time.monotonic() + seconds, 0.0, 0
    order = list(nodes)
    while (now := time.monotonic()) < end:
        probes += probe(lab, order[count % len(order)])
        count += 1
        time.sleep(max(0.0, every / len(order) - (time.monotonic() - now)))
    spent = {pid: (cpu_s(pid) - before[pid][0], wakes(pid) - before[pid][1]) for pid in pids}
    share = 100 / seconds
    return {
        "node_percent": mean(spent[pid][0] for pid in pids[::2]) * share,
        "firmware_percent": mean(spent[pid][0] for pid in pids[1::2]) * share,
        "probe_percent": probes / max(count, 1) / every * 100,
        "probe_ms": probes / max(count, 1) * 1e3,
        "node_wakes_per_s": mean(spent[pid][1] for pid in pids[::2]) / seconds,
        "firmware_wakes_per_s": mean(spent[pid][1] for pid in pids[1::2]) / seconds,
    }


def measure(count: int, seconds: float, every: float, link: str) -> dict[str, float]:
    """Return the figures of so many nodes."""
    names = [f"node{number}" for number in range(count)]
    with switched("host", *names) as lab, tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        nodes = {}
        for name in names:
            with lab.places[name].entered():
                nodes[name] = stack.enter_context(node_process(Path(directory) / name, link=link))
        for name in names:  # one inference each: what it needs for that it has from here on
            probe(lab, name)
        figures = rest(lab, nodes, seconds, every)
        for part, pids in (
            ("node", [node.process.pid for node in nodes.values()]),
            ("firmware", [child(node.process.pid) for node in nodes.values()]),
        ):
            found = [memory(pid) for pid in pids]
            figures |= {
                f"{part}_uss_mb": mean(one.own for one in found) / _MB,
                f"{part}_pss_mb": mean(one.shared_out for one in found) / _MB,
                f"{part}_rss_mb": mean(one.resident for one in found) / _MB,
            }
    return figures


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=30, help="of rest")
    parser.add_argument("--every", type=float, default=30, help="seconds between two health checks of a node")
    parser.add_argument("--link", default="packet:any")
    read = parser.parse_args()
    figures = measure(read.nodes, read.seconds, read.every, read.link)
    sys.stdout.write(json.dumps({name: round(value, 3) for name, value in figures.items()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
