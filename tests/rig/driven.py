"""Labs of either driver, for tests that are the same on both; and what a lab may not leave behind."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import docker

from host_sdk.cli.lab import with_node_commands
from host_sdk.lab.driver import RunningLab
from host_sdk.lab.labs import DOCKER, up_lab
from host_sdk.lab.topology import Topology
from tests.rig.labs import lab_name

FIRST = "02:6e:61:70:75:01"
_PROGRAM = """
import json, socket, sys
from host_sdk.client import NapuClient
with NapuClient("packet:" + socket.if_nameindex()[-1][1], {target!r}) as napu:
    {code}
print(json.dumps(found))
"""
NAPU = [sys.executable, "-m", "host_sdk.cli.main"]


@dataclass(frozen=True, slots=True)
class DrivenLab:
    """A running lab, and how to type commands about it."""

    lab: RunningLab
    driver: str

    def napu(self, *arguments: str, status: int = 0, directory: Path | None = None) -> str:
        """Run a command of ``napu`` about this lab; return what it printed."""
        command = [*NAPU, *arguments, "--lab", self.lab.name]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=directory)
        assert "Traceback" not in done.stderr
        assert done.returncode == status, f"{arguments}: {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout

    def ask(self, code: str, *arguments: str, host: str = "host", target: str | None = None) -> Any:
        """Run Python with a client ``napu`` on a host, which is quicker than a command; return its ``found``."""
        program = _PROGRAM.format(target=target, code=code)
        command = self.lab.inside(host, [sys.executable, "-c", program, *arguments])
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def appliances(self, host: str = "host") -> dict[str, list[Any]]:
        """Return address and MTU of the appliances that answer, by name."""
        found: dict[str, list[Any]] = self.ask(
            "found = {a.name: [a.address, a.mtu] for a in napu.discover()}", host=host
        )
        return found

    def infer(self, jpeg: bytes, count: int) -> list[str]:
        """Have the first appliance look at a picture so many times; return what it saw."""
        code = "found = [a.label for a in napu.infer_many('digits', [bytes.fromhex(sys.argv[1])] * int(sys.argv[2]))]"
        return list(self.ask(code, jpeg.hex(), str(count), target=FIRST))


@contextmanager
def driven_lab(topology: Topology, driver: str) -> Iterator[DrivenLab]:
    """Bring up a lab of real appliances; it is taken down at the end, and may leave nothing."""
    topology = replace(topology, name=lab_name())
    lab = up_lab(topology if driver == DOCKER else with_node_commands(topology), driver, timeout_s=60)
    try:
        yield DrivenLab(lab, driver)
    finally:
        lab.down()
    assert left_behind(topology.name, driver) == []


def left_behind(name: str, driver: str) -> list[str]:
    """Return what is still there of a lab: of its label or its name in the engine, or its processes and files here."""
    if driver == DOCKER:
        client = docker.from_env()
        try:
            mark = {"label": f"io.napu.lab={name}"}
            found = [container.name for container in client.containers.list(all=True, filters=mark)]
            found += [network.name for network in client.networks.list(filters=mark)]
            found += [volume.name for volume in client.volumes.list(filters=mark)]
            found += [each.name for each in client.containers.list(all=True, filters={"name": f"napu-{name}-"})]
        finally:
            client.close()
        return [str(each) for each in found]
    needle = f"/{name}/".encode()
    found = [
        str(path) for path in (Path(f"/run/napu/{name}"), Path(f"/tmp/napu-{os.geteuid()}/{name}")) if path.exists()
    ]
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            if needle in (directory / "cmdline").read_bytes():
                found.append(directory.name)
        except OSError:
            continue
    return found
