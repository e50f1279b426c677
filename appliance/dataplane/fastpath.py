"""The fast path: a run of requests of one flow, answered straight from the frames that it came in.

A flow is all requests with the same peer, session, pipeline, flags, priority, deadline and sizes: alike but for their
number and their body. What is known of a flow is checked once and kept; a run then costs a fixed, small number of array
operations, whatever its length. Anything out of the ordinary is left to the general path, with the same answers.
"""

import logging
import struct
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from appliance.clock import Clock
from appliance.dataplane.answers import ROWS
from appliance.dataplane.energy import HardwareModel
from appliance.dataplane.landing import Landed, Landing
from appliance.dataplane.refusal import answer_header
from appliance.dataplane.replies import ReplyWriter, seal
from appliance.dataplane.sessions import SLOT_MASK
from appliance.dataplane.state import State
from appliance.dataplane.table import Loaded
from appliance.pipelines.pipeline import LateError, Pipeline
from host_sdk.wire.errors import DeviceError, FrameError
from host_sdk.wire.header import Header, decode_header
from host_sdk.wire.links.base import BROADCAST, FrameBatch, Link
from host_sdk.wire.message import crcs_of, fragment_size_for
from host_sdk.wire.records import StridedView
from host_sdk.wire.schema import CRC_SIZE, HEADER_SIZE, TRAILER, Flag, Opcode, Status

_log = logging.getLogger(__name__)
MAX_FLOWS = 4096
SHORTEST_RUN = 8  # of a batch with several flows: shorter ones share their invocations on the general path
_TRAILER = struct.Struct(TRAILER.struct_format)
_LARGEST = 0xFFFF_FFFF
_REQUEST_OFFSET = 8  # of the request id, in words of which a header has four
_FRAGMENT_MASK = ~int.from_bytes(b"\xff\xff" + bytes(6), "little") & (1 << 64) - 1  # of the word with the fragment
_PLAIN_FLAGS = int(Flag.CRC | Flag.TRAILER | Flag.ONCE)  # whose inverse has the unknown bits as well
Key = tuple[int, int, int, int, int]  # peer, three words of the header without fragment, bytes of the PDU


@dataclass(frozen=True, slots=True)
class Cost:
    """What the profile's hardware takes for one request of a flow in a batch of a certain size: ns and nJ."""

    rx: int
    pre: int
    dla: int
    post: int
    tx: int
    energy: int


@dataclass(slots=True)
class Flow:
    """What is known of the requests of one flow.

    Attributes:
        header: Of its first request.
        loaded: The pipeline and its queue.
        slot: The session's slot in the session table.
        once: Whether its requests are of class *once*.
        bodies: Where the bodies are in a link's memory.
        rows: Bodies that are in the rows of the queue's store, void [depth].
        reply: One reply, a record [1] with the fields request and answer; trailer and crc where they are asked for.
        whole: The record as one void.
        trailer: Where in the reply the trailer is, 0 where there is none.
        crc: Whether requests and replies have a CRC.
        costs: By batch size.
    """

    header: Header
    loaded: Loaded
    slot: int
    once: bool
    bodies: StridedView
    rows: NDArray[np.void]
    reply: NDArray[np.void]
    whole: np.dtype[np.void]
    trailer: int
    crc: bool
    costs: dict[int, Cost] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of a request's PDUs without padding."""
        return self.header.length + HEADER_SIZE * self.header.fragments


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
        self._flows: dict[Key, Flow] = {}
        self._stamp = (-1, -1, -1, -1)

    def serve(self, batch: FrameBatch, now: int) -> int:
        """Take the first frames of a batch that arrived at ``now``; return how many, the others being untouched."""
        count, size = len(batch.starts), int(batch.lengths[0])
        if size < HEADER_SIZE:
            return 0
        words = self._headers.of(batch.memory)[batch.starts].view(np.uint64).reshape(count, 4)
        common, _, middle, last = words[0].tolist()
        flow = self._flow((int(batch.peers[0]), common, middle, last & _FRAGMENT_MASK, size), batch)
        if flow is None:
            return 0
        if count > 1:
            run = _run_length(words, batch.peers)
            if run < count:
                if run < SHORTEST_RUN:
                    return 0
                batch, words, count = batch.first(run), words[:run], run
        if flow.header.fragments > 1:
            landed = self._landing.scatter(flow.header, flow.slot, flow.loaded, batch, words, now)
            if landed is None:
                return 0
            if len(landed):
                self._answer_landed(flow, int(batch.peers[0]), landed)
            return count
        if count > 1 and (batch.lengths != size).any():
            return 0
        return self._answer(flow, batch, words[:, 1], now)

    def _answer(self, flow: Flow, batch: FrameBatch, requests: NDArray[np.uint64], now: int) -> int:
        """Answer requests of one frame each; return how many of the first, the others being untouched."""
        sessions, peer = self._state.sessions, int(batch.peers[0])
        free = max(0, sessions.allowed - int(sessions.outstanding[flow.slot]))
        over, requests = requests[free:], requests[:free]
        served = self._run_all(flow, batch.first(free), requests, peer, now) if len(requests) else 0
        if served == len(requests) and len(over) and self._refuse(flow, peer, over):
            return served + len(over)
        return served

    def _run_all(self, flow: Flow, batch: FrameBatch, requests: NDArray[np.uint64], peer: int, now: int) -> int:
        """Answer requests for which there is credit; return how many of the first, the others being untouched."""
        count, sessions, loaded = len(requests), self._state.sessions, flow.loaded
        if not self._inline or len(loaded.queue):
            return 0
        places = None
        if flow.once:
            ids = requests.byteswap()
            places = self._new_places(flow.slot, ids)
            if places is None:
                return 0
        if flow.crc and not self._sound(flow, batch):
            return 0
        sessions.touch(flow.header.session, now)
        bodies = flow.bodies.of(batch.memory)
        largest, served = loaded.pipeline.max_batch, 0
        try:
            while served < count:
                chosen = slice(served, served + largest)
                # One body is looked at where it lies; several are brought together.
                at = int(batch.starts[served])
                taken = bodies[at : at + 1] if count == 1 else bodies[batch.starts[chosen]]
                replies = self._run(flow, taken, requests[chosen], now)
                if places is not None:
                    self._state.answers.record(flow.slot, places[chosen], ids[chosen], replies)
                self._replies.transmit(peer, replies)
                served = min(served + largest, count)
        except (DeviceError, LateError):
            pass  # the general path finds out which request it was, and says so
        except Exception:  # noqa: BLE001 - no body may end the node; the general path answers what is left
            _log.exception("the fast path failed on pipeline %s", loaded.pipeline.manifest.name)
        return served

    def _refuse(self, flow: Flow, peer: int, requests: NDArray[np.uint64]) -> bool:
        """Answer requests over the session's credit with BUSY; return whether they are all new, else none is."""
        if flow.once and self._new_places(flow.slot, requests.byteswap()) is None:
            return False
        header = answer_header(flow.header, Status.BUSY, self._state.credits, flow.loaded.retry_after)
        crc = CRC_SIZE if flow.crc else 0
        header = replace(header, pipeline=0, length=crc, fragment_size=fragment_size_for(self._link.mtu))
        replies = np.zeros((len(requests), HEADER_SIZE + crc), np.uint8)
        replies[:, :HEADER_SIZE] = np.frombuffer(header.encode(), np.uint8)
        replies[:, _REQUEST_OFFSET : _REQUEST_OFFSET + 8] = requests[:, None].view(np.uint8)
        if crc:
            seal(replies)
        self._state.counters.refused(len(requests), Status.BUSY)
        self._replies.transmit(peer, replies.view(np.dtype((np.void, replies.shape[1])))[:, 0])
        return True

    def _answer_landed(self, flow: Flow, peer: int, landed: Landed) -> None:
        """Answer requests of many frames from the rows that they landed in; or queue them, if they are to wait."""
        loaded, done = flow.loaded, 0
        queue, manifest = loaded.queue, loaded.pipeline.manifest
        wait = not self._inline or len(queue) or flow.header.deadline or manifest.max_delay_us
        try:
            while not wait and done < len(landed):
                part = landed.take(slice(done, done + loaded.pipeline.max_batch))
                replies = self._run(flow, flow.rows[part.rows], part.ids.byteswap(), int(part.began[0]))
                self._state.answers.record(flow.slot, part.places, part.ids, replies)
                self._landing.answered(flow.slot, loaded, part)
                self._replies.transmit(peer, replies)
                done += len(part)
        except (DeviceError, LateError):
            pass  # the general path finds out which request it was, and says so
        except Exception:  # noqa: BLE001 - no body may end the node; the general path answers what is left
            _log.exception("the fast path failed on pipeline %s", manifest.name)
        if done < len(landed):
            self._landing.queue(flow.header, flow.slot, peer, loaded, landed.take(slice(done, None)))

    def _new_places(self, slot: int, ids: NDArray[np.uint64]) -> NDArray[np.int64] | None:
        """Return the places of ids that are all new and different, None where they are not."""
        answers = self._state.answers
        if len(ids) == 1:
            place = answers.place(slot, int(ids[0]))
            return None if answers.ids[place] >= ids[0] else np.array([place])
        if (ids[1:] <= ids[:-1]).any() or int(ids[-1]) - int(ids[0]) >= answers.window:
            return None
        places = answers.places(slot, ids)
        return None if (answers.ids[places] >= ids).any() else places

    def _sound(self, flow: Flow, batch: FrameBatch) -> bool:
        """Return whether the CRC of every request is right."""
        end = HEADER_SIZE + flow.header.length
        frames = StridedView(end).of(batch.memory)[batch.starts].view(np.uint8).reshape(len(batch), end)
        found = np.ascontiguousarray(frames[:, -CRC_SIZE:]).view(">u4")[:, 0]
        return bool((crcs_of(frames, end - CRC_SIZE) == found).all())

    def _flow(self, key: Key, batch: FrameBatch) -> Flow | None:
        state = self._state
        stamp = (state.sessions.version, state.table.version, state.control.epoch, state.credits)
        if stamp != self._stamp or len(self._flows) >= MAX_FLOWS:
            self._flows.clear()
            self._stamp = stamp
        flow = self._flows.get(key)
        if flow is None:
            flow = self._learn(batch)
            if flow:
                self._flows[key] = flow
        return flow

    def _learn(self, batch: FrameBatch) -> Flow | None:
        """Check everything that can be known of a flow, on its first frame."""
        peer = int(batch.peers[0])
        try:
            header = decode_header(batch.pdu(0).data, self._link.smallest)
        except FrameError:
            return None
        plain = header.opcode == Opcode.INFER and header.flags & ~_PLAIN_FLAGS == 0
        if not plain or header.credits or peer in (0, BROADCAST, self._link.address):
            return None
        if header.fragments > 1 and not header.flags & Flag.ONCE:
            return None
        loaded = self._state.table.get(header.pipeline)
        known, limit = self._state.sessions.lookup(np.array([header.session]), batch.peers[:1], self._clock.now_ns())
        if loaded is None or not known[0] or (loaded.pipeline.manifest.max_delay_us and header.fragments == 1):
            return None
        crc = CRC_SIZE if header.flags & Flag.CRC else 0
        if loaded.pipeline.input_size is None or loaded.pipeline.input_size != header.length - crc:
            return None
        reply = self._reply(header, loaded, min(int(limit[0]), fragment_size_for(self._link.mtu)))
        if reply is None:
            return None
        slot = header.session & SLOT_MASK
        if header.flags & Flag.ONCE and not self._kept(slot, reply.dtype.itemsize):
            return None
        bodies, store = StridedView(header.length - crc, HEADER_SIZE), loaded.queue.store
        rows: NDArray[np.void] = np.ndarray((len(store),), bodies.dtype, store.data, 0, store.strides[:1])
        whole = np.dtype((np.void, reply.dtype.itemsize))
        trailer = HEADER_SIZE + loaded.pipeline.answer_size if header.flags & Flag.TRAILER else 0
        return Flow(
            header, loaded, slot, bool(header.flags & Flag.ONCE), bodies, rows, reply, whole, trailer, bool(crc)
        )

    def _kept(self, slot: int, size: int) -> bool:
        """Return whether there is room to keep answers of a size in a session."""
        return size <= ROWS[-1] and bool(self._state.answers.admit(np.array([slot]), size)[0])

    def _reply(self, header: Header, loaded: Loaded, fragment_size: int) -> NDArray[np.void] | None:
        """Return the reply to a flow's requests, all but request id, answer, trailer and CRC filled in."""
        parts = {"answer": loaded.pipeline.answer_size}
        if header.flags & Flag.TRAILER:
            parts["trailer"] = TRAILER.size
        if header.flags & Flag.CRC:
            parts["crc"] = CRC_SIZE
        length = sum(parts.values())
        if length > fragment_size:
            return None
        names, formats, offsets, at = ["request"], ["u8"], [_REQUEST_OFFSET], HEADER_SIZE
        for name, size in parts.items():
            names.append(name)
            formats.append(">u4" if name == "crc" else f"V{size}")
            offsets.append(at)
            at += size
        dtype = np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": at})
        shared = replace(
            answer_header(header, Status.OK, self._state.credits),
            flags=header.flags,
            length=length,
            fragment_size=fragment_size,
        )
        reply = np.zeros(at, np.uint8)
        reply[:HEADER_SIZE] = np.frombuffer(shared.encode(), np.uint8)
        return reply.view(dtype)

    def _run(self, flow: Flow, bodies: NDArray[np.void], requests: NDArray[np.uint64], now: int) -> NDArray[np.void]:
        """Run a batch and return its answers, whole PDUs as records [n].

        Raises:
            DeviceError: The model failed on one of the inputs.
            LateError: The deadline passed before a stage.
        """
        count, pipeline, clock = len(bodies), flow.loaded.pipeline, self._clock.now_ns
        started = clock()
        expires = now + flow.header.deadline * 1000 if flow.header.deadline else None
        answers, (pre, dla, post) = pipeline.run_tensors(bodies, self._clock, expires)
        cost = flow.costs.get(count) or self._cost(flow, count)
        queued = self._model.start_dla(now + cost.pre, cost.dla) - cost.pre - now
        replies = np.empty(count, flow.whole)
        replies[:] = flow.reply.view(flow.whole)
        parts = replies.view(flow.reply.dtype)
        parts["request"] = requests
        parts["answer"] = answers.view(parts.dtype["answer"])[:, 0]
        if flow.trailer:
            tx = clock() - started - pre - dla - post
            measured = (started - now, 0, pre, dla, post, tx)
            parts["trailer"] = self._trailer(pipeline, measured, cost, queued, count)
        if flow.crc:
            seal(replies.view(np.uint8).reshape(count, -1))
        counters = self._state.counters
        counters.answered(count, frames=count if flow.header.fragments == 1 else 0)
        counters.batches += 1
        counters.inferences += count
        counters.energy_nj += cost.energy * count
        flow.loaded.served(count, clock() - started)
        return replies

    def _trailer(self, pipeline: Pipeline, measured: tuple[int, ...], cost: Cost, queued: int, count: int) -> np.void:
        """Return what every answer of a batch says of how it was made."""
        modelled = (cost.rx, queued, cost.pre, cost.dla, cost.post, cost.tx)
        figures = (*measured, *modelled, cost.energy)
        if max(figures) > _LARGEST:
            figures = tuple(min(figure, _LARGEST) for figure in figures)
        return np.void(_TRAILER.pack(*figures, count, self._state.control.epoch, pipeline.model_digest))

    def _cost(self, flow: Flow, count: int) -> Cost:
        """Return, and keep, what the profile's hardware takes for a batch of ``count``."""
        pre, dla, post = flow.loaded.pipeline.modelled_tensors(count)
        sizes = np.array([flow.size, flow.reply.dtype.itemsize])
        rx, tx = self._model.wire_ns(sizes).tolist()
        stages = {"rx": rx, "pre": pre, "dla": dla, "post": post, "tx": tx}
        modelled = {stage: np.array([ns], np.int64) for stage, ns in stages.items()}
        energy = int(self._model.energy_nj(modelled, count, media=False)[0])
        cost = flow.costs[count] = Cost(rx, pre, dla, post, tx, energy)
        return cost


def _run_length(words: NDArray[np.uint64], peers: NDArray[np.uint64]) -> int:
    """Return how many of the first headers, uint64 [n, 4], are alike but for request and fragment, and of one peer."""
    differences = words ^ words[0]
    differences[:, 1] = peers ^ peers[0]
    together = np.bitwise_or.reduce(differences, axis=0).tolist()
    if not (together[0] or together[1] or together[2] or together[3] & _FRAGMENT_MASK):
        return len(words)
    differences[:, 3] &= np.uint64(_FRAGMENT_MASK)
    return int(differences.any(axis=1).argmax())
