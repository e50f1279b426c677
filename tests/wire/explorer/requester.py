"""The requester of the model: it keeps the state of each request, and does what REQUEST_RULES say."""

from collections.abc import Iterator
from typing import NamedTuple

from host_sdk.wire.exchange.states import RequestAction, RequestEvent, RequestState
from tests.wire.explorer.frames import (
    FAILED,
    NO_SESSION,
    NOTHING,
    STRAY,
    Frame,
    Kind,
    base_of,
    bits,
    cancelled,
    describe,
    executions_in,
    is_short,
    owner_of,
)
from tests.wire.explorer.scenario import Fault, Habit, Rules, Scenario, Violation


class Row(NamedTuple):
    """A request at its requester.

    Attributes:
        state: By REQUEST_RULES.
        got: For each fragment of the answer, the value that it came from.
        outcome: What the user was told.
        sent: The fragments that went out since the last timeout, as bits; kept where the scenario is patient.
        granted: Those that GRANTs said to have arrived; kept with habit GRANTS_ADD_UP.
    """

    state: RequestState
    got: tuple[int, ...]
    outcome: int = NOTHING
    sent: int = 0
    granted: int = 0


class Asking(NamedTuple):
    """All requests, and those that a SETTLE named, as bits."""

    rows: tuple[Row, ...]
    settled: int = 0


Step = tuple[Asking, tuple[Frame, ...]]
_UNSENT = (RequestState.WAITING, RequestState.SETTLED)


class Requester:
    """Steps of the requester; every one is a function of the state and the event alone."""

    def __init__(self, scenario: Scenario, rules: Rules) -> None:
        self.scenario, self.rules = scenario, rules
        self.ids = range(len(scenario.requests))
        self.once = [number for number in self.ids if scenario.requests[number].once]

    def begin(self) -> Asking:
        shapes, earlier = self.scenario.requests, self.scenario.earlier
        gone = tuple(Row(RequestState.SETTLED, (NOTHING,) * shape.answer, FAILED) for shape in shapes[:earlier])
        return Asking(gone + tuple(Row(RequestState.WAITING, (NOTHING,) * shape.answer) for shape in shapes[earlier:]))

    def done(self, asking: Asking) -> bool:
        return all(row.state is RequestState.SETTLED for row in asking.rows)

    def own_steps(self, asking: Asking) -> Iterator[tuple[str, Asking, tuple[Frame, ...]]]:
        """Give what the requester may do by itself, named."""
        for number in self.ids:
            if self.has_room(asking, number):
                yield f"room {number}", *self.apply(asking, number, RequestEvent.ROOM)
            yield f"timeout {number}", *self.apply(asking, number, RequestEvent.TIMEOUT)
            if Fault.GIVE_UP in self.scenario.faults:
                yield f"give up {number}", *self.apply(asking, number, RequestEvent.GIVEN_UP)
        if (settled := self.may_settle(asking)) & ~asking.settled:
            yield "settle", asking._replace(settled=settled), (self._settle(settled),)

    def has_room(self, asking: Asking, number: int) -> bool:
        """Return whether N-066, N-097 and N-110 let a request be sent."""
        states, habits = [row.state for row in asking.rows], self.scenario.habits
        outstanding = sum(state not in _UNSENT for state in states)
        if outstanding >= self.scenario.credits and Habit.CREDIT_IGNORED not in habits:
            return False
        if not self.scenario.requests[number].once:
            return True
        before = [one for one in self.once if one < number]
        if any(states[one] is RequestState.WAITING for one in before):
            return False
        reach = self.scenario.window + (Habit.WINDOW_WIDER in habits)
        past = [one for one in before if one <= number - reach]
        return Habit.WINDOW_IGNORED in habits or all(states[one] is RequestState.SETTLED for one in past)

    def may_settle(self, asking: Asking) -> int:
        """Return the requests that a SETTLE may name now, as bits."""
        states, habits = [asking.rows[number].state for number in self.once], self.scenario.habits
        if Habit.SETTLES_IDLE_ONLY in habits and any(state not in _UNSENT for state in states):
            return 0
        settled = 0
        for number, state in zip(self.once, states, strict=True):
            early = Habit.SETTLES_EARLY in habits and state is not RequestState.WAITING
            if state is RequestState.SETTLED or early:
                settled |= 1 << number
            elif Habit.SETTLES_IN_ORDER in habits:
                break
        return settled

    def _settle(self, settled: int) -> Frame:
        """Return the SETTLE that names these requests: the end of the prefix, and bits for those behind it."""
        datagrams = sum(1 << number for number in self.ids if number not in self.once)
        base = base_of(settled | datagrams)
        return Frame(Kind.SETTLE, base - 1, settled >> base)

    def receive(self, asking: Asking, frame: Frame) -> Step:
        """Take a reply or notice."""
        if frame.kind is Kind.RESULT:
            return self._receive_part(asking, frame)
        event = {
            Kind.REFUSAL: RequestEvent.REFUSED,
            Kind.WORKING: RequestEvent.WORKING,
            Kind.UNKNOWN: RequestEvent.UNKNOWN,
            Kind.GRANT: RequestEvent.GRANT,
        }[frame.kind]
        return self.apply(asking, frame.id, event, frame)

    def _receive_part(self, asking: Asking, frame: Frame) -> Step:
        row = asking.rows[frame.id]
        if is_short(frame.value):
            return self.apply(asking, frame.id, RequestEvent.ANSWER, frame)
        got = (*row.got[: frame.part], frame.value, *row.got[frame.part + 1 :])
        if NOTHING in got:
            return self.apply(asking, frame.id, RequestEvent.PART, frame)
        if len(set(got)) > 1 and not self.scenario.requests[frame.id].once:  # its CRC is wrong: ignored as a whole
            return self._put(asking, frame.id, row._replace(got=(NOTHING,) * len(got))), ()
        return self.apply(asking, frame.id, RequestEvent.ANSWER, frame)

    def apply(self, asking: Asking, number: int, event: RequestEvent, frame: Frame | None = None) -> Step:
        """Let one event happen to one request."""
        row = asking.rows[number]
        action, after = self.rules.request[row.state, event]
        if row.state is RequestState.SETTLED and action is not RequestAction.IGNORE:
            raise Violation(f"{action.name} for request {number}, which is settled")
        before = row.state
        row, frames = self._act(row, number, action, frame)
        self._check(number, event, before, row._replace(state=after), frames)
        empty = (NOTHING,) * len(row.got)
        keeps = after not in (RequestState.WAITING, RequestState.SETTLED)
        row = row._replace(state=after) if keeps else Row(after, empty, row.outcome)
        paused = before is RequestState.PAUSED and action is RequestAction.RESTART
        again = paused and self.scenario.requests[number].once
        if again and Habit.SETTLES_IDLE_ONLY not in self.scenario.habits and (settled := self.may_settle(asking)):
            frames = (self._settle(settled), *frames)
        asking = self._put(asking, number, row)
        if sum(one.state not in _UNSENT for one in asking.rows) > self.scenario.credits:
            raise Violation(f"N-066: more than {self.scenario.credits} requests are outstanding")
        return asking, frames

    def _check(
        self, number: int, event: RequestEvent, before: RequestState, row: Row, frames: tuple[Frame, ...]
    ) -> None:
        """Hold one event's consequences against what the text says besides its tables."""
        settled = row.state is RequestState.SETTLED
        if settled != (row.outcome != NOTHING):
            raise Violation(f"request {number} is {row.state.name}, its user was told {describe(row.outcome)}")
        if event is RequestEvent.GIVEN_UP and not settled:
            raise Violation(f"request {number} is given up, and its user is not told")
        if event is not RequestEvent.GIVEN_UP and before is not RequestState.SETTLED and row.outcome == FAILED:
            raise Violation(f"request {number} fails by {event.name}")
        if event is RequestEvent.ANSWER and before not in _UNSENT and not settled:
            raise Violation(f"N-086: request {number} has an answer, and goes on")
        if row.state is RequestState.WAITING and before is not RequestState.WAITING:
            raise Violation(f"N-066: request {number} was sent, and does not count as outstanding")
        if (
            before is RequestState.PAUSED
            and event is not RequestEvent.TIMEOUT
            and any(frame.kind is Kind.REQUEST for frame in frames)
        ):
            raise Violation(f"N-088: request {number} is sent again before its pause is over")

    def _act(self, row: Row, number: int, action: RequestAction, frame: Frame | None) -> tuple[Row, tuple[Frame, ...]]:
        shape = self.scenario.requests[number]
        if action in (RequestAction.SEND, RequestAction.RESTART):
            return self._send(row._replace(got=(NOTHING,) * shape.answer, sent=0, granted=0), number, 0)
        if action is RequestAction.PROBE:
            last = shape.fragments - 1
            return row._replace(sent=self.scenario.patient << last), (Frame(Kind.REQUEST, number, last),)
        if action is RequestAction.FILL:
            have = frame.part if frame and frame.kind is Kind.GRANT else 0
            if Habit.GRANTS_ADD_UP in self.scenario.habits:
                row = row._replace(granted=row.granted | have)
                have = row.granted
            return self._send(row, number, have)
        if action is RequestAction.COLLECT:
            return self._collect(row, number, frame)
        if action is RequestAction.ASK:
            return row, (self._resend(row, number),)
        if action is RequestAction.DELIVER:
            return row._replace(outcome=self._delivered(row, number, frame)), ()
        if action is RequestAction.FAIL:
            return row._replace(outcome=FAILED), (Frame(Kind.CANCEL, number),)
        if action is RequestAction.FAIL_UNSENT:
            return row._replace(outcome=FAILED), ()
        return row, ()  # IGNORE, HOLD, PAUSE

    def _send(self, row: Row, number: int, have: int) -> tuple[Row, tuple[Frame, ...]]:
        """Send the fragments that are missing, as many as may be under way."""
        end = min(self.scenario.requests[number].fragments, base_of(have) + self.scenario.under_way)
        parts = bits(((1 << end) - 1) & ~have & ~row.sent)
        if self.scenario.patient:
            row = row._replace(sent=row.sent | sum(1 << part for part in parts))
        return row, tuple(Frame(Kind.REQUEST, number, part) for part in parts)

    def _resend(self, row: Row, number: int) -> Frame:
        return Frame(Kind.RESEND, number, sum(1 << at for at, value in enumerate(row.got) if value))

    def _collect(self, row: Row, number: int, frame: Frame | None) -> tuple[Row, tuple[Frame, ...]]:
        """Keep a fragment; ask for more as section 11.2 says."""
        if frame is None or frame.kind is not Kind.RESULT:
            return row, ()
        again, last = row.got[frame.part] == frame.value, frame.part == len(row.got) - 1
        row = row._replace(got=(*row.got[: frame.part], frame.value, *row.got[frame.part + 1 :]))
        asks = self.scenario.chatty or again or last
        return row, (self._resend(row, number),) if asks else ()

    def _delivered(self, row: Row, number: int, frame: Frame | None) -> int:
        """Return the answer that is given to the user: of this request, whole, and of one execution."""
        if frame is None or frame.kind is not Kind.RESULT:
            raise Violation(f"request {number} is told an answer that never came")
        if owner_of(frame.value) not in (None, number):
            raise Violation(f"request {number} gets {describe(frame.value)}")
        got = [frame.value, *(value for at, value in enumerate(row.got) if at != frame.part)]
        if not is_short(frame.value) and set(got) != {frame.value}:
            raise Violation(f"request {number} gets parts of {', '.join(describe(value) for value in got)}")
        if executions_in(frame.value) == STRAY:
            raise Violation(f"request {number} gets the answer to an earlier requester's")
        if frame.value not in (NO_SESSION, cancelled(number)) and not executions_in(frame.value):
            raise Violation(f"request {number} gets an answer and was never executed")
        return frame.value

    @staticmethod
    def _put(asking: Asking, number: int, row: Row) -> Asking:
        return asking._replace(rows=(*asking.rows[:number], row, *asking.rows[number + 1 :]))
