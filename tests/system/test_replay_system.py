"""The capture is the reproducer: once requests over a cable that damages frames both ways, and the replay of that."""

import os
from pathlib import Path

import numpy as np
import pytest

from appliance.profile import load_profile
from host_sdk.capture.answers import compare, gather_answers
from host_sdk.capture.replay import plan_replay
from host_sdk.cli.replay_virtual import replay_virtual
from tests.rig.damaged import FIRST_TOKEN, DamagedWire
from tests.rig.packages import tensor_package
from tests.rig.reproducer import Reproducer
from tests.rig.tiny_models import doubler

FAULTS = "loss=5%,duplicate=2%,reorder=5%,flip=1%"
# docs/replay.md has what a hundred thousand give, which take a minute.
REQUESTS = int(os.environ.get("NAPU_REPLAY_REQUESTS", "5000"))
SMALL, LONG = 4, 3000  # floats; the long one takes nine frames there and nine back


def packages() -> list[bytes]:
    return [tensor_package("small", doubler((1, SMALL)), batch=32), tensor_package("long", doubler((1, LONG)), batch=4)]


def ask(wire: DamagedWire, name: str, count: int, floats: int) -> None:
    """Ask, and check that every request is answered exactly once, and right."""
    bodies = np.arange(count * floats, dtype="<f4").reshape(count, floats)
    answers = wire.ask(name, bodies.view(np.uint8))
    times = np.zeros(count, np.int64)
    for event in answers:
        assert event.error is None
        index = event.tokens - FIRST_TOKEN
        np.add.at(times, index, 1)
        assert np.array_equal(event.bodies.view("<f4"), 2 * bodies[index])
    assert (times == 1).all()
    assert wire.virtual.device.counters()["inferences"] == count


def check_replays(capture: Path, served: list[bytes], directory: Path) -> None:
    """Replay a capture of a virtual device twice; each gives what the device gave, to the byte and to the ns."""
    plan = plan_replay(capture)
    one, two = (
        replay_virtual(plan, load_profile("napu-s"), served, seed, directory / f"{seed}.pcap") for seed in (0, 0)
    )
    assert one == two
    assert one.replies == plan.replies
    assert not plan.left_out
    result = compare(gather_answers(plan.replies), gather_answers(one.replies))
    assert (result.alike, result.different, result.missing, result.extra) == (0, 0, 0, 0)


@pytest.mark.timeout(600)
def test_once_requests_over_a_bad_cable_and_the_replay_is_the_same(reproducer: Reproducer, tmp_path: Path) -> None:
    served = packages()
    with reproducer.wire(served, (FAULTS, FAULTS), seed=7) as wire:
        ask(wire, "small", REQUESTS, SMALL)
        statistics = wire.faulty.statistics()
        for drops in (statistics.rx_drops, statistics.tx_drops):
            assert drops["fault_lost"] > REQUESTS // 25
        for fault in ("rx_flipped", "tx_flipped", "rx_duplicated", "tx_duplicated", "rx_reordered", "tx_reordered"):
            assert statistics.faults[fault] > REQUESTS // 150
        assert wire.virtual.device.counters()["answers_bad_crc"] > 0
    (capture,) = reproducer.captures
    check_replays(capture, served, tmp_path)


def test_long_requests_too(reproducer: Reproducer, tmp_path: Path) -> None:
    served = packages()
    with reproducer.wire(served, (FAULTS, FAULTS), seed=3) as wire:
        ask(wire, "long", 200, LONG)
        assert wire.faulty.statistics().faults["rx_flipped"] > 10
        assert wire.virtual.device.counters()["notices"] > 0
    (capture,) = reproducer.captures
    check_replays(capture, served, tmp_path)
