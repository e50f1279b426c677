"""What many appliances in containers take of one machine at rest: ``python -m tests.system.fleet``, as root.

Brings them up with docker/compose.yaml and ``--scale``, has each answer, leaves them alone but for their health checks,
and tells memory and processor time for each. Exit status 1 where one is not healthy, or the goals are not met.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any, Final

from host_sdk.lab.docker.engine import opened_engine
from host_sdk.wire.errors import NapuError
from tests.rig.container_lab import why_not
from tests.rig.engine import ROOT, built_image
from tests.rig.usage import family, group_cpu_s, usage

GOAL_MB: Final = 60.0  # beyond pages that are shared
GOAL_PERCENT: Final = 0.5  # of a core
_START_S: Final = 600
_IMAGES: Final = 64  # for each appliance, so that all it needs for answering it has from here on
_SETTLE_S: Final = 20.0  # which the last start needs to be over
_MB: Final = 1024
_TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Fleet:
    """Appliances of a project of Compose."""

    project: str

    def compose(self, *arguments: str) -> str:
        """Run a command of Compose to its end; return what it printed."""
        command = ["docker", "compose", "--project-name", self.project, "--file", str(ROOT / "docker/compose.yaml")]
        done = subprocess.run([*command, *arguments], stdout=subprocess.PIPE, text=True, timeout=_START_S, check=True)
        return done.stdout

    def states(self) -> list[dict[str, Any]]:
        """Return what the engine says of the containers."""
        wanted: dict[str, Any] = {"label": f"com.docker.compose.project={self.project}"}
        with opened_engine() as client:
            return [container.attrs["State"] for container in client.containers.list(filters=wanted)]

    def healthy(self) -> int:
        """Return how many appliances are healthy."""
        return sum(state["Health"]["Status"] == "healthy" for state in self.states())

    def ask(self, count: int) -> dict[str, Any]:
        """Have a host's cluster client ask for images, many for each appliance; return its report."""
        script = f"napu load digits digits/*.jpg --rate 400 --seconds {max(5, count * _IMAGES // 400)} --json"
        report: dict[str, Any] = json.loads(self.compose("run", "--rm", "-T", "host", "sh", "-c", script))
        return report


def engine_cpu_s() -> dict[int, float]:
    """Return the processor time of each process of the engine: its daemon, and those between it and containers."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            if (path / "comm").read_text().strip() in ("dockerd", "containerd", "containerd-shim"):
                fields = (path / "stat").read_text().rpartition(")")[2].split()
                found[int(path.name)] = (int(fields[11]) + int(fields[12])) * _TICK_S
    return found


def measure(fleet: Fleet, count: int, seconds: float) -> dict[str, float]:
    """Return the figures of a fleet that is up."""
    time.sleep(_SETTLE_S)
    pids = [int(state["Pid"]) for state in fleet.states()]
    begun, before, engine_before = time.monotonic(), [group_cpu_s(pid) for pid in pids], engine_cpu_s()
    time.sleep(seconds)
    span = time.monotonic() - begun
    spent = [group_cpu_s(pid) - was for pid, was in zip(pids, before, strict=True)]
    engine = sum(now - engine_before[pid] for pid, now in engine_cpu_s().items() if pid in engine_before)
    held = [usage(family(pid), 0) for pid in pids]
    return {
        "appliances": count,
        "healthy": fleet.healthy(),
        "own_mb": mean(each.own_kb for each in held) / _MB,
        "own_mb_most": max(each.own_kb for each in held) / _MB,
        "pss_mb": mean(each.pss_kb for each in held) / _MB,
        "pss_mb_all": sum(each.pss_kb for each in held) / _MB,
        "cpu_percent": mean(spent) / span * 100,
        "cpu_percent_most": max(spent) / span * 100,
        "engine_cpu_percent_each": engine / span * 100 / count,
        "rest_s": span,
    }


def run(count: int, seconds: float) -> dict[str, float]:
    """Bring a fleet up, measure it, and take it down."""
    fleet = Fleet(f"napu-fleet-{os.getpid()}")
    begun = time.monotonic()
    try:
        fleet.compose("up", "--detach", "--no-build", "--scale", f"appliance={count}", "--wait")
        up_s = time.monotonic() - begun
        report = fleet.ask(count)
        answered = {"asked": report["sent"], "lost": report["lost"], "failed": report["failed"]}
        return measure(fleet, count, seconds) | {"up_s": up_s} | answered
    finally:
        fleet.compose("down", "--volumes", "--remove-orphans")


def main() -> int:
    """Print the figures as JSON; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.system.fleet", description=__doc__)
    parser.add_argument("--appliances", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60.0, help="of rest (60)")
    arguments = parser.parse_args()
    if reason := why_not():
        sys.stderr.write(f"fleet: {reason}\n")
        return 2
    try:
        os.environ["NAPU_IMAGE"] = built_image()
        figures = run(arguments.appliances, arguments.seconds)
    except (NapuError, subprocess.SubprocessError) as error:
        sys.stderr.write(f"fleet: {error}\n")
        return 1
    sys.stdout.write(json.dumps({name: round(value, 3) for name, value in figures.items()}, indent=1) + "\n")
    met = figures["own_mb"] <= GOAL_MB and figures["cpu_percent"] <= GOAL_PERCENT
    return 0 if met and figures["healthy"] == arguments.appliances and not figures["lost"] + figures["failed"] else 1


if __name__ == "__main__":
    sys.exit(main())
