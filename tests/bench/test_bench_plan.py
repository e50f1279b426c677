"""What is measured in which order, and from what the rate of an open loop is taken."""

import pytest

from host_sdk.bench.machine import choose_cores, cpu_name
from host_sdk.bench.napu import NapuSystem
from host_sdk.bench.options import Chosen
from host_sdk.bench.peers import GrpcServer, PeerSystem
from host_sdk.bench.plan import Point, points, schedule
from host_sdk.bench.run import SYSTEMS, make_system
from host_sdk.bench.system import System
from host_sdk.wire.errors import ConfigError

CORES = (0, 1)
CHOSEN = Chosen((), repeats=1, seconds=1, quick=True, seed=1, mtu=3400)


def systems() -> list[System]:
    return [NapuSystem("udp", CORES), PeerSystem(GrpcServer(), CORES, lambda _: None)]


def test_every_repeat_has_every_system_with_all_of_its_points() -> None:
    both = systems()
    for repeat in range(3):
        steps = list(schedule(both, repeat, quick=False))
        assert [step.repeat for step in steps] == [repeat] * len(steps)
        for system in both:
            assert [step.point for step in steps if step.system is system] == points(system, quick=False)


def test_every_other_repeat_goes_the_other_way_round() -> None:
    both = systems()
    order = [[step.system.name for step in schedule(both, repeat, quick=True)] for repeat in range(3)]
    assert order[0] == ["napu-udp"] * 2 + ["grpc"] * 2
    assert order[1] == order[0][::-1]
    assert order[2] == order[0]


def test_an_appliance_gets_open_loops_after_saturation_and_a_peer_batches() -> None:
    appliance, peer = (points(system, quick=False) for system in systems())
    assert [(point.mode, point.concurrency) for point in appliance[:3]] == [
        ("closed", 1),
        ("closed", 16),
        ("closed", 64),
    ]
    assert [point.label for point in appliance[3:]] == [
        "closed, datagrams",
        "closed, with CRC and trailer",
        "open at 50%",
        "open at 80%",
    ]
    assert [point.batch for point in peer] == [1, 1, 1, 32]
    assert Point("closed", 16, batch=32).label == "closed, 32 in a request"
    assert Point("closed", 16).description == "closed, 16 outstanding"


@pytest.mark.parametrize("name", SYSTEMS[1:])
def test_every_system_can_be_made_by_its_name(name: str) -> None:
    assert make_system(name, CHOSEN, CORES, lambda _: None).name == name


def test_an_unknown_system_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="'torchserve'.*inprocess.*triton"):
        make_system("torchserve", CHOSEN, CORES, lambda _: None)


def test_load_and_server_get_a_core_each_where_there_are_two() -> None:
    assert choose_cores({3, 1, 2}) == (1, 2)
    assert choose_cores({5}) == (5, 5)


def test_the_processor_is_named() -> None:
    assert cpu_name("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\n") == "Some CPU @ 2 GHz"
    assert cpu_name("Features\t: fp\n")
