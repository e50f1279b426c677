"""What is done about an event in the course of one request, as the rules say."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from host_sdk.wire.errors import NapuError, status_error
from host_sdk.wire.exchange.answers import NO_BODIES, Answers, Event
from host_sdk.wire.exchange.arrived import Arrived
from host_sdk.wire.exchange.collecting import Collector
from host_sdk.wire.exchange.fragments import Fragments
from host_sdk.wire.exchange.notices import notice
from host_sdk.wire.exchange.pace import Bounds, RequesterLimits, RoundTrip, Silence
from host_sdk.wire.exchange.reassembly import Reassembler
from host_sdk.wire.exchange.sending import Sender
from host_sdk.wire.exchange.slots import NEVER, Slots
from host_sdk.wire.exchange.states import REQUEST_RULES, RequestAction, RequestEvent, RequestState
from host_sdk.wire.header import TRAILER_DTYPE, Header
from host_sdk.wire.message import Message
from host_sdk.wire.schema import HEADER_SIZE, REFUSED_HEADER, REPLY_BIT, RETRY_AFTER_UNIT_US, Flag, Opcode, Status

# Nobody sent what these are about: fragments that contradict each other; a seal, to which there is no window here.
DAMAGED = (Status.BAD_CRC, Status.FRAGMENT_CONFLICT, Status.UNKNOWN_KEY)
TRANSIENT = (Status.BUSY, Status.UNAVAILABLE, Status.REASSEMBLY_TIMEOUT, *DAMAGED)
_ELSEWHERE = (Status.BUSY, Status.UNAVAILABLE)  # what another appliance may have room for
_UNCOVERED = slice(23, 26)  # of a header: credits and fragment, in which fragments may differ
UNIT_NS = RETRY_AFTER_UNIT_US * 1000
OVERTAKEN = "overtaken"  # why a request is probed before its timeout
LOOK_NS = 1_000_000  # how far apart two requests are sent at least for the one to overtake the other
Said = tuple[NDArray[np.uint8], NDArray[np.void] | None, NapuError | None]  # bodies and trailers of one; error


@dataclass(frozen=True, slots=True)
class Shared:
    """What all windows of a requester have in common.

    Attributes:
        events: Where what becomes of requests is put.
        reassembler: For answers in several fragments; its owner expires it.
        draw: Gives random bits, for ids.
    """

    events: list[Event]
    reassembler: Reassembler
    draw: Callable[[int], int]


class Course:
    """The requests of one window that have an id, and what happens to each of them.

    Args:
        peer: The appliance.
        opcode: INFER or CONTROL.
        limits: Pace.
        round_trip: What is known of the way there.
        shared: What all windows have in common.

    Attributes:
        slots: The requests.
        sender: What is to be sent.
        collector: Answers of which parts have arrived.
        refusals: By slot: the last answer that said: not now.
        late: Whether the sender's timer may be earlier than there is something to do.
        gone: Whether an answer said that the session is not open.
        silence: How long the appliance has said nothing.
    """

    def __init__(
        self, peer: int, opcode: Opcode, limits: RequesterLimits, round_trip: RoundTrip, shared: Shared
    ) -> None:
        self.peer, self.opcode, self.reply = peer, opcode, int(opcode) | REPLY_BIT
        self._limits, self._round_trip, self._shared, self._events = limits, round_trip, shared, shared.events
        self.slots = Slots(1, 0, shared.draw)
        self._fragment_trip = RoundTrip(limits)  # from when a fragment was sent, or asked for, to news of it
        self.sender = Sender(peer, self.slots, round_trip, self._fragment_trip)
        self.collector = Collector(peer, self.reply, limits, shared.reassembler, self._fragment_trip)
        self.refusals: dict[int, NapuError] = {}
        self.silence = Silence()
        self.late = self.gone = False
        self._look_at = 0
        self._long_answers = False  # since the last SETTLE
        self._busy: set[int] = set()  # slots of *once* requests that were refused so, and not sent again since
        self._actions: dict[RequestAction, Callable[[int, int, Any], None]] = {
            RequestAction.IGNORE: self._ignore,
            RequestAction.PROBE: self._probe,
            RequestAction.FILL: self._fill,
            RequestAction.HOLD: self._hold,
            RequestAction.RESTART: self._restart,
            RequestAction.COLLECT: self._collect,
            RequestAction.ASK: self._ask,
            RequestAction.DELIVER: self._deliver,
            RequestAction.PAUSE: self._pause,
            RequestAction.FAIL: self._fail,
        }

    def begin(self, bounds: Bounds, *, whole_only: bool) -> None:
        """Begin anew, with what waits and nothing outstanding."""
        waiting = self.sender.waiting
        self.slots = Slots(bounds.window, bounds.following, self._shared.draw)
        self.sender = sender = Sender(self.peer, self.slots, self._round_trip, self._fragment_trip)
        sender.session, sender.fragment_size, sender.fragments = bounds.session, bounds.fragment_size, bounds.fragments
        sender.waiting, sender.whole_only = waiting, whole_only
        self.gone, self._long_answers, self.late = False, False, True
        self.grant(bounds.credits)

    def grant(self, credits_said: int) -> None:
        """Take in how many requests may be outstanding; 0 says nothing."""
        if credits_said:
            self.sender.credits = min(credits_said, self._limits.window)

    def overtaken(self, newest: int, now: int) -> None:
        """Probe *once* requests that were sent clearly before one that is answered, as RFC 8985 does for segments.

        They are more likely lost than late, and waiting for their timeout would hold the window up.

        Args:
            newest: When the latest of those that were answered was sent, in ns.
            now: Time in ns.
        """
        if now < self._look_at or self.opcode != Opcode.INFER:
            return
        self._look_at = now + LOOK_NS
        margin = max(LOOK_NS, (self._round_trip.smoothed_ns or 0) // 4)
        for slot in self.slots.sent_before(newest - margin).tolist():
            self.happen(slot, RequestEvent.TIMEOUT, now, OVERTAKEN)

    def settle(self, answers: Answers, now: int) -> None:
        """Tell what became of requests, and measure the round trip of those that were sent once."""
        self._events.append(answers)
        once = answers.latency_ns[answers.transmissions == 1]
        if len(once):  # Karn: what was sent again measures nothing
            self._round_trip.measure(int(once.max()))
            self.overtaken(now - int(once.min()), now)

    def ease(self) -> None:
        """Do what follows from something being settled."""
        self.late = True
        if self.slots.outstanding or self.sender.waiting:
            return
        self.sender.timer, self.late = NEVER, False
        if self._long_answers:
            self._settle_all()

    def _settle_all(self) -> None:
        """Tell the responder which *once* requests are settled."""
        self._long_answers = False
        upto, later = self.slots.settled()
        about = Header(self.opcode, upto, Flag.ONCE, self.sender.session)
        self.sender.notify(notice(Opcode.SETTLE, about, later))

    def answered(self, slot: int, message: Message, now: int) -> None:
        """Take a whole answer, and tell a final one from one that says: not now."""
        if self._of_another(slot, message):
            message = replace(message, header=replace(message.header, status=int(Status.BAD_CRC)))
        header = message.header
        self.grant(header.credits)
        if header.status in TRANSIENT:
            if header.status == Status.BUSY and header.flags & Flag.ONCE:
                self._busy.add(slot)
            self.happen(slot, RequestEvent.REFUSED, now, message)
            return
        self._long_answers |= header.fragments > 1 and bool(header.flags & Flag.ONCE)
        self.happen(slot, RequestEvent.ANSWER, now, _said(message))
        self.gone |= header.status == Status.UNKNOWN_SESSION and self.opcode == Opcode.INFER

    def _of_another(self, slot: int, refusal: Message) -> bool:
        """Return whether a refusal repeats a header that the request did not have: it was damaged on the way."""
        for extension in refusal.extensions:
            if extension.type == REFUSED_HEADER and len(extension.value) == HEADER_SIZE:
                own = self.slots.flights[slot].headers(int(self.slots.rows[slot]), np.zeros(1, np.int64))
                return _covered(extension.value) != _covered(own.tobytes())
        return False

    def happen(self, slot: int, event: RequestEvent, now: int, said: Any = None) -> None:
        """Do what the rules say about an event, ``said`` being what came with it."""
        action, state = REQUEST_RULES[RequestState(self.slots.states[slot]), event]
        self.slots.states[slot] = state
        self._actions[action](slot, now, said)

    def _ignore(self, slot: int, now: int, said: Any) -> None:
        """Do nothing."""

    def _make_room(self, slot: int) -> None:
        """Settle, before a request is sent again because of BUSY: what is kept for us may take the room it needs."""
        if slot in self._busy:
            self._busy.discard(slot)
            self._settle_all()

    def _probe(self, slot: int, now: int, why: Any) -> None:
        self._make_room(slot)
        if why is OVERTAKEN:  # the way is not to blame: others came through
            self.slots.transmissions[slot] += 1
            self.sender.wake(slot, now + int(self.slots.rtos[slot]))
        else:
            self._back_off(slot, now)
        last = int(self.slots.flights[slot].fragments) - 1
        self.sender.repeat(slot, np.array([last]))

    def _ask(self, slot: int, now: int, _: Any) -> None:
        self._back_off(slot, now)
        self._ask_for_rest(slot, now)

    def _back_off(self, slot: int, now: int) -> None:
        slots = self.slots
        slots.transmissions[slot] += 1
        slots.rtos[slot] = rto = self._round_trip.back_off(int(slots.rtos[slot]))
        self.silence.unanswered(now, now + rto)
        self.sender.wake(slot, now + rto)

    def _hold(self, slot: int, now: int, retry_after: int) -> None:
        slots = self.slots
        slots.rtos[slot] = self._round_trip.rto_ns
        slots.put_down(slot)
        flight = slots.flights[slot]
        if flight.fragments > 1:
            flight.board(int(slots.rows[slot])).complete()
        self.sender.wake(slot, now + max(retry_after, int(slots.rtos[slot])))

    def _fill(self, slot: int, now: int, arrived: Arrived) -> None:
        """Send what a GRANT shows to be lost: what was sent before something else that has arrived (RFC 8985)."""
        slots = self.slots
        flight, row = slots.flights[slot], int(slots.rows[slot])
        if flight.fragments == 1:
            self.sender.wake(slot, now + int(slots.rtos[slot]))
            return
        slots.bounds[slot] = min(arrived.base + arrived.window, flight.fragments)
        board = flight.board(row)
        lost, sent = board.take(arrived)
        if sent is not None:
            self._fragment_trip.measure(now - sent)
        slots.carry(slot, len(board.under_way()) + int(slots.held[slot]))
        slots.upto[slot] = board.first_unsent()
        self.sender.pace(slot, now)
        if len(lost):
            slots.transmissions[slot] += 1
            self.sender.repeat(slot, lost)
        if slots.upto[slot] < slots.bounds[slot]:
            self.sender.go_on(slot)

    def _restart(self, slot: int, now: int, _: Any) -> None:
        slots = self.slots
        flight, row = slots.flights[slot], int(slots.rows[slot])
        self.collector.forget(slot)
        self._make_room(slot)
        if flight.fragments > 1:
            flight.board(row).restart()
        slots.upto[slot], slots.bounds[slot] = 0, flight.fragments
        slots.put_down(slot)
        slots.transmissions[slot] += 1
        self.sender.wake(slot, now + int(slots.rtos[slot]))
        self.sender.go_on(slot)

    def _pause(self, slot: int, now: int, refusal: Message) -> None:
        slots, header = self.slots, refusal.header
        self.refusals[slot] = error = _error_of(refusal)
        self.collector.forget(slot)
        slots.put_down(slot)
        if self._limits.hand_back and header.status in _ELSEWHERE and self.opcode == Opcode.INFER:
            self.happen(slot, RequestEvent.GIVEN_UP, now, error)
            return
        self.sender.wake(slot, now + (header.retry_after * UNIT_NS or int(slots.rtos[slot])))

    def _deliver(self, slot: int, now: int, said: Said) -> None:
        slots = self.slots
        latency, transmissions = now - slots.began[slot : slot + 1], slots.transmissions[slot : slot + 1].copy()
        answers = Answers(self.peer, slots.tokens[slot : slot + 1].copy(), latency, transmissions)
        answers.bodies, answers.trailers, answers.error = said
        answers.replied = True
        if transmissions[0] == 1:
            self._round_trip.measure(int(latency[0]))
            self.overtaken(now - int(latency[0]), now)
        self._events.append(answers)
        self._release(slot)

    def _fail(self, slot: int, _: int, error: NapuError | None) -> None:
        if self.opcode == Opcode.INFER:
            self.sender.notify(notice(Opcode.CANCEL, self._about(slot)))
        self.fail_one(slot, error)

    def fail_one(self, slot: int, error: NapuError | None) -> None:
        """Settle a request that has no answer; quietly where there is no error to tell."""
        slots = self.slots
        if error:
            token, transmissions = int(slots.tokens[slot]), int(slots.transmissions[slot])
            failed = Answers.failed(self.peer, token, error, transmissions)
            failed.replied = error is self.refusals.get(slot)
            self._events.append(failed)
        self._release(slot)

    def _release(self, slot: int) -> None:
        self.forget(slot)
        self.slots.release_one(slot)
        self.ease()

    def forget(self, slot: int) -> None:
        """Forget what was refused, what has arrived in part of an answer, and what of the request."""
        self.refusals.pop(slot, None)
        self._busy.discard(slot)
        self.collector.forget(slot)

    def _collect(self, slot: int, now: int, fragments: Fragments) -> None:
        slots = self.slots
        slots.put_down(slot)
        message, stalls = self.collector.add(slot, fragments, now)
        self.sender.pace(slot, now)
        if message:
            self.answered(slot, message, now)
        elif stalls:
            self._ask_for_rest(slot, now)

    def _ask_for_rest(self, slot: int, now: int) -> None:
        arrived = self.collector.ask(slot, now)
        if arrived:
            self.sender.notify(notice(Opcode.RESEND, self._about(slot), arrived.encode()))

    def _about(self, slot: int) -> Header:
        flight = self.slots.flights[slot]
        header: Header = replace(flight.header, request=int(self.slots.ids[slot]), session=self.sender.session)
        return header


def _covered(header: bytes) -> bytes:
    """Return a header's bytes without those in which the fragments of a message may differ."""
    return header[: _UNCOVERED.start] + header[_UNCOVERED.stop :]


def _said(answer: Message) -> Said:
    if answer.header.status != Status.OK:
        return NO_BODIES, None, _error_of(answer)
    trailers = np.frombuffer(answer.trailer.encode(), TRAILER_DTYPE) if answer.trailer else None
    return np.frombuffer(answer.body, np.uint8).reshape(1, -1), trailers, None


def _error_of(reply: Message) -> NapuError:
    detail = reply.body.decode("utf-8", "replace")
    return status_error(reply.header.status, detail, reply.header.retry_after * RETRY_AFTER_UNIT_US / 1e6)
