"""The cluster client, against appliances in memory: who is there, draining, weights, and on an event loop."""

import asyncio
import itertools

import pytest

from host_sdk.cluster.aio import AsyncNapuCluster
from host_sdk.operations import InferOptions
from host_sdk.results import Inference
from host_sdk.wire.errors import (
    ConfigError,
    NapuError,
    NapuTimeoutError,
    UnknownPipelineError,
)
from tests.rig.frames import DISCOVER
from tests.rig.rack import BODY, MORTAL, Rack, answered_by, working
from tests.rig.scripted import PIPELINES, Scripted

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
    with rack.cluster(**MORTAL) as cluster:
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


def test_one_that_is_down_for_long_is_forgotten_unless_it_is_listed(rack: Rack) -> None:
    listed = [rack.appliances[name].address for name in "abc"]
    with (
        rack.cluster(forget_after=0.05, **MORTAL) as cluster,
        rack.cluster(target=lambda: listed, forget_after=0.05, **MORTAL) as named,
    ):
        while len(cluster.refresh()) < 3 or "" in [member.device for member in named.refresh()]:
            pass
        rack.appliances["b"].silent = True
        while [member.name for member in cluster.refresh()] != ["a", "c"]:
            pass
        while named.refresh()[1].state != "down" or named.refresh()[1].since_s < 0.1:
            pass
        assert [member.name for member in named.members()] == ["a", "b", "c"]
        del listed[1]
        while [member.name for member in named.refresh()] != ["a", "c"]:
            pass


def test_a_firmware_that_hangs_is_no_dead_appliance(rack: Rack) -> None:
    with rack.cluster(quiet=0.05, **MORTAL) as cluster:
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
        others, answered = {rack.appliances[name].address for name in "bc"}, set()
        while answered != others:  # one may be ready long before the other
            answered |= answered_by(list(cluster.infer_many("echo", [BODY] * 200)))
            assert answered <= others
        assert answered_by([cluster.infer("other", BODY)]) == {rack.appliances["a"].address}


# ---- draining, weights -----------------------------------------------------------------------------------------------


def requests(appliance: Scripted) -> set[int]:
    """Return the ids of what an appliance was asked: it may still be taking in copies of what it has answered."""
    return {asked.request for asked in appliance.infers()}


def test_drain_waits_for_the_last_answer_and_sends_nothing_new(rack: Rack) -> None:
    with rack.cluster() as cluster:
        answers = cluster.infer_many("echo", [BODY] * 1000)
        list(itertools.islice(answers, 100))
        cluster.drain("b")
        asked = requests(rack.appliances["b"])
        states = {member.name: (member.state, member.load) for member in cluster.members()}
        assert states["b"] == ("draining", 0)
        answered_by(list(answers))
        assert requests(rack.appliances["b"]) == asked
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

    rack.asynchronous(use, **MORTAL)


def test_appliances_are_looked_after_while_nobody_asks(rack: Rack) -> None:
    async def use(cluster: AsyncNapuCluster) -> None:
        await cluster.members()
        rack.appliances["c"].silent = True
        while (await cluster.members())[2].state != "down":
            await asyncio.sleep(0.01)
        assert [member.state for member in await cluster.members()] == ["up", "up", "down"]

    rack.asynchronous(use, **MORTAL)


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
