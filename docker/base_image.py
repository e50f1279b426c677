"""A stand-in for ``python:3.11-slim-bookworm``, from Debian's packages, where no container registry can be reached.

The same release of Debian and the same minor version of Python, with pip. Needs apt and dpkg, and no root.
"""

import os
import shutil
import subprocess
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

from apt_packages import Apt, SetupError, run, say

BASE = "python:3.11-slim-bookworm"
RELEASE = "bookworm"
LABEL = "io.napu.base=debian-packages"
PULL_TIMEOUT_S = 300
PACKAGES = (
    *("base-files", "base-passwd", "bash", "coreutils", "dash", "debianutils", "findutils", "grep", "gzip", "libc-bin"),
    *("netbase", "sed", "tar", "python3.11", "libstdc++6", "python3-pip-whl"),
)
# In no container does anybody read these.
UNREAD = ("usr/share/man", "usr/share/locale", "usr/share/info", "usr/share/lintian", "usr/share/python-wheels")


def ensure_base() -> str:
    """Have the base image in the engine, and return one sentence on where it came from.

    Raises:
        SetupError: It is neither in the engine nor in a registry, and cannot be made here.
    """
    shown = subprocess.run(["docker", "image", "inspect", BASE], capture_output=True, check=False, timeout=60)
    if shown.returncode == 0:
        return f"{BASE} is in the engine"
    try:
        run(["docker", "pull", "--quiet", BASE], timeout=PULL_TIMEOUT_S)
    except SetupError as error:
        say(f"no registry: {error}")
    else:
        return f"{BASE} was pulled"
    with TemporaryDirectory(prefix="napu-base-") as name:
        _import(_root(Path(name)))
    return f"{BASE} was made of Debian's packages, and stands in for that of the registry"


def _root(directory: Path) -> Path:
    apt_directory, root = directory / "apt", directory / "root"
    apt_directory.mkdir()
    say(f"making {BASE} of Debian's packages …")
    packages = Apt(apt_directory, RELEASE, empty=True).fetch(PACKAGES)
    for part in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / part).mkdir(parents=True)
        (root / part).symlink_to(f"usr/{part}")
    for package in packages:
        _unpack(package, root)
    _configure(root)
    return root


def _unpack(package: Path, root: Path) -> None:
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as archive:
        tar = ["tar", "--extract", "--keep-directory-symlink", "--no-same-owner", "-C", str(root)]
        done = subprocess.run(tar, stdin=archive.stdout, capture_output=True, text=True, check=False)
    if done.returncode or archive.returncode:
        raise SetupError(f"{package.name} cannot be unpacked: {done.stderr.strip()}")


def _configure(root: Path) -> None:
    """Do what the packages' own scripts would: accounts, names, and pip where Python looks for it."""
    for name in ("passwd", "group"):
        shutil.copy(root / f"usr/share/base-passwd/{name}.master", root / f"etc/{name}")
    (root / "usr/bin/sh").unlink(missing_ok=True)
    (root / "usr/bin/sh").symlink_to("dash")
    local = root / "usr/local"
    (local / "bin").mkdir(parents=True)
    for name in ("python", "python3"):
        (local / "bin" / name).symlink_to("/usr/bin/python3.11")
    packages = local / "lib/python3.11/dist-packages"
    packages.mkdir(parents=True)
    for wheel in (root / "usr/share/python-wheels").glob("pip-*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(packages)
    for path in UNREAD:
        shutil.rmtree(root / path, ignore_errors=True)


def _import(root: Path) -> None:
    # Owned by root whoever made it, and readable by all.
    tar = ["tar", "-c", "--owner=0", "--group=0", "--numeric-owner", "--sort=name", "-C", str(root), "."]
    changes = [
        "ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin",
        'CMD ["python3"]',
        f"LABEL {LABEL}",
    ]
    options = [word for change in changes for word in ("--change", change)]
    with subprocess.Popen(tar, stdout=subprocess.PIPE) as archive:
        command = ["docker", "import", *options, "-", BASE]
        done = subprocess.run(
            command, stdin=archive.stdout, capture_output=True, text=True, check=False, env=os.environ
        )
    if done.returncode or archive.returncode:
        raise SetupError(f"docker import failed: {done.stderr.strip()}")
