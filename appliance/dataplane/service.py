"""From queued requests to answers: batches formed, run stage by stage, and replied to."""

import logging
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.clock import Clock
from appliance.dataplane.answers import ROWS
from appliance.dataplane.cores import Cores
from appliance.dataplane.energy import HardwareModel
from appliance.dataplane.refusal import answer_header, refusal_headers, sentence
from appliance.dataplane.replies import Keep, ReplyWriter, reply_headers
from appliance.dataplane.state import State
from appliance.dataplane.table import Loaded
from appliance.pipelines.pipeline import Outcome
from host_sdk.wire.header import TRAILER_DTYPE, Header, vector_header
from host_sdk.wire.message import Message
from host_sdk.wire.schema import CRC_SIZE, HEADER_SIZE, STAGES, TRAILER, Flag, Opcode, Status

_LARGEST = 0xFFFF_FFFF
_CRC, _TRAILER, _KEPT_FLAGS = int(Flag.CRC), int(Flag.TRAILER), int(Flag.CRC | Flag.TRAILER | Flag.ONCE)
_FIGURES = 2 * len(STAGES) + 1
_FIGURES_DTYPE = np.dtype({"names": ["figures"], "formats": [f"({_FIGURES},)>u4"], "itemsize": TRAILER.size})
WAKE_NS = 1_000_000  # how late the loop may wake from its sleep; a batch with a deadline is due so much earlier


_log = logging.getLogger(__name__)
Bodies = NDArray[np.uint8] | list[bytes]


@dataclass(slots=True)
class Work:
    """A batch under way: its pipeline, JOB_DTYPE [n], and when it was begun."""

    loaded: Loaded
    jobs: NDArray[np.void]
    bodies: Bodies
    started: int


class Service:
    """Runs what waits, and gives every request that was taken its final answer.

    Args:
        clock: Time of deadlines and stages.
        state: Pipelines, sessions, answers, counters.
        replies: Where answers go.
        model: Modelled times and energy.
        cores: What executes batches: this thread, or others.
    """

    def __init__(self, clock: Clock, state: State, replies: ReplyWriter, model: HardwareModel, cores: Cores) -> None:
        self._clock, self._state, self._replies = clock, state, replies
        self._model, self._cores = model, cores
        self._under_way: dict[int, Work] = {}
        self._cancelled: set[tuple[int, int]] = set()  # session and request of those in batches under way

    def next_timer(self) -> int | None:
        """Return when the next batch shall start, in ns on the node's clock; None while there is none, or no core."""
        if not self._cores.idle:
            return None  # a core that ends its batch wakes the loop
        earliest: int | None = None
        for loaded in self._state.table:
            if len(loaded.queue):
                timer = self._ready_at(loaded)
                if timer is not None and (earliest is None or timer < earliest):
                    earliest = timer
        return earliest

    def serve(self) -> None:
        """Begin one batch of every pipeline that has one ready; refuse what is past its deadline."""
        for loaded in self._state.table:
            if len(loaded.queue) == 0:
                continue
            now = self._clock.now_ns()  # anew for each: the batch before may have taken long
            late = loaded.queue.expired(now)
            if len(late):
                self._state.counters.expired_in_queue += len(late)
                self.refuse(late, Status.DEADLINE_EXCEEDED)
            ready = self._ready_at(loaded)
            if ready is not None and ready <= now and self._cores.idle:
                self._begin(Work(loaded, *loaded.queue.pop(loaded.pipeline.max_batch), now))

    def collect(self) -> int:
        """Answer the batches that cores have ended; return how many."""
        ended = self._cores.collect()
        for number, outcome in ended:
            self._finish(self._under_way.pop(number), outcome)
        return len(ended)

    def withdraw(self, loaded: Loaded) -> None:
        """Refuse what waits for a pipeline that was removed."""
        self.refuse(loaded.queue.clear(), Status.UNKNOWN_PIPELINE)

    def cancel(self, session: int, request: int) -> bool:
        """End a request before its next stage; return whether it waits or is under way."""
        for loaded in self._state.table:
            jobs = loaded.queue.cancel(session, request)
            if len(jobs):
                self.refuse(jobs, Status.CANCELLED)
                return True
        for work in self._under_way.values():
            if ((work.jobs["session"] == session) & (work.jobs["request"] == request)).any():
                self._cancelled.add((session, request))
                return True
        return False

    def _ready_at(self, loaded: Loaded) -> int | None:
        largest = min(loaded.pipeline.max_batch, loaded.queue.depth)
        delay_us = loaded.pipeline.manifest.max_delay_us
        service_ns = WAKE_NS + int(loaded.pace_ns * min(len(loaded.queue), largest))
        return loaded.queue.ready_at(largest, delay_us * 1000, service_ns)

    # ---- batches -------------------------------------------------------------------------------------------------

    def _begin(self, work: Work) -> None:
        if self._state.tap is not None:
            self._state.tap.began(work.jobs["peer"], _request_headers(work))
        number = self._cores.begin(work.loaded, work.bodies, partial(self._standing, work.jobs))
        self._under_way[number] = work
        self.collect()

    def _standing(self, jobs: NDArray[np.void]) -> NDArray[np.uint16] | None:
        """Return the status of each request before a stage, uint16 [n]: OK for those that shall go on; None if all."""
        late = jobs["deadline"] <= self._clock.now_ns()
        if not self._cancelled and not late.any():
            return None
        statuses = np.zeros(len(jobs), np.uint16)
        if self._cancelled:
            pairs = zip(jobs["session"].tolist(), jobs["request"].tolist(), strict=True)
            statuses[[pair in self._cancelled for pair in pairs]] = Status.CANCELLED
        statuses[late] = Status.DEADLINE_EXCEEDED
        return statuses

    def _finish(self, work: Work, outcome: Outcome | Exception) -> None:
        """Answer a batch."""
        jobs, loaded, counters = work.jobs, work.loaded, self._state.counters
        if isinstance(outcome, Exception):
            self._split(work, outcome)
            return
        ended = self._clock.now_ns()
        counters.batches += 1
        counters.inferences += outcome.ran
        counters.expired_before_dla += outcome.late[0]
        counters.expired_after_dla += outcome.late[1]
        trailers = self._trailers(loaded, jobs, outcome, work.started, ended)
        bad = np.flatnonzero(outcome.statuses)
        if len(bad) == 0:
            self._reply(loaded, jobs, outcome.answers, trailers)
        elif len(bad) < len(jobs):
            good = np.flatnonzero(outcome.statuses == Status.OK)
            self._reply(loaded, jobs[good], outcome.answers[good], trailers[good])
        for index in bad.tolist():
            detail = outcome.details.get(index, "")
            self._refuse_one(jobs[index], loaded.pipeline.handle, Status(int(outcome.statuses[index])), detail)
        if self._cancelled:
            self._cancelled -= set(zip(jobs["session"].tolist(), jobs["request"].tolist(), strict=True))
        loaded.served(len(jobs), self._clock.now_ns() - work.started)

    def _split(self, work: Work, error: Exception) -> None:
        """Run a batch again that failed as a whole, one by one: it costs no other request its answer."""
        jobs = work.jobs
        if len(jobs) == 1:
            _log.error("pipeline %s failed on a request", work.loaded.pipeline.manifest.name, exc_info=error)
            self.refuse(jobs, Status.INTERNAL)
            return
        for index in range(len(jobs)):
            one = slice(index, index + 1)
            bodies = work.bodies[one]
            try:
                standing = partial(self._standing, jobs[one])
                outcome: Outcome | Exception = work.loaded.pipeline.run(bodies, self._clock, standing)
            except Exception as again:  # noqa: BLE001 - a body that finds a bug must not end the node
                outcome = again
            self._finish(Work(work.loaded, jobs[one], bodies, work.started), outcome)

    def _keep(self, jobs: NDArray[np.void]) -> Keep:
        return Keep(jobs["answer"], jobs["request"], self._state.sessions.reply_fragments[jobs["slot"]])

    def _reply(
        self, loaded: Loaded, jobs: NDArray[np.void], answers: NDArray[np.uint8], trailers: NDArray[np.void]
    ) -> None:
        headers = reply_headers(len(jobs), Opcode.RESULT, Status.OK, self._state.credits)
        for name in ("request", "session", "priority", "fragment_size"):
            headers[name] = jobs[name]
        headers["pipeline"] = loaded.pipeline.handle
        headers["flags"] = jobs["flags"] & _KEPT_FLAGS
        self._state.sessions.give_back(jobs["slot"])
        self._replies.batch(jobs["peer"], headers, answers, trailers, self._keep(jobs))

    # ---- refusals of what was taken ------------------------------------------------------------------------------

    def refuse(self, jobs: NDArray[np.void], status: Status, retry_after: int = 0) -> None:
        """Give requests that were taken, JOB_DTYPE [n], an answer that is no result.

        A request that gives up its room (BUSY) is as if it had not been taken; any other answer is final and kept.
        """
        if len(jobs) == 0:
            return
        state = self._state
        state.sessions.give_back(jobs["slot"])
        headers = refusal_headers(jobs, status, state.credits)
        headers["retry_after"] = retry_after
        keep: Keep | None = self._keep(jobs)
        if status == Status.BUSY:
            once = jobs["answer"] >= 0
            state.answers.leave(jobs["answer"][once], jobs["request"][once])
            keep = None
        self._replies.batch(jobs["peer"], headers, np.zeros((len(jobs), 0), np.uint8), None, keep)

    def _refuse_one(self, job: np.void, pipeline: int, status: Status, detail: str) -> None:
        """Give one request that was taken a final answer with a sentence."""
        slots = np.array([job["slot"]])
        self._state.sessions.give_back(slots)
        request = Header(
            opcode=Opcode.INFER,
            request=int(job["request"]),
            flags=int(job["flags"]),
            session=int(job["session"]),
            pipeline=pipeline,
            priority=int(job["priority"]),
        )
        text, place = sentence(detail), int(job["answer"])
        if place >= 0:
            crc = CRC_SIZE if request.flags & Flag.CRC else 0
            if not self._state.answers.admit(slots, HEADER_SIZE + len(text) + crc)[0]:
                text = sentence(detail, ROWS[0] - HEADER_SIZE - CRC_SIZE)  # for which there is room
        message = Message(answer_header(request, status, self._state.credits), text)
        self._replies.message(int(job["peer"]), message)
        if place >= 0:
            pdu = self._replies.encode(message)
            record = np.frombuffer(pdu, np.dtype((np.void, len(pdu))))
            self._state.answers.keep(np.array([place]), np.array([request.request], np.uint64), record)

    def _trailers(
        self, loaded: Loaded, jobs: NDArray[np.void], outcome: Outcome, started: int, ended: int
    ) -> NDArray[np.void]:
        """Return what each answer says of how it was made, TRAILER_DTYPE [n]."""
        pipeline, count, model = loaded.pipeline, len(jobs), self._model
        ran, flags = max(1, outcome.ran), jobs["flags"]
        parts = ((flags & _TRAILER) != 0) * TRAILER.size + ((flags & _CRC) != 0) * CRC_SIZE
        modelled = {
            "rx": model.wire_ns(jobs["wire_bytes"]),
            "pre": outcome.modelled_ns[:, 0],
            "dla": model.dla_ns(outcome.modelled_ns[:, 1]),
            "post": outcome.modelled_ns[:, 2],
            "tx": model.wire_ns(HEADER_SIZE + pipeline.answer_size + parts),
        }
        queued = model.queue_ns(jobs["arrival"], int(modelled["pre"].max()), int(modelled["dla"].max()))
        energy = model.energy_nj(modelled, ran, media=pipeline.engine is not None)
        self._state.counters.energy_nj += int(energy.sum())
        rx = jobs["rx_ns"].astype(np.int64)
        measured = (rx, started - jobs["arrival"] - rx, *outcome.measured_ns, self._clock.now_ns() - ended)
        figures = np.empty((count, _FIGURES), np.int64)  # as the trailer begins: measured, modelled, energy
        columns: tuple[Any, ...] = (*measured, modelled["rx"], queued, *_stages(modelled), energy)
        for index, column in enumerate(columns):
            figures[:, index] = column
        np.clip(figures, 0, _LARGEST, out=figures)
        trailers = np.zeros(count, TRAILER_DTYPE)
        trailers.view(_FIGURES_DTYPE)["figures"] = figures
        trailers["batch_size"] = ran
        trailers["firmware_epoch"] = self._state.control.epoch
        trailers["model_digest"] = pipeline.model_digest
        return trailers


def _stages(modelled: dict[str, NDArray[np.int64]]) -> tuple[NDArray[np.int64], ...]:
    return tuple(modelled[stage] for stage in ("pre", "dla", "post", "tx"))


def _request_headers(work: Work) -> NDArray[np.void]:
    """Return a header for each request of a batch, HEADER_DTYPE [n], as a tap is shown them."""
    jobs, bodies = work.jobs, work.bodies
    header = Header(Opcode.INFER, 0, pipeline=work.loaded.pipeline.handle)
    headers = np.repeat(vector_header(header), len(jobs))
    for name in ("request", "session", "priority", "flags"):
        headers[name] = jobs[name]
    headers["length"] = bodies.shape[1] if isinstance(bodies, np.ndarray) else [len(body) for body in bodies]
    return headers
