"""The demo in containers: appliances as one cluster, one of them killed on the way, no image lost, nothing left."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from host_sdk.cli.demo_docker_report import ClusterReport
from host_sdk.cli.lab import make_topology
from host_sdk.cli.output import err
from host_sdk.lab.driver import RunningLab
from host_sdk.lab.file_format import DEFAULT_PROFILE
from host_sdk.lab.labs import DOCKER, up_lab
from host_sdk.lab.state import NodeState
from host_sdk.wire.errors import DeviceError, NapuTimeoutError

MTU = 8986  # a PDU, in frames of 9000 bytes
TIMEOUT_S = 60.0
LOOK_S = 0.2
HOST = ["python", "-m", "host_sdk.cli.demo_cluster_host"]
HEALTH = ["napu-node-health"]
VICTIM_AFTER = 3  # a third of the images is answered when one is killed


@dataclass(slots=True)
class Killed:
    """The appliance that was killed, and when.

    Attributes:
        name: Its name.
        after: Images that were answered by then.
        comes_back: Whether the engine starts it again: it does with what ended by itself, not with what it was told
            to kill.
    """

    name: str
    after: int
    comes_back: bool


def run_in_containers(nodes: int, images: int, rate: float) -> ClusterReport:
    """Bring up a lab of containers, send it images while an appliance is killed, take it down, and say what was.

    Args:
        nodes: Appliances, at least 2.
        images: Images to send.
        rate: Images a second.

    Raises:
        NapuError: The lab cannot be had, or its host failed. Nothing is left of it.
    """
    name = f"demo-{os.getpid()}"
    _say(f"lab {name}: a switch, a host and {nodes} appliances in containers")
    lab = up_lab(make_topology(name, nodes, MTU, "auto", DEFAULT_PROFILE), DOCKER, timeout_s=TIMEOUT_S, progress=_say)
    try:
        _await_healthy(lab, nodes)
        _say(f"{nodes} appliances are healthy: each answered an inference of its own check")
        result, killed = _send(lab, images, rate)
        back_s = _await_healthy(lab, nodes if killed.comes_back else nodes - 1)
        if killed.comes_back:
            _say(f"{killed.name} came back by itself; {nodes} appliances are healthy again")
        state = lab.status()
    finally:
        lab.down()
    _say("everything removed")
    return ClusterReport.make(result, state.appliances, killed.name, killed.after, back_s)


def _say(words: str) -> None:
    err.print(words, style="dim")


def _send(lab: RunningLab, images: int, rate: float) -> tuple[dict[str, Any], Killed]:
    """Run the host's part, kill an appliance under way, and return what the host found."""
    host = lab.status().host.name
    command = lab.exec_command(host, [*HOST, "--images", str(images), "--rate", str(rate)])
    _say(f"{images} images at {rate:g} a second …")
    killed: Killed | None = None
    line: dict[str, Any] = {}
    for line in _lines(command):
        if killed is None and line.get("answered", 0) >= images // VICTIM_AFTER:
            killed = _kill(lab, line["answered"])
            _say(f"{killed.after} answered; {killed.name} is killed, while images are on their way to it")
    if "error" in line:
        raise DeviceError(line["error"])
    if killed is None or "sent" not in line:
        raise DeviceError("the demo's host ended before it was done")
    return line, killed


def _lines(command: list[str]) -> Iterator[dict[str, Any]]:
    """Run a command and yield the objects that it prints; it does not outlive the caller's interest."""
    with _started(command) as process:
        assert process.stdout  # noqa: S101 - it is a pipe
        for line in process.stdout:
            yield json.loads(line)


@contextmanager
def _started(command: list[str]) -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.terminate()


def _kill(lab: RunningLab, after: int) -> Killed:
    """Kill the lab's last appliance as a crash would, where its process is one of this machine."""
    victim = lab.status().appliances[-1]
    if _is_here(victim):
        os.kill(victim.pid, signal.SIGKILL)
        return Killed(victim.name, after, comes_back=True)
    lab.signal(victim.name, signal.SIGKILL)
    return Killed(victim.name, after, comes_back=False)


def _is_here(node: NodeState) -> bool:
    try:
        command = Path("/proc", str(node.pid), "cmdline").read_text().split("\0")
    except OSError:
        return False
    return os.geteuid() == 0 and node.name in command and any(word.endswith("napu-node") for word in command)


def _await_healthy(lab: RunningLab, count: int) -> float:
    """Wait until so many appliances pass their own check, and return the seconds that it took.

    Raises:
        NapuTimeoutError: They do not in time.
    """
    start = time.monotonic()
    while True:
        running = [node for node in lab.status().appliances if node.condition == "up"]
        healthy = [node.name for node in running if _checks(lab, node.name)]
        taken = time.monotonic() - start
        if len(healthy) >= count:
            return taken
        if taken > TIMEOUT_S:
            raise NapuTimeoutError(f"only {', '.join(healthy) or 'none'} healthy of {count} within {TIMEOUT_S:g} s")
        time.sleep(LOOK_S)


def _checks(lab: RunningLab, node: str) -> bool:
    command = lab.exec_command(node, HEALTH)
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 0
