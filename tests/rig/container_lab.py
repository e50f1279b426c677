"""A lab of containers whose appliances can be hurt in every way: flash of a given size, and a clock that can be turned.

For root on the machine that the engine runs on: faults are done to processes by their ids.
"""

import os
import shutil
import struct
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from docker import DockerClient
from docker.models.containers import Container

from host_sdk.lab.docker.address import image_name
from host_sdk.lab.docker.build import Adapt
from host_sdk.lab.docker.engine import LAB_LABEL, opened_engine
from host_sdk.lab.docker.lab import DockerLab
from host_sdk.lab.docker.node_command import FLASH
from host_sdk.lab.docker.parts import TAP, common_settings, container_name, flash_name, labels
from host_sdk.lab.topology import Appliance, Topology, default_mac
from host_sdk.wire.errors import NapuError

FLASH_BYTES: Final = 64 << 20  # of the file system that flash is in
MEMORY_BYTES: Final = 512 << 20
_USER: Final = 10001  # of the image
_HOLDER: Final = "holder"
_UP_S: Final = 60.0
_SECOND_NS: Final = 1_000_000_000
_LIBRARY: Final = Path("/usr/lib/libnapu-clock.so")  # there, in a container
_OFFSET: Final = struct.Struct("=q")


def why_not() -> str:
    """Return why faults cannot be done here, or nothing where they can."""
    if os.geteuid() != 0:
        return "faults are done to processes of containers by their ids, which takes root"
    try:
        with opened_engine() as client:
            here = str(client.info()["Name"]) == os.uname().nodename
    except NapuError as error:
        return str(error)
    return "" if here else "the engine is on another machine, and faults are done to processes by their ids"


def build_clock(directory: Path) -> Path | None:
    """Build the library that turns clocks; return None where there is no C compiler.

    The node's interpreter has a file capability, so the loader takes from LD_PRELOAD only a library without a path, in
    a directory of the system, with its set-user-ID bit.
    """
    compiler = shutil.which("cc")
    if not compiler:
        return None
    library = directory / _LIBRARY.name
    source = str(Path(__file__).with_name("clock.c"))
    command = [compiler, "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(library), source]
    subprocess.run(command, check=True, timeout=60)
    library.chmod(0o4755)
    return library


@dataclass(frozen=True)
class Victim:
    """An appliance that faults are done to.

    Attributes:
        lab: Its lab.
        node: Its name there.
        container: Its container.
        clock: The file that turns its clock.
        address: Of its interface, as clients write it.
    """

    lab: DockerLab
    node: str
    container: Container
    clock: Path
    address: str

    @property
    def state(self) -> dict[str, Any]:
        """What the engine says of the container now."""
        self.container.reload()
        state: dict[str, Any] = self.container.attrs["State"]
        return state

    @property
    def pid(self) -> int:
        """Process id of the node, on this machine; 0 while there is none."""
        return int(self.state["Pid"])

    @property
    def healthy(self) -> bool:
        """Whether its container runs, and its last probe was answered."""
        state = self.state
        return bool(state["Status"] == "running" and state["Health"]["Status"] == "healthy")

    def set_clock(self, ahead_s: int) -> None:
        """Have its clock so many seconds ahead from now on."""
        with self.clock.open("r+b") as file:  # the same file, which its processes look into
            file.write(_OFFSET.pack(ahead_s))

    def run(self, *command: str) -> tuple[int, str]:
        """Run a command in the container, as the node's user; return its exit status and what it printed."""
        done = self.container.exec_run(list(command))
        output: Any = done.output  # bytes, as no stream was asked for
        return int(done.exit_code or 0), output.decode(errors="replace").strip()


@dataclass
class FaultLab:
    """A lab of containers, and its appliances as victims.

    Attributes:
        lab: The lab.
        turns_clocks: Whether clocks can be turned in it.
        victims: Its appliances.
    """

    lab: DockerLab
    turns_clocks: bool
    victims: list[Victim] = field(default_factory=list)

    def left(self) -> list[str]:
        """Return what the engine has of the lab: nothing once it is down."""
        return left_of(self.lab.name)


def left_of(name: str) -> list[str]:
    """Return the containers, networks and volumes that an engine has of a lab."""
    wanted: dict[str, Any] = {"label": f"{LAB_LABEL}={name}"}
    with opened_engine() as client:
        found = [container.name for container in client.containers.list(all=True, filters=wanted)]
        found += [network.name for network in client.networks.list(filters=wanted)]
        found += [volume.name for volume in client.volumes.list(filters=wanted)]
    return sorted(map(str, found))


@contextmanager
def fault_lab(name: str, count: int, *, probe_s: float = 2.0) -> Iterator[FaultLab]:
    """Bring up a lab of ``count`` appliances; it is down at the end.

    Raises:
        NapuError: As :meth:`DockerLab.up`.
    """
    appliances = tuple(Appliance(f"napu{index}", default_mac(index)) for index in range(1, count + 1))
    topology = Topology(name, appliances, mtu=1500)
    with ExitStack() as stack:
        client = stack.enter_context(opened_engine())
        clocks = Path(stack.enter_context(TemporaryDirectory(prefix="napu-clocks-")))
        clocks.chmod(0o755)
        library = build_clock(clocks)
        adapt = _adaptation(clocks, library, probe_s)
        lab = DockerLab(name)
        stack.callback(lab.down)
        _hold_flashes(client, name, appliances)
        for appliance in appliances:
            (clocks / appliance.name).write_bytes(_OFFSET.pack(0))
        lab.up(topology, timeout_s=_UP_S, adapt=adapt)
        made = FaultLab(lab, turns_clocks=library is not None)
        for appliance in appliances:
            container = client.containers.get(container_name(name, appliance.name))
            made.victims.append(Victim(lab, appliance.name, container, clocks / appliance.name, appliance.mac))
        yield made


def _adaptation(clocks: Path, library: Path | None, probe_s: float) -> Adapt:
    """Return how the containers of appliances differ from those of any lab."""

    def adapt(appliance: Appliance, settings: dict[str, Any]) -> dict[str, Any]:
        made = settings | {
            "healthcheck": {"interval": round(probe_s * _SECOND_NS)},
            "mem_limit": MEMORY_BYTES,
            "memswap_limit": MEMORY_BYTES,
        }
        if library:
            made["environment"] = {"LD_PRELOAD": _LIBRARY.name}  # of which the firmware gets nothing
            made["volumes"] |= {
                str(library): {"bind": str(_LIBRARY), "mode": "ro"},
                str(clocks / appliance.name): {"bind": "/etc/clock-ahead", "mode": "ro"},
            }
        return made

    return adapt


def _hold_flashes(client: DockerClient, lab: str, appliances: Sequence[Appliance]) -> None:
    """Make the volumes of flash with a size of their own, and a container that keeps them while appliances restart."""
    options = {"type": "tmpfs", "device": "tmpfs", "o": f"size={FLASH_BYTES},uid={_USER},gid={_USER},mode=0700"}
    volumes = {}
    for appliance in appliances:
        volume = flash_name(lab, appliance.name)
        labelled = labels(lab, appliance.name, "appliance")
        client.volumes.create(volume, driver="local", driver_opts=options, labels=labelled)
        volumes[volume] = {"bind": f"{FLASH}-{appliance.name}", "mode": "rw"}
    settings = common_settings(lab, _HOLDER, TAP) | {"volumes": volumes, "network_mode": "none", "init": True}
    settings["tmpfs"] |= {FLASH: "size=1m"}  # in place of the volume that the image would make
    command = ["sleep", "infinity"]
    client.containers.create(image_name(), command=command, healthcheck={"test": ["NONE"]}, **settings).start()
