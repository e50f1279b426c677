"""A lab's directory: its lock, its state, its logs and the flash of its nodes.

The lock is an flock on the directory itself, held by the lab's processes. The kernel gives it up when the
last of them ends, so a lock that can be had means a lab that is gone, whatever its files say.
"""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from host_sdk.lab.process import ProcessIdentity
from host_sdk.lab.state import LabState
from host_sdk.lab.topology import check_name
from host_sdk.wire.errors import ConfigError, LinkError

_STATE: Final = "state.json"
TOPOLOGY: Final = "topology.json"
_TRIES: Final = 100  # of 20 ms each, for a lab that is just ending


def base_directory(environment: Mapping[str, str], user: int) -> Path:
    """Return the directory that holds a user's labs, after making it where it is missing.

    Root's is ``/run/napu``; everybody else's ``$XDG_RUNTIME_DIR/napu``, or without that ``/tmp/napu-<uid>``;
    other users must have no access to it.

    Raises:
        ConfigError: It belongs to somebody else, or others may enter it.
    """
    runtime = Path(environment.get("XDG_RUNTIME_DIR", ""))
    if user == 0 and os.access("/run", os.W_OK):
        base = Path("/run/napu")
    elif user != 0 and runtime.is_absolute() and runtime.is_dir() and runtime.stat().st_uid == user:
        base = runtime / "napu"
    else:
        base = Path(f"/tmp/napu-{user}")  # noqa: S108 - predictable, and therefore examined below
    with contextlib.suppress(FileExistsError):
        base.mkdir(mode=0o700)
    found = base.lstat()  # a symbolic link here would be somebody else's choice of where we write
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != user or found.st_mode & 0o077:
        raise ConfigError(
            f"{base} is not a directory of user {user} alone, so labs cannot be kept there; remove it, "
            "or set XDG_RUNTIME_DIR to a directory of your own"
        )
    return base


class LabDirectory:
    """The directory of one lab."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        """Name of the lab."""
        return self.path.name

    def log(self, node: str) -> Path:
        """Return where a node's output goes; the keeper's is that of ``keeper``."""
        return self.path / f"{node}.log"

    def flash(self, node: str) -> Path:
        """Return the directory that holds a node's flash."""
        return self.path / "flash" / node

    def faults(self, node: str) -> Path:
        """Return where the socket is at which a node's faults can be changed."""
        return self.path / f"{node}.faults"

    def unplugged(self, node: str) -> Path:
        """Return the file that is there while a node's cable is unplugged."""
        return self.path / f"{node}.unplugged"

    def read_state(self) -> LabState | None:
        """Return the state that the keeper wrote last; None when it has not written any."""
        try:
            text = (self.path / _STATE).read_text()
        except FileNotFoundError:
            return None
        return LabState.from_json(text)

    def await_state(self) -> LabState | None:
        """Return the state of a lab that may just be starting; None when it is gone or has none for 2 s."""
        for _ in range(_TRIES):
            state = self.read_state()
            if state is not None or not self.is_live():
                return state
            time.sleep(0.02)
        return None

    def write_state(self, state: LabState) -> None:
        """Replace the state in one step, so that a reader never sees half of it."""
        new = self.path / f"{_STATE}.new"
        new.write_text(state.to_json())
        new.replace(self.path / _STATE)

    def write_json(self, name: str, data: object) -> Path:
        """Write a file of the lab's own; return its path."""
        path = self.path / name
        path.write_text(json.dumps(data))
        return path

    def keeper(self) -> ProcessIdentity | None:
        """Return the keeper that wrote the state, if it runs."""
        state = self.read_state()
        return state.keeper if state and state.keeper and state.keeper.runs() else None

    def _open_locked(self) -> int | None:
        """Return a descriptor that holds the lock; None when somebody else holds it.

        Raises:
            FileNotFoundError: There is no such directory, or it was removed meanwhile.
        """
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(descriptor), self.path.stat()):
                raise FileNotFoundError(f"{self.path} was replaced")
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    def claim(self) -> int:
        """Make the directory, or clear what a dead lab left in it; return a descriptor that holds the lock.

        Raises:
            ConfigError: A lab of this name is up, or has been starting or ending for 2 s.
        """
        for _ in range(_TRIES):
            with contextlib.suppress(FileExistsError):
                self.path.mkdir(mode=0o700)
            with contextlib.suppress(FileNotFoundError):
                descriptor = self._open_locked()
                if descriptor is not None:
                    self._clear()
                    return descriptor
                if keeper := self.keeper():
                    raise ConfigError(
                        f"lab {self.name} is up already (keeper {keeper.pid}); end it with "
                        f"'napu lab down --name {self.name}' or choose another name"
                    )
            time.sleep(0.02)
        raise ConfigError(
            f"lab {self.name} is being started or ended by another process; wait for that, "
            f"or end it with 'napu lab down --name {self.name}'"
        )

    def is_live(self) -> bool:
        """Return whether the lab is there; what a dead one left is removed."""
        try:
            descriptor = self._open_locked()
        except FileNotFoundError:
            return False
        if descriptor is None:
            return True
        try:
            self.remove()
        finally:
            os.close(descriptor)
        return False

    def wait_gone(self) -> bool:
        """Wait until no process of the lab is left, at most 2 s; return whether that came."""
        for _ in range(_TRIES):
            if not self.is_live():
                return True
            time.sleep(0.02)
        return False

    def _clear(self) -> None:
        for entry in self.path.iterdir():
            if entry.is_dir():
                _remove_tree(entry)
            else:
                entry.unlink()

    def remove(self) -> None:
        """Remove the directory with all that is in it; it may be gone already."""
        _remove_tree(self.path)


def _remove_tree(path: Path) -> None:
    """Remove a tree into which a process that is just being killed may still write."""
    for _ in range(_TRIES):
        try:
            shutil.rmtree(path)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
        else:
            return
        time.sleep(0.02)
    raise LinkError(f"{path} cannot be removed because something writes into it; end that and try again")


def find_directories(base: Path) -> list[LabDirectory]:
    """Return the directories of all labs that are there, by name; what dead ones left is removed."""
    directories = [LabDirectory(path) for path in sorted(base.iterdir()) if path.is_dir()]
    return [directory for directory in directories if directory.is_live()]


def lab_directory(name: str) -> LabDirectory:
    """Return where the lab of a name has its directory, whether it is there or not.

    Raises:
        ConfigError: The name is no name, or the place is not safe.
    """
    return LabDirectory(base_directory(os.environ, os.geteuid()) / check_name(name, "lab"))
