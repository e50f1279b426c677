"""The dataplane's loop: one thread, one direction, asleep while there is nothing to do."""

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from appliance.clock import Clock
from appliance.dataplane.energy import HardwareModel
from appliance.dataplane.fastpath import FastPath
from appliance.dataplane.intake import Intake
from appliance.dataplane.refusal import Refusals
from appliance.dataplane.replies import ReplyWriter
from appliance.dataplane.service import Service
from appliance.dataplane.state import State
from appliance.dataplane.table import Loaded
from host_sdk.wire.links.base import Link
from host_sdk.wire.links.waiting import Waiter
from host_sdk.wire.message import fragment_size_for

CALL_TIMEOUT_S = 10.0
_WAKE = 2  # of the descriptors that are waited for


class Dataplane:
    """Frames in, answers out.

    Args:
        link: Where frames come from and go.
        clock: Time of arrivals, deadlines and stages.
        state: Sessions, pipelines, counters and the way to the firmware.
        model: Modelled times and energy.
        linger_ns: How long it looks for more before it sleeps; saves the next request a wake-up.
    """

    def __init__(self, link: Link, clock: Clock, state: State, model: HardwareModel, linger_ns: float = 0) -> None:
        self._linger_ns = linger_ns
        self._link, self._clock, self._state = link, clock, state
        self._replies = ReplyWriter(link, state.counters)
        refusals = Refusals(self._replies, state.credits)
        self._intake = Intake(link, clock, state, self._replies, refusals)
        self._service = Service(clock, state, self._replies, refusals, model)
        self._fast = FastPath(link, clock, state, self._replies, model)
        self._calls: deque[Callable[[], None]] = deque()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._waiter = Waiter(link.fileno(), state.control.reply_fd, self._wake_fd)
        self._stopping = False
        self._thread: int | None = None

    def run(self) -> None:
        """Serve until :meth:`stop`.

        Raises:
            LinkError: The link is gone.
        """
        self._thread = threading.get_ident()
        busy_at = self._clock.now_ns()
        try:
            while not self._stopping:
                if not self.step():
                    if self._clock.now_ns() - busy_at < self._linger_ns:
                        continue
                    self._sleep()
                busy_at = self._clock.now_ns()
        finally:
            self._thread = None  # from here on callers run their calls themselves
            self._run_calls()

    def step(self) -> bool:
        """Take one batch of frames, run one batch of each pipeline, send what the firmware says.

        Returns:
            Whether there was anything to do.

        Raises:
            LinkError: The link is gone.
        """
        batch = self._link.receive()
        now = self._clock.now_ns()
        if len(batch):
            served = self._fast.serve(batch, now)
            if served < len(batch):
                self._intake.frames(batch.after(served), now)
            now = self._clock.now_ns()
        self._intake.expire(now)
        timer = self._service.next_timer()
        due = timer is not None and timer <= now
        if due:
            self._service.serve()
        return bool(self._attend() or due or len(batch))

    def stop(self) -> None:
        """Make run return; from any thread or signal handler."""
        self._stopping = True
        if self._wake_fd >= 0:
            os.eventfd_write(self._wake_fd, 1)

    def call(self, function: Callable[[], Any]) -> Any:
        """Run a function on the dataplane's thread, between two batches, and return what it returns.

        Raises:
            TimeoutError: The dataplane does not run.
        """
        if self._thread in (None, threading.get_ident()):
            return function()
        future: Future[Any] = Future()

        def run() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function())
                except Exception as error:  # noqa: BLE001 - it is the caller's: handed over whole
                    future.set_exception(error)

        self._calls.append(run)
        os.eventfd_write(self._wake_fd, 1)
        try:
            return future.result(CALL_TIMEOUT_S)
        except TimeoutError:
            future.cancel()  # who was told that it failed must not find it done later
            raise

    def withdraw(self, loaded: Loaded) -> None:
        """Take a pipeline out of the table and refuse what waits for it; on the dataplane's thread."""
        self._state.table.remove(loaded)
        self._service.withdraw(loaded)

    def close(self) -> None:
        """Give the descriptors back; after run has returned."""
        descriptor, self._wake_fd = self._wake_fd, -1
        os.close(descriptor)

    def _attend(self) -> int:
        """Send the firmware's letters and run calls from other threads; return how many there were."""
        letters = self._state.control.collect()
        for peer, message in letters:
            self._replies.message(peer, message, fragment_size_for(self._link.mtu))
        return len(letters) + self._run_calls()

    def _run_calls(self) -> int:
        count = 0
        while self._calls:
            self._calls.popleft()()
            count += 1
        return count

    def _sleep(self) -> None:
        """Wait for frames, letters, calls or the next timer."""
        timers = (self._service.next_timer(), self._state.reassembler.next_timer())
        timer = min((entry for entry in timers if entry is not None), default=None)
        timeout = None if timer is None else max(0, timer - self._clock.now_ns())
        if self._waiter.wait(timeout) and self._waiter.ready(_WAKE):
            os.eventfd_read(self._wake_fd)
