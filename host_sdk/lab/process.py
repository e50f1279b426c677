"""Processes by number and start time, so that a number used again is not taken for the same process."""

import contextlib
import os
import select
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


def _started(pid: int) -> int | None:
    """Return when a process started, in clock ticks after boot; None when it is gone or has ended."""
    try:
        text = Path("/proc", str(pid), "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()  # the name before may hold anything, so count from behind it
    return None if fields[0] in "ZX" else int(fields[19])


def is_stopped(pid: int) -> bool:
    """Return whether a process was stopped by a signal."""
    try:
        return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0] == "T"
    except (FileNotFoundError, ProcessLookupError):
        return False


def signal_tree(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process and to all that descend from it; who is gone by then is no error."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
    for children in Path("/proc", str(pid), "task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for child in children.read_text().split():
                signal_tree(int(child), number)


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """One process, as /proc tells it apart from all others since boot.

    Attributes:
        pid: Its number.
        started: When it started, in clock ticks after boot.
    """

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> "ProcessIdentity":
        """Return the identity of a running process.

        Raises:
            ProcessLookupError: There is none.
        """
        started = _started(pid)
        if started is None:
            raise ProcessLookupError(f"process {pid} is gone")
        return cls(pid, started)

    def runs(self) -> bool:
        """Return whether it still runs; one that has ended and waits to be reaped does not."""
        return _started(self.pid) == self.started

    @contextlib.contextmanager
    def opened(self) -> Iterator[int | None]:
        """Give a pidfd of the process, or None when it is gone."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            yield None
            return
        try:
            yield descriptor if self.runs() else None
        finally:
            os.close(descriptor)

    def end(self, number: signal.Signals, timeout_s: float) -> bool:
        """Send a signal and wait for the end; return whether it came in time.

        Raises:
            PermissionError: The process belongs to somebody else.
        """
        with self.opened() as descriptor:
            if descriptor is None:
                return True
            signal.pidfd_send_signal(descriptor, number)
            return bool(select.select([descriptor], [], [], timeout_s)[0])
