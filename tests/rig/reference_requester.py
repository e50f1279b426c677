"""A requester to hold responders against: one request at a time, by the tables and the text, and nothing for speed."""

import random
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from host_sdk.wire.errors import FrameError
from host_sdk.wire.exchange.arrived import Arrived
from host_sdk.wire.exchange.states import REQUEST_RULES, RequestAction, RequestEvent, RequestState
from host_sdk.wire.header import Header, decode_header
from host_sdk.wire.message import Message, decode_message, encode_message, fragment_frames
from host_sdk.wire.schema import HEADER_SIZE, MIN_MTU, REPLY_BIT, RETRY_AFTER_UNIT_US, Flag, Opcode, Status

RTO_NS = 20_000_000
TRANSIENT = (Status.BUSY, Status.UNAVAILABLE, Status.REASSEMBLY_TIMEOUT, Status.BAD_CRC)
EVENTS = {
    Opcode.GRANT: RequestEvent.GRANT,
    Opcode.WORKING: RequestEvent.WORKING,
    Opcode.UNKNOWN: RequestEvent.UNKNOWN,
}
UNSENT = (RequestState.WAITING, RequestState.SETTLED)


@dataclass(frozen=True)
class SessionBounds:
    """What an OPENED said, and how many fragments of answers may come unasked."""

    session: int
    following: int
    credits: int
    window: int
    fragments: int
    fragment_size: int
    unasked: int


@dataclass
class Row:
    """One request.

    Attributes:
        id: 0 before it is sent.
        pdus: Its fragments.
        under_way: Those that are.
        had: Those that were sent since nothing was known of them.
        arrived: What the last GRANT said; a window of all fragments before the first.
        got: Fragments of its answer.
        shape: What all of them have in common.
        due: When something is to be done about it, ns.
        outcome: The final answer; None while there is none, or where the user gave up.
    """

    header: Header = field(repr=False)
    body: bytes = field(repr=False)
    id: int = 0
    state: RequestState = RequestState.WAITING
    pdus: list[bytes] = field(default_factory=list, repr=False)
    under_way: set[int] = field(default_factory=set)
    had: set[int] = field(default_factory=set)
    arrived: Arrived | None = None
    got: dict[int, bytes] = field(default_factory=dict, repr=False)
    shape: Header | None = field(default=None, repr=False)
    news: int = 0
    due: int | None = None
    busy: bool = False
    outcome: Message | None = None


class ReferenceRequester:
    """Requests in one session; bytes out by :meth:`to_send`, bytes in by :meth:`receive`.

    Args:
        bounds: The session.
        seed: For the ids of *datagram* requests.

    Attributes:
        rows: All requests, in the order of their submission.
    """

    def __init__(self, bounds: SessionBounds, seed: int = 0) -> None:
        self.bounds, self._random = bounds, random.Random(seed)
        self.rows: list[Row] = []
        self.credits, self._next = bounds.credits, bounds.following
        self._out: list[bytes] = []
        self._long = False

    # ---- the user ------------------------------------------------------------------------------------------------

    def submit(self, pipeline: int, body: bytes, flags: int, priority: int = 0) -> Row:
        """Ask for something; the row says what comes of it."""
        header = Header(Opcode.INFER, 0, flags, self.bounds.session, pipeline=pipeline, priority=priority)
        self.rows.append(Row(header, body))
        return self.rows[-1]

    def give_up(self, row: Row, now: int) -> None:
        """Want the answer no more."""
        self._happen(row, RequestEvent.GIVEN_UP, now)

    def settle(self) -> None:
        """Send a SETTLE that names all that are settled (N-120)."""
        used = range(self.bounds.following, self._next)
        unsettled = {row.id for row in self.rows if row.state is not RequestState.SETTLED}
        base = next((number for number in used if number in unsettled), self._next) - 1
        bitmap = bytearray(128)
        for number in range(base + 1, self._next):
            at = number - base - 1
            bitmap[at // 8] |= (number not in unsettled) << 7 - at % 8
        self._tell(Opcode.SETTLE, Header(0, base, Flag.ONCE), bytes(bitmap).rstrip(b"\0"))

    @property
    def outstanding(self) -> list[Row]:
        """Requests that were sent and are not settled."""
        return [row for row in self.rows if row.state not in UNSENT]

    def next_timer(self) -> int | None:
        """Return when to_send has work without a frame; None for never."""
        return min((row.due for row in self.rows if row.due is not None), default=None)

    # ---- frames out ----------------------------------------------------------------------------------------------

    def to_send(self, now: int) -> list[bytes]:
        """Let time pass; return what is to be sent."""
        for row in self.rows:
            if row.due is not None and row.due <= now:
                self._happen(row, RequestEvent.TIMEOUT, now)
        for row in self.rows:
            if row.state is RequestState.WAITING and self._has_room(row):
                self._number(row)
                self._happen(row, RequestEvent.ROOM, now)
            elif row.state is RequestState.SENT and row.arrived is None:
                self._send_on(row)
        out, self._out = self._out, []
        return out

    def _has_room(self, row: Row) -> bool:
        if len(self.outstanding) >= self.credits or self._places() < 2:
            return False
        if not row.header.flags & Flag.ONCE:
            return True
        ids = [one.id for one in self.outstanding if one.header.flags & Flag.ONCE]
        return not ids or self._next - min(ids) < self.bounds.window

    def _number(self, row: Row) -> None:
        row.id = self._next if row.header.flags & Flag.ONCE else self._random.getrandbits(63) | 1 << 63
        self._next += bool(row.header.flags & Flag.ONCE)
        message = Message(replace(row.header, request=row.id), row.body)
        row.pdus = list(fragment_frames(*encode_message(message, self.bounds.fragment_size)))

    def _places(self) -> int:
        return self.bounds.fragments - sum(len(row.under_way) for row in self.rows)

    def _send(self, row: Row, parts: Iterable[int]) -> None:
        for part in parts:
            row.under_way.add(part)
            row.had.add(part)
            self._out.append(row.pdus[part])

    def _send_on(self, row: Row) -> None:
        """Send what was not sent since nothing was known, as much as may be under way; a place is left for the last."""
        end = len(row.pdus)
        have: set[int] = set()
        if row.arrived:
            have = {part for part, there in enumerate(row.arrived.have(end)) if there}
            end = min(end, row.arrived.base + row.arrived.window)
        for part in range(end):
            left = self._places() - (len(row.pdus) - 1 not in row.had)
            if part not in have and part not in row.had and (left > 0 or part == len(row.pdus) - 1):
                self._send(row, [part])

    def _tell(self, opcode: Opcode, about: Header, body: bytes = b"") -> None:
        header = replace(about, opcode=opcode, flags=Flag.CRC | about.flags & Flag.ONCE, session=self.bounds.session)
        header = replace(header, pipeline=0, deadline=0)
        self._out += fragment_frames(*encode_message(Message(header, body), MIN_MTU - HEADER_SIZE))

    # ---- frames in -----------------------------------------------------------------------------------------------

    def receive(self, pdu: bytes, now: int) -> None:
        """Take one PDU; what is damaged, or matches nothing, is ignored (N-021, N-049)."""
        header = decode_header(pdu)
        if header.session != self.bounds.session:
            return
        payload = pdu[HEADER_SIZE : HEADER_SIZE + header.payload_size]
        for row in self.outstanding:
            if row.id == header.request:
                try:
                    self._take(row, header, payload, now)
                except FrameError:
                    row.got, row.shape = {}, None

    def _take(self, row: Row, header: Header, payload: bytes, now: int) -> None:
        self.credits = header.credits or self.credits
        if header.opcode in EVENTS:
            message = decode_message(header, payload)
            if header.opcode == Opcode.GRANT:
                row.arrived = Arrived.decode(message.body)
            self._happen(row, EVENTS[Opcode(header.opcode)], now, message)
        elif header.opcode == Opcode.INFER | REPLY_BIT and header.flags & Flag.CRC == row.header.flags & Flag.CRC:
            shape = replace(header, fragment=0, credits=0)
            if row.shape not in (None, shape):
                row.got = {}
            row.shape = shape
            again = header.fragment in row.got
            row.got[header.fragment] = payload
            if len(row.got) < header.fragments:
                row.news += not again
                last = header.fragment == header.fragments - 1
                quarter = row.header.flags & Flag.ONCE and row.news * 4 >= self.bounds.unasked
                self._happen(row, RequestEvent.PART, now)
                if again or last or quarter:
                    self._ask(row)
                return
            whole = b"".join(row.got[part] for part in range(header.fragments))
            message = decode_message(header, whole)
            refused = header.status in TRANSIENT
            self._happen(row, RequestEvent.REFUSED if refused else RequestEvent.ANSWER, now, message)

    def _ask(self, row: Row) -> None:
        row.news = 0
        count = row.shape.fragments if row.shape else 1
        base = next((part for part in range(count) if part not in row.got), count)
        bits = bytearray(128)
        for part in row.got:
            if 0 <= part - base < 1024:
                bits[(part - base) // 8] |= 1 << 7 - (part - base) % 8
        body = Arrived(Opcode.INFER | REPLY_BIT, base, self.bounds.unasked, bytes(bits).rstrip(b"\0")).encode()
        self._tell(Opcode.RESEND, replace(row.header, request=row.id), body)

    # ---- the rules -----------------------------------------------------------------------------------------------

    def _happen(self, row: Row, event: RequestEvent, now: int, message: Message | None = None) -> None:
        action, after = REQUEST_RULES[row.state, event]
        row.state = after
        retry_ns = message.header.retry_after * RETRY_AFTER_UNIT_US * 1000 if message else 0
        if action is not RequestAction.IGNORE:
            row.due = now + max(RTO_NS, retry_ns)
        if action in (RequestAction.SEND, RequestAction.RESTART):
            if row.busy and row.header.flags & Flag.ONCE:
                self.settle()  # N-121
            self._begin(row)
        elif action is RequestAction.PROBE:
            row.under_way = set()  # lost, or there: the answer to this one will say
            self._send(row, [len(row.pdus) - 1])
        elif action is RequestAction.FILL and row.arrived:
            have = row.arrived.have(len(row.pdus))
            lost = {part for part in row.had if not have[part] and have[part + 1 :].any()}
            row.had -= lost
            row.under_way -= lost | {part for part in row.under_way if have[part]}
            self._send_on(row)
        elif action is RequestAction.ASK:
            self._ask(row)
        elif action is RequestAction.PAUSE and message:
            row.due = now + (retry_ns or RTO_NS)
            row.busy = message.header.status == Status.BUSY
            self._forget(row)
        elif action is RequestAction.HOLD:
            row.under_way = set()
        elif action in (RequestAction.DELIVER, RequestAction.FAIL, RequestAction.FAIL_UNSENT):
            row.outcome = message
            row.due = None
            self._forget(row)
            if action is RequestAction.FAIL:
                self._tell(Opcode.CANCEL, replace(row.header, request=row.id))

    def _forget(self, row: Row) -> None:
        row.got, row.shape, row.news, row.under_way, row.had, row.arrived = {}, None, 0, set(), set(), None

    def _begin(self, row: Row) -> None:
        row.busy = False
        self._forget(row)
        self._send_on(row)
