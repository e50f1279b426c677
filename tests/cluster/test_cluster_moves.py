"""What a cluster client asks another appliance for, and what it does not."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from host_sdk.cluster.policy import ClusterPolicy
from host_sdk.cluster.retry import RETRY_RULES, Cause, Verdict, cause_of
from host_sdk.results import Inference
from host_sdk.wire.errors import (
    STATUS_ERRORS,
    BusyError,
    ConfigError,
    DeadlineExceededError,
    NapuTimeoutError,
    UncertainError,
)
from host_sdk.wire.schema import Status
from tests.rig.frames import OPEN, Pdu
from tests.rig.rack import BODY, CANCEL, MORTAL, Rack, answered_by, working
from tests.rig.scripted import reply_to

# ---- what is asked for elsewhere -------------------------------------------------------------------------------------

STATUS_OF = {
    Cause.BUSY: Status.BUSY,
    Cause.UNAVAILABLE: Status.UNAVAILABLE,
    Cause.UNKNOWN_PIPELINE: Status.UNKNOWN_PIPELINE,
    Cause.UNKNOWN_SESSION: Status.UNKNOWN_SESSION,
}


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("cause", STATUS_OF)
def test_what_was_not_executed_is_moved_strict_or_not(rack: Rack, cause: Cause, strict: bool) -> None:
    first = rack.first_says(lambda asked: [reply_to(asked, b"not now", status=STATUS_OF[cause], retry_after=5000)])
    with rack.cluster(strict=strict) as cluster:
        answer = cluster.infer("echo", BODY)
        assert answer.outputs["same"].tobytes() == BODY
        assert answer.appliance != rack.appliances[first[0]].address
        assert cluster.tally.moved == 1
        assert sum(len(appliance.infers()) for appliance in rack.appliances.values()) == 2
    assert RETRY_RULES[cause] in (Verdict.MOVE, Verdict.LEARN_AND_MOVE)


@pytest.mark.parametrize(
    "status", sorted(set(Status) - {Status.OK, *STATUS_OF.values(), Status.BAD_CRC, Status.REASSEMBLY_TIMEOUT})
)
def test_any_other_status_is_told(rack: Rack, status: Status) -> None:
    rack.first_says(lambda asked: [reply_to(asked, b"because", status=status)])
    with rack.cluster() as cluster:
        with pytest.raises(STATUS_ERRORS[status], match="because"):
            cluster.infer("echo", BODY)
        assert cluster.tally.moved == 0


def test_what_one_has_that_gives_signs_of_life_and_no_answers_is_moved(rack: Rack) -> None:
    mute = rack.appliances["a"]
    mute.infer = lambda _: []
    with rack.cluster(**MORTAL) as cluster:
        answers = list(cluster.infer_many("echo", [bytes([number] * 4) for number in range(200)]))
        assert [answer.outputs["same"][0] for answer in answers if isinstance(answer, Inference)] == list(range(200))
        assert mute.infers()
        assert mute.address not in answered_by(answers)
        assert cluster.tally.moved > 0


def test_strict_ends_what_a_dead_appliance_has_and_names_it(rack: Rack) -> None:
    with rack.cluster(strict=True, **MORTAL) as cluster:
        cluster.members()

        def dies(_: Pdu) -> list[Pdu]:
            rack.appliances["a"].silent = True
            return []

        for name, weight in {"a": 1, "b": 0, "c": 0}.items():
            cluster.weight(name, weight)
        rack.appliances["a"].infer = dies
        with pytest.raises(
            UncertainError, match=r"may or may not have been executed at a \(.*said nothing to inferences for"
        ) as told:
            cluster.infer("echo", BODY)
        assert told.value.member.startswith("a (")
        assert cluster.tally.uncertain == 1
        for name in "bc":
            cluster.weight(name, 1)
        assert answered_by([cluster.infer("echo", BODY)]) < {rack.appliances[name].address for name in "bc"}


def test_a_dead_appliances_requests_are_answered_elsewhere_and_given_up_there(rack: Rack) -> None:
    with rack.cluster(**MORTAL) as cluster:
        cluster.members()
        for name in "bc":
            cluster.weight(name, 0)
        dead = rack.appliances["a"]

        def dies(_: Pdu) -> list[Pdu]:
            dead.silent = True
            for name in "bc":
                cluster.weight(name, 1)
            return []

        dead.infer = dies
        answer = cluster.infer("echo", BODY)
        assert answer.appliance != dead.address
        assert cluster.tally.moved == 1
        (member,) = [member for member in cluster.members() if member.name == "a"]
        assert member.state == "down"
        assert [notice.request for notice in dead.notices if notice.opcode == CANCEL] == [dead.infers()[0].request]


def test_all_are_down_until_one_comes_back(rack: Rack) -> None:
    with rack.cluster(**MORTAL) as cluster:
        list(cluster.infer_many("echo", [BODY] * 30))
        for appliance in rack.appliances.values():
            appliance.silent = True
        while {member.state for member in cluster.refresh()} != {"down"}:
            pass
        answers = cluster.infer_steadily("echo", back_after(rack, 3), 1000.0)
        assert answered_by(list(answers)) == {rack.appliances["b"].address}


def back_after(rack: Rack, items: int) -> Iterator[bytes]:
    for number in range(items):
        if number == items - 1:
            rack.appliances["b"].silent = False
        yield BODY


def test_the_callers_time_bounds_it_all(rack: Rack) -> None:
    with rack.cluster(request=0.6, **MORTAL) as cluster:
        list(cluster.infer_many("echo", [BODY] * 30))
        for appliance in rack.appliances.values():
            appliance.silent = True
        with pytest.raises(NapuTimeoutError, match=r"no answer within 0\.6 s"):
            cluster.infer("echo", BODY)


def test_what_is_refused_everywhere_is_tried_until_its_time_is_over(rack: Rack) -> None:
    for appliance in rack.appliances.values():
        appliance.infer = lambda asked: [reply_to(asked, b"full", status=Status.BUSY, retry_after=200)]
    with rack.cluster(request=0.3) as cluster:
        with pytest.raises(BusyError, match="full"):
            cluster.infer("echo", BODY)
        tried = sum(len(appliance.infers()) for appliance in rack.appliances.values())
        assert 3 < tried <= 3 * 16  # each is left alone for the 20 ms that it asked for
        assert cluster.tally.moved == tried or cluster.tally.moved == tried - 1


def test_without_a_budget_what_is_refused_waits_as_at_one_appliance(rack: Rack) -> None:
    refused: set[int] = set()

    def infer(asked: Pdu) -> list[Pdu]:
        busy = asked.request in refused or len(refused) < 20
        refused.update({asked.request} if busy else ())
        return [reply_to(asked, b"full" if busy else BODY, status=Status.BUSY if busy else 0, retry_after=10)]

    for appliance in rack.appliances.values():
        appliance.infer = infer
    with rack.cluster(retry_budget=0.0) as cluster:
        assert len(answered_by(list(cluster.infer_many("echo", [BODY] * 100)))) > 0
        assert cluster.tally.moved == cluster.tally.delayed == 20


def test_a_session_that_is_refused_is_opened_elsewhere(rack: Rack) -> None:
    full = rack.appliances["a"]
    full.full = True
    with rack.cluster() as cluster:
        while not [asked for asked in full.asked if asked.opcode == OPEN]:
            answers = list(cluster.infer_many("echo", [BODY] * 100))
            assert answered_by(answers) <= {rack.appliances[name].address for name in "bc"}


def test_the_deadline_goes_on_while_a_request_moves(rack: Rack) -> None:
    rack.first_says(lambda asked: [reply_to(asked, b"full", status=Status.BUSY, retry_after=500)])
    with rack.cluster(retry_budget=0.0) as cluster:
        cluster.members()
        for appliance in rack.appliances.values():
            appliance.asked.clear()
        assert answered_by([cluster.infer("echo", BODY, deadline=2.0)])
        tails = sorted(asked.tail for appliance in rack.appliances.values() for asked in appliance.infers())
        assert tails[0] <= tails[1] - 50_000
        assert tails[1] <= 2_000_000
        rack.first_says(lambda asked: [reply_to(asked, b"full", status=Status.BUSY, retry_after=500)], b"late")
        with pytest.raises(DeadlineExceededError):
            cluster.infer("echo", b"late", deadline=0.02)


def test_nothing_that_may_have_been_executed_is_thought_safe() -> None:
    cases = itertools.product(STATUS_ERRORS.values(), (True, False), (0, 1, 2), (True, False))
    for error, replied, transmissions, once in cases:
        cause = cause_of(error(), replied=replied, transmissions=transmissions, once=once)
        if RETRY_RULES[cause] in (Verdict.MOVE, Verdict.LEARN_AND_MOVE) and transmissions:
            assert replied  # and not lost together with others
            assert error in (STATUS_ERRORS[status] for status in STATUS_OF.values())
            assert transmissions == 1 or (once and cause is not Cause.UNKNOWN_SESSION)
    assert RETRY_RULES.keys() == set(Cause)


# ---- second copies ---------------------------------------------------------------------------------------------------


def test_a_slow_answer_is_overtaken_by_a_second_copy_and_the_first_is_cancelled(rack: Rack) -> None:
    first = rack.first_says(working)
    with rack.cluster(hedge_after=0.02) as cluster:
        cluster.members()
        answer = cluster.infer("echo", BODY)
        slow = rack.appliances[first[0]]
        assert answer.appliance != slow.address
        assert (cluster.tally.hedged, cluster.tally.hedges_won, cluster.tally.moved) == (1, 1, 0)
        cluster.refresh()
        assert [notice.request for notice in slow.notices if notice.opcode == CANCEL] == [slow.infers()[0].request]


def test_second_copies_are_bounded_by_their_budget(rack: Rack) -> None:
    for appliance in rack.appliances.values():
        appliance.infer = working
    with rack.cluster(request=0.3, hedge_after=0.01, hedge_budget=0.1) as cluster:
        results = list(cluster.infer_many("echo", [BODY] * 150, return_errors=True))
        assert {type(result) for result in results} == {NapuTimeoutError}
        assert 20 <= cluster.tally.hedged <= 20 + 15 + 10  # in reserve, earned, and by the second


def test_a_quantile_of_the_answers_so_far_says_when(rack: Rack) -> None:
    with rack.cluster(hedge=0.95, hedge_budget=1.0) as cluster:
        list(cluster.infer_many("echo", [BODY] * 200))
        before = cluster.tally.hedged
        rack.first_says(working, b"slow")
        assert answered_by([cluster.infer("echo", b"slow")])
        assert cluster.tally.hedged > before
        assert cluster.tally.hedges_won > 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"hedge": 5},
        {"hedge": 0.9, "hedge_after": 1},
        {"strict": True, "hedge": 0.9},
        {"refresh": 0},
        {"retry_budget": 2},
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        ClusterPolicy(**wrong)
