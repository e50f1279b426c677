"""docs/cluster.md says what the tables and the policy say."""

import re
from pathlib import Path

from host_sdk.cluster.health import HEALTH_ACTION_MEANING, HEALTH_EVENT_MEANING, HEALTH_RULES, HealthEvent, HealthState
from host_sdk.cluster.policy import ClusterPolicy
from host_sdk.cluster.retry import CAUSE_MEANING, RETRY_RULES, VERDICT_MEANING

TEXT = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text(encoding="utf-8")


def rows(first_column: str) -> list[list[str]]:
    """Return the cells of the table whose first column is called so, without its head."""
    (body,) = re.findall(rf"^\| {first_column} \|.*?\n\| --- .*?\n((?:\|.*\n)+)", TEXT, re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|\n").split(" | ")] for line in str(body).splitlines()]


def test_what_is_asked_for_again() -> None:
    said = [[cell.strip(" |") for cell in row] for row in rows("what happened")]
    assert said == [[CAUSE_MEANING[cause], VERDICT_MEANING[verdict]] for cause, verdict in RETRY_RULES.items()]


def test_how_a_member_is() -> None:
    said = [[cell.strip(" |") for cell in row] for row in rows("state")]
    made = []
    for state in HealthState:
        outcomes = [HEALTH_RULES[state, event] for event in HealthEvent]
        made.append([state.name, *(f"{after.name}: {HEALTH_ACTION_MEANING[action]}" for action, after in outcomes)])
    assert said == made
    for event, meaning in HEALTH_EVENT_MEANING.items():
        assert f"- {event.name}: {meaning}" in TEXT


def test_the_numbers_are_those_of_the_policy() -> None:
    policy = ClusterPolicy()
    assert (policy.suspect_after, policy.down_after) == (1, 5)
    assert (policy.refresh, policy.quiet, policy.forget_after) == (2.0, 1.0, 60.0)
    assert (policy.retry_budget, policy.hedge_budget) == (0.2, 0.1)
    for said in (
        "a row without a word (1)",
        "a row without a word (5)",
        "every 2 s",
        "down for 60 s",
        "at most a\nfifth",
    ):
        assert said in TEXT
