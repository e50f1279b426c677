"""Whatever dies, in whatever way, nothing of a lab is left."""

import os
import random
import signal
import time
from pathlib import Path

import pytest

from host_sdk.lab.lab import Lab
from tests.rig.labs import (
    MARK,
    echo_topology,
    eventually,
    marked,
    needs_lab,
    networks,
    networks_in_use,
    owner,
    state_of,
)

pytestmark = needs_lab


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Give all processes that a test starts a mark by which they are found, wherever they have gone."""
    monkeypatch.setenv(MARK, str(tmp_path))
    return str(tmp_path)


def test_the_keeper_is_killed(mark: str) -> None:
    topology = echo_topology("--deaf", "--deaf-child", "--flash", "{flash}")
    with Lab.up(topology) as lab:
        state = lab.status()
        used = networks(state)
        assert len(marked(mark)) >= 7  # guard, keeper, holder, two nodes and a child of each
        os.kill(state.keeper.pid, signal.SIGKILL)
        assert eventually(lambda: not marked(mark))
        assert eventually(lambda: not used & networks_in_use())
        with Lab.up(topology) as second:
            assert second.status().phase == "up"
    assert marked(mark) == []


def test_the_owner_is_killed(mark: str) -> None:
    topology = echo_topology("--deaf-child")
    with owner(topology) as process:
        used = networks(state_of(process))
        process.kill()
        process.wait()
        assert eventually(lambda: not marked(mark))
    assert eventually(lambda: not used & networks_in_use())
    assert eventually(lambda: topology.name not in Lab.names())


def test_the_owner_of_a_detached_lab_is_killed_while_it_starts(mark: str) -> None:
    topology = echo_topology("--mute")
    with owner(topology, "--detach") as process:
        assert eventually(lambda: topology.name in Lab.names())
        process.kill()
        process.wait()
        assert eventually(lambda: not marked(mark))
    assert eventually(lambda: topology.name not in Lab.names())


@pytest.mark.parametrize("seed", range(6))
def test_something_is_killed_at_a_random_moment(mark: str, seed: int) -> None:
    chance = random.Random(seed)
    topology = echo_topology("--deaf-child", "--flash", "{flash}")
    with owner(topology) as process:
        time.sleep(chance.random() * 0.8)
        victims = [pid for pid in marked(mark) if pid != process.pid]
        if victims:
            victim = chance.choice(victims)
            os.kill(victim, signal.SIGKILL)
            time.sleep(chance.random() * 0.1)
        process.kill()
        process.wait()
        assert eventually(lambda: not marked(mark))
    assert eventually(lambda: topology.name not in Lab.names())
    with Lab.up(topology) as lab:
        assert lab.status().phase == "up"
    assert marked(mark) == []
