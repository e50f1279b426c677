"""The responder of the model: slots, work and unfinished requests; it does what SLOT_RULES say."""

from collections.abc import Iterator
from typing import NamedTuple

from host_sdk.wire.exchange.states import SlotAction, SlotEvent, SlotState
from tests.wire.explorer.frames import (
    NO_SESSION,
    NOTHING,
    STRAY,
    Frame,
    Kind,
    answer_of,
    base_of,
    bits,
    cancelled,
    is_short,
)
from tests.wire.explorer.scenario import COUNTED, PAST, Fault, Habit, Rules, Scenario, Violation


class Slot(NamedTuple):
    """What is known of the id that has the slot."""

    id: int
    state: SlotState
    value: int = NOTHING


class Work(NamedTuple):
    """Copies of a request that are queued or executed, and whether a CANCEL came."""

    copies: int = 0
    ending: bool = False


class Answering(NamedTuple):
    """All that the responder knows; ``executed`` to ``strayed`` are the explorer's own books.

    Attributes:
        slots: Of the session.
        work: Of each request.
        parts: Of each request, the fragments that have arrived of a copy that is not whole, as bits.
        executed: Of each request, how often it was taken; 2 is more than once.
        said: Of each request, the first answer that was sent.
        cancelled: Requests that were cancelled before any copy was taken, as bits.
        strayed: Requests of which a fragment came from an earlier requester under its id, as bits.
        open: Whether the session is.
    """

    slots: tuple[Slot, ...]
    work: tuple[Work, ...]
    parts: tuple[int, ...]
    executed: tuple[int, ...]
    said: tuple[int, ...]
    cancelled: int = 0
    strayed: int = 0
    open: bool = True


Frames = tuple[Frame, ...]
Step = tuple[str, Answering, Frames]


def put(values: tuple, at: int, value: object) -> tuple:  # type: ignore[type-arg]
    return (*values[:at], value, *values[at + 1 :])


class Responder:
    """Steps of the responder; every one is a function of the state and the event alone."""

    def __init__(self, scenario: Scenario, rules: Rules) -> None:
        self.scenario, self.rules = scenario, rules
        self.ids = range(len(scenario.requests))

    def begin(self) -> Answering:
        slots = tuple(Slot(-1, SlotState.RELEASED) for _ in range(self.scenario.window))
        none = tuple(0 for _ in self.ids)
        return Answering(slots, tuple(Work() for _ in self.ids), none, none, none)

    def state_of(self, answering: Answering, number: int) -> SlotState:
        slot = answering.slots[number % self.scenario.window]
        if slot.id == number:
            return slot.state
        return SlotState.NEW if slot.id < number else SlotState.OUTDATED

    # ---- by itself -----------------------------------------------------------------------------------------------

    def own_steps(self, answering: Answering) -> Iterator[Step]:
        """Give what the responder may do by itself, named."""
        faults = self.scenario.faults
        for number in self.ids:
            work = answering.work[number]
            if work.copies:
                yield from self.finish(answering, number)
            if work.copies and Fault.DISPLACE in faults and not work.ending:
                yield from self._displace(answering, number)
            if answering.parts[number] and Fault.FORGET in faults:
                forgot = answering._replace(parts=put(answering.parts, number, 0))
                yield f"forget {number}", forgot, (Frame(Kind.REFUSAL, number),)
        if answering.open and Fault.RESTART in faults:
            fresh = self.begin()
            yield "restart", fresh._replace(executed=answering.executed, said=answering.said, open=False), ()

    def finish(self, answering: Answering, number: int) -> Iterator[Step]:
        """Give the ends that one execution may have."""
        work = answering.work[number]
        rest = answering._replace(
            work=put(answering.work, number, Work(work.copies - 1, work.ending and work.copies > 1))
        )
        which = STRAY if answering.strayed >> number & 1 else max(1, answering.executed[number] - work.copies + 1)
        values = [answer_of(number, which)]
        if work.ending:
            values.append(cancelled(number))
        for value in values:
            what = "end" if is_short(value) else "done"
            if self.scenario.requests[number].once:
                for _, after, frames in self._apply(rest, number, SlotEvent.DONE, value):
                    yield f"{what} {number}", after, frames
            else:
                yield f"{what} {number}", rest, self._answer(number, value, 0, self.scenario.requests[number].answer)

    def _displace(self, answering: Answering, number: int) -> Iterator[Step]:
        """Refuse a request that waits, for one of a higher priority."""
        work = answering.work[number]
        rest = answering._replace(
            work=put(answering.work, number, Work(work.copies - 1)),
            executed=put(answering.executed, number, answering.executed[number] - 1),
        )
        if not self.scenario.requests[number].once:
            yield f"displace {number}", rest, (Frame(Kind.REFUSAL, number),)
            return
        for _, after, frames in self._apply(rest, number, SlotEvent.DISPLACED):
            yield f"displace {number}", after, frames

    # ---- what arrives --------------------------------------------------------------------------------------------

    def receive(self, answering: Answering, frame: Frame) -> list[Step]:
        """Take a frame; more than one way to go on where the responder may refuse."""
        if frame.kind is Kind.REQUEST:
            return self._receive_fragment(answering, frame)
        if not answering.open:
            silent = frame.kind is not Kind.RESEND or Habit.RESEND_OUT_OF_SESSION_DROPPED in self.scenario.habits
            return [("", answering, () if silent else (Frame(Kind.UNKNOWN, frame.id),))]
        if frame.kind is Kind.SETTLE:
            return self._settle(answering, frame)
        if not self.scenario.requests[frame.id].once and Habit.NOTICES_WITHOUT_CLASS not in self.scenario.habits:
            return self._datagram_notice(answering, frame)
        if frame.kind is Kind.RESEND:
            return self._apply(answering, frame.id, SlotEvent.RESEND, have=frame.part)
        return self._cancel(answering, frame.id)

    def _datagram_notice(self, answering: Answering, frame: Frame) -> list[Step]:
        work = answering.work[frame.id]
        if frame.kind is Kind.RESEND:
            return [("", answering, (Frame(Kind.UNKNOWN, frame.id),))]
        return [("", answering._replace(work=put(answering.work, frame.id, Work(work.copies, work.copies > 0))), ())]

    def _cancel(self, answering: Answering, number: int) -> list[Step]:
        state = self.state_of(answering, number)
        steps = self._apply(answering, number, SlotEvent.CANCEL)
        ((_, after, frames),) = steps
        if after.work[number].copies and state is SlotState.PENDING and not after.work[number].ending:
            raise Violation(f"N-105: request {number} is cancelled, and goes on")
        if state is SlotState.NEW and not after.executed[number]:
            return [("", after._replace(cancelled=after.cancelled | 1 << number), frames)]
        return steps

    def _settle(self, answering: Answering, frame: Frame) -> list[Step]:
        frames: Frames = ()
        for number in (*range(frame.id + 1), *(frame.id + 1 + at for at in bits(frame.part))):
            if self.scenario.requests[number].once:
                ((_, answering, more),) = self._apply(answering, number, SlotEvent.SETTLE)
                frames += more
        return [("", answering, frames)]

    def _receive_fragment(self, answering: Answering, frame: Frame) -> list[Step]:
        number, shape = frame.id, self.scenario.requests[frame.id]
        if answering.open and shape.once and self.state_of(answering, number) is not SlotState.NEW:
            return self._apply(answering, number, SlotEvent.REQUEST)
        if frame.value == STRAY:
            answering = answering._replace(strayed=answering.strayed | 1 << number)
        had = answering.parts[number]
        have = had | 1 << frame.part
        if have != (1 << shape.fragments) - 1:
            grants = have == had or frame.part == shape.fragments - 1 or self.scenario.chatty
            after = answering._replace(parts=put(answering.parts, number, have))
            return [("", after, (Frame(Kind.GRANT, number, have),) if grants else ())]
        answering = answering._replace(parts=put(answering.parts, number, 0))
        if not answering.open:
            return [("", answering, (Frame(Kind.RESULT, number, 0, NO_SESSION),))]
        if shape.once:
            return self._apply(answering, number, SlotEvent.REQUEST)
        return self._take(answering, number, None)

    # ---- the rules -----------------------------------------------------------------------------------------------

    def _apply(
        self, answering: Answering, number: int, event: SlotEvent, value: int = NOTHING, have: int = 0
    ) -> list[Step]:
        """Let one event happen to one *once* request."""
        state = self.state_of(answering, number)
        action, after = self.rules.slot[state, event]
        self._check(answering, number, event, state, action)
        if action is SlotAction.TAKE:
            return self._take(answering, number, after)
        kept = answering.slots[number % self.scenario.window].value
        frames: Frames = ()
        unasked = self.scenario.unasked
        if action is SlotAction.WORKING:
            frames = (Frame(Kind.WORKING, number),)
        elif action is SlotAction.UNKNOWN:
            frames = (Frame(Kind.UNKNOWN, number),)
        elif action is SlotAction.REFUSE:
            frames = (Frame(Kind.REFUSAL, number),)
        elif action is SlotAction.ANSWER:
            kept = value
            frames = self._answer(number, kept, 0, unasked)
        elif action in (SlotAction.REPLAY, SlotAction.MISSING):
            base = have if action is SlotAction.MISSING else 0
            frames = self._answer(number, kept, base, unasked)
        elif action is SlotAction.REMEMBER:
            kept = cancelled(number)
        elif action is SlotAction.END:
            work = answering.work[number]
            answering = answering._replace(work=put(answering.work, number, Work(work.copies, work.copies > 0)))
        elif action is SlotAction.RELEASE:
            kept = NOTHING
        answering = self._note(answering, number, frames)
        return [("", self._settle_slot(answering, number, state, after, kept), frames)]

    def _check(self, answering: Answering, number: int, event: SlotEvent, state: SlotState, action: SlotAction) -> None:
        """Hold what is about to be done against what the text says besides its tables."""
        heard = event in (SlotEvent.REQUEST, SlotEvent.RESEND)
        if (heard or (state, event) in COUNTED) and action is SlotAction.IGNORE:
            raise Violation(f"N-089: a {event.name} about request {number} is neither answered nor counted as dropped")
        if heard and state not in PAST and action in (SlotAction.DROP_OUTDATED, SlotAction.DROP_NOT_KNOWN):
            raise Violation(f"a {event.name} about request {number} is dropped, which is {state.name}")
        if action is SlotAction.WORKING and not answering.work[number].copies:
            raise Violation(f"request {number} is said to be worked on, and is not")
        if action is SlotAction.UNKNOWN and state is not SlotState.NEW:
            raise Violation(f"request {number} is said to be unknown, and is {state.name}")

    def _take(self, answering: Answering, number: int, after: SlotState | None) -> list[Step]:
        """Take a whole request, or refuse it; both where both may be."""
        refused: Step = ("refused", answering, (Frame(Kind.REFUSAL, number),))
        busy = sum(work.copies for work in answering.work) >= self.scenario.credits
        if after is not None and self.scenario.kept is not None:
            slots = [slot for slot in answering.slots if slot.id != number - self.scenario.window]
            held = sum(slot.state is SlotState.PENDING or slot.value != NOTHING for slot in slots)
            busy = busy or held >= self.scenario.kept
        if busy:
            return [refused]
        executed = answering.executed[number] + 1
        if self.scenario.requests[number].once and executed > 1:
            raise Violation(f"request {number} is executed a second time")
        if answering.cancelled >> number & 1:
            raise Violation(f"N-106: request {number} was cancelled, and is executed")
        taken = answering._replace(
            work=put(answering.work, number, Work(answering.work[number].copies + 1, answering.work[number].ending)),
            executed=put(answering.executed, number, min(2, executed)),
        )
        if after is not None:
            taken = self._settle_slot(taken, number, SlotState.NEW, after, NOTHING)
        return [("taken", taken, ())] + ([refused] if Fault.BUSY in self.scenario.faults else [])

    def _settle_slot(
        self, answering: Answering, number: int, before: SlotState, after: SlotState, kept: int
    ) -> Answering:
        """Give the slot the state that the rules say."""
        at, window = number % self.scenario.window, self.scenario.window
        if after is SlotState.ANSWERED and kept == NOTHING:
            raise Violation(f"request {number} counts as answered, and nothing is kept")
        if after == before and answering.slots[at].value == kept:
            return answering
        slot = Slot(number, after, kept if after is SlotState.ANSWERED else NOTHING)
        if after is SlotState.NEW:  # as it was: what stood here before this id stays outdated
            slot = Slot(max(-1, number - window), SlotState.RELEASED)
            if Habit.DISPLACED_EMPTIES in self.scenario.habits:
                slot = Slot(-1, SlotState.RELEASED)
        if after is SlotState.OUTDATED:
            slot = Slot(number + window, SlotState.RELEASED)
        return answering._replace(slots=put(answering.slots, at, slot))

    def _answer(self, number: int, value: int, have: int, most: int) -> Frames:
        """Return the fragments of an answer that are missing, as many as may be under way."""
        if value == NOTHING:
            raise Violation(f"an answer to request {number} is to be sent, and there is none")
        if is_short(value):
            return (Frame(Kind.RESULT, number, 0, value),)
        base = base_of(have)
        end = min(self.scenario.requests[number].answer, base + most)
        return tuple(Frame(Kind.RESULT, number, at, value) for at in range(base, end) if not have >> at & 1)

    def _note(self, answering: Answering, number: int, frames: Frames) -> Answering:
        """Keep book of the answer; it must never become another."""
        for frame in frames:
            if frame.kind is Kind.RESULT:
                said = answering.said[number]
                if said not in (NOTHING, frame.value):
                    raise Violation(f"request {number} is answered differently the second time")
                answering = answering._replace(said=put(answering.said, number, frame.value))
        return answering
