"""One node of a lab, as its keeper holds it."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from host_sdk.lab.directory import LabDirectory
from host_sdk.lab.port import CABLE, GO, PLUGGED
from host_sdk.lab.state import NodeState
from host_sdk.wire.errors import DeviceError

_TAIL_LINES = 10
_TURN_S = 10.0  # within which a port must take its turn
_MAX_ANNOUNCEMENT = 65536  # bytes


def log_tail(path: Path) -> str:
    """Return the last lines of a log; a sentence where there are none."""
    try:
        with path.open(errors="replace") as log:
            lines = deque(log, _TAIL_LINES)
    except FileNotFoundError:
        lines = deque()
    return "".join(lines).strip() or "(the log is empty)"


class Node:
    """A process at a port of the switch; it becomes the command once its cable works.

    Args:
        name: The node's name.
        mac: Its address.
        directory: Where its log and its flash are.
        command: What it runs; nothing for the host, which only holds its namespace.
    """

    def __init__(self, name: str, mac: str, directory: LabDirectory, command: Sequence[str] = ()) -> None:
        self._command = command
        flash = directory.flash(name) if command else None
        if flash:
            flash.mkdir(parents=True)
        self._log = directory.log(name)
        self._faults = directory.faults(name)
        self.state = NodeState(name, mac, pid=0, log=str(self._log), flash=str(flash or ""), command=tuple(command))
        self.ready, self._ready_writer = os.pipe()
        os.set_blocking(self.ready, False)
        self._received = b""
        self._process: subprocess.Popen[bytes] | None = None
        self._sync, self._far_sync = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sync.settimeout(_TURN_S)

    @property
    def pid(self) -> int | None:
        """Number of the process in this PID namespace; None before there is one."""
        return self._process.pid if self._process else None

    def _child(self) -> "subprocess.Popen[bytes]":
        if self._process is None:
            raise RuntimeError(f"node {self.state.name} was not started")
        return self._process

    def runs(self) -> bool:
        """Return whether the process was started and has not been buried."""
        return self._process is not None and self.state.exit_code is None

    def start(self) -> None:
        """Start the process, which makes its network namespace and waits for the cable."""
        words = {"{ready_fd}": str(self._ready_writer), "{flash}": self.state.flash, "{faults}": str(self._faults)}
        command = [_fill(argument, words) for argument in self._command]
        self.state = replace(self.state, command=tuple(command))
        sync = self._far_sync.fileno()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "host_sdk.lab.port", "--sync-fd", str(sync), "--", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(sync, self._ready_writer) if command else (sync,),
                start_new_session=True,
            )
        self._far_sync.close()
        os.close(self._ready_writer)

    def await_namespace(self) -> int:
        """Wait for the node's network namespace; return the process in it, as this PID namespace counts.

        Raises:
            DeviceError: The process ended instead.
        """
        self.state = replace(self.state, pid=int(self._take_turn()))
        return self._child().pid

    def await_plugged(self) -> None:
        """Tell the node that its cable is there, and wait until its interface is up.

        Raises:
            DeviceError: The process ended instead.
        """
        with contextlib.suppress(ConnectionError):
            self._sync.send(CABLE)
        if self._take_turn() != PLUGGED:
            raise DeviceError(self.obituary())

    def go(self) -> None:
        """Let the process become the command."""
        with contextlib.suppress(ConnectionError):
            self._sync.send(GO)
        self._sync.close()

    def _take_turn(self) -> bytes:
        try:
            word = self._sync.recv(64)
        except (ConnectionError, TimeoutError):
            word = b""
        if not word:
            raise DeviceError(self.obituary())
        return word

    def read_announcement(self) -> bool:
        """Read what the node has written to its ready descriptor; return whether nothing more will come.

        Raises:
            DeviceError: It is not one JSON object in one line.
        """
        piece = os.read(self.ready, _MAX_ANNOUNCEMENT)
        self._received += piece
        line, newline, _ = self._received.partition(b"\n")
        if newline:
            try:
                announcement = json.loads(line)
            except ValueError:
                announcement = None
            if not isinstance(announcement, dict):
                raise DeviceError(
                    f"{self.state.name} announced {line[:200]!r}; it must write one JSON object in one line"
                )
            self.state = replace(self.state, announcement=announcement)
        elif len(self._received) > _MAX_ANNOUNCEMENT:
            raise DeviceError(f"{self.state.name} announced more than {_MAX_ANNOUNCEMENT} bytes without end")
        return bool(newline) or not piece

    def bury(self) -> None:
        """Reap the process, which has ended."""
        self.state = replace(self.state, exit_code=self._child().wait(), log_tail=self.log_tail())

    def signal(self, number: signal.Signals) -> None:
        """Send the process a signal, if it runs."""
        if self.runs():
            os.kill(self._child().pid, number)  # not yet reaped, so the number is still this process's

    def log_tail(self) -> str:
        """Return the last lines of the node's log."""
        return log_tail(self._log)

    def obituary(self) -> str:
        """Return what to tell about a node that ended before it served."""
        code = self.state.exit_code
        how = "did not come up" if code is None else f"ended with exit code {code} before it served"
        return f"{self.state.name} {how}; its log ends:\n{self.log_tail()}"


def _fill(argument: str, words: dict[str, str]) -> str:
    for word, value in words.items():
        argument = argument.replace(word, value)
    return argument
