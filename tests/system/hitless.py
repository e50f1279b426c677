"""Firmware upgraded, crashed and taken back on two appliances under a steady load: ``python -m tests.system.hitless``.

Everything is done by the commands that users have. No request may be lost, and none may fail.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from firmware.image.build import SOURCES, build_image
from host_sdk.cli.demo_images import held_out
from host_sdk.cli.lab import make_topology, with_node_commands
from host_sdk.lab.lab import Lab

NODES = ("napu1", "napu2")
_NAPU = (sys.executable, "-m", "host_sdk.cli.main")
_DIES = "def main(arguments):\n    raise SystemExit(3)\n"
_ENOUGH_S = 120.0


def napu(lab: str, *arguments: str, status: int = 0) -> dict[str, Any]:
    """Run a command as the host of a lab; return the JSON that it prints."""
    command = [*_NAPU, *arguments, "--lab", lab, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_ENOUGH_S, check=False)
    if done.returncode != status:
        raise AssertionError(f"napu {' '.join(arguments)}: status {done.returncode}\n{done.stdout}\n{done.stderr}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def dying_image(directory: Path) -> bytes:
    """Return a signed image whose firmware ends before it is up."""
    sources = directory / "dying"
    shutil.copytree(SOURCES, sources)
    (sources / "main.py").write_text(_DIES)
    return build_image("6.6", sources)


@contextmanager
def load(lab: str, directory: Path, rate: float) -> Iterator[dict[str, Any]]:
    """Put a load on the lab until the end of the block; the report is there then."""
    files = []
    for item in held_out(50):
        files.append(str(directory / item.name))
        Path(files[-1]).write_bytes(item.jpeg)
    options = ("--rate", str(rate), "--seconds", str(_ENOUGH_S), "--lab", lab, "--json")
    report: dict[str, Any] = {}
    with subprocess.Popen([*_NAPU, "load", "digits", *files, *options], stdout=subprocess.PIPE, text=True) as process:
        try:
            time.sleep(1.0)
            yield report
            time.sleep(1.0)
        finally:
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=_ENOUGH_S)
        report.update(json.loads(output))


def versions(lab: str) -> list[str]:
    return [entry["version"] for entry in napu(lab, "fw", "status")["appliances"].values()]


def outer_pid(lab: str, pid: int) -> int:
    """Return the process id that a process has here whose id in a lab's own namespace of them is known."""
    namespace = Path(f"/proc/{Lab.find(lab).status().host.pid}/ns/pid").readlink()
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            text, there = status.read_text(), status.with_name("ns").joinpath("pid").readlink()
        except OSError:  # it has ended meanwhile
            continue
        ids = next((line.split()[1:] for line in text.splitlines() if line.startswith("NSpid:")), [])
        if there == namespace and len(ids) > 1 and int(ids[-1]) == pid:
            return int(status.parent.name)
    raise AssertionError(f"no process has id {pid} in lab {lab}")


def crash(lab: str, address: str) -> None:
    """Kill an appliance's firmware, and wait until another is up."""
    before = napu(lab, "status", address)["firmware"]["epoch"]
    found = next(entry for entry in napu(lab, "discover")["appliances"] if entry["address"] == address)
    os.kill(outer_pid(lab, int(found["firmware"]["pid"])), signal.SIGKILL)
    while napu(lab, "status", address)["firmware"]["epoch"] == before:
        time.sleep(0.1)


def scenario(lab: str, directory: Path, rate: float) -> dict[str, Any]:
    """Upgrade, crash, fail to upgrade, and go back; return what became of the load meanwhile."""
    (directory / "new.img").write_bytes(build_image("2.0"))
    (directory / "dying.img").write_bytes(dying_image(directory))
    address = napu(lab, "discover")["appliances"][0]["address"]
    with load(lab, directory, rate) as report:
        done = napu(lab, "fw", "flash", *NODES, "--image", str(directory / "new.img"))
        assert [entry["result"] for entry in done["appliances"]] == ["confirmed"] * 2, done
        assert versions(lab) == ["2.0", "2.0"]
        crash(lab, address)
        done = napu(lab, "fw", "flash", *NODES, "--image", str(directory / "dying.img"), status=1)
        assert [entry["result"] for entry in done["appliances"]] == ["failed", "not begun"], done
        assert "used up its tries" in done["appliances"][0]["message"], done
        assert versions(lab) == ["2.0", "2.0"]
        done = napu(lab, "fw", "rollback", NODES[1])
        assert versions(lab)[0] == "2.0" != versions(lab)[1], done
    return report


def main() -> None:
    """Bring a lab up, run the scenario in it, print the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=5000.0, help="inferences a second over both appliances")
    rate = parser.parse_args().rate
    name = f"hitless-{os.getpid()}"
    topology = with_node_commands(make_topology(name, 2, 1500, "auto", "napu-s"))
    with tempfile.TemporaryDirectory() as directory, Lab.up(topology):
        report = scenario(name, Path(directory), rate)
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    sys.stdout.write(
        f"under {report['answered_per_s']:.0f} inferences/s: upgrade of two, crash, failed upgrade, rollback: "
        f"lost = {report['lost']}, failed = {report['failed']}\n"
    )
    sys.exit(bool(report["lost"] or report["failed"]))


if __name__ == "__main__":
    main()
