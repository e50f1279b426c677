"""One run of the firmware as a process, and how long to wait before the next one."""

import os
import subprocess
from collections.abc import Callable

from appliance.board.console import Console
from appliance.board.regmap import ResetReason

Launcher = Callable[[int, int, int], subprocess.Popen[bytes]]
"""Starts the firmware with its end of the bus, of the interrupt line, and the epoch of this boot.

Its standard output, where it is a pipe, becomes the board's console. Raises DeviceError when there is nothing
that may be started, OSError when the system is out of something.
"""

SECOND_NS = 1_000_000_000
FIRST_DELAY_NS = SECOND_NS // 10
LAST_DELAY_NS = SECOND_NS
STABLE_NS = 10 * SECOND_NS  # a run of this length makes the next restart immediate again
_EXIT_GRACE_S = 0.25
_CHUNK = 64 * 1024
_MAX_CHUNKS = 16


class Backoff:
    """How long to wait before the next boot: nothing the first time, then 0.1 s doubling to 1 s."""

    def __init__(self) -> None:
        self._failures = 0

    def after_run(self, run_ns: int) -> int:
        """Return the ns to wait after a run of the firmware that lasted ``run_ns``."""
        if run_ns >= STABLE_NS:
            self._failures = 0
        self._failures += 1
        if self._failures == 1:
            return 0
        # The exponent is bounded as well: a firmware that dies for a week must not make huge numbers.
        return min(FIRST_DELAY_NS << min(self._failures - 2, 10), LAST_DELAY_NS)


class FirmwareProcess:
    """A running firmware process, owned by the board's thread.

    Attributes:
        pid: Its process id.
        started_ns: When it was started.
        console_fd: Descriptor of its output, or None.
    """

    def __init__(self, popen: subprocess.Popen[bytes], started_ns: int, console: Console) -> None:
        self.pid = popen.pid
        self.started_ns = started_ns
        self.console_fd: int | None = popen.stdout.fileno() if popen.stdout else None
        self._popen = popen
        self._console = console
        self._too_late_ms = 0
        if self.console_fd is not None:
            os.set_blocking(self.console_fd, False)

    def pump_console(self) -> bool:
        """Move what the process has written to the console; return False when there will be no more."""
        if self.console_fd is None:
            return False
        for _ in range(_MAX_CHUNKS):
            try:
                data = os.read(self.console_fd, _CHUNK)
            except BlockingIOError:
                return True
            if not data:
                return False
            self._console.feed(data)
        return True

    def terminate(self) -> None:
        """Ask the process to end."""
        self._popen.terminate()

    def kill(self) -> None:
        """End the process."""
        self._popen.kill()

    def reset(self, period_ms: int) -> None:
        """End a process that did not kick the watchdog within its period."""
        self._too_late_ms = period_ms
        self.kill()

    def bury(self) -> tuple[ResetReason, str]:
        """Wait for the end of a process that has let go of the bus; return why it ended, in words too."""
        try:
            code = self._popen.wait(_EXIT_GRACE_S)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            code = self._popen.wait()
        self.pump_console()
        self._console.flush()
        if self._popen.stdout:
            self._popen.stdout.close()
        if self._too_late_ms:
            return ResetReason.WATCHDOG, f"was reset by the watchdog: it did not kick it for {self._too_late_ms} ms"
        if code < 0:
            return ResetReason.KILLED, f"was killed by signal {-code}"
        return ResetReason.EXITED, f"ended with exit code {code}"
