"""The Docker engine: where it is, and its refusals as errors of this project."""

import contextlib
import socket
from collections.abc import Iterator
from typing import Final

import docker
import requests
from docker import DockerClient
from docker.errors import APIError, DockerException, ImageNotFound, NotFound

from host_sdk.lab.docker.address import IMAGE, engine_address, image_name
from host_sdk.wire.errors import (
    ClosedError,
    ConfigError,
    EngineError,
    EngineUnavailableError,
    ImageMissingError,
    LinkPrivilegeError,
)

LAB_LABEL: Final = "io.napu.lab"
NODE_LABEL: Final = "io.napu.node"
ROLE_LABEL: Final = "io.napu.role"
TOPOLOGY_LABEL: Final = "io.napu.topology"
CALL_TIMEOUT_S: Final = 60
_FORBIDDEN: Final = 403
_CONFLICT: Final = 409


@contextlib.contextmanager
def opened_engine() -> Iterator[DockerClient]:
    """Give a client of the engine, and turn what the engine refuses into errors.

    Raises:
        EngineUnavailableError: No engine answers, or it stopped answering.
        EngineError: It refused what was asked for; subclasses and other errors as :func:`explained`.
    """
    with explained():
        _knock(engine_address())
        client = docker.from_env(timeout=CALL_TIMEOUT_S)
        try:
            yield client
        finally:
            client.close()


def _knock(address: str) -> None:
    """See that somebody listens at a Unix socket: where nobody does, the Docker SDK leaves its own socket open.

    Raises:
        ConnectionError: Nobody does.
    """
    if not address.startswith("unix://"):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as knocking:
        try:
            knocking.connect(address.removeprefix("unix://"))
        except OSError as error:
            raise ConnectionError(error.strerror) from None


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turn errors of the Docker SDK into those of this project.

    Raises:
        ImageMissingError: The engine does not have the image.
        ConfigError: A name is taken.
        LinkPrivilegeError: The engine does not let containers have what they need.
        ClosedError: What was there has gone.
        EngineUnavailableError: No engine answers.
        EngineError: Anything else that it refused.
    """
    try:
        yield
    except ImageNotFound:
        raise ImageMissingError(
            f"the engine at {engine_address()} has no image {image_name()}; build it with 'docker/build', "
            f"or name another one in {IMAGE}"
        ) from None
    except NotFound as error:
        raise ClosedError(f"it has gone from the engine at {engine_address()}: {error.explanation}") from None
    except APIError as error:
        raise _refusal(error) from None
    except (DockerException, requests.RequestException, ConnectionError) as error:
        raise EngineUnavailableError(
            f"no Docker engine answers at {engine_address()} ({error}); start one, say in DOCKER_HOST where it is, "
            "or make the lab with '--driver netns'"
        ) from None


def _refusal(error: APIError) -> Exception:
    text = str(error.explanation or error)
    if error.status_code == _CONFLICT and "already in use" in text:
        return ConfigError(f"a name is taken: {text} Give the lab another one, or remove what has it")
    if "capabilit" in text.lower() or error.status_code == _FORBIDDEN or "operation not permitted" in text.lower():
        return LinkPrivilegeError(
            f"the engine at {engine_address()} does not let containers have what they need, NET_RAW among it: {text}; "
            "allow it, or use another engine"
        )
    if "address pool" in text:
        return EngineError(f"the engine has no network left: {text}; take labs down, or give it more address pools")
    return EngineError(f"the engine at {engine_address()} refuses: {text}")
