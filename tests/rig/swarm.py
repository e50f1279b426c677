"""A Docker Swarm of machines on this one: each a Docker Engine with namespaces of its own, joined by a cable.

An engine is the first process of a PID namespace, so that SIGKILL to it is a power cut: its containers, containerd
and mounts are gone with it.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.rig.labs import eventually
from tests.rig.netns import Namespace, veth

READY_S = 30.0
COMMAND_S = 60.0
CGROUPS = Path("/sys/fs/cgroup")
NEEDED = ("dockerd", "containerd", "docker", "runc", "setpriv", "nsenter", "unshare")
# Leave the machine's firewall and forwarding alone, which the engine's namespace has of its own besides.
FLAGS = ("--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false", "--bridge=none")

_missing = [command for command in NEEDED if shutil.which(command) is None]
needs_swarm = pytest.mark.skipif(
    os.geteuid() != 0 or bool(_missing),
    reason=f"needs root and Docker Engine's programs; missing: {', '.join(_missing) or 'root'}",
)


class Machine:
    """A Docker Engine with namespaces of its own: network, mounts, processes, host name.

    Args:
        name: Its host name, and what its cgroups are called.
        network: Its network namespace.
        directory: Where it keeps everything; short, as a socket lies in it.
    """

    def __init__(self, name: str, network: Namespace, directory: Path) -> None:
        self.name, self.network = name, network
        self._directory = directory
        directory.mkdir()
        self._log = (directory / "log").open("wb")
        data = directory / "data"
        data.mkdir()
        # Images in memory: they are unpacked faster, and gone with the namespace.
        inside = f'echo "$0" > /proc/sys/kernel/hostname && mount -t tmpfs tmpfs {data} && exec dockerd "$@"'
        command = ["setpriv", "--pdeathsig", "KILL", "nsenter", f"--net=/proc/self/fd/{network.fd}"]
        command += ["unshare", "--mount", "--pid", "--uts", "--fork", "--kill-child", "--mount-proc"]
        command += ["sh", "-c", inside, name, "--host", self.host, *FLAGS, f"--cgroup-parent=/{name}"]
        command += ["--exec-opt", "native.cgroupdriver=cgroupfs", "--pidfile", str(directory / "pid")]
        command += ["--data-root", str(data), "--exec-root", str(directory / "exec")]
        self._process = subprocess.Popen(command, pass_fds=[network.fd], stdout=self._log, stderr=self._log)

    @property
    def host(self) -> str:
        """What DOCKER_HOST is for it."""
        return f"unix://{self._directory}/socket"

    def wait(self) -> None:
        """Wait until the engine answers."""
        assert eventually(self._answers, READY_S), (self._directory / "log").read_text()[-2000:]

    def _answers(self) -> bool:
        assert self._process.poll() is None, (self._directory / "log").read_text()[-2000:]
        return subprocess.run(["docker", "--host", self.host, "info"], capture_output=True, check=False).returncode == 0

    def docker(self, *arguments: str, accept: tuple[int, ...] = (0,), environment: dict[str, str] | None = None) -> str:
        """Run the docker command on this engine; return what it printed."""
        done = subprocess.run(
            ["docker", "--host", self.host, *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_S,
            env={**os.environ, **(environment or {})},
        )
        assert done.returncode in accept, f"{self.name}: docker {' '.join(arguments)}: {done.stderr}{done.stdout}"
        return done.stdout.strip()

    def containers(self, service: str) -> list[str]:
        """Return the ids of the running containers of a service."""
        return self.docker("ps", "--quiet", "--no-trunc", "--filter", f"name={service}.").split()

    def address(self, container: str, network: str) -> str:
        """Return the IPv4 address of a container on a network."""
        (facts,) = json.loads(self.docker("inspect", container))
        return str(facts["NetworkSettings"]["Networks"][network]["IPAddress"])

    def cut_power(self) -> None:
        """End the engine and everything that runs on it, at once."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        """Cut the power, and remove what lay outside of the namespaces."""
        self.cut_power()
        self._log.close()
        assert eventually(self._forgotten, READY_S), f"cgroups of {self.name} are left"

    def _forgotten(self) -> bool:
        """Remove the cgroups, which are empty as soon as the kernel has ended all processes; return whether it went."""
        with contextlib.suppress(OSError):
            for top in _own_cgroups(self.name):
                for path in sorted((path for path in top.rglob("*") if path.is_dir()), reverse=True):
                    path.rmdir()
                top.rmdir()
        return not _own_cgroups(self.name)


def _own_cgroups(name: str) -> list[Path]:
    """Return the cgroups of that name, at the top of every hierarchy."""
    return [path for path in (CGROUPS / name, *CGROUPS.glob(f"*/{name}")) if path.is_dir()]


class Swarm:
    """Two machines in a Swarm, of which the first is the manager.

    The namespaces have no way to anywhere else, so that an engine which looks for a registry fails at once.
    """

    def __init__(self) -> None:
        with contextlib.ExitStack() as opened:
            self.directory = Path(tempfile.mkdtemp(prefix="napu-swarm-"))
            opened.callback(shutil.rmtree, self.directory)
            networks = [opened.enter_context(Namespace()) for _ in range(2)]
            veth(networks[0], "cable", networks[1], "cable")
            self.machines: list[Machine] = []
            for number, network in enumerate(networks):
                with network.ip() as ip:
                    ip.addr("add", index=network.index("cable"), address=self.ip(number), prefixlen=24)
                machine = Machine(f"{self.directory.name}-{'ab'[number]}", network, self.directory / "ab"[number])
                opened.callback(machine.close)
                self.machines.append(machine)
            for machine in self.machines:
                machine.wait()
            self._join()
            self._stack = opened.pop_all()

    @staticmethod
    def ip(number: int) -> str:
        """Return the address of a machine on the cable."""
        return f"192.0.2.{number + 1}"

    def _join(self) -> None:
        manager, worker = self.machines
        at = ["--advertise-addr", self.ip(0), "--listen-addr", f"{self.ip(0)}:2377"]
        # A machine that is silent for three heartbeats is down.
        manager.docker("swarm", "init", "--dispatcher-heartbeat", "1s", *at)
        token = manager.docker("swarm", "join-token", "--quiet", "worker")
        at = ["--advertise-addr", self.ip(1), "--listen-addr", f"{self.ip(1)}:2377"]
        worker.docker("swarm", "join", "--token", token, *at, f"{self.ip(0)}:2377")

    def load(self, image: str) -> None:
        """Give all machines an image that the engine at DOCKER_HOST has."""
        with contextlib.ExitStack() as running:
            saving = running.enter_context(subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE))
            loading = [
                running.enter_context(
                    subprocess.Popen(
                        ["docker", "--host", machine.host, "load", "--quiet"], stdin=subprocess.PIPE, stdout=-3
                    )
                )
                for machine in self.machines
            ]
            assert saving.stdout
            while part := saving.stdout.read(1 << 20):
                for process in loading:
                    assert process.stdin
                    process.stdin.write(part)
            for process in loading:
                assert process.stdin
                process.stdin.close()
            assert [process.wait(COMMAND_S) for process in (saving, *loading)] == [0, 0, 0]

    def deploy(self, name: str, files: tuple[Path, ...], **environment: str) -> None:
        """Deploy a stack from its files, as its page says."""
        places = [text for path in files for text in ("--compose-file", str(path))]
        self.machines[0].docker("stack", "deploy", "--resolve-image", "never", *places, name, environment=environment)

    def replicas(self, service: str) -> str:
        """Return how many tasks of a service run, of how many there shall be: ``2/2``."""
        line = self.machines[0].docker("service", "ls", "--filter", f"name={service}", "--format", "{{.Replicas}}")
        return line.split(" ")[0]

    def state(self, machine: Machine) -> str:
        """Return what the manager thinks of a machine: ``Ready`` or ``Down``."""
        return self.machines[0].docker("node", "inspect", machine.name, "--format", "{{.Status.State}}").capitalize()

    def close(self) -> None:
        """Remove everything."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def left_behind(directory: Path) -> Iterator[str]:
    """Yield what is still there of a Swarm that was closed: processes, mounts, cgroups, files."""
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            text = process.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(directory) in text:
                yield f"process {process.parent.name}: {text}"
    yield from (line for line in Path("/proc/self/mounts").read_text().splitlines() if str(directory) in line)
    yield from (str(path) for path in (*CGROUPS.glob(f"{directory.name}*"), *CGROUPS.glob(f"*/{directory.name}*")))
    if directory.exists():
        yield str(directory)
