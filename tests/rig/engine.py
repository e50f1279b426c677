"""A Docker Engine for tests: whether one answers, the image in it, and containers that do not outlive a test."""

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import pytest

from host_sdk.wire.errors import ConfigError

ROOT = Path(__file__).parents[2]
BUILD_TIMEOUT_S = 600
COMMAND_TIMEOUT_S = 60
# Raw frames, and nothing else that root may do; nothing can be written but /flash and /tmp.
HARDENED = ("--read-only", "--cap-drop=ALL", "--cap-add=NET_RAW", "--tmpfs=/tmp", "--memory=512m", "--pids-limit=64")


@cache
def _refusal(*command: str) -> str:
    """Return why a command of ``docker`` fails, or nothing where it does not."""
    try:
        done = subprocess.run(["docker", *command], capture_output=True, text=True, timeout=20, check=False)
    except FileNotFoundError:
        return "docker is not installed"
    except subprocess.TimeoutExpired:
        return "it did not answer within 20 s"
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["?"])[-1]


def _skip(refusal: str, what: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(bool(refusal), reason=f"{what} ({refusal}); 'docker/engine run -- make test' has one")


needs_engine = _skip(_refusal("version", "--format", "{{.Server.Version}}"), "no Docker Engine answers")
needs_compose = _skip(_refusal("compose", "version"), "there is no Docker Compose")


def built_image() -> str:
    """Return the name of the image that containers are made of: NAPU_IMAGE, or one built from this tree.

    Raises:
        ConfigError: It cannot be built.
    """
    given = os.environ.get("NAPU_IMAGE")
    if given:
        return given
    # One builds; the others find it built.
    with (Path(gettempdir()) / f"napu-image-{os.getuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = [sys.executable, str(ROOT / "docker/build_image.py"), "--quiet"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False)
    if done.returncode:
        raise ConfigError(f"the image cannot be built: {done.stderr}")
    return done.stdout.strip()


@pytest.fixture(scope="session")
def napu_image() -> str:
    """Return the name of the image that containers are made of."""
    return built_image()


def docker(*arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    """Run a command of ``docker`` to its end; ``check``: it must succeed."""
    command = ["docker", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False)
    assert done.returncode == 0 or not check, f"{' '.join(command)}: {done.stderr}"
    return done


def inspect(name: str) -> dict[str, Any]:
    """Return what the engine knows of a container, image or network."""
    facts: list[dict[str, Any]] = json.loads(docker("inspect", name).stdout)
    return facts[0]


def unique(name: str) -> str:
    """Return a name in the engine that no other process of the tests uses."""
    return f"napu-test-{name}-{os.getpid()}"


@contextmanager
def network(name: str, mtu: int = 9000) -> Iterator[str]:
    """Yield a switch of containers; it is removed at the end."""
    docker("network", "create", "--opt", f"com.docker.network.driver.mtu={mtu}", name)
    try:
        yield name
    finally:
        docker("network", "rm", name)


@contextmanager
def container(name: str, *options: str, image: str, command: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield a hardened container that runs; it and its volumes are removed at the end."""
    docker("run", "--detach", "--name", name, *HARDENED, *options, image, *command)
    try:
        yield name
    finally:
        docker("rm", "--force", "--volumes", name)


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    """Wait until something is so; a test that waits in vain fails and says for what."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        time.sleep(0.1)
