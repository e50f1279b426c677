"""The requests of one session, from their submission until each is settled: vectorised where they go well. Sans-IO.

What is done about an event is looked up in :data:`host_sdk.wire.exchange.states.REQUEST_RULES`.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from host_sdk.wire.errors import FrameError, NapuError, NapuTimeoutError
from host_sdk.wire.exchange.alike import Alike
from host_sdk.wire.exchange.answers import Answers
from host_sdk.wire.exchange.arrived import Arrived
from host_sdk.wire.exchange.course import UNIT_NS, Course, Shared
from host_sdk.wire.exchange.flight import Bodies, Flight
from host_sdk.wire.exchange.fragments import Fragments
from host_sdk.wire.exchange.pace import Bounds, RequesterLimits, RoundTrip, Silence
from host_sdk.wire.exchange.slots import NEVER
from host_sdk.wire.exchange.states import RequestEvent
from host_sdk.wire.header import Header
from host_sdk.wire.links.base import FrameBatch
from host_sdk.wire.message import decode_message
from host_sdk.wire.schema import HEADER_SIZE, DropReason, Flag, Opcode, Status

_NOTICES = {
    Opcode.GRANT: RequestEvent.GRANT,
    Opcode.WORKING: RequestEvent.WORKING,
    Opcode.UNKNOWN: RequestEvent.UNKNOWN,
}
_CLOSED = Bounds(session=0, following=0, credits=0, window=1, fragments=0, fragment_size=0)


class RequestWindow:
    """All requests of one opcode to one appliance, in one session or outside of any.

    Args:
        peer: The appliance.
        opcode: INFER or CONTROL.
        limits: Pace.
        round_trip: What is known of the way there.
        shared: What all windows have in common.

    Attributes:
        reply: Opcode of the answers.
        bounds: Those of the session; None while there is none.
        refusal: Why there is no session; None where nothing has said so.
        stale: Frames that no request waited for.
        damaged: Frames and messages that could not be read.
    """

    def __init__(
        self, peer: int, opcode: Opcode, limits: RequesterLimits, round_trip: RoundTrip, shared: Shared
    ) -> None:
        self._peer, self._events = peer, shared.events
        self._course = Course(peer, opcode, limits, round_trip, shared)
        self.reply = self._course.reply
        self.bounds: Bounds | None = None
        self.refusal: NapuError | None = None
        self.stale = self.damaged = 0

    # ---- the session ---------------------------------------------------------------------------------------------

    def opened(self, bounds: Bounds, *, whole_only: bool = False) -> None:
        """Begin to send, in a session or outside; nothing may be outstanding.

        Args:
            bounds: What holds there.
            whole_only: Whether only requests of one fragment may be sent for now.
        """
        self.bounds, self.refusal = bounds, None
        self._course.begin(bounds, whole_only=whole_only)

    def widen(self, fragment_size: int) -> None:
        """Send new requests in fragments of another size, and those of several, too."""
        self._course.sender.widen(fragment_size)

    @property
    def gone(self) -> bool:
        """Whether the appliance has said that the session is not open."""
        return self._course.gone

    def lose(self, error: NapuError) -> None:
        """Fail all requests: there is no session any more."""
        course = self._course
        for slot in course.slots.taken().tolist():
            course.fail_one(slot, error)
        self.withdraw_unsent(error)
        course.begin(_CLOSED, whole_only=False)
        self.bounds = None

    def withdraw(self, error: NapuError, now: int) -> None:
        """Fail all requests, and tell the appliance, should it come back to this session."""
        for slot in self._course.slots.taken().tolist():
            self._course.happen(slot, RequestEvent.GIVEN_UP, now, error)
        self.withdraw_unsent(error)

    def withdraw_unsent(self, error: NapuError) -> None:
        """Fail the requests that were not sent yet."""
        for flight in self._course.sender.waiting:
            self._fail_unsent(flight, error)
        self._course.sender.waiting.clear()
        self._course.late = True

    # ---- what the owner asks -------------------------------------------------------------------------------------

    @property
    def silence(self) -> Silence:
        """How long the appliance has said nothing."""
        return self._course.silence

    @property
    def load(self) -> int:
        """Requests that are outstanding or wait."""
        return self._course.slots.outstanding + self._course.sender.unsent

    def room(self, *, once: bool = True) -> int:
        """Return how many requests of one frame could be sent at once, beside those that wait."""
        sender, slots = self._course.sender, self._course.slots
        places = min(sender.credits - slots.outstanding, sender.fragments - slots.carried, slots.free(once=once))
        return max(0, places - sender.unsent)

    def submit(self, header: Header, bodies: Bodies, tokens: NDArray[np.int64], now: int, expires: int) -> None:
        """Queue requests that are alike but for their bodies.

        Args:
            header: Pipeline, priority, deadline and flags; the rest is filled in.
            bodies: uint8 [n, size], copied; or a list of bodies of any sizes.
            tokens: int64 [n], what their answers are told by.
            now: Time in ns.
            expires: When those without answer fail, in ns.

        Raises:
            LocalProtocolError: A value does not fit, or a body is too long.
        """
        sender = self._course.sender
        sender.waiting.append(Flight(header, bodies, tokens, now, expires))
        sender.timer = min(sender.timer, expires)

    def cancel(self, token: int, now: int) -> None:
        """Give a request up without an event; of one that is settled nothing is done."""
        slot = self._course.slots.of_token(token)
        if slot >= 0:
            self._course.happen(slot, RequestEvent.GIVEN_UP, now, None)
        else:
            self._course.sender.drop(token)
            self._course.late = True

    def next_timer(self) -> int | None:
        """Return when there is work at the latest, in ns: 0 for at once, None for never."""
        course = self._course
        if course.sender.has_work:
            return 0
        if course.late:
            self._reckon()
        return None if course.sender.timer == NEVER else course.sender.timer

    def to_send(self, buffers: FrameBatch, now: int) -> int:
        """Write the PDUs to send now into buffers; return how many."""
        sender = self._course.sender
        if now >= sender.timer:
            self._pass_time(now)
        return sender.write(buffers, now)

    # ---- time ----------------------------------------------------------------------------------------------------

    def _pass_time(self, now: int) -> None:
        course = self._course
        for slot in np.flatnonzero(course.slots.wakes <= now).tolist():
            if course.slots.expires[slot] > now:
                course.happen(slot, RequestEvent.TIMEOUT, now)
            else:
                course.happen(slot, RequestEvent.GIVEN_UP, now, self._silence(slot))
        for flight in course.sender.expire(now):
            error: NapuError = NapuTimeoutError(f"no answer within {_seconds(flight)}: no room to send the request")
            if self.bounds is None:
                error = self.refusal or NapuTimeoutError("no session: the appliance did not answer")
            self._fail_unsent(flight, error)
        self._reckon()

    def _reckon(self) -> None:
        """Find out when something is to be done next."""
        course = self._course
        course.sender.timer = min(course.slots.next_wake(), course.sender.first_end())
        course.late = False

    def _silence(self, slot: int) -> NapuError:
        slots = self._course.slots
        seconds, times = _seconds(slots.flights[slot]), int(slots.transmissions[slot])
        silence = NapuTimeoutError(f"no answer within {seconds} after {times} transmissions")
        return self._course.refusals.get(slot, silence)

    def _fail_unsent(self, flight: Flight, error: NapuError) -> None:
        for token in flight.tokens[flight.taken :].tolist():
            self._events.append(Answers.failed(self._peer, token, error))

    # ---- answers by the batch ------------------------------------------------------------------------------------

    def take_alike(self, alike: Alike, batch: FrameBatch, ids: NDArray[np.uint64], now: int) -> None:
        """Take answers with status OK, in one frame each, that are alike.

        Args:
            alike: What is known of them.
            batch: The frames.
            ids: uint64 [n], their requests.
            now: Time in ns.
        """
        self._course.silence.heard(now)
        if len(ids) == 1:
            self._take_one(alike, batch, int(ids[0]), now)
            return
        known = self._course.slots
        slots, good = known.find_all(ids)
        if not good.all():
            self.stale += len(good) - int(np.count_nonzero(good))
            batch, slots = batch.take(good), slots[good]
        pdus = alike.gather(batch)
        # A damaged flag would otherwise turn off the check that finds the damage.
        sound = alike.sound(pdus) if alike.has_crc and len(pdus) else ~known.need_crc[slots]
        if not sound.all():
            self.damaged += len(sound) - int(np.count_nonzero(sound))
            pdus, slots = pdus[sound], slots[sound]
        if len(set(slots.tolist())) < len(slots):
            _, first = np.unique(slots, return_index=True)
            self.stale += len(slots) - len(first)
            pdus, slots = pdus[first], slots[first]
        if len(slots):
            self._course.grant(alike.header.credits)
            self._deliver(slots, alike, pdus, now)

    def _deliver(self, slots: NDArray[np.int64], alike: Alike, pdus: NDArray[np.uint8], now: int) -> None:
        course, known = self._course, self._course.slots
        latency, transmissions = now - known.began[slots], known.transmissions[slots]
        answers = Answers(self._peer, known.tokens[slots], latency, transmissions, alike.bodies(pdus))
        answers.trailers = alike.trailers(pdus)
        course.settle(answers, now)
        if course.collector or course.refusals:
            for slot in slots.tolist():
                course.forget(slot)
        known.release(slots)
        course.ease()

    def _take_one(self, alike: Alike, batch: FrameBatch, number: int, now: int) -> None:
        slot = self._course.slots.find(number)
        if slot < 0:
            self.stale += 1
            return
        pdus = alike.gather(batch)
        if not (alike.sound(pdus)[0] if alike.has_crc else not self._course.slots.need_crc[slot]):
            self.damaged += 1
            return
        self._course.grant(alike.header.credits)
        self._course.happen(slot, RequestEvent.ANSWER, now, (alike.bodies(pdus), alike.trailers(pdus), None))

    def take_fragments(self, fragments: Fragments, now: int) -> None:
        """Take fragments of one answer that came together."""
        self._course.silence.heard(now)
        header = fragments.header
        slot = self._course.slots.find(header.request)
        if slot < 0:
            self.stale += len(fragments)
        elif self._course.slots.need_crc[slot] and not header.flags & Flag.CRC:
            self.damaged += len(fragments)
        else:
            try:
                self._course.happen(slot, RequestEvent.PART, now, fragments)
            except FrameError:
                self.damaged += 1  # the message, or they contradict those before; it is asked for again in its time

    # ---- frames one by one ---------------------------------------------------------------------------------------

    def take(self, header: Header, pdu: bytes, now: int) -> None:
        """Take one frame of any kind that is meant for this window."""
        self._course.silence.heard(now)
        slot = self._course.slots.find(header.request)
        reply = header.opcode == self.reply
        if slot < 0 or not (reply or header.opcode in _NOTICES):
            self.stale += 1
            return
        try:
            if reply:
                self._take_answer(slot, header, pdu, now)
            else:
                self._take_notice(slot, header, pdu, now)
        except FrameError:
            # The frame or message is damaged: the request stays as it is, and is asked for again in its time.
            self.damaged += 1

    def _take_notice(self, slot: int, header: Header, pdu: bytes, now: int) -> None:
        if header.fragments > 1:
            raise FrameError(DropReason.BAD_FRAGMENT, "a notice in several fragments")
        event = _NOTICES[Opcode(header.opcode)]
        said: Any = decode_message(header, pdu[HEADER_SIZE : HEADER_SIZE + header.payload_size]).body
        if event is RequestEvent.GRANT:
            said = Arrived.decode(said)
            if said.opcode != self._course.opcode:
                raise FrameError(DropReason.NOT_KNOWN, "a GRANT of another message")
        elif event is RequestEvent.WORKING:
            said = header.retry_after * UNIT_NS
        self._course.grant(header.credits)
        self._course.happen(slot, event, now, said)

    def _take_answer(self, slot: int, header: Header, pdu: bytes, now: int) -> None:
        if self._course.slots.need_crc[slot] and not header.flags & Flag.CRC:
            raise FrameError(Status.BAD_CRC, "a reply without the CRC that its request had")
        payload = pdu[HEADER_SIZE : HEADER_SIZE + header.payload_size]
        if header.fragments > 1:
            self._course.happen(slot, RequestEvent.PART, now, Fragments.single(header, payload))
        else:
            self._course.answered(slot, decode_message(header, payload), now)


def _seconds(flight: Flight) -> str:
    return f"{(flight.expires - flight.submitted) / 1e9:g} s"
