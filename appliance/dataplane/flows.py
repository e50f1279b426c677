"""Flows: requests that are alike but for their number and their body, and what is known of them."""

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from appliance.clock import Clock
from appliance.dataplane.answers import ROWS
from appliance.dataplane.bodies import Bodies
from appliance.dataplane.energy import HardwareModel
from appliance.dataplane.refusal import answer_header
from appliance.dataplane.sessions import SLOT_MASK
from appliance.dataplane.state import State
from appliance.dataplane.table import Loaded
from host_sdk.wire.errors import FrameError
from host_sdk.wire.header import Header, decode_header
from host_sdk.wire.links.base import BROADCAST, FrameBatch, Link
from host_sdk.wire.message import fragment_size_for, is_bare
from host_sdk.wire.schema import CRC_SIZE, HEADER_SIZE, TRAILER, Flag, Opcode, Status

MAX_FLOWS = 4096
REQUEST_OFFSET = 8  # of the request id in a header
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
        bodies: Where the bodies are in a link's memory, and in which order their fragments come.
        rows: Bodies that are in the rows of the queue's store, void [depth].
        replies: Replies, records [max_batch] with the fields request and answer; trailer and crc where they are asked
            for; the rest is filled in.
        pdus: The same, void [max_batch].
        pdu: The bytes of a reply to one request, uint8 [PDU], filled in but for the same.
        trailer: Where in the reply the trailer is, 0 where there is none.
        crc: Whether requests and replies have a CRC.
        costs: By batch size.
    """

    header: Header
    loaded: Loaded
    slot: int
    once: bool
    bodies: Bodies
    rows: NDArray[np.void]
    replies: NDArray[np.void]
    pdus: NDArray[np.void]
    pdu: NDArray[np.uint8]
    trailer: int
    crc: bool
    costs: dict[int, Cost] = field(default_factory=dict)

    @property
    def reply_size(self) -> int:
        """Bytes of a reply's PDU."""
        return self.replies.dtype.itemsize

    @property
    def size(self) -> int:
        """Bytes of a request's PDUs without padding."""
        return self.header.length + HEADER_SIZE * self.header.fragments


class Flows:
    """The flows that were seen lately.

    Args:
        link: Where frames come from.
        clock: Time.
        state: Sessions, pipelines, answers.
        model: Modelled times and energy.
    """

    def __init__(self, link: Link, clock: Clock, state: State, model: HardwareModel) -> None:
        self._link, self._clock, self._state, self._model = link, clock, state, model
        self._flows: dict[Key, Flow] = {}
        self._stamp = (-1, -1, -1, -1)

    def get(self, key: Key, batch: FrameBatch) -> Flow | None:
        """Return the flow that a frame belongs to; None where there is anything about it that needs a closer look.

        Args:
            key: Of the first frame.
            batch: The frames.
        """
        state = self._state
        stamp = (state.sessions.version, state.table.version, state.control.epoch, state.credits)
        if stamp != self._stamp or len(self._flows) >= MAX_FLOWS:
            self._flows.clear()
            self._stamp = stamp
        flow = self._flows.get(key)
        if flow is None:
            flow = self._learn(batch, key[-1])
            if flow:
                self._flows[key] = flow
        return flow

    def _learn(self, batch: FrameBatch, size: int) -> Flow | None:
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
        if loaded is None or not known[0] or not self._entitled(header.session & SLOT_MASK, peer, loaded):
            return None
        if is_bare(header) and self._state.sessions.checked[header.session & SLOT_MASK]:
            return None
        if loaded.pipeline.manifest.max_delay_us and header.fragments == 1:
            return None
        crc = CRC_SIZE if header.flags & Flag.CRC else 0
        if loaded.pipeline.input_size is None or loaded.pipeline.input_size != header.length - crc:
            return None
        reply = self._reply(header, loaded, min(int(limit[0]), fragment_size_for(self._link.mtu)))
        if reply is None:
            return None
        slot, once = header.session & SLOT_MASK, bool(header.flags & Flag.ONCE)
        if once and not self._kept(slot, reply.dtype.itemsize):
            return None
        largest, store = loaded.pipeline.max_batch, loaded.queue.store
        replies = np.tile(reply, largest)
        body = np.dtype((np.void, header.length - crc))
        return Flow(
            header=header,
            loaded=loaded,
            slot=slot,
            once=once,
            bodies=Bodies(header, size, largest),
            rows=np.ndarray((len(store),), body, store.data, 0, store.strides[:1]),
            replies=replies,
            pdus=replies.view(np.dtype((np.void, reply.dtype.itemsize))),
            pdu=reply.view(np.uint8).copy(),
            trailer=HEADER_SIZE + loaded.pipeline.answer_size if header.flags & Flag.TRAILER else 0,
            crc=bool(crc),
        )

    def _entitled(self, slot: int, peer: int, loaded: Loaded) -> bool:
        """Return whether nothing about a session's grant needs a look at each request."""
        grants = self._state.grants
        if grants is None:
            return True
        holder = int(self._state.sessions.holders[slot])
        return grants.refusal(holder, peer, loaded) is None and not grants.metered(holder)

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
        names, formats, offsets, at = ["request"], ["u8"], [REQUEST_OFFSET], HEADER_SIZE
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

    def cost(self, flow: Flow, count: int) -> Cost:
        """Return what the profile's hardware takes for a batch of ``count``."""
        known = flow.costs.get(count)
        if known:
            return known
        pre, full, post = flow.loaded.pipeline.modelled_tensors(count)
        dla = self._model.dla_ns(full)
        sizes = np.array([flow.size, flow.reply_size])
        rx, tx = self._model.wire_ns(sizes).tolist()
        stages = {"rx": rx, "pre": pre, "dla": dla, "post": post, "tx": tx}
        modelled = {stage: np.array([ns], np.int64) for stage, ns in stages.items()}
        energy = int(self._model.energy_nj(modelled, count, media=False)[0])
        cost = flow.costs[count] = Cost(rx, pre, dla, post, tx, energy)
        return cost
