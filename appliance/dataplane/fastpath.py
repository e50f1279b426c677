"""The fast path: a run of requests of one flow, answered straight from the frames that it came in.

A flow is all requests with the same peer, session, pipeline, flags, priority, deadline and sizes: alike but for their
number and their body. What is known of a flow is checked once and kept; a run then costs a fixed, small number of array
operations, whatever its length. Anything out of the ordinary is left to the general path, with the same answers.
"""

import logging
import struct
import sys
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from appliance.clock import Clock
from appliance.dataplane.energy import HardwareModel
from appliance.dataplane.flows import REQUEST_OFFSET, Cost, Flow, Flows
from appliance.dataplane.landing import Landed, Landing, Run
from appliance.dataplane.refusal import MOST_REFUSED, answer_header
from appliance.dataplane.replies import ReplyWriter, seal, seal_one
from appliance.dataplane.state import State
from appliance.pipelines.pipeline import LateError, Pipeline
from host_sdk.wire.errors import DeviceError
from host_sdk.wire.header import vector_header
from host_sdk.wire.links.base import FrameBatch, Link
from host_sdk.wire.message import fragment_size_for
from host_sdk.wire.records import StridedView
from host_sdk.wire.schema import CRC_SIZE, HEADER_SIZE, MAX_FRAGMENT_SIZE, TRAILER, DropReason, Status

_log = logging.getLogger(__name__)
SHORTEST_RUN = 8  # of a batch with several flows: shorter ones share their invocations on the general path
_WORDS = struct.Struct("=QQQQ")  # a header as words of this machine
_REQUEST = struct.Struct(">Q")
_TRAILER = struct.Struct(TRAILER.struct_format)
_LARGEST = 0xFFFF_FFFF
_LITTLE = sys.byteorder == "little"
_FRAGMENT_MASK = ~int.from_bytes(b"\xff\xff" + bytes(6), "little") & (1 << 64) - 1  # of the word with the fragment


class FastPath:
    """Answers runs of one flow, and takes those of many frames to where they land.

    Args:
        link: Where frames come from.
        clock: Time of arrivals, deadlines and stages.
        state: Sessions, pipelines, answers, counters.
        replies: Where answers go.
        model: Modelled times and energy.
        landing: Collects requests of many frames.
        inline: Whether batches run on this thread; where they do not, requests of one frame are left alone.
    """

    def __init__(
        self,
        link: Link,
        clock: Clock,
        state: State,
        replies: ReplyWriter,
        model: HardwareModel,
        landing: Landing,
        *,
        inline: bool,
    ) -> None:
        self._link, self._clock, self._state, self._replies, self._model = link, clock, state, replies, model
        self._landing, self._inline = landing, inline
        self._headers = StridedView(HEADER_SIZE)
        self._flows = Flows(link, clock, state, model)

    def serve(self, batch: FrameBatch, now: int) -> int:
        """Take the first frames of a batch that arrived at ``now``; return how many, the others being untouched."""
        count, size, start = len(batch.starts), int(batch.lengths[0]), int(batch.starts[0])
        if size < HEADER_SIZE:
            return 0
        peer, data = int(batch.peers[0]), batch.memory.data
        common, _, middle, last = _WORDS.unpack_from(data, start)
        flow = self._flows.get((peer, common, middle, last & _FRAGMENT_MASK, size), batch)
        if flow is None:
            return 0
        if count == 1:
            return self._serve_one(flow, batch, last, now)
        words = self._headers.of(batch.memory)[batch.starts].view(np.uint64).reshape(count, 4)
        if flow.bodies.fragments > 1:
            return self._serve_fragments(flow, batch, words, _fragment(last), now)
        whole = flow.bodies.count(batch, words)
        return self._answer(flow, batch, words, whole, now) if whole == count or whole >= SHORTEST_RUN else 0

    def _serve_fragments(self, flow: Flow, batch: FrameBatch, words: NDArray[np.uint64], first: int, now: int) -> int:
        """Take the first frames of a batch whose requests have several; ``first`` is the first one's fragment."""
        bodies, peer = flow.bodies, int(batch.peers[0])
        if not first and not flow.loaded.pipeline.manifest.max_delay_us:
            whole = bodies.count(batch, words)
            ids = words[: whole * bodies.fragments : bodies.fragments, 1].byteswap()
            begun = self._landing.begun(flow.slot, ids)  # parts of them came before
            served = self._answer(flow, batch, words, whole, now) if whole and not begun else 0
            if served:
                return served
        run = Run(flow.header, flow.slot, flow.loaded, peer, batch, now)
        piece = bodies.piece(batch, words, first)
        if piece:
            number = int(words[0, 1].byteswap())
            rest = bodies.fragments - first - piece if piece == len(words) else 0
            return self._landed(flow, peer, piece, self._landing.take_piece(run, number, first, piece), rest)
        alike = _run_length(words, batch.peers)
        run = replace(run, batch=batch.first(alike))
        return self._landed(flow, peer, alike, self._landing.take(run, words[:alike]), 0)

    def _serve_one(self, flow: Flow, batch: FrameBatch, last: int, now: int) -> int:
        """Take a batch of one frame; ``last`` is the last word of its header."""
        peer = int(batch.peers[0])
        (number,) = _REQUEST.unpack_from(batch.memory.data, int(batch.starts[0]) + REQUEST_OFFSET)
        if flow.bodies.fragments == 1:
            return self._answer_one(flow, batch.memory, batch.starts[:, None], peer, number, now)
        run = Run(flow.header, flow.slot, flow.loaded, peer, batch, now)
        fragment = _fragment(last)
        rest = flow.bodies.fragments - 1 - fragment
        return self._landed(flow, peer, 1, self._landing.take_one(run, number, fragment), rest)

    def _answer_one(
        self, flow: Flow, memory: NDArray[np.uint8], starts: NDArray[np.int64], peer: int, number: int, now: int
    ) -> int:
        """Answer one request, as :meth:`_answer` does; plain numbers and bytes are quicker than arrays of one.

        Args:
            flow: The request's.
            memory: That its frames are in.
            starts: Of its frames, int64 [1, fragments].
            peer: Who asks.
            number: The request's id.
            now: When it arrived, ns.
        """
        state, loaded = self._state, flow.loaded
        sessions = state.sessions
        if not self._inline or len(loaded.queue) or sessions.outstanding[flow.slot] >= sessions.limit(flow.slot):
            return 0
        place = state.answers.place(flow.slot, number)
        if flow.once and int(state.answers.ids[place]) >= number:
            return 0
        try:
            body = flow.bodies.of(memory, starts)
            if flow.crc and not flow.bodies.sound(memory, starts):
                return 0
            if state.tap is not None:
                self._began(flow, peer, np.array([number], np.uint64))
            answers, figures = self._execute(flow, body, now)
        except (DeviceError, LateError):
            return 0  # the general path says so
        except Exception:  # noqa: BLE001 - no body may end the node; the general path answers it
            _log.exception("the fast path failed on pipeline %s", loaded.pipeline.manifest.name)
            return 0
        sessions.touch(flow.header.session, now)
        pdu = self._fill(flow, number, answers, figures)
        if flow.once:
            state.answers.record_one(flow.slot, place, number, pdu)
        state.counters.accept(flow.bodies.fragments)
        self._replies.transmit_one(peer, pdu)
        return flow.bodies.fragments

    def _answer(self, flow: Flow, batch: FrameBatch, words: NDArray[np.uint64], count: int, now: int) -> int:
        """Answer whole requests; return how many of the first frames they took, the others being untouched.

        Args:
            flow: The requests'.
            batch: Their frames, and others behind them.
            words: Headers of the frames, uint64 [n, 4].
            count: Requests.
            now: When they arrived, ns.
        """
        fragments, sessions, peer = flow.bodies.fragments, self._state.sessions, int(batch.peers[0])
        frames = count * fragments
        numbers: NDArray[np.uint64] = words[:frames:fragments, 1]
        starts = batch.starts[:frames].reshape(count, fragments)
        if count == 1:
            return self._answer_one(flow, batch.memory, starts, peer, int(numbers[0].byteswap()), now)
        free = max(0, sessions.limit(flow.slot) - int(sessions.outstanding[flow.slot]))
        over, numbers = numbers[free:], numbers[:free]
        served = self._run_all(flow, batch.memory, starts[:free], numbers, peer, now) if len(numbers) else 0
        if served == len(numbers) and len(over) and self._refuse(flow, peer, over):
            return frames
        return served * fragments

    def _run_all(
        self,
        flow: Flow,
        memory: NDArray[np.uint8],
        starts: NDArray[np.int64],
        numbers: NDArray[np.uint64],
        peer: int,
        now: int,
    ) -> int:
        """Answer requests for which there is credit; return how many of the first, the others being untouched.

        Args:
            flow: The requests'.
            memory: That their frames are in.
            starts: Of the frames of each, int64 [n, fragments].
            numbers: Their ids as they are in frames, uint64 [n].
            peer: Who asks.
            now: When they arrived, ns.
        """
        loaded, answers, served = flow.loaded, self._state.answers, 0
        if not self._inline or len(loaded.queue):
            return 0
        ids = numbers.byteswap()
        places = answers.fresh(flow.slot, ids) if flow.once else None
        if flow.once and places is None:
            return 0
        self._state.sessions.touch(flow.header.session, now)
        largest = loaded.pipeline.max_batch
        try:
            while served < len(numbers):
                chosen = slice(served, served + largest)
                bodies = flow.bodies.of(memory, starts[chosen])
                if flow.crc and not flow.bodies.sound(memory, starts[chosen]):
                    break
                if self._state.tap is not None:
                    self._began(flow, peer, ids[chosen])
                replies = self._run(flow, bodies, numbers[chosen], now)
                if places is not None:
                    answers.record(flow.slot, places[chosen], ids[chosen], replies)
                self._state.counters.accept(len(bodies) * flow.bodies.fragments)
                self._replies.transmit(peer, replies)
                served += len(bodies)
        except (DeviceError, LateError):
            pass  # the general path finds out which request it was, and says so
        except Exception:  # noqa: BLE001 - no body may end the node; the general path answers what is left
            _log.exception("the fast path failed on pipeline %s", loaded.pipeline.manifest.name)
        return served

    def _refuse(self, flow: Flow, peer: int, requests: NDArray[np.uint64]) -> bool:
        """Refuse requests over the session's credit; return whether they are all new, else nothing is done.

        The first are answered BUSY. To say so to a flood would take the time of those that keep to their credit.
        """
        if flow.once:
            ids, answers = requests.byteswap(), self._state.answers
            if (answers.ids[answers.places(flow.slot, ids)] >= ids).any():
                return False
        fragments, counters = flow.bodies.fragments, self._state.counters
        counters.dropped(DropReason.OVER_CREDIT, len(requests[MOST_REFUSED:]) * fragments)
        requests = requests[:MOST_REFUSED]
        header = answer_header(flow.header, Status.BUSY, self._state.credits, flow.loaded.retry_after)
        crc = CRC_SIZE if flow.crc else 0
        header = replace(header, pipeline=0, length=crc, fragment_size=fragment_size_for(self._link.mtu))
        replies = np.zeros((len(requests), HEADER_SIZE + crc), np.uint8)
        replies[:, :HEADER_SIZE] = np.frombuffer(header.encode(), np.uint8)
        replies[:, REQUEST_OFFSET : REQUEST_OFFSET + 8] = requests[:, None].view(np.uint8)
        if crc:
            seal(replies)
        counters.refused(len(requests), len(requests) * fragments, Status.BUSY)
        self._replies.transmit(peer, replies.view(np.dtype((np.void, replies.shape[1])))[:, 0])
        return True

    def _landed(self, flow: Flow, peer: int, count: int, landed: list[Landed] | None, rest: int) -> int:
        """Answer what has landed whole; return how many of ``count`` frames were taken: all, or none.

        The ``rest`` of a request that the end of the batch cut off is on its way, and is best taken in one piece.
        """
        if landed:
            self._answer_landed(flow, peer, landed)
        if landed is None:
            return 0
        if rest > 0:
            self._link.expect(rest)
        return count

    def _answer_landed(self, flow: Flow, peer: int, landed: list[Landed]) -> None:
        """Answer requests of many frames from the rows that they landed in; or queue them, if they are to wait."""
        loaded, done = flow.loaded, 0
        queue, manifest = loaded.queue, loaded.pipeline.manifest
        wait = not self._inline or len(queue) or flow.header.deadline or manifest.max_delay_us
        try:
            while not wait and done < len(landed):
                part = landed[done : done + loaded.pipeline.max_batch]
                if len(part) == 1:
                    self._answer_one_landed(flow, peer, part[0])
                else:
                    self._answer_some_landed(flow, peer, part)
                self._landing.answered(part)
                done += len(part)
        except (DeviceError, LateError):
            pass  # the general path finds out which request it was, and says so
        except Exception:  # noqa: BLE001 - no body may end the node; the general path answers what is left
            _log.exception("the fast path failed on pipeline %s", manifest.name)
        if done < len(landed):
            self._landing.queue(landed[done:])

    def _answer_one_landed(self, flow: Flow, peer: int, landed: Landed) -> None:
        number, row = landed.number, landed.row
        if self._state.tap is not None:
            self._began(flow, peer, np.array([number], np.uint64))
        answers, figures = self._execute(flow, flow.rows[row : row + 1], landed.began)
        pdu = self._fill(flow, number, answers, figures)
        self._state.answers.record_one(flow.slot, landed.place, number, pdu)
        self._replies.transmit_one(peer, pdu)

    def _answer_some_landed(self, flow: Flow, peer: int, part: list[Landed]) -> None:
        ids = np.array([each.number for each in part], np.uint64)
        places = np.array([each.place for each in part], np.int64)
        if self._state.tap is not None:
            self._began(flow, peer, ids)
        replies = self._run(flow, flow.rows[[each.row for each in part]], ids.byteswap(), part[0].began)
        self._state.answers.record(flow.slot, places, ids, replies)
        self._replies.transmit(peer, replies)

    def _began(self, flow: Flow, peer: int, ids: NDArray[np.uint64]) -> None:
        """Show the tap a batch that begins."""
        body = flow.rows.dtype.itemsize
        header = replace(flow.header, length=body, fragment=0, fragment_size=MAX_FRAGMENT_SIZE)
        headers = np.repeat(vector_header(header), len(ids))
        headers["request"] = ids
        if self._state.tap is not None:
            self._state.tap.began(np.full(len(ids), peer, np.uint64), headers)

    def _fill(self, flow: Flow, number: int, answers: NDArray[np.uint8], figures: bytes) -> NDArray[np.uint8]:
        """Return the flow's PDU of one reply, filled in: uint8 [PDU], good until the next one is."""
        pdu = flow.pdu
        raw = pdu.data
        _REQUEST.pack_into(raw, REQUEST_OFFSET, number)
        pdu[HEADER_SIZE : HEADER_SIZE + answers.shape[1]] = answers[0]
        if flow.trailer:
            raw[flow.trailer : flow.trailer + TRAILER.size] = figures
        if flow.crc:
            seal_one(pdu)
        return pdu

    def _run(self, flow: Flow, bodies: NDArray[np.void], requests: NDArray[np.uint64], now: int) -> NDArray[np.void]:
        """Run a batch and return its answers, whole PDUs as records [n], good until the next batch is run.

        Raises:
            DeviceError: The model failed on one of the inputs.
            LateError: The deadline passed before a stage.
        """
        count = len(bodies)
        answers, figures = self._execute(flow, bodies, now)
        replies = flow.replies[:count]
        replies["request"] = requests
        replies["answer"] = answers.view(replies.dtype["answer"])[:, 0]
        if flow.trailer:
            replies["trailer"] = np.void(figures)
        if flow.crc:
            seal(replies.view(np.uint8).reshape(count, -1))
        return flow.pdus[:count]

    def _execute(self, flow: Flow, bodies: NDArray[np.void], now: int) -> tuple[NDArray[np.uint8], bytes]:
        """Run a batch and count it; return the answers, uint8 [n, answer size], and the trailer that they all get.

        Raises:
            DeviceError: The model failed on one of the inputs.
            LateError: The deadline passed before a stage.
        """
        count, pipeline, clock = len(bodies), flow.loaded.pipeline, self._clock.now_ns
        started = clock()
        expires = now + flow.header.deadline * 1000 if flow.header.deadline else None
        answers, (pre, dla, post) = pipeline.run_tensors(bodies, self._clock, expires)
        cost = self._flows.cost(flow, count)
        queued = self._model.start_dla(now + cost.pre, cost.dla) - cost.pre - now
        ended = clock()
        measured = (started - now, 0, pre, dla, post, ended - started - pre - dla - post)
        figures = self._trailer(pipeline, measured, cost, queued, count) if flow.trailer else b""
        counters = self._state.counters
        counters.answered(count)
        counters.batches += 1
        counters.inferences += count
        counters.energy_nj += cost.energy * count
        flow.loaded.served(count, ended - started)
        return answers, figures

    def _trailer(self, pipeline: Pipeline, measured: tuple[int, ...], cost: Cost, queued: int, count: int) -> bytes:
        """Return what every answer of a batch says of how it was made."""
        modelled = (cost.rx, queued, cost.pre, cost.dla, cost.post, cost.tx)
        figures = (*measured, *modelled, cost.energy)
        if max(figures) > _LARGEST:
            figures = tuple(min(figure, _LARGEST) for figure in figures)
        return _TRAILER.pack(*figures, count, self._state.control.epoch, pipeline.model_digest)


def _run_length(words: NDArray[np.uint64], peers: NDArray[np.uint64]) -> int:
    """Return how many of the first headers, uint64 [n, 4], are alike but for request and fragment, and of one peer."""
    differences = words ^ words[0]
    differences[:, 1] = peers ^ peers[0]
    differences[:, 3] &= np.uint64(_FRAGMENT_MASK)
    odd = differences.any(axis=1)
    return int(odd.argmax()) if odd.any() else len(words)


def _fragment(last: int) -> int:
    """Return the index of a fragment, from the last word of its header."""
    return (last & 0xFF) << 8 | last >> 8 & 0xFF if _LITTLE else last >> 48
