"""The fast path: a batch of requests of one flow, answered straight from the frames that it came in.

A flow is all requests with the same peer, session, pipeline, flags, priority and sizes: alike but for their number and
their body. What is known of a flow is checked once and kept; a batch then costs a fixed, small number of array
operations, whatever its size. Anything out of the ordinary is left to the general path, with the same answers.
"""

import logging
import struct
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from appliance.clock import Clock
from appliance.dataplane.energy import HardwareModel
from appliance.dataplane.records import StridedView
from appliance.dataplane.refusal import answer_header
from appliance.dataplane.replies import ReplyWriter
from appliance.dataplane.state import State
from appliance.dataplane.table import Loaded
from host_sdk.wire.errors import DeviceError, FrameError
from host_sdk.wire.header import Header, decode_header
from host_sdk.wire.links.base import BROADCAST, FrameBatch, Link
from host_sdk.wire.message import fragment_size_for
from host_sdk.wire.schema import HEADER_SIZE, TRAILER, Flag, Opcode, Status

_log = logging.getLogger(__name__)
MAX_FLOWS = 4096
_TRAILER = struct.Struct(TRAILER.struct_format)
_LARGEST = 0xFFFF_FFFF
_REQUEST_OFFSET = 8  # of the request id, in words of which a header has four
Key = tuple[int, int, int, int, int]  # peer, three words of the header, bytes of the PDU


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
        loaded: The pipeline and its queue.
        session: Session id.
        wire_bytes: Bytes of every request's PDU without padding.
        bodies: Where the bodies are in a link's memory.
        reply: One reply, a record [1] with the fields request and answer, and trailer where one is asked for.
        costs: By batch size.
    """

    loaded: Loaded
    session: int
    wire_bytes: int
    bodies: StridedView
    reply: NDArray[np.void]
    costs: dict[int, Cost] = field(default_factory=dict)


class FastPath:
    """Answers batches of one flow."""

    def __init__(self, link: Link, clock: Clock, state: State, replies: ReplyWriter, model: HardwareModel) -> None:
        self._link, self._clock, self._state, self._replies, self._model = link, clock, state, replies, model
        self._headers = StridedView(HEADER_SIZE)
        self._flows: dict[Key, Flow] = {}
        self._stamp = (-1, -1, -1)

    def serve(self, batch: FrameBatch, now: int) -> int:
        """Answer the first frames of a batch that arrived at ``now``; return how many, the others being untouched."""
        size = int(batch.lengths[0])
        if size < HEADER_SIZE or (len(batch) > 1 and (batch.lengths != size).any()):
            return 0
        words = self._headers.of(batch.memory)[batch.starts].view(np.uint64).reshape(-1, 4)
        peer, first = int(batch.peers[0]), words[0].tolist()
        if len(batch) > 1 and not _uniform(words, batch.peers, peer):
            return 0
        flow = self._flow((peer, first[0], first[2], first[3], size), batch)
        if flow is None or len(flow.loaded.queue):
            return 0
        self._state.sessions.touch(flow.session, now)
        largest, served = flow.loaded.pipeline.max_batch, 0
        try:
            while served < len(batch):
                chosen = slice(served, served + largest)
                self._run(flow, peer, flow.bodies.of(batch.memory)[batch.starts[chosen]], words[chosen, 1], now)
                served = min(served + largest, len(batch))
        except DeviceError:
            pass  # the general path finds out which request it was, and says so
        except Exception:  # noqa: BLE001 - no body may end the node; the general path answers what is left
            _log.exception("the fast path failed on pipeline %s", flow.loaded.pipeline.manifest.name)
        return served

    def _flow(self, key: Key, batch: FrameBatch) -> Flow | None:
        state = self._state
        stamp = (state.sessions.version, state.table.version, state.control.epoch)
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
        plain = header.opcode == Opcode.INFER and header.fragments == 1 and header.flags in (0, Flag.TRAILER)
        if not plain or header.deadline or header.credits or peer in (0, BROADCAST, self._link.address):
            return None
        loaded = self._state.table.get(header.pipeline)
        known, limit = self._state.sessions.lookup(np.array([header.session]), batch.peers[:1], self._clock.now_ns())
        if loaded is None or not known[0] or loaded.pipeline.manifest.max_delay_us:
            return None
        if loaded.pipeline.input_size != header.length:
            return None
        reply = self._reply(header, loaded, min(int(limit[0]), fragment_size_for(self._link.mtu)))
        if reply is None:
            return None
        bodies = StridedView(header.length, HEADER_SIZE)
        return Flow(loaded, header.session, HEADER_SIZE + header.length, bodies, reply)

    def _reply(self, header: Header, loaded: Loaded, fragment_size: int) -> NDArray[np.void] | None:
        """Return the reply to a flow's requests, all but request id, answer and trailer filled in."""
        answer, trailer = loaded.pipeline.answer_size, TRAILER.size if header.flags & Flag.TRAILER else 0
        if answer + trailer > fragment_size:
            return None
        names, formats = ["request", "answer"], ["u8", f"V{answer}"]
        offsets = [_REQUEST_OFFSET, HEADER_SIZE]
        if trailer:
            names, formats, offsets = [*names, "trailer"], [*formats, f"V{trailer}"], [*offsets, HEADER_SIZE + answer]
        size = HEADER_SIZE + answer + trailer
        dtype = np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": size})
        shared = replace(
            answer_header(header, Status.OK, self._state.credits),
            flags=header.flags,
            length=answer + trailer,
            fragment_size=fragment_size,
        )
        reply = np.zeros(size, np.uint8)
        reply[:HEADER_SIZE] = np.frombuffer(shared.encode(), np.uint8)
        return reply.view(dtype)

    def _run(self, flow: Flow, peer: int, bodies: NDArray[np.void], requests: NDArray[np.uint64], now: int) -> None:
        """Run a batch and send its answers.

        Raises:
            DeviceError: The model failed on one of the inputs; nothing was sent.
        """
        count, pipeline = len(bodies), flow.loaded.pipeline
        started = self._clock.now_ns()
        answers, measured = pipeline.run_tensors(bodies, self._clock)
        cost = flow.costs.get(count) or self._cost(flow, count)
        queued = self._model.start_dla(now + cost.pre, cost.dla) - cost.pre - now
        if "trailer" in (flow.reply.dtype.names or ()):
            _TRAILER.pack_into(
                flow.reply.view(np.uint8).data,
                flow.reply.dtype.itemsize - TRAILER.size,
                *(min(ns, _LARGEST) for ns in (started - now, 0, *measured)),
                min(self._clock.now_ns() - started - sum(measured), _LARGEST),
                *(min(ns, _LARGEST) for ns in (cost.rx, queued, cost.pre, cost.dla, cost.post, cost.tx)),
                min(cost.energy, _LARGEST),
                count,
                self._state.control.epoch,
                pipeline.model_digest,
            )
        replies = np.empty(count, flow.reply.dtype)
        whole = np.dtype((np.void, replies.dtype.itemsize))
        replies.view(whole)[:] = flow.reply.view(whole)
        replies["request"] = requests
        replies["answer"] = answers.view(replies.dtype["answer"])[:, 0]
        self._replies.transmit(peer, replies)
        self._state.counters.answered(count)
        self._state.counters.batches += 1
        self._state.counters.inferences += count
        self._state.counters.energy_nj += cost.energy * count
        flow.loaded.served(count, self._clock.now_ns() - started)

    def _cost(self, flow: Flow, count: int) -> Cost:
        """Return, and keep, what the profile's hardware takes for a batch of ``count``."""
        pre, dla, post = flow.loaded.pipeline.modelled_tensors(count)
        sizes = np.array([flow.wire_bytes, flow.reply.dtype.itemsize])
        rx, tx = self._model.wire_ns(sizes).tolist()
        stages = {"rx": rx, "pre": pre, "dla": dla, "post": post, "tx": tx}
        modelled = {stage: np.array([ns], np.int64) for stage, ns in stages.items()}
        energy = int(self._model.energy_nj(modelled, count, media=False)[0])
        cost = flow.costs[count] = Cost(rx, pre, dla, post, tx, energy)
        return cost


def _uniform(words: NDArray[np.uint64], peers: NDArray[np.uint64], peer: int) -> bool:
    """Return whether all headers, uint64 [n, 4], are alike but for their request id, and all of one peer."""
    differences = np.bitwise_or.reduce(words ^ words[0], axis=0).tolist()
    return not (differences[0] or differences[2] or differences[3] or (peers != peer).any())
