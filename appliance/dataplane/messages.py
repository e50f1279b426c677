"""Everything that is no whole INFER in one frame: fragments by the run; sessions, control, notices one by one."""

from dataclasses import dataclass, replace

import msgpack
import numpy as np

from appliance.dataplane.admission import Admitter, Arrivals
from appliance.dataplane.answers import LAST_ID, AnswerWindows
from appliance.dataplane.copies import Copies
from appliance.dataplane.fastpath import FastPath
from appliance.dataplane.landing import Landing
from appliance.dataplane.notices import Notices
from appliance.dataplane.refusal import Refusals, answer_header
from appliance.dataplane.replies import ReplyWriter
from appliance.dataplane.sessions import SLOT_MASK, Opened, Opening, share_of
from appliance.dataplane.state import State
from host_sdk.wire.errors import FrameError
from host_sdk.wire.exchange.fragments import Fragments
from host_sdk.wire.exchange.reassembly import Taken, Whole
from host_sdk.wire.exchange.states import SlotState
from host_sdk.wire.header import Header, check_length, decode_header, vector_header
from host_sdk.wire.links.base import SEALED_PEER, FrameBatch, Link
from host_sdk.wire.message import Message, check_flags, decode_message, encode_message, fragment_size_for, is_bare
from host_sdk.wire.schema import (
    FIRST_FRAGMENTS,
    HEADER_SIZE,
    MAX_FRAGMENT_SIZE,
    MAX_SESSION_WINDOW,
    MAX_TENANT,
    MIN_MTU,
    SEAL_OVERHEAD,
    DropReason,
    Flag,
    Opcode,
    Status,
    is_notice,
)

SESSION_RETRY = 1000  # in units of 100 µs: when a full session table may have room
CONTROL_RETRY = 200
RESUMPTION_STEP = (1 << 32) + MAX_SESSION_WINDOW  # ids that are left out; of refused ones nothing is known


@dataclass(slots=True)
class TokenBucket:
    """Lets through ``rate`` a second, and as many at once."""

    rate: int
    tokens: float = 0.0
    filled: int | None = None

    def take(self, now: int) -> bool:
        """Take a token at ``now`` (ns); return whether there was one."""
        if self.filled is None:
            self.tokens = float(self.rate)
        else:
            self.tokens = min(self.rate, self.tokens + (now - self.filled) * self.rate / 1e9)
        self.filled = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


@dataclass(frozen=True, slots=True)
class Rooms:
    """Where messages go from here."""

    fast: FastPath
    admitter: Admitter
    landing: Landing
    copies: Copies
    notices: Notices
    refusals: Refusals
    replies: ReplyWriter


class Messages:
    """Takes messages of one frame one at a time, and fragments as they came together.

    Args:
        link: Where they come from.
        state: Sessions, pipelines, the reassembler, the way to the firmware.
        rooms: Where messages go.
    """

    def __init__(self, link: Link, state: State, rooms: Rooms) -> None:
        self._link, self._state, self._rooms = link, state, rooms
        self._discovery = TokenBucket(state.discovery_per_s)

    @property
    def _answers(self) -> AnswerWindows:
        return self._state.answers

    def take(self, frame: FrameBatch, now: int) -> None:
        """Take one sound frame that carries a whole message, counted as accepted, that arrived at ``now``."""
        peer, pdu = int(frame.peers[0]), frame.pdu(0)
        header = decode_header(pdu.data, self._link.smallest)
        payload = pdu[HEADER_SIZE : HEADER_SIZE + header.payload_size].tobytes()
        try:
            check_length(header.length, self._state.reassembler.limits.message)
            self._take_whole(peer, header, Whole(payload, now, HEADER_SIZE + len(payload)), now)
        except FrameError as error:
            self._broken(peer, header, error)

    def take_fragments(self, peer: int, fragments: Fragments, now: int) -> None:
        """Take sound frames that carry fragments of one message, counted as accepted, that arrived at ``now``."""
        header, counters = fragments.header, self._state.counters
        try:
            check_flags(header.flags)
            ahead = self._ahead(peer, fragments, now) if header.opcode == Opcode.INFER else 0
            if ahead:
                if ahead < len(fragments):
                    self.take_fragments(peer, fragments.after(ahead), now)
                return
            taken = self._state.reassembler.take(peer, fragments, now)
            counters.move(DropReason.FRAGMENT_DUPLICATE, taken.copies)
            counters.move(DropReason.REASSEMBLY_FULL, taken.refused)
            if taken.whole is None:
                self._grant(peer, fragments, taken)
            else:
                self._take_whole(peer, header, taken.whole, now)
        except FrameError as error:
            self._broken(peer, header, error, len(fragments))

    def _take_whole(self, peer: int, header: Header, whole: Whole, now: int) -> None:
        """Take a whole message.

        Raises:
            FrameError: It is damaged.
        """
        message = decode_message(header, whole.payload)
        if header.opcode == Opcode.INFER:
            self._rooms.admitter.admit(_single(peer, message, whole.wire_bytes), whole.began, now)
        else:
            self._dispatch(peer, message, now)

    def _broken(self, peer: int, header: Header, error: FrameError, count: int = 1) -> None:
        if is_notice(header.opcode):
            self._state.counters.move(DropReason.NOT_KNOWN, count)
        elif isinstance(error.reason, DropReason):
            self._state.counters.move(error.reason, count)
        else:
            self._rooms.refusals.one(peer, header, error.reason, str(error))

    # ---- requests of many frames ---------------------------------------------------------------------------------

    def _ahead(self, peer: int, fragments: Fragments, now: int) -> int:
        """Look at fragments of an INFER before the others are there; return how many are dealt with."""
        header, count = fragments.header, len(fragments)
        if self._state.reassembler.knows(peer, header):
            return 0  # others are there; it may contradict them
        if not self._state.sessions.find(header.session, peer, now):
            self._rooms.refusals.one(peer, header, Status.UNKNOWN_SESSION)
            return count
        if is_bare(header) and self._state.sessions.checked[header.session & SLOT_MASK]:
            self._rooms.refusals.one(peer, header, Status.MALFORMED, "in this session flag ONCE needs flag CRC")
            return count
        if header.flags & Flag.ONCE:
            place = self._answers.place(header.session & SLOT_MASK, header.request)
            if self._answers.state(place, header.request) != SlotState.NEW:
                self._rooms.copies.known(peer, header, place, count)
                return count
            if self._rooms.landing.contradicted(header, place):
                return count
        loaded, slot = self._state.table.get(header.pipeline), header.session & SLOT_MASK
        if loaded is None:
            self._rooms.refusals.one(peer, header, Status.UNKNOWN_PIPELINE)
            return count
        grants = self._state.grants
        refusal = grants.refusal(int(self._state.sessions.holders[slot]), peer, loaded) if grants else None
        if refusal is not None:
            self._rooms.refusals.one(peer, header, refusal)
            return count
        self._state.counters.unaccept(count)  # whoever takes them counts them
        served = self._rooms.fast.serve(fragments.batch, now)
        self._state.counters.accept(count - served)
        return served

    def _grant(self, peer: int, fragments: Fragments, taken: Taken) -> None:
        """Say what has arrived of a message that is not whole, if it is time to."""
        header, reassembler = fragments.header, self._state.reassembler
        window = self._state.session_fragments if header.session else FIRST_FRAGMENTS
        if taken.copies or fragments.has_last or reassembler.news(peer, header) * 4 >= window:
            arrived = reassembler.arrived(peer, header, window)
            if arrived:
                self._rooms.copies.notice(peer, header, Opcode.GRANT, arrived.encode())

    # ---- whole messages ------------------------------------------------------------------------------------------

    def _dispatch(self, peer: int, message: Message, now: int) -> None:
        header, control = message.header, self._state.control
        if is_notice(header.opcode):
            self._rooms.notices.take(peer, message, now)
        elif header.opcode == Opcode.DISCOVER:
            self._discover(peer, message, now)
        elif header.opcode == Opcode.CONTROL:
            if not control.ready:
                refusal = Status.UNAVAILABLE, "the firmware is not running"
                self._rooms.refusals.one(peer, header, *refusal, retry_after=CONTROL_RETRY)
            elif not control.post(peer, message):
                refusal = Status.BUSY, "the firmware's mailbox is full"
                self._rooms.refusals.one(peer, header, *refusal, retry_after=CONTROL_RETRY)
        elif header.opcode == Opcode.OPEN:
            self._open(peer, message, now)
        elif header.opcode == Opcode.CLOSE:
            slots = self._state.sessions.close(header.session, peer)
            self.ended(slots)
            status = Status.OK if slots else Status.UNKNOWN_SESSION
            self._rooms.replies.message(peer, Message(answer_header(header, status, self._state.credits)))
        else:
            self._rooms.refusals.one(peer, header, Status.UNKNOWN_OPCODE, f"opcode {header.opcode:#04x}")

    def ended(self, slots: list[int]) -> None:
        """Forget what was kept for sessions that have ended, by their slots."""
        for slot in slots:
            self._rooms.landing.forget(slot)
            self._answers.forget(slot)

    def _discover(self, peer: int, message: Message, now: int) -> None:
        counters = self._state.counters
        if not self._discovery.take(now):
            counters.move(DropReason.DISCOVERY_RATE)
        elif not self._state.control.post(peer, message):
            counters.move(DropReason.MAILBOX_FULL)
        else:
            counters.discoveries += 1

    def _open(self, peer: int, message: Message, now: int) -> None:
        header = message.header
        opening = self._opening(peer, message)
        if isinstance(opening, str):
            self._rooms.refusals.one(peer, header, Status.BAD_ARGUMENT, opening)
            return
        opened = self._state.sessions.open(opening, now)
        if opened is None:
            self._rooms.refusals.one(peer, header, Status.BUSY, "every session is in use", SESSION_RETRY)
            return
        if opened.fresh:
            self.ended([opened.slot])
        answer = replace(answer_header(header, Status.OK, self._state.credits), session=opened.session)
        body = self._opened(opened, resumed=opening.resume != 0)
        if b"padding" in message.body:
            body = self._padded(body, answer, header.length)
        self._rooms.replies.message(peer, Message(answer, msgpack.packb(body)), opening.fragment_size)

    def _opened(self, opened: Opened, *, resumed: bool) -> dict[str, object]:
        state = self._state
        following = opened.base + 1
        if not opened.fresh and resumed:
            following = min(max(opened.base, self._answers.highest(opened.slot)) + RESUMPTION_STEP, LAST_ID)
        return {
            "credits": share_of(state.credits, int(state.sessions.shares[opened.slot])),
            "max_message": state.reassembler.limits.message,
            "window": self._answers.window,
            "fragments": state.session_fragments,
            "base": opened.base,
            "next": following,
        }

    def _padded(self, body: dict[str, object], answer: Header, length: int) -> dict[str, object]:
        """Return the body of an OPENED that makes it as long as its OPEN, as far as one frame carries it."""
        body = {**body, "padding": bytes(256)}
        least, _ = encode_message(Message(answer, msgpack.packb(body)), MAX_FRAGMENT_SIZE)
        wanted = min(length, fragment_size_for(self._link.mtu)) - least.length
        return {**body, "padding": bytes(256 + max(0, wanted))}

    def _opening(self, peer: int, message: Message) -> Opening | str:
        """Return what an OPEN asks for, or what is wrong with it."""
        try:
            asked = msgpack.unpackb(message.body, max_map_len=32, max_array_len=0)
        except (ValueError, msgpack.exceptions.UnpackException):
            asked = None
        low = MIN_MTU - HEADER_SIZE - (SEAL_OVERHEAD if peer >= SEALED_PEER else 0)
        if not isinstance(asked, dict):
            return f"OPEN needs a map with fragment_size, {low} to {MAX_FRAGMENT_SIZE}"
        size, fragments = asked.get("fragment_size"), asked.get("fragments", FIRST_FRAGMENTS)
        resume, tenant = asked.get("resume", 0), asked.get("tenant", "")
        if type(size) is not int or not low <= size <= MAX_FRAGMENT_SIZE:
            return f"OPEN needs a map with fragment_size, {low} to {MAX_FRAGMENT_SIZE}"
        if type(fragments) is not int or not 1 <= fragments <= MAX_FRAGMENT_SIZE:
            return f"fragments is a number from 1 to {MAX_FRAGMENT_SIZE}"
        if type(resume) is not int or not 0 <= resume < 1 << 32:
            return "resume is the number of a session"
        if not isinstance(tenant, str) or len(tenant.encode("utf-8", "surrogatepass")) > MAX_TENANT:
            return f"tenant is a text of at most {MAX_TENANT} bytes"
        if message.header.request >= 1 << 62:
            return "the id of an OPEN is less than 2^62"
        index, checked = self._state.tenants.index(tenant), bool(message.header.flags & Flag.CRC)
        wanted = Opening(peer, message.header.request, size, fragments, index, resume, checked=checked)
        return self._state.grants.limited(wanted) if self._state.grants else wanted

    def expire(self, now: int) -> None:
        """Give up messages whose fragments stay away, and say so."""
        for peer, header in self._state.reassembler.expire(now):
            if not is_notice(header.opcode):
                self._rooms.refusals.one(peer, header, Status.REASSEMBLY_TIMEOUT)
        self._rooms.landing.expire(now)


def _single(peer: int, message: Message, wire_bytes: int) -> Arrivals:
    """Return one reassembled request as a batch of one."""
    return Arrivals(
        np.array([peer], np.uint64),
        vector_header(message.header),
        np.frombuffer(message.body, np.uint8),
        np.zeros(1, np.int64),
        np.array([len(message.body)], np.int64),
        np.array([wire_bytes], np.int64),
    )
