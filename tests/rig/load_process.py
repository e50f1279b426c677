"""The load of :mod:`tests.rig.cluster_load` as a process in the host of a lab."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from host_sdk.lab.driver import RunningLab
from tests.rig.container_faults import FaultError, wait_until
from tests.rig.engine import ROOT

_START_S: Final = 60.0
_STOP_S: Final = 30.0


class LoadProcess:
    """A load that runs.

    Attributes:
        pid: Its process.
        now: What became of requests so far.
        report: What became of them by phase, once it has been stopped.
    """

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.pid = 0
        self.now: dict[str, Any] = {}
        self.report: dict[str, Any] = {}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            said = json.loads(line)
            if "pid" in said:
                self.pid = said["pid"]
            elif "phases" in said:
                self.report = said
            else:
                self.now = said

    def await_running(self) -> None:
        """Wait until it has sent something.

        Raises:
            FaultError: It does not.
        """
        wait_until(lambda: self._ended() or bool(self.now.get("sent")), "the load begins", _START_S)
        self.check()

    def _ended(self) -> bool:
        return self._process.poll() is not None

    def check(self) -> None:
        """See that it runs.

        Raises:
            FaultError: It has ended.
        """
        if self._ended():
            raise FaultError(f"the load has ended with status {self._process.returncode}; standard error says why")

    def enter(self, phase: str) -> None:
        """Count what is sent from now on to a phase."""
        self._say({"phase": phase})

    def answered_by(self, address: str) -> int:
        """Return how many requests an appliance has answered so far."""
        return int(self.now.get("by", {}).get(address, 0))

    def stop(self) -> dict[str, Any]:
        """Stop it and return its report.

        Raises:
            FaultError: It does not stop, or without a report.
        """
        self._say({"stop": True})
        self._reader.join(_STOP_S)
        wait_until(self._ended, "the load ends")
        if not self.report:
            raise FaultError(f"the load has ended with status {self._process.returncode} and without a report")
        return self.report

    def _say(self, words: dict[str, Any]) -> None:
        self.check()
        assert self._process.stdin
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()


@contextmanager
def load_process(lab: RunningLab, host: str, arguments: Sequence[str]) -> Iterator[LoadProcess]:
    """Run a load in a host of a lab; it has ended when this does."""
    command = lab.inside(host, [sys.executable, "-m", "tests.rig.cluster_load", *arguments])
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,  # Ctrl-C is for whoever has started it
    ) as process:
        try:
            load = LoadProcess(process)
            load.await_running()
            yield load
        finally:
            if process.poll() is None:
                process.terminate()
