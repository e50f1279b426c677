"""Makes the containers of a lab, and waits until they serve."""

import time
from typing import Final

from docker import DockerClient
from docker.models.containers import Container

from host_sdk.lab.docker.address import image_name
from host_sdk.lab.docker.log import ContainerLog
from host_sdk.lab.docker.node_command import FILES
from host_sdk.lab.docker.parts import (
    TAP,
    appliance_settings,
    common_settings,
    files_name,
    flash_name,
    host_settings,
    labels,
    network_settings,
    packed_files,
)
from host_sdk.lab.driver import Progress
from host_sdk.lab.topology import Topology
from host_sdk.wire.errors import DeviceError, NapuTimeoutError

_LOOK_S: Final = 0.1
_TAIL_LINES: Final = 10
_PACKER: Final = "files"


def container_log(container: Container) -> ContainerLog:
    """Return the log of a container."""
    return ContainerLog(container)


def build_lab(client: DockerClient, topology: Topology, timeout_s: float, progress: Progress) -> None:
    """Make everything that a lab has, and wait until its appliances serve.

    Raises:
        DeviceError: An appliance ended before it served.
        NapuTimeoutError: One did not serve in time.
        docker.errors.DockerException: The engine refuses, or does not answer.
    """
    image = image_name()
    client.images.get(image)  # so that it is said before anything is made
    files = packed_files(topology)
    client.networks.create(**network_settings(topology))
    progress("network made")
    if files:
        _put_files(client, topology.name, image, files)
        progress("files copied")
    for host in topology.hosts:
        client.containers.create(image, **host_settings(topology, host)).start()
    started: dict[str, Container] = {}
    for count, appliance in enumerate(topology.appliances, 1):
        client.volumes.create(
            name=flash_name(topology.name, appliance.name), labels=labels(topology.name, appliance.name, "appliance")
        )
        container = client.containers.create(image, **appliance_settings(topology, appliance))
        container.start()
        started[appliance.name] = container
        progress(f"{count} of {len(topology.appliances)} appliances started")
    _await_serving(started, timeout_s, progress)


def _put_files(client: DockerClient, lab: str, image: str, archive: bytes) -> None:
    """Copy an archive into the volume of a lab's files, through a container that is never started."""
    client.volumes.create(name=files_name(lab), labels=labels(lab))
    settings = common_settings(lab, _PACKER, TAP) | {"volumes": {files_name(lab): {"bind": FILES, "mode": "rw"}}}
    container = client.containers.create(image, command=["true"], **settings)
    container.put_archive(FILES, archive)
    container.remove(v=True)


def _await_serving(waiting: dict[str, Container], timeout_s: float, progress: Progress) -> None:
    waiting = dict(waiting)
    count = len(waiting)
    deadline = time.monotonic() + timeout_s
    while waiting:
        for name, container in list(waiting.items()):
            container.reload()
            state = container.attrs["State"]
            if state["Status"] in ("exited", "dead"):
                tail = ContainerLog(container).tail(_TAIL_LINES)
                how = f"ended with exit code {state['ExitCode']} before it served"
                raise DeviceError(f"{name} {how}; its log ends:\n{tail}")
            if ContainerLog(container).announcement():
                # Not before, so that one that cannot start is seen to end.
                container.update(restart_policy={"Name": "on-failure"})
                del waiting[name]
                progress(f"{count - len(waiting)} of {count} appliances serve")
        if waiting and time.monotonic() > deadline:
            name, container = next(iter(waiting.items()))
            raise NapuTimeoutError(
                f"{', '.join(waiting)}: no announcement within {timeout_s:g} s; give more time with --timeout, or see "
                f"why in the log of {name}: {ContainerLog(container).tail(_TAIL_LINES)}"
            )
        time.sleep(_LOOK_S)
