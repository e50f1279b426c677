"""The tables of the exchange: total, closed, and said in words."""

from enum import IntEnum
from itertools import product

import pytest

from host_sdk.wire.exchange.states import (
    REQUEST_ACTION_MEANING,
    REQUEST_EVENT_MEANING,
    REQUEST_RULES,
    REQUEST_STATE_MEANING,
    SLOT_ACTION_MEANING,
    SLOT_EVENT_MEANING,
    SLOT_RULES,
    SLOT_STATE_MEANING,
    RequestAction,
    RequestEvent,
    RequestState,
    SlotAction,
    SlotEvent,
    SlotState,
)


def test_every_pair_of_state_and_event_has_a_rule() -> None:
    assert set(SLOT_RULES) == set(product(SlotState, SlotEvent))
    assert set(REQUEST_RULES) == set(product(RequestState, RequestEvent))


def test_rules_name_actions_and_states_of_their_own_side() -> None:
    assert all(type(action) is SlotAction and type(after) is SlotState for action, after in SLOT_RULES.values())
    assert all(
        type(action) is RequestAction and type(after) is RequestState for action, after in REQUEST_RULES.values()
    )


@pytest.mark.parametrize(
    ("kind", "meanings"),
    [
        (SlotState, SLOT_STATE_MEANING),
        (SlotEvent, SLOT_EVENT_MEANING),
        (SlotAction, SLOT_ACTION_MEANING),
        (RequestState, REQUEST_STATE_MEANING),
        (RequestEvent, REQUEST_EVENT_MEANING),
        (RequestAction, REQUEST_ACTION_MEANING),
    ],
)
def test_everything_has_a_meaning_and_no_two_the_same(kind: type[IntEnum], meanings: dict[IntEnum, str]) -> None:
    assert set(meanings) == set(kind)
    assert all(meanings.values())
    assert len(set(meanings.values())) == len(kind)


def test_every_action_is_done_somewhere() -> None:
    assert {action for action, _ in SLOT_RULES.values()} == set(SlotAction)
    assert {action for action, _ in REQUEST_RULES.values()} == set(RequestAction)


def test_a_request_is_taken_in_one_place_only() -> None:
    taking = [at for at, (action, _) in SLOT_RULES.items() if action is SlotAction.TAKE]
    assert taking == [(SlotState.NEW, SlotEvent.REQUEST)]
    assert SLOT_RULES[taking[0]] == (SlotAction.TAKE, SlotState.PENDING)


def test_a_slot_never_goes_back_to_an_id_that_was_executed() -> None:
    back = [at for at, (_, after) in SLOT_RULES.items() if after is SlotState.NEW and at[0] is not SlotState.NEW]
    assert back == [(SlotState.PENDING, SlotEvent.DISPLACED)]  # before its work began
    assert not [at for at, (_, after) in SLOT_RULES.items() if after is SlotState.OUTDATED and at[0] is not after]
    for state in (SlotState.RELEASED, SlotState.OUTDATED):
        assert all(SLOT_RULES[state, event][1] is state for event in SlotEvent)


def test_what_is_settled_stays_so_and_nothing_is_done_about_it() -> None:
    rows = [REQUEST_RULES[RequestState.SETTLED, event] for event in RequestEvent]
    assert rows == [(RequestAction.IGNORE, RequestState.SETTLED)] * len(RequestEvent)


def test_a_user_is_told_exactly_when_a_request_becomes_settled() -> None:
    tells = (RequestAction.DELIVER, RequestAction.FAIL, RequestAction.FAIL_UNSENT)
    for (state, _), (action, after) in REQUEST_RULES.items():
        assert (action in tells) == (after is RequestState.SETTLED and state is not RequestState.SETTLED)


def test_whoever_is_given_up_is_settled_and_only_what_was_sent_is_cancelled() -> None:
    for state in RequestState:
        if state is not RequestState.SETTLED:
            action, after = REQUEST_RULES[state, RequestEvent.GIVEN_UP]
            assert after is RequestState.SETTLED
            assert (action is RequestAction.FAIL_UNSENT) == (state is RequestState.WAITING)


def test_a_request_that_was_sent_never_waits_again() -> None:
    assert not [at for at, (_, after) in REQUEST_RULES.items() if after is RequestState.WAITING and at[0] is not after]
