"""Where the Docker engine is, and which image labs run; without the Docker SDK, whose import takes long."""

import os
from importlib.metadata import version
from pathlib import Path
from typing import Final

IMAGE: Final = "NAPU_IMAGE"  # names the image where it is not that of this version
_SOCKET: Final = Path("/var/run/docker.sock")


def engine_address() -> str:
    """Return where the engine is asked for."""
    return os.environ.get("DOCKER_HOST") or f"unix://{_SOCKET}"


def engine_expected() -> bool:
    """Return whether there may be an engine for this user: one is named, or its socket is there."""
    return bool(os.environ.get("DOCKER_HOST")) or os.access(_SOCKET, os.R_OK | os.W_OK)


def image_name() -> str:
    """Return the image of all containers: that of this version, or the one that NAPU_IMAGE names."""
    return os.environ.get(IMAGE) or f"napu:{version('napu')}"
