"""The protocol's tables hold in every small world, whatever the network does; and a wrong table is noticed."""

import pytest

from host_sdk.wire.exchange.states import SLOT_RULES, SlotAction, SlotEvent, SlotState
from tests.wire.explorer.channels import Bag, Ether
from tests.wire.explorer.frames import Frame, Kind
from tests.wire.explorer.mutants import SURVIVORS, Mutant, finding, mutants
from tests.wire.explorer.requester import Requester, Row
from tests.wire.explorer.scenario import Habit, Rules, Scenario, Shape
from tests.wire.explorer.search import Search
from tests.wire.explorer.worlds import SMALL

MUTANTS = {mutant.name: mutant for mutant in mutants()}


@pytest.mark.parametrize("name", SMALL)
def test_every_state_that_a_small_world_can_get_into_is_sound_and_has_a_way_out(name: str) -> None:
    report = Search(SMALL[name].scenario, SMALL[name].channel).run()
    assert report.violation is None, "\n".join(report.trace)
    assert report.complete
    assert report.states > 400


@pytest.mark.parametrize("mutant", [mutant for name, mutant in MUTANTS.items() if name not in SURVIVORS], ids=str)
def test_a_wrong_protocol_is_noticed(mutant: Mutant) -> None:
    assert finding(mutant)


def test_there_are_many_wrong_protocols_and_those_that_survive_are_named() -> None:
    assert len(MUTANTS) >= 98
    assert set(SURVIVORS) < set(MUTANTS)
    assert len(SURVIVORS) / len(MUTANTS) < 0.15
    assert {mutant.habit for mutant in MUTANTS.values() if mutant.habit} == set(Habit)


def test_a_violation_comes_with_the_shortest_way_there() -> None:
    at = SlotState.ANSWERED, SlotEvent.REQUEST
    rules = Rules(slot={**SLOT_RULES, at: (SlotAction.TAKE, SlotState.PENDING)})
    report = Search(Scenario((Shape(),)), Bag(2, 1, 0), rules).run()
    assert report.violation == "request 0 is executed a second time"
    assert report.trace[:3] == ["room 0", "REQUEST 0.0 taken", "done 0"]
    assert len(report.trace) == 5  # and what both sides know then


def test_a_search_stops_where_it_is_told() -> None:
    scenario = Scenario((Shape(), Shape()))
    assert Search(scenario, Ether()).run(depth=3).depth == 3
    assert 10 <= Search(scenario, Ether()).run(most=10).states < 20
    assert not Search(scenario, Ether()).run(most=10).complete


def test_a_settle_names_a_prefix_and_bits_behind_it() -> None:
    requester = Requester(Scenario((Shape(), Shape(once=False), Shape(), Shape(), Shape())), Rules())
    assert requester._settle(0b00001) == Frame(Kind.SETTLE, 1, 0)  # the datagram's id names nothing
    assert requester._settle(0b10101) == Frame(Kind.SETTLE, 2, 0b10)
    assert requester._settle(0b11000) == Frame(Kind.SETTLE, -1, 0b11000)
    assert str(requester._settle(0b11000)) == "SETTLE to -1 and [3, 4]"


def test_a_requester_that_resumes_knows_nothing_of_what_was_asked_before() -> None:
    begun = Requester(Scenario((Shape(), Shape(), Shape()), earlier=2), Rules()).begin()
    assert [row.state.name for row in begun.rows] == ["SETTLED", "SETTLED", "WAITING"]
    assert begun.rows[2] == Row(begun.rows[2].state, (0,))
