"""Breadth-first search through everything that the two sides and the network between them can do.

Local states and frames get numbers, and steps of one side are computed once for each of its states: the search itself
adds and looks up integers.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from host_sdk.wire.exchange.states import RequestEvent, RequestState, SlotState
from tests.wire.explorer.frames import STRAY, Frame, Kind
from tests.wire.explorer.requester import Asking, Requester
from tests.wire.explorer.responder import Answering, Responder
from tests.wire.explorer.scenario import Habit, Rules, Scenario, Violation

Move = tuple[str, int, tuple[int, ...]]  # name, next local state, frames sent
State = tuple[int, int, Any]
ROUNDS = 30  # of timeouts, after which a request that is not settled never will be


class Numbering:
    """Values and their numbers."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.numbers: dict[Any, int] = {}

    def __call__(self, value: Any) -> int:
        number = self.numbers.get(value)
        if number is None:
            number = self.numbers[value] = len(self.values)
            self.values.append(value)
        return number


class World:
    """Both sides' steps, by number, each computed once."""

    def __init__(self, scenario: Scenario, rules: Rules) -> None:
        self.scenario = scenario
        self.requester, self.responder = Requester(scenario, rules), Responder(scenario, rules)
        self.asking, self.answering, self.frames = Numbering(), Numbering(), Numbering()
        self.replies = [0 for _ in scenario.requests]  # for each request, the frames to its requester, as bits
        self.requests = [0 for _ in scenario.requests]
        empties = Habit.DISPLACED_EMPTIES in scenario.habits  # and then the past comes back
        self.deaf = rules.requester_is_deaf_when_settled(), rules.responder_is_deaf_when_past() and not empties
        self._own: dict[int, tuple[Move, ...]] = {}
        self._own_there: dict[int, tuple[Move, ...]] = {}
        self._arrivals: dict[tuple[int, int], Move] = {}
        self._arrivals_there: dict[tuple[int, int], tuple[Move, ...]] = {}
        self._good: set[tuple[int, int]] = set()
        self._dead_here: dict[int, list[int]] = {}
        self._dead_there: dict[int, list[int]] = {}

    def begin(self) -> tuple[int, int]:
        return self.asking(self.requester.begin()), self.answering(self.responder.begin())

    def strays(self) -> tuple[int, ...]:
        """Return the frames that are in the network before anything was sent."""
        asked = [number for number, shape in enumerate(self.scenario.requests) if shape.once and self.scenario.early]
        earlier, step = self.scenario.earlier, 0 if Habit.RESUMES_IN_PLACE not in self.scenario.habits else 1
        return self.number(
            tuple(
                Frame(Kind.REQUEST, number + step * earlier, part, STRAY)
                for number in range(earlier)
                for part in range(self.scenario.requests[number].fragments)
            )
            + tuple(Frame(Kind.RESEND, number) for number in asked)
        )

    def number(self, frames: tuple[Frame, ...]) -> tuple[int, ...]:
        numbers = []
        for frame in frames:
            known = len(self.frames.values)
            number = self.frames(frame)
            if number == known and frame.kind >= Kind.RESULT:
                self.replies[frame.id] |= 1 << number
            elif number == known and frame.kind is not Kind.SETTLE:
                self.requests[frame.id] |= 1 << number
            numbers.append(number)
        return tuple(numbers)

    def own(self, asking: int) -> tuple[Move, ...]:
        """Return what the requester may do by itself, without what changes nothing."""
        moves = self._own.get(asking)
        if moves is None:
            steps = [
                (name, self.asking(after), self.number(frames))
                for name, after, frames in self.requester.own_steps(self.asking.values[asking])
            ]
            moves = self._own[asking] = tuple(move for move in steps if move[1] != asking or move[2])
        return moves

    def own_there(self, answering: int) -> tuple[Move, ...]:
        """Return what the responder may do by itself."""
        moves = self._own_there.get(answering)
        if moves is None:
            moves = self._own_there[answering] = tuple(
                (name, self.answering(after), self.number(frames))
                for name, after, frames in self.responder.own_steps(self.answering.values[answering])
            )
        return moves

    def arrive(self, asking: int, frame: int) -> Move:
        """Let a frame reach the requester."""
        move = self._arrivals.get((asking, frame))
        if move is None:
            after, frames = self.requester.receive(self.asking.values[asking], self.frames.values[frame])
            move = self._arrivals[asking, frame] = "", self.asking(after), self.number(frames)
        return move

    def arrive_there(self, answering: int, frame: int) -> tuple[Move, ...]:
        """Let a frame reach the responder."""
        moves = self._arrivals_there.get((answering, frame))
        if moves is None:
            steps = self.responder.receive(self.answering.values[answering], self.frames.values[frame])
            moves = self._arrivals_there[answering, frame] = tuple(
                (name, self.answering(after), self.number(frames)) for name, after, frames in steps
            )
        return moves

    def dead(self, asking: int, answering: int) -> int:
        """Return the frames that can change nothing any more, as bits: of requests that one side is done with."""
        here = self._dead_here.get(asking)
        if here is None:
            rows = self.asking.values[asking].rows
            here = [number for number, row in enumerate(rows) if self.deaf[0] and row.state is RequestState.SETTLED]
            self._dead_here[asking] = here
        there = self._dead_there.get(answering)
        if there is None:
            value: Answering = self.answering.values[answering]
            past = (SlotState.RELEASED, SlotState.OUTDATED)
            there = [
                number
                for number, shape in enumerate(self.scenario.requests)
                if self.deaf[1] and shape.once and value.open and self.responder.state_of(value, number) in past
            ]
            self._dead_there[answering] = there
        mask = 0
        for number in here:
            mask |= self.replies[number]
        for number in there:
            mask |= self.requests[number]
        return mask

    # ---- liveness ------------------------------------------------------------------------------------------------

    def check_way_out(self, asking: int, answering: int) -> None:
        """Let the two go on without faults and old frames; everything must settle, without a message's age.

        Raises:
            Violation: Something does not.
        """
        seen: list[tuple[int, int]] = []
        for _ in range(ROUNDS):
            if (asking, answering) in self._good or self.requester.done(self.asking.values[asking]):
                self._good.update(seen)
                return
            seen.append((asking, answering))
            for event in (RequestEvent.ROOM, RequestEvent.TIMEOUT):
                for number in self.requester.ids:
                    asking, answering = self._let(asking, answering, event, number)
        rows = self.asking.values[asking].rows
        stuck = [f"{at} ({row.state.name})" for at, row in enumerate(rows) if row.state is not RequestState.SETTLED]
        raise Violation(f"no way out for request {', '.join(stuck)}")

    def _let(self, asking: int, answering: int, event: RequestEvent, number: int) -> tuple[int, int]:
        """Let one event happen, and then everything that follows from it."""
        value: Asking = self.asking.values[asking]
        if event is RequestEvent.ROOM and not self.requester.has_room(value, number):
            return asking, answering
        after, sent = self.requester.apply(value, number, event)
        asking, queue = self.asking(after), deque(self.number(sent))
        for _ in range(500):
            if queue:
                frame = queue.popleft()
                if self.frames.values[frame].kind >= Kind.RESULT:
                    _, asking, frames = self.arrive(asking, frame)
                else:
                    _, answering, frames = self.arrive_there(answering, frame)[0]
                queue.extend(frames)
                continue
            working = [at for at, work in enumerate(self.answering.values[answering].work) if work.copies]
            if not working:
                return asking, answering
            _, there, answers = next(self.responder.finish(self.answering.values[answering], working[0]))
            answering = self.answering(there)
            queue.extend(self.number(answers))
        raise Violation(f"request {number}: frames go back and forth without end")


@dataclass
class Report:
    """What a search found.

    Attributes:
        states: Different ones that were reached.
        transitions: Steps between them, those that change nothing left out.
        depth: Steps of the longest of the shortest ways to a state.
        complete: Whether there is nothing beyond the states, at least within the channel's budget.
        pruned: Steps that were not followed because they go beyond that budget.
        violation: The first property that does not hold, if any.
        trace: The shortest way there.
    """

    states: int = 0
    transitions: int = 0
    depth: int = 0
    complete: bool = False
    pruned: int = 0
    violation: str | None = None
    trace: list[str] = field(default_factory=list)


class Search:
    """One exploration."""

    def __init__(self, scenario: Scenario, channel: Any, rules: Rules | None = None) -> None:
        self.world = World(scenario, rules or Rules())
        self.channel = channel
        self.report = Report()
        self._from: dict[State, State | None] = {}
        self._pairs: set[tuple[int, int]] = set()

    def run(
        self,
        most: int | None = None,
        depth: int | None = None,
        progress: Callable[[Report, int], None] | None = None,
    ) -> Report:
        """Explore to the end, or to a number of states or a depth.

        Args:
            most: States after which it stops.
            depth: Steps from the beginning after which it stops.
            progress: Called after each depth with the report and the states that are new in it.
        """
        report, world = self.report, self.world
        begin: State = (*world.begin(), self.channel.add(self.channel.begin(), world.strays()))
        self._from[begin] = None
        edge = [begin]
        while edge and (depth is None or report.depth < depth):
            following: list[State] = []
            for state in edge:
                try:
                    ends = True
                    for _, after in self.steps(state):
                        report.transitions += 1
                        ends = False
                        if after not in self._from:
                            self._from[after] = state
                            following.append(after)
                            self._check(after)
                    if ends and self.channel.sure and not world.requester.done(world.asking.values[state[0]]):
                        raise Violation("all are waiting for a timeout, and no frame was lost")
                except Violation as violation:
                    report.violation = str(violation.args[0])
                    report.trace = self._trace(violation.args[1] if len(violation.args) > 1 else state)
                    report.states = len(self._from)
                    return report
                if most is not None and len(self._from) >= most:
                    report.states = len(self._from)
                    return report
            report.states = len(self._from)
            report.depth += bool(following)
            if progress:
                progress(report, len(following))
            edge = following
        report.complete = not edge
        return report

    def steps(self, state: State) -> Iterator[tuple[str, State]]:
        """Give every step from a state that changes it."""
        asking, answering, net = state
        channel, world = self.channel, self.world
        for name, after, frames in world.own(asking):
            rest = channel.timeout(net) if name.startswith("timeout") else net
            if rest is not None:
                yield from self._step(state, name, (after, answering, rest), frames)
        for name, after, frames in world.own_there(answering):
            yield from self._step(state, name, (asking, after, net), frames)
        for frame, rest in channel.deliveries(net):
            if world.frames.values[frame].kind >= Kind.RESULT:
                _, after, frames = world.arrive(asking, frame)
                yield from self._step(state, f"{frame}", (after, answering, rest), frames)
            else:
                for name, after, frames in world.arrive_there(answering, frame):
                    yield from self._step(state, f"{frame} {name}", (asking, after, rest), frames)
        for frame, rest in channel.losses(net):
            yield from self._step(state, f"{frame} lost", (asking, answering, rest), ())

    def _step(self, before: State, name: str, after: State, frames: tuple[int, ...]) -> Iterator[tuple[str, State]]:
        asking, answering, net = after
        net = self.channel.add(net, frames)
        if net is None:
            self.report.pruned += 1
            return
        net = self.channel.without(net, self.world.dead(asking, answering))
        if (asking, answering, net) != before:
            yield name, (asking, answering, net)

    def _check(self, state: State) -> None:
        pair = state[:2]
        if pair not in self._pairs:
            self._pairs.add(pair)
            try:
                self.world.check_way_out(*pair)
            except Violation as violation:
                raise Violation(violation.args[0], state) from None

    def _trace(self, state: State) -> list[str]:
        """Return the names of the steps from the beginning to a state, and what the two know then."""
        lines: list[str] = []
        at = state
        while (before := self._from[at]) is not None:
            name = next(name for name, after in self.steps(before) if after == at)
            first, _, rest = name.partition(" ")
            lines.append(f"{self.world.frames.values[int(first)]} {rest}".strip() if first.isdigit() else name)
            at = before
        lines.reverse()
        return [*lines, str(self.world.asking.values[state[0]]), str(self.world.answering.values[state[1]])]
