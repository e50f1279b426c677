"""Wrong protocols, each wrong in one place: the explorer must notice them, or it proves nothing."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from host_sdk.wire.exchange.states import REQUEST_RULES, SLOT_RULES
from host_sdk.wire.exchange.states import RequestAction as Do
from host_sdk.wire.exchange.states import RequestEvent as Ev
from host_sdk.wire.exchange.states import RequestState as Rq
from host_sdk.wire.exchange.states import SlotAction as Act
from host_sdk.wire.exchange.states import SlotEvent as On
from host_sdk.wire.exchange.states import SlotState as Sl
from tests.wire.explorer.scenario import Habit, Rules
from tests.wire.explorer.search import Search
from tests.wire.explorer.worlds import SMALL

_PACE = "the same comes to pass, but later: time has no length here"
SURVIVORS = {
    "request SENT WORKING: IGNORE, SENT": f"{_PACE}; WORKING spares back-off",
    "request HELD WORKING: IGNORE, HELD": f"{_PACE}; WORKING spares back-off",
    "request SENT UNKNOWN: IGNORE, SENT": f"{_PACE}; its last fragment gets a GRANT that says the same",
    "request HELD UNKNOWN: IGNORE, HELD": f"{_PACE}; its last fragment gets a GRANT that says the same",
    "request HELD REFUSED: IGNORE, HELD": f"{_PACE}, or sooner: the pause that was asked for is not kept (N-088)",
    "request PAUSED PART: IGNORE, PAUSED": f"{_PACE}; the copy after the pause gets the answer again",
    "request HELD TIMEOUT: ASK, HELD": "RESEND gets WORKING, the kept answer or UNKNOWN, as its last fragment would",
    "request PARTIAL WORKING: HOLD, HELD": f"{_PACE}: asks with its last fragment what RESEND would ask",
    "request PARTIAL GRANT: FILL, SENT": "sends fragments that nobody needs: waste, which is not held against it here",
    "request PARTIAL REFUSED: PAUSE, PAUSED": f"{_PACE}; parts that arrived stay, or come again",
}


@dataclass(frozen=True)
class Mutant:
    """One change: a row of a table, or a habit."""

    name: str
    rules: Rules
    habit: Habit | None = None

    def __str__(self) -> str:
        return self.name


def _slot(state: Sl, event: On, action: Act, after: Sl) -> Mutant:
    rules = Rules(slot={**SLOT_RULES, (state, event): (action, after)})
    return Mutant(f"slot {state.name} {event.name}: {action.name}, {after.name}", rules)


def _request(state: Rq, event: Ev, action: Do, after: Rq) -> Mutant:
    rules = Rules(request={**REQUEST_RULES, (state, event): (action, after)})
    return Mutant(f"request {state.name} {event.name}: {action.name}, {after.name}", rules)


def forgotten() -> list[Mutant]:
    """Return a mutant for each row that does something: it does nothing instead."""
    slots = [_slot(*at, Act.IGNORE, at[0]) for at, row in SLOT_RULES.items() if row != (Act.IGNORE, at[0])]
    return slots + [_request(*at, Do.IGNORE, at[0]) for at, row in REQUEST_RULES.items() if row != (Do.IGNORE, at[0])]


def wrong() -> list[Mutant]:
    """Return mutants that do the wrong thing, or the right one and get into the wrong state."""
    return [
        _slot(Sl.NEW, On.REQUEST, Act.TAKE, Sl.NEW),
        _slot(Sl.NEW, On.REQUEST, Act.TAKE, Sl.RELEASED),
        _slot(Sl.NEW, On.RESEND, Act.WORKING, Sl.NEW),
        _slot(Sl.NEW, On.CANCEL, Act.REMEMBER, Sl.NEW),
        _slot(Sl.NEW, On.SETTLE, Act.RELEASE, Sl.RELEASED),
        _slot(Sl.PENDING, On.REQUEST, Act.TAKE, Sl.PENDING),
        _slot(Sl.PENDING, On.REQUEST, Act.UNKNOWN, Sl.PENDING),
        _slot(Sl.PENDING, On.RESEND, Act.UNKNOWN, Sl.PENDING),
        _slot(Sl.PENDING, On.CANCEL, Act.REMEMBER, Sl.ANSWERED),
        _slot(Sl.PENDING, On.CANCEL, Act.END, Sl.NEW),
        _slot(Sl.PENDING, On.DONE, Act.ANSWER, Sl.PENDING),
        _slot(Sl.PENDING, On.DONE, Act.ANSWER, Sl.RELEASED),
        _slot(Sl.PENDING, On.DONE, Act.ANSWER, Sl.NEW),
        _slot(Sl.PENDING, On.DISPLACED, Act.REFUSE, Sl.PENDING),
        _slot(Sl.PENDING, On.DISPLACED, Act.REFUSE, Sl.RELEASED),
        _slot(Sl.ANSWERED, On.REQUEST, Act.TAKE, Sl.PENDING),
        _slot(Sl.ANSWERED, On.REQUEST, Act.WORKING, Sl.ANSWERED),
        _slot(Sl.ANSWERED, On.REQUEST, Act.DROP_OUTDATED, Sl.ANSWERED),
        _slot(Sl.ANSWERED, On.REQUEST, Act.UNKNOWN, Sl.ANSWERED),
        _slot(Sl.ANSWERED, On.RESEND, Act.REPLAY, Sl.ANSWERED),
        _slot(Sl.ANSWERED, On.RESEND, Act.UNKNOWN, Sl.ANSWERED),
        _slot(Sl.ANSWERED, On.CANCEL, Act.REMEMBER, Sl.ANSWERED),
        _slot(Sl.ANSWERED, On.SETTLE, Act.RELEASE, Sl.NEW),
        _slot(Sl.RELEASED, On.REQUEST, Act.TAKE, Sl.PENDING),
        _slot(Sl.RELEASED, On.CANCEL, Act.REMEMBER, Sl.ANSWERED),
        _slot(Sl.OUTDATED, On.REQUEST, Act.TAKE, Sl.PENDING),
        _slot(Sl.OUTDATED, On.CANCEL, Act.REMEMBER, Sl.ANSWERED),
        _request(Rq.SENT, Ev.TIMEOUT, Do.PROBE, Rq.WAITING),
        _request(Rq.SENT, Ev.GRANT, Do.HOLD, Rq.HELD),
        _request(Rq.SENT, Ev.REFUSED, Do.DELIVER, Rq.SETTLED),
        _request(Rq.SENT, Ev.WORKING, Do.DELIVER, Rq.SETTLED),
        _request(Rq.SENT, Ev.UNKNOWN, Do.FAIL, Rq.SETTLED),
        _request(Rq.SENT, Ev.PART, Do.DELIVER, Rq.SETTLED),
        _request(Rq.SENT, Ev.ANSWER, Do.COLLECT, Rq.PARTIAL),
        _request(Rq.HELD, Ev.TIMEOUT, Do.HOLD, Rq.HELD),
        _request(Rq.HELD, Ev.TIMEOUT, Do.ASK, Rq.HELD),
        _request(Rq.PAUSED, Ev.TIMEOUT, Do.PROBE, Rq.PAUSED),
        _request(Rq.PAUSED, Ev.GRANT, Do.FILL, Rq.SENT),
        _request(Rq.PARTIAL, Ev.TIMEOUT, Do.PROBE, Rq.PARTIAL),
        _request(Rq.PARTIAL, Ev.WORKING, Do.HOLD, Rq.HELD),
        _request(Rq.PARTIAL, Ev.GRANT, Do.FILL, Rq.SENT),
        _request(Rq.PARTIAL, Ev.REFUSED, Do.PAUSE, Rq.PAUSED),
        _request(Rq.SETTLED, Ev.ANSWER, Do.DELIVER, Rq.SETTLED),
        _request(Rq.SETTLED, Ev.UNKNOWN, Do.RESTART, Rq.SENT),
    ]


def habits() -> list[Mutant]:
    """Return a mutant for each habit."""
    return [Mutant(habit.value, Rules(), habit) for habit in Habit]


def mutants() -> list[Mutant]:
    """Return all of them."""
    return forgotten() + wrong() + habits()


def finding(mutant: Mutant) -> tuple[str, str] | None:
    """Return the world in which a mutant is noticed, and as what; None where it is not."""
    for name, world in SMALL.items():
        scenario = world.scenario
        if mutant.habit:
            scenario = replace(scenario, habits=scenario.habits | {mutant.habit})
        report = Search(scenario, world.channel, mutant.rules).run()
        if report.violation:
            return name, report.violation
    return None


def kill_rate(say: Callable[[str], None]) -> bool:
    """Say what became of each mutant; return whether exactly those survive that are known to."""
    every, survivors = mutants(), set()
    for mutant in every:
        found = finding(mutant)
        why = SURVIVORS.get(mutant.name, "and nobody knows why")
        say(f"{mutant.name}: {f'{found[0]}: {found[1]}' if found else f'SURVIVES: {why}'}")
        if not found:
            survivors.add(mutant.name)
    say(f"{len(every) - len(survivors)} of {len(every)} noticed")
    return survivors == set(SURVIVORS)
