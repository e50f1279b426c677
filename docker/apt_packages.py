"""Debian packages of a given release, fetched by the machine's own apt without touching what it knows or has installed.

Standard library only. apt resolves, downloads and checks signatures; this gives it a directory of its own to work in,
and takes the mirror from the sources that the machine is set up with.
"""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
TIMEOUT_S = 300


class SetupError(Exception):
    """Something cannot be set up on this machine; the message says what to do."""


def run(command: Sequence[str | Path], *, timeout: float = TIMEOUT_S, env: dict[str, str] | None = None) -> str:
    """Run a command to its end and return what it printed.

    Raises:
        SetupError: It is missing, failed or took longer than ``timeout`` seconds.
    """
    name = str(command[0])
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=env, check=False)
    except FileNotFoundError:
        raise SetupError(f"{name} is not installed") from None
    except subprocess.TimeoutExpired:
        raise SetupError(f"{name} took longer than {timeout:g} s") from None
    if done.returncode:
        told = (done.stderr or done.stdout).strip().splitlines()
        raise SetupError(f"{' '.join(map(str, command[:3]))} … failed: {' | '.join(told[-3:]) or done.returncode}")
    return done.stdout


def mirrors() -> tuple[str, str | None]:
    """Return the addresses of this machine's Debian archive and, where it has one, of its security updates.

    Raises:
        SetupError: The machine has no apt, or its apt no Debian archive.
    """
    names = "$(REPO_URI) $(RELEASE)"
    lines = run(["apt-get", "indextargets", "--format", names, "Created-By: Packages", "Component: main"]).splitlines()
    archives = [line.split() for line in lines]
    plain = [uri for uri, release in archives if uri.rstrip("/").endswith("/debian")]
    security = [uri for uri, release in archives if re.search(r"-security$", release)]
    if not plain:
        raise SetupError("apt on this machine has no archive of Debian; use a machine with a container registry")
    return plain[0], security[0] if security else None


class Apt:
    """apt over a private directory, for one release of Debian.

    Args:
        directory: An existing directory to work in; the caller removes it.
        release: Name of the release, as in ``bookworm``.
        empty: Resolve for a system where nothing is installed, rather than for this machine.
    """

    def __init__(self, directory: Path, release: str, *, empty: bool) -> None:
        archive, security = mirrors()
        directory.chmod(0o755)  # apt downloads as a user of its own
        sources = [f"deb [signed-by={KEYRING}] {archive} {release} main"]
        sources.append(f"deb [signed-by={KEYRING}] {archive} {release}-updates main")
        if security:
            sources.append(f"deb [signed-by={KEYRING}] {security} {release}-security main")
        (directory / "sources.list").write_text("\n".join(sources) + "\n")
        for part in ("lists/partial", "archives/partial", "parts"):
            (directory / part).mkdir(parents=True)
        status = directory / "status"
        status.touch()
        self.archives = directory / "archives"
        self._options = [
            f"Dir::Etc::SourceList={directory / 'sources.list'}",
            f"Dir::Etc::SourceParts={directory / 'parts'}",
            f"Dir::State={directory}",
            f"Dir::State::Lists={directory / 'lists'}",
            f"Dir::State::status={status if empty else '/var/lib/dpkg/status'}",
            f"Dir::Cache={directory}",
            f"Dir::Cache::Archives={self.archives}",
            "Acquire::Languages=none",
            "Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false",
            "Debug::NoLocking=true",
        ]
        self._apt("update")

    def fetch(self, packages: Sequence[str], *, dependencies: bool = True) -> list[Path]:
        """Download packages, by default with what they depend on, and return the files.

        Raises:
            SetupError: apt cannot, for the reason it gave.
        """
        if dependencies:
            self._apt("install", "--yes", "--download-only", "--no-install-recommends", *packages)
            return sorted(self.archives.glob("*.deb"))
        before = Path.cwd()
        os.chdir(self.archives)
        try:
            self._apt("download", *packages)
        finally:
            os.chdir(before)
        return sorted(self.archives.glob("*.deb"))

    def _apt(self, *arguments: str) -> None:
        options = [word for option in self._options for word in ("-o", option)]
        environment = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
        run(["apt-get", "-qq", *options, *arguments], env=environment)


def say(message: str) -> None:
    """Tell the user what is being done."""
    print(message, file=sys.stderr, flush=True)
