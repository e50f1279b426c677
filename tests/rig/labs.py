"""Labs of echo nodes, and what tells whether a lab has left anything behind."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from host_sdk.lab.capability import capability
from host_sdk.lab.lab import Lab
from host_sdk.lab.state import LabState
from host_sdk.lab.topology import Appliance, Topology, default_mac

RIG = Path(__file__).parent
MARK = "NAPU_TEST_MARK"  # environment variable that all processes of a test inherit
ETHERTYPE = 0x88B5

_numbers = itertools.count(1)
_allowed = capability()
needs_lab = pytest.mark.skipif(_allowed.kind == "none", reason=_allowed.reason)


def lab_name() -> str:
    """Return a name that no other test uses, in this process or another."""
    return f"t{os.getpid()}-{next(_numbers)}"


def echo_command(*options: str) -> tuple[str, ...]:
    return (sys.executable, str(RIG / "echo_node.py"), "--ready-fd", "{ready_fd}", *options)


def echo_topology(*options: str, count: int = 2, mtu: int = 1500) -> Topology:
    """Return a lab of echo nodes n1, n2, …, all with the same options."""
    appliances = tuple(
        Appliance(f"n{index}", default_mac(index), command=echo_command(*options)) for index in range(1, count + 1)
    )
    return Topology(lab_name(), appliances, mtu=mtu)


# What runs on the host: sends the frames in turn, waits for the answers to each, prints all as hex.
EXCHANGE = """
import json, socket, sys
frames, answers = json.loads(sys.argv[1]), int(sys.argv[2])
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as link:
    link.bind(("eth0", 0x88B5))
    link.settimeout(5)
    mine = link.getsockname()[4]
    for destination, payload in frames:
        link.send(bytes.fromhex(destination) + mine + b"\\x88\\xb5" + bytes.fromhex(payload))
        print(json.dumps([link.recv(65536).hex() for _ in range(answers)]))
"""


def exchange(lab: Lab, frames: list[tuple[bytes, bytes]], answers: int) -> list[list[bytes]]:
    """Send (destination, payload) from the host; return the answers to each, as frames."""
    data = json.dumps([(destination.hex(), payload.hex()) for destination, payload in frames])
    output = on_node(lab, "host", EXCHANGE, data, str(answers))
    return [[bytes.fromhex(answer) for answer in json.loads(line)] for line in output.splitlines()]


def on_node(lab: Lab, node: str, code: str, *arguments: str) -> str:
    """Run Python code in a node's network namespace; return what it printed."""
    command = lab.inside(node, [sys.executable, "-c", code, *arguments])
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def eventually(condition: Callable[[], bool], timeout_s: float = 10.0) -> bool:
    """Return whether a condition comes true in time."""
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def marked(mark: str) -> list[int]:
    """Return the processes, other than this one, that carry a mark in their environment."""
    entry = f"{MARK}={mark}".encode()
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            environment = (directory / "environ").read_bytes().split(b"\0")
        except OSError:  # gone, or somebody else's
            continue
        if entry in environment and int(directory.name) != os.getpid():
            found.append(int(directory.name))
    return found


def networks(state: LabState) -> set[int]:
    """Return the inodes of a lab's network namespaces."""
    pids = [state.keeper.pid, *(node.pid for node in state.nodes)]
    return {Path(f"/proc/{pid}/ns/net").stat().st_ino for pid in pids}


def networks_in_use() -> set[int]:
    """Return the inodes of all network namespaces that processes here are in."""
    found = set()
    for namespace in Path("/proc").glob("[0-9]*/ns/net"):
        try:
            found.add(namespace.stat().st_ino)
        except OSError:
            continue
    return found


@contextmanager
def owner(topology: Topology, *options: str) -> Iterator["subprocess.Popen[str]"]:
    """Run a process that brings a lab up; it is killed at the end."""
    with subprocess.Popen(
        [sys.executable, str(RIG / "lab_owner.py"), json.dumps(topology.to_mapping()), *options],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGKILL)


def state_of(process: "subprocess.Popen[str]") -> LabState:
    """Wait until a lab's owner says that it is up; return its state."""
    assert process.stdout
    line = process.stdout.readline()
    assert line, "the owner could not bring its lab up"
    return LabState.from_json(line)
