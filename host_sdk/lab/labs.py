"""The labs that are up, whatever made them, and how to bring one up."""

import contextlib
from typing import Final

from host_sdk.lab.docker.address import engine_expected
from host_sdk.lab.driver import Progress, RunningLab
from host_sdk.lab.file_format import DRIVERS
from host_sdk.lab.lab import DEFAULT_TIMEOUT_S, Lab
from host_sdk.lab.topology import Topology
from host_sdk.wire.errors import ConfigError, EngineError

DEFAULT_DRIVER: Final = DRIVERS[0]
DOCKER: Final = "docker"


def up_lab(
    topology: Topology,
    driver: str,
    *,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    progress: Progress = lambda _: None,
) -> RunningLab:
    """Build a lab that outlives this process, and wait until all of its appliances serve.

    Args:
        topology: What to build; for namespaces every appliance must have its command.
        driver: What builds it.
        timeout_s: Seconds that appliances have until they serve.
        progress: Called with a few words on what has just been done.

    Raises:
        ConfigError: A lab of this name is up, or the driver cannot have what the topology says.
        NapuError: It cannot be built; nothing of it is left.
    """
    if driver == DOCKER:
        _import_docker()
        from host_sdk.lab.docker.lab import DockerLab

        return DockerLab.up(topology, timeout_s=timeout_s, progress=progress)
    return Lab.up(topology, detach=True, timeout_s=timeout_s)


def all_labs() -> dict[str, RunningLab]:
    """Return the labs that are up, by name; a name that both drivers have is that of namespaces.

    Where no Docker engine answers there are none of containers.
    """
    found: dict[str, RunningLab] = {}
    if engine_expected():
        with contextlib.suppress(EngineError, ImportError):
            from host_sdk.lab.docker.lab import DockerLab

            found |= {name: DockerLab(name) for name in DockerLab.names()}
    return found | {name: Lab.find(name) for name in Lab.names()}


def find_lab(name: str, driver: str = "") -> RunningLab:
    """Return the lab of a name, made by a driver where one is named.

    Raises:
        ConfigError: There is none.
        EngineError: The driver is that of containers, and no engine answers.
    """
    if driver == DOCKER:
        _import_docker()
        from host_sdk.lab.docker.lab import DockerLab

        return DockerLab.find(name)
    try:
        return Lab.find(name)
    except ConfigError:
        found = None if driver else all_labs().get(name)
        if found is None:
            raise
        return found


def _import_docker() -> None:
    try:
        import docker  # noqa: F401 - only whether it is there
    except ImportError:
        raise ConfigError(
            "labs of containers need the Docker SDK for Python; install it with 'pip install napu[lab]'"
        ) from None
