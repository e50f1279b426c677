"""The state machine of an appliance's health: its table, and whatever may be observed in whatever order."""

import itertools
import random

from hypothesis import given
from hypothesis import strategies as st

from host_sdk.cluster.health import (
    HEALTH_RULES,
    Health,
    HealthAction,
    HealthEvent,
    HealthLimits,
    HealthState,
)

MS = 1_000_000
LIMITS = HealthLimits(suspect_after=2, down_after=5)
# What happens in turn: ms that pass, and whether it answers, gives another sign of life, a timeout passes, or nothing.
STEPS = st.lists(
    st.tuples(st.integers(1, 3000), st.sampled_from(["answered", "alive", "timeout", "nothing"])), max_size=60
)


def test_the_table_is_whole_and_only_a_word_brings_a_member_back() -> None:
    assert set(HEALTH_RULES) == {(state, event) for state in HealthState for event in HealthEvent}
    assert {state for (_, event), (_, state) in HEALTH_RULES.items() if event is HealthEvent.HEARD} == {HealthState.UP}
    assert {HEALTH_RULES[state, HealthEvent.LOST][1] for state in HealthState} == {HealthState.DOWN}
    moves = [key for key, (action, _) in HEALTH_RULES.items() if action is HealthAction.MOVE]
    assert all(state is not HealthState.DOWN and event is HealthEvent.LOST for state, event in moves)


@given(STEPS, st.integers(0, 1 << 32))
def test_it_follows_what_is_heard_and_what_is_not(steps: list[tuple[int, str]], seed: int) -> None:
    health = Health(LIMITS, random.Random(seed), 0)
    now = heard = rounds = counted = given_up = missed = mutes = shunned = 0
    waiting = False
    for passed, what in steps:
        now += passed * MS
        if what in ("answered", "alive"):
            heard, missed, waiting = now, 0, False
            counted = rounds = 0 if what == "answered" else rounds
        rounds += what == "timeout"
        given_up = min(given_up, rounds)
        before = health.state
        action = health.observe(now, heard, rounds)
        unanswered = max(rounds - counted, missed)
        given = before is not HealthState.DOWN and rounds - given_up >= LIMITS.down_after
        if given and unanswered < LIMITS.down_after:
            mutes = mutes + 1 if given_up else 1
            shunned = now + min(2 ** (mutes - 1), 30) * 1000 * MS
        if given:
            given_up = rounds
        if given or (heard < now and unanswered >= LIMITS.down_after):
            assert health.state is HealthState.DOWN
            assert (action is HealthAction.MOVE) == (before is not HealthState.DOWN)
        elif heard == now and now >= shunned:
            assert health.state is HealthState.UP
            assert (action is HealthAction.RETURN) == (before is not HealthState.UP)
        elif unanswered >= LIMITS.suspect_after:
            assert health.state is not HealthState.UP
        else:
            assert health.state is before
        assert (health.since_ns == now) == (health.state is not before)
        if health.probe(now):
            missed += waiting
            waiting = True
        assert now < health.probe_at <= now + 1.2 * LIMITS.most_ns  # or it would never be asked again


@given(st.integers(0, 1 << 32), st.integers(0, 500))
def test_silence_is_noticed_by_probes_alone_and_a_suspect_is_asked_at_the_pace_of_its_work(
    seed: int, pace: int
) -> None:
    health = Health(LIMITS, random.Random(seed), 0)
    now, asked = 0, []
    while health.state is not HealthState.DOWN:
        now = health.probe_at
        assert health.probe(now, pace * MS)
        asked.append(now)
        health.observe(now, 0, 0)
    assert asked[0] == LIMITS.quiet_ns
    assert len(asked) == LIMITS.down_after + 1
    gaps = [after - before for before, after in itertools.pairwise(asked)]
    assert all(gap >= 0.8 * max(50, pace) * MS for gap in gaps)


def test_one_that_lives_and_answers_nothing_is_given_up_for_longer_each_time() -> None:
    health = Health(LIMITS, random.Random(1), 0)
    # Every 10 ms a probe is answered, and an inference never: its timeouts count where it has any.
    rounds, moved, back = 0, [], []
    for now in range(10 * MS, 10_000 * MS, 10 * MS):
        rounds += health.state is not HealthState.DOWN
        action = health.observe(now, now, rounds)
        moved += [now] if action is HealthAction.MOVE else []
        back += [now] if action is HealthAction.RETURN else []
    pauses = [(after - before) // (1000 * MS) for before, after in zip(moved, back, strict=False)]
    assert pauses == [1, 2, 4]
    answered = moved[-1] + 9_000 * MS
    assert health.observe(answered, answered, 0) is HealthAction.RETURN
