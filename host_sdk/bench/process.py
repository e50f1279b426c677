"""Processes of the benchmark: started on a core, asked in lines of JSON, watched, and gone at the end."""

import contextlib
import json
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from host_sdk.bench.pinned import pinned
from host_sdk.wire.errors import DeviceError, NapuTimeoutError

_STOP_S = 5.0
_TAIL = 2000  # bytes of a log that an error shows
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 2**20


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process and all below it have used.

    Attributes:
        cpu_s: Seconds on a processor, user and system, since they started.
        rss_mb: MB resident; pages that they share count for each.
    """

    cpu_s: float
    rss_mb: float


def _fields(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on; nothing when the process is gone."""
    try:
        return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def process_tree(pid: int) -> list[int]:
    """Return a process and all that descend from it."""
    below: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        if fields := _fields(int(entry.name)):
            below.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [pid]
    for each in found:  # grows while it is walked
        found.extend(below.get(each, ()))
    return found


def usage(pid: int) -> Usage:
    """Return what a process and all that descend from it have used; those that ended count with their parents."""
    cpu = rss = 0
    for fields in map(_fields, process_tree(pid)):
        if fields:
            cpu += sum(int(field) for field in fields[11:15])
            rss += int(fields[21])
    return Usage(cpu / _TICKS, rss * _PAGE_MB)


def cpu_share(pid: int, after_s: float, seconds: float) -> float:
    """Return what part of a core a process tree uses in ``seconds`` that begin ``after_s`` from now; blocks so long.

    Raises:
        DeviceError: A process of the tree ended meanwhile.
    """
    time.sleep(after_s)
    begin, before, members = time.monotonic(), usage(pid), process_tree(pid)
    time.sleep(seconds)
    after, end = usage(pid), time.monotonic()
    if gone := set(members) - set(process_tree(pid)):
        raise DeviceError(f"of the server's processes {sorted(gone)} ended while it was measured; was it killed?")
    return (after.cpu_s - before.cpu_s) / (end - begin)


class Child:
    """A process on a core, in a session of its own; what it writes to standard error goes to a log.

    Args:
        name: What it is, for messages.
        command: What to run.
        core: Where.
        directory: Where it runs.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        core: int,
        directory: Path | None = None,
    ) -> None:
        self.name = name
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop()
        self._received = b""
        self._stopped = False
        self._process = subprocess.Popen(
            pinned(core, list(command)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd=directory,
            start_new_session=True,
        )
        self._ended = os.pidfd_open(self._process.pid)

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    def send(self, message: Mapping[str, Any]) -> None:
        """Write one line of JSON to its standard input.

        Raises:
            DeviceError: It has ended.
        """
        line = json.dumps(message).encode() + b"\n"
        try:
            os.write(_descriptor(self._process.stdin), line)
        except BrokenPipeError:
            raise DeviceError(self.obituary()) from None

    def receive(self, timeout_s: float) -> dict[str, Any]:
        """Read one line of JSON from its standard output.

        Raises:
            DeviceError: It has ended, or answers with an ``error``.
            NapuTimeoutError: It does not answer in time.
        """
        end, output = time.monotonic() + timeout_s, _descriptor(self._process.stdout)
        while b"\n" not in self._received:
            ready = select.select([output, self._ended], [], [], max(0.0, end - time.monotonic()))[0]
            if not ready:
                raise NapuTimeoutError(
                    f"{self.name} did not answer within {timeout_s:.0f} s; its log ends:\n{self.tail()}"
                )
            # Another process may hold the pipe open when this one has ended.
            piece = os.read(output, 1 << 16) if output in ready else b""
            if not piece:
                raise DeviceError(self.obituary())
            self._received += piece
        line, _, self._received = self._received.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise DeviceError(f"{self.name}: {answer['error']}")
        return answer

    def ask(self, message: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """Send one line and return the answer; raises what :meth:`send` and :meth:`receive` do."""
        self.send(message)
        return self.receive(timeout_s)

    def ends(self, timeout_s: float) -> bool:
        """Wait for its end; return whether it came in time."""
        return bool(select.select([self._ended], [], [], timeout_s)[0])

    def exit_status(self) -> int | None:
        """Return how it ended (negative: by that signal); None while it runs."""
        return self._process.poll()

    def tail(self) -> str:
        """Return the end of its log."""
        descriptor = self._log.fileno()  # not by seeking: the process writes where the offset, which is shared, stands
        end = os.pread(descriptor, _TAIL, max(0, os.fstat(descriptor).st_size - _TAIL))
        return end.decode(errors="replace").strip() or "(the log is empty)"

    def obituary(self) -> str:
        """Return what to tell of its untimely end."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_S)
        return f"{self.name} ended with exit status {self._process.returncode}; its log ends:\n{self.tail()}"

    def stop(self) -> None:
        """End it and all of its session; a second call does nothing."""
        if self._stopped:
            return
        self._stopped = True
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        finally:
            _kill_session(self.pid)
            for stream in (self._process.stdin, self._process.stdout, self._log):
                _close(stream)
            os.close(self._ended)


def _kill_session(session: int) -> None:
    """Kill what is left of a session whose leader has ended; its number is not used again before that."""
    for entry in Path("/proc").glob("[0-9]*"):
        fields = _fields(int(entry.name))
        if fields and int(fields[3]) == session:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(entry.name), signal.SIGKILL)


def _descriptor(stream: Any) -> int:
    return int(stream.fileno())


def _close(stream: Any) -> None:
    with contextlib.suppress(BrokenPipeError):
        stream.close()
