"""The cluster client, against appliances in memory that say what a test wants to hear."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from host_sdk.cluster.aio import AsyncNapuCluster
from host_sdk.cluster.client import NapuCluster
from host_sdk.cluster.policy import ClusterPolicy
from host_sdk.cluster.retry import RETRY_RULES, Cause, Verdict, cause_of
from host_sdk.operations import InferOptions, Timeout
from host_sdk.results import Inference
from host_sdk.wire.errors import (
    STATUS_ERRORS,
    BusyError,
    ConfigError,
    DeadlineExceededError,
    NapuError,
    NapuTimeoutError,
    UncertainError,
    UnknownPipelineError,
)
from host_sdk.wire.exchange.pace import RequesterLimits
from host_sdk.wire.links.memory import MemorySwitch
from host_sdk.wire.schema import Status
from tests.rig.frames import DISCOVER, OPEN, Pdu
from tests.rig.scripted import IDENTITY, PIPELINES, Scripted, reply_to

BODY = b"abcd"
BRISK = RequesterLimits(window=64, first_rto_ns=20_000_000)
PATIENT = {"suspect_after": 50, "down_after": 50}  # for tests that have no use for an appliance that seems to be gone
CANCEL = 0x20


class Rack:
    """Scripted appliances a, b, … on one switch."""

    def __init__(self, running: ExitStack) -> None:
        self.switch, self._running = MemorySwitch(), running
        self.appliances: dict[str, Scripted] = {}

    def add(self, name: str, device: str = "") -> Scripted:
        appliance = Scripted(self.switch)
        appliance.control["identity"] = {**IDENTITY, "device": device or f"device-{name}", "name": name}
        self.appliances[name] = self._running.enter_context(appliance)
        return appliance

    def cluster(self, *, request: float = 5.0, target: Any = None, **policy: Any) -> NapuCluster:
        timeout = Timeout(request, 1.0, 0.05)
        chosen = ClusterPolicy(**{"refresh": 0.2, "quiet": 0.2, **policy})
        return NapuCluster(self.switch.attach(), target, timeout=timeout, limits=BRISK, policy=chosen)

    def asynchronous(self, use: Callable[[AsyncNapuCluster], Awaitable[Any]], **policy: Any) -> Any:
        async def main() -> Any:
            timeout, chosen = Timeout(5.0, 1.0, 0.05), ClusterPolicy(**{"refresh": 0.2, "quiet": 0.2, **policy})
            link = self.switch.attach()
            async with AsyncNapuCluster(link, timeout=timeout, limits=BRISK, policy=chosen) as cluster:
                return await asyncio.wait_for(use(cluster), 20)

        return asyncio.run(main())

    def first_says(self, answer: Callable[[Pdu], list[Pdu]]) -> list[str]:
        """Have whoever gets the first request answer it so, and all else well; return where its name will be put."""
        first: list[str] = []
        about: list[int] = []

        def script(name: str) -> Callable[[Pdu], list[Pdu]]:
            def infer(asked: Pdu) -> list[Pdu]:
                if not first:
                    first.append(name)
                    about.append(asked.request)
                mine = first == [name] and about == [asked.request]
                return answer(asked) if mine else [reply_to(asked, asked.payload[:4])]

            return infer

        for name, appliance in self.appliances.items():
            appliance.infer = script(name)
        return first


@pytest.fixture
def rack() -> Iterator[Rack]:
    with ExitStack() as running:
        made = Rack(running)
        for name in "abc":
            made.add(name)
        yield made


def answered_by(results: list[Any]) -> set[str]:
    assert all(isinstance(result, Inference) for result in results), results
    return {result.appliance for result in results}


# ---- who is there ----------------------------------------------------------------------------------------------------


def test_all_that_answer_are_members_and_get_their_share(rack: Rack) -> None:
    with rack.cluster() as cluster:
        assert [(member.name, member.state) for member in cluster.members()] == [(name, "up") for name in "abc"]
        bodies = [bytes([number % 256] * 4) for number in range(600)]
        answers = list(cluster.infer_many("echo", bodies))
        assert [answer.outputs["same"].tobytes() for answer in answers if isinstance(answer, Inference)] == bodies
        assert len(answered_by(answers)) == 3
        assert cluster.tally.submitted == 600
        assert cluster.tally.moved == 0


def test_members_are_known_by_device_wherever_they_are(rack: Rack) -> None:
    with rack.cluster() as cluster:
        cluster.members()
        cluster.weight("device-a", 0.25)
        old = rack.appliances["a"]
        old.silent = True
        moved = rack.add("a2", "device-a")
        while "a2" not in [member.name for member in cluster.refresh()]:
            pass
        assert len(cluster.members()) == 3
        (member,) = [member for member in cluster.members() if member.device == "device-a"]
        assert (member.address, member.weight) == (moved.address, 0.25)
        answers = list(cluster.infer_many("echo", [BODY] * 300))
        assert moved.address in answered_by(answers)
        assert not old.infers()


def test_one_that_comes_later_is_used_and_one_that_goes_is_down(rack: Rack) -> None:
    with rack.cluster() as cluster:
        cluster.members()
        rack.appliances["b"].silent = True
        late = rack.add("d")
        while len(members := cluster.refresh()) < 4 or members[1].state != "down":
            pass
        assert [(member.name, member.state) for member in members if member.name != "b"] == [
            ("a", "up"),
            ("c", "up"),
            ("d", "up"),
        ]
        asked = len(rack.appliances["b"].infers())
        answers = list(cluster.infer_many("echo", [BODY] * 300))
        assert late.address in answered_by(answers)
        assert len(rack.appliances["b"].infers()) == asked
        rack.appliances["b"].silent = False
        while cluster.refresh()[1].state != "up":
            pass
        assert rack.appliances["b"].address in answered_by(list(cluster.infer_many("echo", [BODY] * 300)))


def test_one_that_is_listed_and_silent_is_shown_down(rack: Rack) -> None:
    rack.appliances["b"].silent = True
    listed = [rack.appliances[name].address for name in "ab"]
    with rack.cluster(target=listed) as cluster:
        shown = [(member.name, member.address, member.state) for member in cluster.members()]
        assert shown == [("a", listed[0], "up"), ("", listed[1], "down")]
        assert answered_by([cluster.infer("echo", BODY)]) == {listed[0]}
    assert not [asked for asked in rack.appliances["c"].asked if asked.opcode == DISCOVER]


def test_a_list_may_be_a_function_that_is_asked_again(rack: Rack) -> None:
    listed = [rack.appliances["a"].address]
    with rack.cluster(target=lambda: listed) as cluster:
        assert [member.name for member in cluster.refresh()] == ["a"]
        listed.append(rack.appliances["c"].address)
        assert [member.name for member in cluster.refresh()] == ["a", "c"]


def test_a_firmware_that_hangs_is_no_dead_appliance(rack: Rack) -> None:
    with rack.cluster(quiet=0.05) as cluster:
        list(cluster.infer_many("echo", [BODY] * 30))
        for appliance in rack.appliances.values():
            appliance.hung = True
        for _ in range(3):  # rounds that nobody answers
            cluster.refresh()
        assert {member.state for member in cluster.members()} == {"up"}
        assert cluster.tally.probes > 0
        assert answered_by([cluster.infer("echo", BODY)])


def test_nobody_is_there(rack: Rack) -> None:
    for appliance in rack.appliances.values():
        appliance.silent = True
    with rack.cluster() as cluster:
        with pytest.raises(NapuTimeoutError, match=r"no appliance answered within 0\.05 s on memory"):
            cluster.infer("echo", BODY)
        assert cluster.members() == []


def test_nobody_serves_it(rack: Rack) -> None:
    with rack.cluster() as cluster, pytest.raises(UnknownPipelineError, match="'none'; they serve: echo"):
        cluster.infer("none", BODY)


def test_only_those_that_serve_it_are_asked(rack: Rack) -> None:
    rack.appliances["a"].control["pipelines"] = {"pipelines": [{**PIPELINES["pipelines"][0], "name": "other"}]}
    with rack.cluster() as cluster:
        assert len(answered_by(list(cluster.infer_many("echo", [BODY] * 200)))) == 2
        assert answered_by([cluster.infer("other", BODY)]) == {rack.appliances["a"].address}


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
    first = rack.first_says(lambda asked: [reply_to(asked, b"not now", status=STATUS_OF[cause], retry_after=10)])
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
    with rack.cluster() as cluster:
        answers = list(cluster.infer_many("echo", [bytes([number] * 4) for number in range(200)]))
        assert [answer.outputs["same"][0] for answer in answers if isinstance(answer, Inference)] == list(range(200))
        assert mute.infers()
        assert mute.address not in answered_by(answers)
        assert cluster.tally.moved > 0


def test_strict_ends_what_a_dead_appliance_has_and_names_it(rack: Rack) -> None:
    with rack.cluster(strict=True) as cluster:
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
    with rack.cluster() as cluster:
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
    with rack.cluster() as cluster:
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
    with rack.cluster(request=0.6) as cluster:
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
    refusals = iter([True] * 20)

    def infer(asked: Pdu) -> list[Pdu]:
        busy = next(refusals, False)
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
        answers = list(cluster.infer_many("echo", [BODY] * 100))
        assert answered_by(answers) <= {rack.appliances[name].address for name in "bc"}
        assert [asked for asked in full.asked if asked.opcode == OPEN]


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
        rack.first_says(lambda asked: [reply_to(asked, b"full", status=Status.BUSY, retry_after=500)])
        with pytest.raises(DeadlineExceededError):
            cluster.infer("echo", BODY, deadline=0.02)


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
    with rack.cluster(hedge_after=0.02, **PATIENT) as cluster:
        cluster.members()
        answer = cluster.infer("echo", BODY)
        slow = rack.appliances[first[0]]
        assert answer.appliance != slow.address
        assert (cluster.tally.hedged, cluster.tally.hedges_won, cluster.tally.moved) == (1, 1, 0)
        cluster.refresh()
        assert [notice.request for notice in slow.notices if notice.opcode == CANCEL] == [slow.infers()[0].request]


def working(asked: Pdu) -> list[Pdu]:
    """Return what an appliance says that has a request whole."""
    return [Pdu(0xA0, b"", asked.request, asked.flags, asked.session, priority=asked.priority, tail=1000)]


def test_second_copies_are_bounded_by_their_budget(rack: Rack) -> None:
    for appliance in rack.appliances.values():
        appliance.infer = working
    with rack.cluster(request=0.3, hedge_after=0.01, hedge_budget=0.1) as cluster:
        results = list(cluster.infer_many("echo", [BODY] * 150, return_errors=True))
        assert {type(result) for result in results} == {NapuTimeoutError}
        assert 20 <= cluster.tally.hedged <= 20 + 15 + 10  # in reserve, earned, and by the second


def test_a_quantile_of_the_answers_so_far_says_when(rack: Rack) -> None:
    with rack.cluster(hedge=0.95, hedge_budget=1.0, **PATIENT) as cluster:
        list(cluster.infer_many("echo", [BODY] * 200))
        before = cluster.tally.hedged
        rack.first_says(working)
        assert answered_by([cluster.infer("echo", BODY)])
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


# ---- draining, weights -----------------------------------------------------------------------------------------------


def test_drain_waits_for_the_last_answer_and_sends_nothing_new(rack: Rack) -> None:
    with rack.cluster(**PATIENT) as cluster:
        answers = cluster.infer_many("echo", [BODY] * 1000)
        list(itertools.islice(answers, 100))
        cluster.drain("b")
        asked = len(rack.appliances["b"].infers())
        states = {member.name: (member.state, member.load) for member in cluster.members()}
        assert states["b"] == ("draining", 0)
        answered_by(list(answers))
        assert len(rack.appliances["b"].infers()) == asked
        cluster.undrain("b")
        assert rack.appliances["b"].address in answered_by(list(cluster.infer_many("echo", [BODY] * 200)))
        with pytest.raises(ConfigError, match=r"no member 'nobody'; the cluster's are: a \("):
            cluster.drain("nobody")


def test_a_weight_of_nothing_is_never_asked(rack: Rack) -> None:
    with rack.cluster() as cluster:
        cluster.weight("a", 0)
        cluster.weight(rack.appliances["b"].address, 0.2)
        list(cluster.infer_many("echo", [BODY] * 600, window=6))
        counts = {name: len(appliance.infers()) for name, appliance in rack.appliances.items()}
        assert counts["a"] == 0
        assert counts["b"] < counts["c"]
        with pytest.raises(ConfigError, match="must be 0 or more"):
            cluster.weight("a", -1)


# ---- on an event loop ------------------------------------------------------------------------------------------------


def test_the_same_on_an_event_loop(rack: Rack) -> None:
    async def use(cluster: AsyncNapuCluster) -> None:
        assert [member.name for member in await cluster.members()] == ["a", "b", "c"]
        many = [result async for result in cluster.infer_many("echo", [BODY] * 300)]
        assert len(answered_by(many)) == 3
        steady = [result async for result in cluster.infer_steadily("echo", [BODY] * 50, 2000.0)]
        assert len(steady) == 50
        singles = await asyncio.gather(*(cluster.infer("echo", bytes([number] * 4)) for number in range(100)))
        assert [int(answer.outputs["same"][0]) for answer in singles] == list(range(100))
        rack.appliances["a"].silent = True
        moved = [result async for result in cluster.infer_many("echo", [BODY] * 300)]
        assert rack.appliances["a"].address not in answered_by(moved[-50:])
        assert cluster.tally.moved > 0
        await cluster.drain("b")
        rest = [result async for result in cluster.infer_many("echo", [BODY] * 60)]
        assert answered_by(rest) == {rack.appliances["c"].address}
        cluster.undrain("b")
        await cluster.weight("c", 0)
        assert answered_by([await cluster.infer("echo", BODY)]) == {rack.appliances["b"].address}
        assert len(await cluster.refresh()) == 3

    rack.asynchronous(use)


def test_appliances_are_looked_after_while_nobody_asks(rack: Rack) -> None:
    async def use(cluster: AsyncNapuCluster) -> None:
        await cluster.members()
        rack.appliances["c"].silent = True
        while (await cluster.members())[2].state != "down":
            await asyncio.sleep(0.01)
        assert [member.state for member in await cluster.members()] == ["up", "up", "down"]

    rack.asynchronous(use)


def test_a_cluster_that_is_closed_says_so_to_who_waits(rack: Rack) -> None:
    async def use(cluster: AsyncNapuCluster) -> None:
        for appliance in rack.appliances.values():
            appliance.infer = working
        waiting = asyncio.ensure_future(cluster.infer("echo", BODY))
        while not any(appliance.infers() for appliance in rack.appliances.values()):
            await asyncio.sleep(0.005)
        draining = asyncio.gather(*(cluster.drain(name) for name in "abc"), return_exceptions=True)
        await asyncio.sleep(0.02)
        await cluster.close()
        with pytest.raises(NapuError, match="closed"):
            await waiting
        assert "closed" in {str(error).split()[-1] for error in await draining if error}

    rack.asynchronous(use)


def test_options_reach_the_appliance(rack: Rack) -> None:
    with rack.cluster() as cluster:
        list(cluster.infer_many("echo", [BODY], options=InferOptions(priority=7, crc=False, once=False)))
        (asked,) = [asked for appliance in rack.appliances.values() for asked in appliance.infers()]
        assert asked.priority == 7
        assert not asked.flags & (1 | 8)
