"""The dataplane's loop: one thread, one direction, asleep while there is nothing to do."""

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from appliance.clock import Clock
from appliance.dataplane.admission import Admitter
from appliance.dataplane.copies import Copies
from appliance.dataplane.cores import Cores
from appliance.dataplane.energy import HardwareModel
from appliance.dataplane.fastpath import FastPath
from appliance.dataplane.intake import Intake
from appliance.dataplane.landing import Landing
from appliance.dataplane.messages import Messages, Rooms
from appliance.dataplane.notices import Notices
from appliance.dataplane.refusal import Refusals
from appliance.dataplane.replies import ReplyWriter
from appliance.dataplane.service import Service
from appliance.dataplane.state import State
from appliance.dataplane.table import Loaded
from host_sdk.wire.header import gather_headers
from host_sdk.wire.links.base import FrameBatch, Link
from host_sdk.wire.links.waiting import Waiter
from host_sdk.wire.message import fragment_size_for

CALL_TIMEOUT_S = 10.0
HOUSEKEEPING_NS = 100_000_000  # how often credits are shared out anew
SWEEP_NS = 1_000_000_000  # how often idle sessions are looked for
_WAKE = 2  # of the descriptors that are waited for


class Dataplane:
    """Frames in, answers out.

    Args:
        link: Where frames come from and go.
        clock: Time of arrivals, deadlines and stages.
        state: Sessions, pipelines, counters and the way to the firmware.
        model: Modelled times and energy.
        cores: What executes batches; closed with the dataplane.
        linger_ns: How long it looks for more before it sleeps; saves the next request a wake-up.
    """

    def __init__(
        self, link: Link, clock: Clock, state: State, model: HardwareModel, cores: Cores, linger_ns: float = 0
    ) -> None:
        self._linger_ns = linger_ns
        self._link, self._clock, self._state, self._cores = link, clock, state, cores
        self._replies = replies = ReplyWriter(link, state.counters, state.answers)
        refusals, copies = Refusals(replies, state), Copies(state, replies)
        self._service = Service(clock, state, replies, model, cores)
        self._landing = Landing(clock, state, refusals, copies, link.smallest)
        self._fast = FastPath(link, clock, state, replies, model, self._landing, inline=cores.inline)
        admitter = Admitter(clock, state, refusals, copies, self._service)
        notices = Notices(state, copies, self._landing, self._service, replies)
        rooms = Rooms(self._fast, admitter, self._landing, copies, notices, refusals, replies)
        self._messages = Messages(link, state, rooms)
        self._intake = Intake(link, clock, state, refusals, admitter, self._messages)
        self._keep_house_at = self._sweep_at = 0
        self._calls: deque[Callable[[], None]] = deque()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        descriptors = (link.fileno(), state.control.reply_fd, self._wake_fd)
        self._waiter = Waiter(*descriptors, *((cores.fileno,) if cores.fileno >= 0 else ()))
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
            self._take(batch, now)
            now = self._clock.now_ns()
        if now >= self._keep_house_at:
            self._keep_house(now)
        timer = self._service.next_timer()
        due = timer is not None and timer <= now
        if due:
            self._service.serve()
        ended = 0 if self._cores.inline else self._service.collect()
        return bool(self._attend() or due or ended or len(batch))

    def _take(self, batch: FrameBatch, now: int) -> None:
        """Give runs of one flow to the fast path, and what is left to the general one."""
        taken = 0
        if self._state.tap is not None:
            self._state.tap.classified(batch, self._intake.classify(batch, gather_headers(batch)))
        while taken < len(batch):
            served = self._fast.serve(batch.after(taken) if taken else batch, now)
            if served == 0:
                self._intake.frames(batch.after(taken) if taken else batch, now)
                return
            taken += served

    def _keep_house(self, now: int) -> None:
        """Give up what is too old, share out credits, close idle sessions."""
        state = self._state
        self._messages.expire(now)
        state.sessions.credits_for(state.frames, now)
        if now >= self._sweep_at:
            self._sweep_at = now + SWEEP_NS
            idle = state.sessions.expire(now, state.session_idle_ns)
            state.counters.sessions_expired += len(idle)
            self._messages.ended(idle)
            if state.grants:
                self.end_sessions(state.grants.expire(now))
        self._keep_house_at = now + HOUSEKEEPING_NS

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
        self._landing.withdraw(loaded)

    def end_sessions(self, peers: list[int]) -> None:
        """End all sessions of peers, whose keys are gone; on the dataplane's thread."""
        for peer in peers:
            self._messages.ended(self._state.sessions.end_all(peer))

    @property
    def collecting(self) -> int:
        """Requests of many frames that are not whole."""
        return len(self._landing)

    def close(self) -> None:
        """Give the descriptors back; after run has returned."""
        self._cores.close()
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

    def next_timer(self) -> int | None:
        """Return when there is something to do without a frame, ns by the clock; None while there is not."""
        timers = (self._service.next_timer(), self._state.reassembler.next_timer(), self._landing.next_timer())
        return min((entry for entry in timers if entry is not None), default=None)

    def _sleep(self) -> None:
        """Wait for frames, letters, calls or the next timer."""
        timer = self.next_timer()
        timeout = None if timer is None else max(0, timer - self._clock.now_ns())
        if self._waiter.wait(timeout) and self._waiter.ready(_WAKE):
            os.eventfd_read(self._wake_fd)
