"""Whether an appliance is there, as a table and the counts that lead through it. No I/O, no clock.

What counts is its dataplane: that its firmware is slow to answer, or hangs, says nothing.
"""

import random
from dataclasses import dataclass
from enum import IntEnum

_SHUN_NS = 1_000_000_000  # that an appliance is left alone at first that lives and does not answer
_MOST_SHUN_NS = 30_000_000_000


class HealthState(IntEnum):
    """What is thought of an appliance."""

    UP = 0
    SUSPECT = 1
    DOWN = 2


class HealthEvent(IntEnum):
    """What was observed of it."""

    HEARD = 0
    SILENT = 1
    LOST = 2


class HealthAction(IntEnum):
    """What is done about it."""

    NOTHING = 0
    SPARE = 1
    MOVE = 2
    RETURN = 3


HEALTH_EVENT_MEANING = {
    HealthEvent.HEARD: "an answer, a notice, an announcement, or the answer to a probe",
    HealthEvent.SILENT: "`suspect_after` timeouts in a row without a word",
    HealthEvent.LOST: "`down_after` timeouts in a row without a word",
}
HEALTH_ACTION_MEANING = {
    HealthAction.NOTHING: "nothing",
    HealthAction.SPARE: "send nothing new while others are up; probe",
    HealthAction.MOVE: "take back what it has; go on probing",
    HealthAction.RETURN: "use it as before",
}

_S, _E, _A = HealthState, HealthEvent, HealthAction
HEALTH_RULES: dict[tuple[HealthState, HealthEvent], tuple[HealthAction, HealthState]] = {
    (_S.UP, _E.HEARD): (_A.NOTHING, _S.UP),
    (_S.UP, _E.SILENT): (_A.SPARE, _S.SUSPECT),
    (_S.UP, _E.LOST): (_A.MOVE, _S.DOWN),
    (_S.SUSPECT, _E.HEARD): (_A.RETURN, _S.UP),
    (_S.SUSPECT, _E.SILENT): (_A.NOTHING, _S.SUSPECT),
    (_S.SUSPECT, _E.LOST): (_A.MOVE, _S.DOWN),
    (_S.DOWN, _E.HEARD): (_A.RETURN, _S.UP),
    (_S.DOWN, _E.SILENT): (_A.NOTHING, _S.DOWN),
    (_S.DOWN, _E.LOST): (_A.NOTHING, _S.DOWN),
}


@dataclass(frozen=True, slots=True)
class HealthLimits:
    """How soon an appliance is suspected, given up, and asked for a sign of life.

    Attributes:
        suspect_after: Timeouts in a row.
        down_after: Timeouts in a row.
        quiet_ns: Silence of one that is up, and that nothing was asked of, before it is probed.
        probe_ns: Between two probes of a suspect at least; doubled again and again once it is down.
        most_ns: Longest time between two.
    """

    suspect_after: int = 1
    down_after: int = 5
    quiet_ns: int = 1_000_000_000
    probe_ns: int = 50_000_000
    most_ns: int = 1_000_000_000


class Health:
    """What is thought of one appliance.

    Args:
        limits: Its bounds.
        generator: Spreads probes in time.
        now: When it was heard first, in ns.

    Attributes:
        state: UP, SUSPECT or DOWN.
        since_ns: When it came into this state.
        heard_ns: When it was heard last.
    """

    def __init__(self, limits: HealthLimits, generator: random.Random, now: int) -> None:
        self._limits, self._generator = limits, generator
        self.state = HealthState.UP
        self.since_ns = self.heard_ns = now
        self._before = 0  # timeouts that were counted before it was heard
        self._given_up = 0  # timeouts that were counted when what it had was taken back
        self._mute = self._shunned_until = 0  # times that it gave signs of life alone; until when it is left alone
        self._missed = 0  # probes
        self._asked = False
        self._interval = limits.probe_ns
        self.probe_at = now + limits.quiet_ns

    def observe(self, now: int, heard_ns: int, rounds: int) -> HealthAction:
        """Take in what was seen of the appliance, and return what to do.

        One that gives signs of life and no answers is given up as well: it may be that long frames are lost. It is
        left alone for a while then, longer each time, and until then no sign of life brings it back.

        Args:
            now: Time in ns.
            heard_ns: When anything came from it last.
            rounds: Timeouts in a row of inferences, without a word about any.
        """
        heard = heard_ns > self.heard_ns
        if heard:
            self._hear(heard_ns, rounds)
        self._before, self._given_up = min(self._before, rounds), min(self._given_up, rounds)
        unanswered = max(rounds - self._before, self._missed)
        if self.state is not HealthState.DOWN and rounds - self._given_up >= self._limits.down_after:
            if unanswered < self._limits.down_after:
                self._mute = self._mute + 1 if self._given_up else 1
                self._shunned_until = now + min(_SHUN_NS << self._mute - 1, _MOST_SHUN_NS)
            self._given_up = rounds
            return self._happen(HealthEvent.LOST, now)
        if heard and now >= self._shunned_until:
            return self._happen(HealthEvent.HEARD, now)
        if unanswered >= self._limits.down_after:
            return self._happen(HealthEvent.LOST, now)
        if unanswered >= self._limits.suspect_after:
            return self._happen(HealthEvent.SILENT, now)
        return HealthAction.NOTHING

    def probe(self, now: int, pace_ns: int = 0) -> bool:
        """Return whether a probe is to be sent now; the one before is missed then, unless something came since.

        Args:
            now: Time in ns.
            pace_ns: How long the appliance may be silent because it works: a suspect is not probed faster than that.
        """
        if now < self.probe_at:
            return False
        self._missed += self._asked
        self._asked = True
        if self.state is HealthState.DOWN:
            self._interval = min(2 * self._interval, self._limits.most_ns)
        else:
            self._interval = max(self._limits.probe_ns, min(pace_ns, self._limits.most_ns))
        self.probe_at = now + round(self._interval * self._generator.uniform(0.8, 1.2))
        return True

    def _hear(self, heard_ns: int, rounds: int) -> None:
        self.heard_ns, self._before, self._missed, self._asked = heard_ns, rounds, 0, False
        self._interval = self._limits.probe_ns
        self.probe_at = heard_ns + self._limits.quiet_ns

    def _happen(self, event: HealthEvent, now: int) -> HealthAction:
        action, state = HEALTH_RULES[self.state, event]
        if state is not self.state:
            self.state, self.since_ns = state, now
            if state is HealthState.SUSPECT and not self._asked:
                self.probe_at = min(self.probe_at, now)
        return action
