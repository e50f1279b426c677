"""Flash: named objects in a directory, written as a whole or not at all, bounded in total size."""

import errno
import os
import re
import threading
from pathlib import Path

from host_sdk.wire.errors import DeviceError, NoSpaceError

MAX_NAME = 120
_FULL = (errno.ENOSPC, errno.EDQUOT)
_SEGMENT = re.compile(r"[a-z0-9._-]+")
_TORN = "~"  # ends the name of a file that is being written; no object's name can contain it


def check_name(name: str) -> str:
    """Return the name of an object if it can be one.

    Names are segments of ``a-z 0-9 . _ -`` separated by single slashes, none of them ``.`` or ``..``.

    Raises:
        DeviceError: It cannot.
    """
    segments = name.split("/")
    if len(name) > MAX_NAME or not all(
        _SEGMENT.fullmatch(segment) and segment not in (".", "..") for segment in segments
    ):
        raise DeviceError(
            f"{name[:MAX_NAME]!r} is no name for a flash object: use a-z 0-9 . _ - in parts separated by /, "
            f"at most {MAX_NAME} characters"
        )
    return name


class Flash:
    """Named objects that outlive the power.

    An object is replaced as a whole: after a loss of power in the middle, the old content is still there.
    Used from any thread, by one process at a time.

    Args:
        directory: Where the objects are; made if missing. Files that no object can be named like are left alone.
        capacity_bytes: Sum of the objects' sizes that fits.

    Raises:
        DeviceError: The directory cannot be used.
    """

    def __init__(self, directory: Path, capacity_bytes: int) -> None:
        self.directory = directory
        self.capacity_bytes = capacity_bytes
        self._lock = threading.Lock()
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._remove_torn()
            self._sizes = self._scan()
        except OSError as error:
            raise DeviceError(f"flash in {directory} cannot be used: {error}") from None

    def list(self) -> dict[str, int]:
        """Return the objects' sizes in bytes by name, in order of name."""
        with self._lock:
            return dict(sorted(self._sizes.items()))

    @property
    def free_bytes(self) -> int:
        """Bytes of new objects that still fit."""
        with self._lock:
            return max(0, self.capacity_bytes - sum(self._sizes.values()))

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """Return an object's bytes from an offset on: all, or at most ``length``; fewer at its end.

        Raises:
            DeviceError: There is no such object, or it cannot be read.
        """
        path = self._path(name)
        with self._lock:
            if name not in self._sizes:
                raise DeviceError(f"flash has no object {name!r}")
            try:
                with path.open("rb") as file:
                    file.seek(offset)
                    return file.read(self._sizes[name] if length is None else length)
            except (OSError, ValueError, OverflowError) as error:
                raise DeviceError(f"flash object {name!r} cannot be read: {error}") from None

    def write(self, name: str, data: bytes) -> None:
        """Write an object, or replace it; it is on the medium when this returns.

        Raises:
            NoSpaceError: It does not fit, into the flash or on the medium that holds it; the old object is as it was.
            DeviceError: The name is none, or the medium fails; likewise.
        """
        path = self._path(name)
        with self._lock:
            free = self.capacity_bytes - sum(self._sizes.values()) + self._sizes.get(name, 0)
            if len(data) > free:
                raise NoSpaceError(
                    f"{len(data)} bytes do not fit into flash, where {max(0, free)} are free; remove something first"
                )
            try:
                self._replace(path, data)
            except OSError as error:
                if error.errno in _FULL:
                    told = f"{len(data)} bytes of {name!r} do not fit; make room on it"
                    raise NoSpaceError(f"the medium that holds the flash is full: {told}") from None
                raise DeviceError(f"flash object {name!r} cannot be written: {error}") from None
            self._sizes[name] = len(data)

    def keep(self, name: str, data: bytes) -> None:
        """Write an object unless it is as it should be, so that a medium that is full does no harm.

        Raises:
            NoSpaceError: As of :meth:`write`.
            DeviceError: As of :meth:`write`, and of :meth:`read`.
        """
        if name not in self.list() or self.read(name) != data:
            self.write(name, data)

    def delete(self, name: str) -> bool:
        """Delete an object; return whether there was one.

        Raises:
            DeviceError: The name is none, or the medium fails.
        """
        path = self._path(name)
        with self._lock:
            if name not in self._sizes:
                return False
            try:
                path.unlink(missing_ok=True)
                _sync(path.parent)
                self._prune(path.parent)
            except OSError as error:
                raise DeviceError(f"flash object {name!r} cannot be deleted: {error}") from None
            del self._sizes[name]
            return True

    def _path(self, name: str) -> Path:
        return self.directory / check_name(name)

    def _replace(self, path: Path, data: bytes) -> None:
        missing = [parent for parent in path.parents if not parent.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        torn = path.with_name(path.name + _TORN)
        try:
            with torn.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            torn.replace(path)
        except OSError:
            torn.unlink(missing_ok=True)
            raise
        for directory in (path.parent, *(parent.parent for parent in missing)):
            _sync(directory)

    def _prune(self, directory: Path) -> None:
        # An empty directory would be in the way of an object of its name.
        while directory != self.directory and not any(directory.iterdir()):
            directory.rmdir()
            directory = directory.parent

    def _remove_torn(self) -> None:
        for path in self.directory.rglob(f"*{_TORN}"):
            if path.is_file():
                path.unlink()

    def _scan(self) -> dict[str, int]:
        sizes = {}
        for path in self.directory.rglob("*"):
            name = path.relative_to(self.directory).as_posix()
            try:
                check_name(name)
            except DeviceError:
                continue
            if path.is_file():
                sizes[name] = path.stat().st_size
        return sizes


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
