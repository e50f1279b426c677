"""From queued requests to answers: batches formed, run and replied to."""

import logging

import numpy as np
from numpy.typing import NDArray

from appliance.clock import Clock
from appliance.dataplane.energy import HardwareModel
from appliance.dataplane.refusal import Refusals
from appliance.dataplane.replies import ReplyWriter, reply_headers
from appliance.dataplane.state import State
from appliance.dataplane.table import Loaded
from appliance.pipelines.pipeline import Outcome
from host_sdk.wire.header import TRAILER_DTYPE
from host_sdk.wire.schema import HEADER_SIZE, STAGES, TRAILER, Flag, Opcode, Status

_LARGEST = 0xFFFF_FFFF
WAKE_NS = 1_000_000  # how late the loop may wake from its sleep; a batch with a deadline is due so much earlier


_log = logging.getLogger(__name__)


class Service:
    """Runs what waits."""

    def __init__(
        self, clock: Clock, state: State, replies: ReplyWriter, refusals: Refusals, model: HardwareModel
    ) -> None:
        self._clock, self._state, self._replies, self._refusals = clock, state, replies, refusals
        self._model = model

    def next_timer(self) -> int | None:
        """Return when the next batch shall start, in ns on the node's clock."""
        timers = [self._ready_at(loaded) for loaded in self._state.table]
        return min((timer for timer in timers if timer is not None), default=None)

    def serve(self) -> None:
        """Run one batch of every pipeline that has one ready; refuse what is past its deadline."""
        for loaded in self._state.table:
            if len(loaded.queue) == 0:
                continue
            now = self._clock.now_ns()  # anew for each: the batch before may have taken long
            late = loaded.queue.expired(now)
            self._refusals.batch(late["peer"], late, Status.DEADLINE_EXCEEDED)
            ready = self._ready_at(loaded)
            if ready is not None and ready <= now:
                self._run(loaded)

    def withdraw(self, loaded: Loaded) -> None:
        """Refuse what waits for a pipeline that was removed."""
        jobs = loaded.queue.clear()
        self._refusals.batch(jobs["peer"], jobs, Status.UNKNOWN_PIPELINE)

    def _ready_at(self, loaded: Loaded) -> int | None:
        largest = min(loaded.pipeline.max_batch, loaded.queue.depth)
        delay_us = loaded.pipeline.manifest.max_delay_us
        service_ns = WAKE_NS + int(loaded.pace_ns * min(len(loaded.queue), largest))
        return loaded.queue.ready_at(largest, delay_us * 1000, service_ns)

    def _run(self, loaded: Loaded) -> None:
        self._execute(loaded, *loaded.queue.pop(loaded.pipeline.max_batch))

    def _execute(self, loaded: Loaded, jobs: NDArray[np.void], bodies: NDArray[np.uint8] | list[bytes]) -> None:
        started = self._clock.now_ns()
        try:
            outcome = loaded.pipeline.run(bodies, self._clock)
        except Exception:  # noqa: BLE001 - a body that finds a bug, here or in a library, must not end the node
            if len(jobs) == 1:
                _log.exception("pipeline %s failed on a request", loaded.pipeline.manifest.name)
                self._refusals.batch(jobs["peer"], jobs, Status.INTERNAL)
                return
            for index in range(len(jobs)):  # it costs no other request its answer
                self._execute(loaded, jobs[index : index + 1], bodies[index : index + 1])
            return
        ended = self._clock.now_ns()
        ran = len(jobs) - len(outcome.details)
        self._state.counters.batches += 1
        self._state.counters.inferences += ran
        trailers = self._trailers(loaded, jobs, outcome, started, ended)
        self._reply(loaded, jobs, outcome, trailers)
        loaded.served(len(jobs), self._clock.now_ns() - started)

    def _reply(self, loaded: Loaded, jobs: NDArray[np.void], outcome: Outcome, trailers: NDArray[np.void]) -> None:
        headers = reply_headers(len(jobs), Opcode.RESULT, Status.OK, self._state.credits)
        for name in ("request", "session", "priority", "fragment_size"):
            headers[name] = jobs[name]
        headers["pipeline"] = loaded.pipeline.handle
        headers["flags"] = jobs["flags"] & (Flag.CRC | Flag.TRAILER)
        if not outcome.details:
            self._replies.batch(jobs["peer"], headers, outcome.answers, trailers)
            return
        good = np.ones(len(jobs), np.bool_)
        for index, detail in outcome.details.items():
            good[index] = False
            status = Status(int(outcome.statuses[index]))
            self._refusals.job(jobs[index], loaded.pipeline.handle, status, detail)
        self._replies.batch(jobs["peer"][good], headers[good], outcome.answers[good], trailers[good])

    def _trailers(
        self, loaded: Loaded, jobs: NDArray[np.void], outcome: Outcome, started: int, ended: int
    ) -> NDArray[np.void]:
        """Return what each answer says of how it was made, TRAILER_DTYPE [n]."""
        pipeline, count = loaded.pipeline, len(jobs)
        ran = max(1, count - len(outcome.details))
        answer_bytes = np.full(count, HEADER_SIZE + pipeline.answer_size + TRAILER.size)
        modelled = {
            "rx": self._model.wire_ns(jobs["wire_bytes"]),
            "pre": outcome.modelled_ns[:, 0],
            "dla": outcome.modelled_ns[:, 1],
            "post": outcome.modelled_ns[:, 2],
            "tx": self._model.wire_ns(answer_bytes),
        }
        dla_ns = int(modelled["dla"].max())
        modelled["queue"] = self._model.queue_ns(jobs["arrival"], int(modelled["pre"].max()), dla_ns)
        energy = self._model.energy_nj(modelled, ran, media=pipeline.engine is not None)
        self._state.counters.energy_nj += int(energy.sum())
        rx = jobs["rx_ns"].astype(np.int64)
        measured: dict[str, NDArray[np.int64] | int] = {
            "rx": rx,
            "queue": started - jobs["arrival"] - rx,
            **dict(zip(("pre", "dla", "post"), outcome.measured_ns, strict=True)),
            "tx": self._clock.now_ns() - ended,
        }
        trailers = np.zeros(count, TRAILER_DTYPE)
        for stage in STAGES:
            trailers[f"{stage}_ns"] = np.clip(measured[stage], 0, _LARGEST)
            trailers[f"modelled_{stage}_ns"] = np.clip(modelled[stage], 0, _LARGEST)
        trailers["energy_nj"] = np.clip(energy, 0, _LARGEST)
        trailers["batch_size"] = ran
        trailers["firmware_epoch"] = self._state.control.epoch
        trailers["model_digest"] = pipeline.model_digest
        return trailers
