"""How a node ends when it is told to, whatever it is doing, and what falls to it as a container's first process."""

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

ORPHANED_S = 5.0  # a child that ended so long ago and that nobody has waited for is nobody's
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def leave_on_signal() -> None:
    """Let SIGTERM and SIGINT end the program with status 0 from here on, giving back what was opened.

    The first process of a PID namespace has no default actions: without this it could not be stopped until it serves.
    """
    for number in _SIGNALS:
        signal.signal(number, _leave)


def _leave(_signal: int, _frame: FrameType | None) -> None:
    for number in _SIGNALS:  # the end has begun, and is not to be disturbed
        signal.signal(number, signal.SIG_IGN)
    raise SystemExit(0)


def stop_on_signal(stop: Callable[[], None]) -> None:
    """Let SIGTERM and SIGINT call a function in place of what :func:`leave_on_signal` does."""
    for number in _SIGNALS:
        signal.signal(number, lambda *_: stop())


def stop_with_owner(descriptor: int) -> None:
    """Be stopped as by SIGTERM when the other end of a pipe is closed."""

    def watch() -> None:
        while os.read(descriptor, 1):
            pass  # whatever is written means nothing; the end of the pipe does
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


class OrphanReaper:
    """Waits for processes that became this one's children as their own parents ended, as init does.

    A thread of it sleeps until a child ends. Children of the program's own are waited for by whoever started them, at
    once; so what is still there a few seconds later is an orphan. There is no handler for SIGCHLD, as the kernel gives
    a signal to another thread while the first one has another signal pending, and Python would not wake up for it.

    Args:
        own: Returns a child that is never to be waited for here, if there is one.
        after_s: Those few seconds.
    """

    def __init__(self, own: Callable[[], int | None], after_s: float = ORPHANED_S) -> None:
        self._own, self._after_s = own, after_s

    def begin(self) -> None:
        """Look for orphans from now on, whenever a child has ended."""
        threading.Thread(target=self._run, name="orphans", daemon=True).start()

    def _run(self) -> None:
        while True:
            with suppress(ChildProcessError):
                os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
            time.sleep(self._after_s)
            self.reap()

    def reap(self) -> int:
        """Wait for the children that have ended and are not the program's own; return how many."""
        count = 0
        with suppress(ChildProcessError):
            while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                if ended.si_pid == self._own():  # whoever waits for it does so soon
                    break
                os.waitpid(ended.si_pid, 0)
                count += 1
        return count
