"""Puts the dissector where Wireshark looks for it, and takes it away again."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from host_sdk.capture.dissector.product import PRODUCT, committed
from host_sdk.wire.errors import ConfigError

_FALLBACK = Path(".local", "lib", "wireshark", "plugins")  # below the user's home
_FOLDER = "Personal Lua Plugins:"  # as `tshark -G folders` names it
_TIMEOUT_S = 20


@dataclass(frozen=True, slots=True)
class Placed:
    """What became of the dissector's file.

    Attributes:
        path: The file.
        changed: Whether anything had to be done.
    """

    path: Path
    changed: bool


def plugin_folder() -> Path:
    """Return where Wireshark looks for a user's Lua plugins: what tshark says, or the usual place where it is not."""
    tshark = shutil.which("tshark")
    if tshark:
        try:
            done = subprocess.run(
                [tshark, "-G", "folders"], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return Path.home() / _FALLBACK
        for line in done.stdout.splitlines():
            if line.startswith(_FOLDER):
                return Path(line.removeprefix(_FOLDER).strip())
    return Path.home() / _FALLBACK


def _ours(path: Path) -> bool:
    """Return whether there is a dissector of this project, of whatever version.

    Raises:
        ConfigError: There is something else.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return False
    if text.partition(b"\n")[0] != committed().encode().partition(b"\n")[0]:
        raise ConfigError(f"{path} is something else than the dissector; it is left alone")
    return True


def install(directory: Path | None = None) -> Placed:
    """Write the dissector into a directory, which is made where it is not there; an older one is replaced.

    Args:
        directory: By default the one where Wireshark looks.

    Raises:
        ConfigError: It cannot be written, or another file has its name.
    """
    path = (directory or plugin_folder()) / PRODUCT
    content = committed().encode()
    try:
        if _ours(path) and path.read_bytes() == content:
            return Placed(path, changed=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{PRODUCT}.new")  # no name that Wireshark would load meanwhile
        new.write_bytes(content)
        new.replace(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error}") from None
    return Placed(path, changed=True)


def uninstall(directory: Path | None = None) -> Placed:
    """Remove the dissector from a directory; one that is not there is no error.

    Args:
        directory: By default the one where Wireshark looks.

    Raises:
        ConfigError: It cannot be removed, or another file has its name.
    """
    path = (directory or plugin_folder()) / PRODUCT
    try:
        there = _ours(path)
        if there:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"{path} cannot be removed: {error}") from None
    return Placed(path, changed=there)
