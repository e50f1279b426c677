"""Removes everything that an engine has of a lab."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any, Final

from docker import DockerClient
from docker.errors import APIError, NotFound
from docker.models.containers import Container

from host_sdk.lab.docker.engine import LAB_LABEL

_GRACE_S: Final = 2.0  # what appliances get to end after SIGTERM
_LOOK_S: Final = 0.05
_CONFLICT: Final = 409


def remove_lab(client: DockerClient, name: str) -> None:
    """End the containers of a lab, in peace if they do so in time, and remove all that carries its label.

    Raises:
        docker.errors.APIError: The engine refuses.
    """
    wanted: dict[str, Any] = {"label": f"{LAB_LABEL}={name}"}
    containers = client.containers.list(all=True, ignore_removed=True, filters=wanted)
    _end(containers)
    for container in containers:
        with _gone():
            container.remove(force=True, v=True)
    for network in client.networks.list(filters=wanted, greedy=True):
        for other in network.containers:  # those of somebody else
            with _gone():
                network.disconnect(other, force=True)
        with _gone():
            network.remove()
    for volume in client.volumes.list(filters=wanted):
        with _gone():
            volume.remove(force=True)


def _end(containers: list[Container]) -> None:
    running = []
    for container in containers:
        if container.status in ("running", "paused"):
            with contextlib.suppress(APIError):  # it ends by itself, or is killed below
                if container.status == "paused":
                    container.unpause()
                container.kill(signal="SIGTERM")
                running.append(container)
    deadline = time.monotonic() + _GRACE_S
    while running and time.monotonic() < deadline:
        time.sleep(_LOOK_S)
        running = [container for container in running if _runs(container)]


def _runs(container: Container) -> bool:
    try:
        container.reload()
    except NotFound:
        return False
    return bool(container.status == "running")


@contextlib.contextmanager
def _gone() -> Iterator[None]:
    """Let pass that somebody else has removed something, or is just doing it."""
    try:
        yield
    except NotFound:
        pass
    except APIError as error:
        if error.status_code != _CONFLICT or "already in progress" not in str(error.explanation):
            raise
