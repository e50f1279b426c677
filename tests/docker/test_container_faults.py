"""What befalls an appliance in a container costs a cluster's client nothing, and the appliance comes back by itself."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from host_sdk.lab.docker.address import IMAGE
from tests.rig.container_faults import (
    AHEAD_S,
    FAULTS,
    FILLER,
    Fault,
    FaultError,
    clock_ahead,
    interfaces,
    send,
    wait_until,
)
from tests.rig.container_lab import FaultLab, Victim, fault_lab, why_not
from tests.rig.engine import ROOT, needs_engine
from tests.rig.load_process import LoadProcess, load_process

pytestmark = needs_engine
HOLD_S = 1.5
BACK_S = 60.0
DIGITS = ROOT / "appliance/models/digits"


@dataclass(frozen=True)
class Loaded:
    """A lab of three appliances under load."""

    lab: FaultLab
    load: LoadProcess

    def victim(self, fault: Fault) -> Victim:
        return self.lab.victims[list(FAULTS).index(fault.name) % len(self.lab.victims)]

    def await_back(self, victim: Victim) -> None:
        answered = self.load.answered_by(victim.address)
        back = lambda: victim.healthy and self.load.answered_by(victim.address) > answered  # noqa: E731
        wait_until(back, f"{victim.node} is healthy and answers", BACK_S)

    def shares(self, seconds: float) -> dict[str, int]:
        """Return how many requests each appliance answers in a while."""
        before = dict(self.load.now["by"])
        time.sleep(seconds)
        now = self.load.now["by"]
        return {each.node: now.get(each.address, 0) - before.get(each.address, 0) for each in self.lab.victims}


@pytest.fixture(scope="module")
def loaded(napu_image: str) -> Iterator[Loaded]:
    if reason := why_not():
        pytest.skip(reason)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(IMAGE, napu_image)
        with fault_lab(f"faults-{os.getpid()}", 3) as lab:
            options = ["--rate", "100", "--appliances", "3", "--images", "50"]
            with load_process(lab.lab, "host", options) as load:
                yield Loaded(lab, load)
                report = load.stop()
                assert report["broken"] == []
                assert (report["lost"], report["wrong"], report["errors"]) == (0, 0, {}), report["examples"]
        assert lab.left() == []


def device(victim: Victim) -> str:
    """Return what tells the device from others, which is in its flash."""
    status, told = victim.run("sha256sum", "/flash/FUSES")
    assert status == 0, told
    return told


@pytest.mark.parametrize("name", ["kill", "restart", "memory"])
def test_a_node_that_ends_is_started_again_with_its_flash(loaded: Loaded, name: str) -> None:
    fault = FAULTS[name]
    victim = loaded.victim(fault)
    before, process = device(victim), victim.pid
    loaded.load.enter(name)
    fault.begin(victim)
    fault.end(victim)
    loaded.await_back(victim)
    assert victim.pid != process
    assert device(victim) == before


@pytest.mark.parametrize("name", ["pause", "stop"])
def test_a_node_that_stands_still_is_given_up_and_taken_back(loaded: Loaded, name: str) -> None:
    fault = FAULTS[name]
    victim = loaded.victim(fault)
    process = victim.pid
    loaded.load.enter(name)
    fault.begin(victim)
    try:
        wait_until(lambda: loaded.load.now["states"][victim.address] == "down", f"{victim.node} is given up")
    finally:
        fault.end(victim)
    loaded.await_back(victim)
    assert victim.pid == process


def test_a_node_follows_its_interface(loaded: Loaded) -> None:
    fault = FAULTS["disconnect"]
    victim = loaded.victim(fault)
    process, before = victim.pid, interfaces(victim.pid)
    loaded.load.enter(fault.name)
    fault.begin(victim)
    assert interfaces(process) == []
    time.sleep(HOLD_S)
    fault.end(victim)
    loaded.await_back(victim)
    after = interfaces(process)
    assert len(after) == 1
    assert after != before, "the interface has the same name, and the test shows nothing"


def install(loaded: Loaded, victim: Victim) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "host_sdk.cli.main", "pipelines", "install", str(DIGITS)]
    command = loaded.lab.lab.inside("host", [*command, "--link", "packet:any", "--target", victim.address])
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_full_flash_refuses_a_pipeline_and_infers_on(loaded: Loaded) -> None:
    fault = FAULTS["flash full"]
    victim = loaded.victim(fault)
    loaded.load.enter(fault.name)
    fault.begin(victim)
    refused = install(loaded, victim)
    assert refused.returncode == 1
    assert "NO_SPACE" in refused.stderr
    loaded.await_back(victim)  # with its flash as full as before
    assert victim.run("stat", FILLER)[0] == 0
    fault.end(victim)
    done = install(loaded, victim)
    assert done.returncode == 0, done.stderr
    loaded.await_back(victim)


def test_a_clock_that_jumps_is_not_noticed(loaded: Loaded) -> None:
    if not loaded.lab.turns_clocks:
        pytest.skip("clocks of containers are turned by a library that takes a C compiler")
    fault = FAULTS["clock"]
    victim = loaded.victim(fault)
    process = victim.pid
    loaded.load.enter(fault.name)
    fault.begin(victim)
    assert abs(clock_ahead(victim) - AHEAD_S) < AHEAD_S / 2
    loaded.await_back(victim)
    fault.end(victim)
    loaded.await_back(victim)
    assert victim.pid == process


def test_load_moves_away_from_a_slow_node(loaded: Loaded) -> None:
    fault = FAULTS["slow"]
    victim = loaded.victim(fault)
    loaded.load.enter(fault.name)
    fault.begin(victim)
    try:
        shares = loaded.shares(HOLD_S * 2)
    finally:
        fault.end(victim)
    others = [count for node, count in shares.items() if node != victim.node]
    assert shares[victim.node] < min(others), shares
    loaded.await_back(victim)


def test_no_signal_goes_to_a_node_that_has_no_process(loaded: Loaded) -> None:
    victim = loaded.victim(FAULTS["kill"])
    loaded.load.enter("away")
    victim.container.stop(timeout=10)
    try:
        assert victim.pid == 0  # as a signal's target that is the group of the sender
        with pytest.raises(FaultError, match="has no process that SIGCONT"):
            send(victim, signal.SIGCONT)
    finally:
        victim.container.start()
    loaded.await_back(victim)
