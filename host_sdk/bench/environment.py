"""What peers need on this machine: programs of the distribution, and virtual environments of their own in a cache."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from host_sdk.wire.errors import ConfigError

REQUIREMENTS = Path(__file__).parent / "servers" / "requirements"
_STAMP = "complete"
_INSTALL_S = 1800
Say = Callable[[str], None]


def cache_directory(environ: Mapping[str, str]) -> Path:
    """Return where the benchmark keeps what it has installed."""
    base = environ.get("XDG_CACHE_HOME") or Path(environ.get("HOME", "/root"), ".cache")
    return Path(base) / "napu" / "bench"


def need_program(program: str, package: str, say: Say) -> str:
    """Return the path of a program; where it is missing, root on Debian or Ubuntu is given its package.

    Raises:
        ConfigError: It is missing and cannot be installed; the message names the package.
    """
    found = shutil.which(program)
    if not found:
        _install_package(package, f"{program} is missing", say)
        found = shutil.which(program)
    if not found:
        raise ConfigError(f"{program} is missing although its package {package} is installed; look at PATH")
    return found


def need_libpython(say: Say) -> Path:
    """Return the directory of the shared library of the running Python, which Triton's Python backend loads.

    Raises:
        ConfigError: There is none.
    """
    library = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    places = [Path(str(sysconfig.get_config_var("LIBDIR")))]
    places.append(places[0] / str(sysconfig.get_config_var("MULTIARCH")))
    if not any((place / library).exists() for place in places) and sys.base_prefix == "/usr":
        _install_package(library.partition(".so")[0], f"{library} is missing", say)
    for place in places:
        if (place / library).exists():
            return place
    raise ConfigError(f"triton needs {library}, which is not in {places[0]}; use a Python built with --enable-shared")


def _install_package(package: str, why: str, say: Say) -> None:
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise ConfigError(f"{why}; on Debian or Ubuntu: sudo apt-get install {package}")
    say(f"{why}; installing the package {package}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "--quiet", "--yes", "--no-install-recommends", package]
    _run(["apt-get", "update", "--quiet"], f"apt-get install {package}", environment)
    _run(install, f"apt-get install {package}", environment)


def peer_environment(peer: str, locks: Sequence[str], say: Say) -> Path:
    """Return the Python of a peer's virtual environment, which is made where it is not there yet.

    Args:
        peer: The peer's name.
        locks: Names of lock files in REQUIREMENTS.
        say: Called with what is being done.

    Raises:
        ConfigError: It cannot be made.
    """
    files = [REQUIREMENTS / f"{lock}.txt" for lock in locks]
    digest = hashlib.sha256(sys.version.encode())
    for file in files:
        digest.update(file.read_bytes())
    directory = cache_directory(os.environ) / f"{peer}-{digest.hexdigest()[:12]}"
    python = directory / "bin" / "python"
    with _exclusive(directory):
        if not (directory / _STAMP).exists():
            say(f"{peer}: installing it into {directory} (once; minutes, and some hundred MB)")
            _make(directory, python, files, peer)
    return python


@contextmanager
def _exclusive(directory: Path) -> Iterator[None]:
    """Keep a second benchmark from making the same environment at the same time."""
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        lock = directory.with_suffix(".lock").open("w")
    except OSError as error:
        raise ConfigError(f"{error}; set XDG_CACHE_HOME to a directory that can be written to") from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make(directory: Path, python: Path, files: Sequence[Path], peer: str) -> None:
    if directory.exists():  # what an interrupted run has left
        shutil.rmtree(directory)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    _run([_base_python(), "-I", "-m", "venv", str(directory)], peer, environment)
    requirements = [argument for file in files for argument in ("--requirement", str(file))]
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes", *requirements]
    _run([str(python), "-I", "-m", "pip", "install", *options], peer, environment)
    (directory / _STAMP).touch()


def _base_python() -> str:
    """Return the interpreter that the running one's environment, if it is in one, was made from."""
    if sys.prefix == sys.base_prefix:
        return sys.executable
    return str(Path(sys.base_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}"))


def _run(command: Sequence[str], what: str, environment: Mapping[str, str]) -> None:
    """Run a step of an installation.

    Raises:
        ConfigError: It fails; the message has the end of what it wrote.
    """
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_INSTALL_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"{what} cannot be had: {error}") from None
    if done.returncode:
        tail = done.stdout.decode(errors="replace")[-1500:].strip()
        raise ConfigError(f"{what} cannot be had, as this failed: {' '.join(command)}\n{tail}")
