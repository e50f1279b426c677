"""Build the image, with what cannot be fetched in the build made ready outside; started by ``docker/build``.

The base image comes from the engine, a registry, or Debian's packages; the wheels from the index that pip is set up
with.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tomllib
from pathlib import Path

from apt_packages import SetupError, run, say
from base_image import ensure_base

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
WHEELS = HERE / "wheels"
LOCKS = ("requirements.lock", "build.lock")
READY = WHEELS / "locks.sha256"
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
OLDEST_GLIBC, NEWEST_GLIBC = 17, 36  # 2.17 is manylinux2014, 2.36 that of Debian 12
BUILD_TIMEOUT_S = 900


def image_name() -> str:
    """Return the name that the image gets: NAPU_IMAGE, or ``napu:`` and the project's version."""
    version: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    return os.environ.get("NAPU_IMAGE") or f"napu:{version}"


def ensure_wheels() -> None:
    """Have in docker/wheels what the two lock files name, for the engine's machine; done once for their content.

    Raises:
        SetupError: The engine's machine is unknown, or pip cannot have them all.
    """
    wanted = "".join(f"{hashlib.sha256((HERE / lock).read_bytes()).hexdigest()}  {lock}\n" for lock in LOCKS)
    architecture = run(["docker", "version", "--format", "{{.Server.Arch}}"]).strip()
    machine = MACHINES.get(architecture)
    if machine is None:
        raise SetupError(f"LiteRT has no wheels for {architecture}; use an engine on {' or '.join(MACHINES)}")
    marker = WHEELS / "machine"
    if READY.exists() and READY.read_text() == wanted and marker.read_text() == machine:
        return
    say(f"downloading wheels for {machine} …")
    for path in (READY, *WHEELS.glob("*.whl")):
        path.unlink(missing_ok=True)
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in range(NEWEST_GLIBC, OLDEST_GLIBC - 1, -1)]
    platforms.append(f"manylinux2014_{machine}")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    command += ["--require-hashes", "--python-version", "3.11", "--implementation", "cp", "--dest", str(WHEELS)]
    command += [f"--abi={abi}" for abi in ("cp311", "abi3", "none")] + [f"--platform={name}" for name in platforms]
    run([*command, *(f"--requirement={HERE / lock}" for lock in LOCKS)], timeout=BUILD_TIMEOUT_S)
    marker.write_text(machine)
    READY.write_text(wanted)


def build(name: str, *, quiet: bool) -> None:
    """Build the image from the repository.

    Raises:
        SetupError: The engine said why not.
    """
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    # The older builder takes a base image that was imported without asking a registry about it.
    command = ["docker", "build", "--force-rm", "--network", "none", "--tag", name, "--build-arg", f"VERSION={version}"]
    command += ["--file", str(HERE / "Dockerfile"), str(ROOT)]
    environment = {**os.environ, "DOCKER_BUILDKIT": "0"}
    say(f"building {name} …")
    if not quiet:
        if subprocess.run(command, env=environment, check=False, stdout=sys.stderr, timeout=BUILD_TIMEOUT_S).returncode:
            raise SetupError("docker build failed, as said above")
        return
    run(command, timeout=BUILD_TIMEOUT_S, env=environment)


def main() -> None:
    """Build the image; print its name."""
    parser = argparse.ArgumentParser(prog="docker/build", description="Build the image of appliance and host.")
    parser.add_argument("--quiet", action="store_true", help="show the build only where it fails")
    parser.add_argument("--wheels", action="store_true", help="only fetch the wheels")
    parser.add_argument("--base", action="store_true", help="only have the base image in the engine")
    arguments = parser.parse_args()
    try:
        if not arguments.wheels:
            say(ensure_base())
        if not arguments.base:
            ensure_wheels()
        if not arguments.wheels and not arguments.base:
            build(image_name(), quiet=arguments.quiet)
    except (SetupError, subprocess.TimeoutExpired) as error:
        sys.exit(f"docker/build: {error}")
    print(image_name())


if __name__ == "__main__":
    main()
