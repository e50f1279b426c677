"""A responder to hold requesters against: one message at a time, by the tables and the text, and nothing for speed."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import msgpack

from host_sdk.wire.errors import FrameError
from host_sdk.wire.exchange.arrived import Arrived
from host_sdk.wire.exchange.reassembly import Reassembler, ReassemblyLimits
from host_sdk.wire.exchange.states import SLOT_RULES, SlotAction, SlotEvent, SlotState
from host_sdk.wire.header import Header, decode_header
from host_sdk.wire.message import Message, check_flags, decode_message, encode_message
from host_sdk.wire.schema import (
    CRC_SIZE,
    FIRST_FRAGMENTS,
    HEADER_SIZE,
    REPLY_BIT,
    DropReason,
    Flag,
    Opcode,
    Status,
    is_notice,
)
from tests.rig.reference_sessions import Encoded, Job, ResponderLimits, Session, Slot

RESUMPTION_STEP = 1 << 32
Sent = list[tuple[int, bytes]]  # peer, PDU


class ReferenceResponder:
    """Bytes in, bytes out. What was taken waits until :meth:`work` is called.

    Args:
        execute: Pipeline and body in, body of the answer out.
        limits: What it grants.

    Attributes:
        executions: Session, id and body of every request that was executed, in their order.
        dropped: Frames that went no further, by reason.
    """

    def __init__(self, execute: Callable[[int, bytes], bytes], limits: ResponderLimits | None = None) -> None:
        self.limits = limits or ResponderLimits()
        self._execute = execute
        self.executions: list[tuple[int, int, bytes]] = []
        self.dropped: Counter[DropReason] = Counter()
        self._numbers = 0  # sessions that were ever opened
        self.restart()

    def restart(self) -> None:
        """Forget everything but that sessions had numbers."""
        self.sessions: dict[int, Session] = {}
        self.jobs: list[Job] = []
        self._openings: dict[tuple[int, int], int] = {}  # peer, id of an OPEN: session
        self._reassembler = Reassembler(ReassemblyLimits())
        self._news: dict[tuple[int, int, int, int], int] = {}  # fragments since the last GRANT

    # ---- frames in -----------------------------------------------------------------------------------------------

    def receive(self, peer: int, pdu: bytes, now: int) -> Sent:
        """Take one PDU; return those to send."""
        try:
            header = decode_header(pdu)
            if header.is_reply:
                raise FrameError(DropReason.NOT_A_REQUEST, "a reply")
            return self._take(peer, header, pdu[HEADER_SIZE:], now)
        except FrameError as error:
            if isinstance(error.reason, Status):
                return self._refuse(peer, header, error.reason)
            self.dropped[error.reason] += 1
            return []

    def _take(self, peer: int, header: Header, payload: bytes, now: int) -> Sent:
        check_flags(header.flags)
        session = self._session(peer, header.session)
        if header.opcode == Opcode.INFER and header.flags & Flag.ONCE and session:
            if self._state(session, header.request) is not SlotState.NEW:
                return self._happen(session, header, SlotEvent.REQUEST)
            session.highest = max(session.highest, header.request)
        key = (peer, header.session, header.request, header.opcode)
        have = self._reassembler.have(peer, header)
        try:
            whole = self._reassembler.add(peer, header, payload, now)
        except FrameError as error:
            if error.reason is not DropReason.FRAGMENT_DUPLICATE or have is None:
                raise
            self.dropped[error.reason] += 1
            return self._grant(peer, header)
        if whole is None:
            self._news[key] = self._news.get(key, 0) + 1
            quarter = max(1, self._may_be_under_way(header) // 4)
            due = header.fragment == header.fragments - 1 or self._news[key] >= quarter
            return self._grant(peer, header) if due else []
        self._news.pop(key, None)
        return self._dispatch(peer, decode_message(header, whole.payload), whole.began)

    def expire(self, now: int) -> Sent:
        """Give up messages that are too old, and say so."""
        given_up = self._reassembler.expire(now)
        return [pdu for peer, header in given_up for pdu in self._refuse(peer, header, Status.REASSEMBLY_TIMEOUT)]

    def _session(self, peer: int, number: int) -> Session | None:
        session = self.sessions.get(number)
        return session if session and session.peer == peer else None

    def _may_be_under_way(self, header: Header) -> int:
        return self.limits.fragments if header.session else FIRST_FRAGMENTS

    def _dispatch(self, peer: int, message: Message, began: int) -> Sent:
        header = message.header
        if is_notice(header.opcode):
            return self._notice(peer, message)
        if header.opcode == Opcode.OPEN:
            return self._open(peer, message)
        if header.opcode == Opcode.CLOSE:
            known = self._session(peer, header.session)
            if known:
                del self.sessions[known.number]
            return self._refuse(peer, header, Status.OK if known else Status.UNKNOWN_SESSION)
        if header.opcode == Opcode.CONTROL:
            return self._send(peer, self._encode(header, Status.OK, self._execute(0, message.body)))
        if header.opcode != Opcode.INFER:
            return self._refuse(peer, header, Status.UNKNOWN_OPCODE)
        session = self._session(peer, header.session)
        if session is None:
            return self._refuse(peer, header, Status.UNKNOWN_SESSION)
        if header.flags & Flag.ONCE:
            return self._happen(session, header, SlotEvent.REQUEST, message, began)
        return self._admit(session, message, began)

    def _open(self, peer: int, message: Message) -> Sent:
        asked, header = msgpack.unpackb(message.body), message.header
        number = self._openings.get((peer, header.request), 0)
        resumed = self._session(peer, asked.get("resume", 0))
        session = self._session(peer, number) or resumed
        if session is None:
            self._numbers += 1
            session = Session(self._numbers, peer, header.request, 0, 0, highest=header.request)
            self.sessions[session.number] = session
        session.fragment_size, session.unasked = asked["fragment_size"], asked.get("fragments", FIRST_FRAGMENTS)
        self._openings[peer, header.request] = session.number
        step = RESUMPTION_STEP if resumed and header.request != session.base else 1
        answer: dict[str, int | bytes] = {
            "credits": self.limits.credits,
            "max_message": 1 << 20,
            "window": self.limits.window,
            "fragments": self.limits.fragments,
            "base": session.base,
            "next": (session.highest if step > 1 else session.base) + step,
        }
        header = replace(header, session=session.number)
        if "padding" in asked:
            plain = len(msgpack.packb({**answer, "padding": bytes(256)})) - 256 + CRC_SIZE
            answer["padding"] = bytes(max(256, header.length - plain))
        return self._send(peer, self._encode(header, Status.OK, msgpack.packb(answer), session.fragment_size))

    # ---- the slots -----------------------------------------------------------------------------------------------

    def _state(self, session: Session, number: int) -> SlotState:
        slot = session.slots.get(number % self.limits.window)
        if slot is None or slot.id < number:
            return SlotState.NEW
        return slot.state if slot.id == number else SlotState.OUTDATED

    def _happen(
        self,
        session: Session,
        header: Header,
        event: SlotEvent,
        message: Message | None = None,
        began: int = 0,
        arrived: Arrived | None = None,
    ) -> Sent:
        """Let an event happen to a *once* request, and do what the rules say."""
        number, place = header.request, header.request % self.limits.window
        action, after = SLOT_RULES[self._state(session, number), event]
        peer, slot = session.peer, session.slots.get(place)
        if action is SlotAction.TAKE:
            assert message
            sent = self._admit(session, message, began)
            if not sent:
                session.slots[place] = Slot(number, after)
            return sent
        if action is SlotAction.REMEMBER:
            self._reassembler.forget(peer, session.number, number, Opcode.INFER)
            session.slots[place] = Slot(number, after)
        elif action is SlotAction.RELEASE:
            session.slots[place] = Slot(number, after)
        elif action is SlotAction.REFUSE:
            session.slots[place] = Slot(number - self.limits.window, SlotState.RELEASED)
            return self._refuse(peer, header, Status.BUSY)
        elif action is SlotAction.END:
            self._cancel_jobs(session, header)
        elif action is SlotAction.WORKING:
            return self._tell(peer, header, Opcode.WORKING, retry_after=1)
        elif action is SlotAction.UNKNOWN:
            return self._tell(peer, header, Opcode.UNKNOWN)
        elif action in (SlotAction.REPLAY, SlotAction.MISSING):
            assert slot
            kept = slot.answer or self._encode(header, Status.CANCELLED, b"")
            return self._give(session, kept, arrived)
        elif action in (SlotAction.DROP_OUTDATED, SlotAction.DROP_NOT_KNOWN):
            self.dropped[DropReason[action.name.removeprefix("DROP_")]] += 1
        return []

    def _notice(self, peer: int, message: Message) -> Sent:
        header = message.header
        session, once = self._session(peer, header.session), header.flags & Flag.ONCE
        if header.opcode == Opcode.RESEND:
            arrived = Arrived.decode(message.body)
            if not session or not once:
                return self._tell(peer, header, Opcode.UNKNOWN)
            return self._happen(session, header, SlotEvent.RESEND, arrived=arrived)
        if not session or header.opcode not in (Opcode.CANCEL, Opcode.SETTLE):
            self.dropped[DropReason.NOT_KNOWN] += 1
        elif header.opcode == Opcode.SETTLE:
            for slot in list(session.slots.values()):
                at = slot.id - header.request - 1
                named = at < 0 or (at < 8 * len(message.body) and message.body[at // 8] >> 7 - at % 8 & 1)
                if named and slot.id >= 0:
                    self._happen(session, replace(header, request=slot.id), SlotEvent.SETTLE)
        elif once:
            return self._happen(session, header, SlotEvent.CANCEL)
        else:
            self._reassembler.forget(peer, session.number, header.request, Opcode.INFER)
            self._cancel_jobs(session, header)
        return []

    def _cancel_jobs(self, session: Session, header: Header) -> None:
        for job in self.jobs:
            asked = job.message.header
            job.cancelled |= (asked.session, asked.request) == (session.number, header.request)

    # ---- work ----------------------------------------------------------------------------------------------------

    def _admit(self, session: Session, message: Message, began: int) -> Sent:
        """Queue a request, or refuse it."""
        header = message.header
        mine = sum(job.message.header.session == session.number for job in self.jobs)
        place = header.request % self.limits.window
        held = [at for at, slot in session.slots.items() if slot.state is not SlotState.RELEASED and at != place]
        full = self.limits.kept is not None and header.flags & Flag.ONCE and len(held) >= self.limits.kept
        if full or mine >= self.limits.credits or len(self.jobs) >= self.limits.jobs:
            return self._refuse(session.peer, header, Status.BUSY)
        self.jobs.append(Job(session.peer, message, began))
        return []

    def work(self, now: int) -> Sent:
        """Execute the request that is next, if any, and answer it."""
        if not self.jobs:
            return []
        job = min(self.jobs, key=lambda one: -one.message.header.priority)  # the first of those
        self.jobs.remove(job)
        header = job.message.header
        status, body = Status.OK, b""
        if job.cancelled:
            status = Status.CANCELLED
        elif header.deadline and now > job.began + header.deadline * 1000:
            status = Status.DEADLINE_EXCEEDED
        else:
            self.executions.append((header.session, header.request, job.message.body))
            body = self._execute(header.pipeline, job.message.body)
        session = self._session(job.peer, header.session)
        size = session.fragment_size if session else FIRST_FRAGMENTS
        answer = self._encode(header, status, body, size)
        if session is None or not header.flags & Flag.ONCE:
            return self._send(job.peer, answer)
        action, after = SLOT_RULES[self._state(session, header.request), SlotEvent.DONE]
        if action is not SlotAction.ANSWER:
            return []
        session.slots[header.request % self.limits.window] = Slot(header.request, after, answer)
        return self._give(session, answer, None)

    def displace(self) -> Sent:
        """Refuse the request that would be last, as if one of a higher priority took its room."""
        job = self.jobs.pop()
        header = job.message.header
        session = self._session(job.peer, header.session)
        if session and header.flags & Flag.ONCE:
            return self._happen(session, header, SlotEvent.DISPLACED)
        return self._refuse(job.peer, header, Status.BUSY)

    # ---- frames out ----------------------------------------------------------------------------------------------

    def _encode(self, asked: Header, status: Status, body: bytes, size: int = 0) -> Encoded:
        once = Flag.ONCE if asked.opcode in (Opcode.INFER, Opcode.CANCEL, Opcode.RESEND) else 0
        opcode = Opcode.INFER if is_notice(asked.opcode) else asked.opcode
        header = Header(
            opcode | REPLY_BIT,
            asked.request,
            asked.flags & (Flag.CRC | once),
            asked.session,
            pipeline=asked.pipeline if status == Status.OK and opcode == Opcode.INFER else 0,
            priority=asked.priority,
            credits=self.limits.credits,
            status=status,
            retry_after=self.limits.retry_after if status == Status.BUSY else 0,
        )
        return encode_message(Message(header, body), size or self.limits.mtu - HEADER_SIZE)

    def _refuse(self, peer: int, asked: Header, status: Status) -> Sent:
        return self._send(peer, self._encode(asked, status, b""))

    def _give(self, session: Session, answer: Encoded, arrived: Arrived | None) -> Sent:
        """Send the first fragments of a kept answer, or those that a RESEND shows to be missing."""
        header = answer[0]
        which = list(range(min(header.fragments, session.unasked)))
        if arrived:
            have, end = arrived.have(header.fragments), arrived.base + arrived.window
            which = [at for at in range(header.fragments) if arrived.base <= at < end and not have[at]]
        return self._send(session.peer, answer, which)

    def _send(self, peer: int, encoded: Encoded, which: list[int] | None = None) -> Sent:
        header, payload = encoded
        size = header.fragment_size
        return [
            (peer, replace(header, fragment=at).encode() + payload[at * size : (at + 1) * size])
            for at in (range(header.fragments) if which is None else which)
        ]

    def _grant(self, peer: int, header: Header) -> Sent:
        have = self._reassembler.have(peer, header)
        assert have is not None
        self._news[peer, header.session, header.request, header.opcode] = 0
        arrived = Arrived.of(header.opcode, have, self._may_be_under_way(header))
        return self._tell(peer, header, Opcode.GRANT, arrived.encode())

    def _tell(self, peer: int, about: Header, opcode: Opcode, body: bytes = b"", retry_after: int = 0) -> Sent:
        flags = about.flags & (Flag.CRC | Flag.ONCE)
        granted = self.limits.credits if about.session else 0
        header = Header(opcode, about.request, flags, about.session, priority=about.priority, credits=granted)
        header = replace(header, retry_after=retry_after)
        return self._send(peer, encode_message(Message(header, body), self.limits.mtu - HEADER_SIZE))
