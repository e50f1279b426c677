"""A peer that dies under a load is started again; one that keeps dying is told of."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from host_sdk.bench.models import Workload, find_models
from host_sdk.bench.peers import GrpcServer, Launch, PeerSystem, Place
from host_sdk.bench.process import usage
from host_sdk.bench.system import Load, Quantiles, Sample
from host_sdk.wire.errors import DeviceError
from tests.rig.nodes import within

LOAD = Load("closed", 4, 0, 1, 0, warmup_s=0.1, seconds=0.1, seed=0)


class Sleeper(GrpcServer):
    """A peer whose server only sleeps."""

    name = "sleeper"

    def launch(self, place: Place) -> Launch:  # noqa: ARG002 - the peer's signature
        return Launch(["sleep", "60"])


class Mortal(PeerSystem):
    """A system whose server is killed in its first loads."""

    def __init__(self, deaths: int, said: list[str]) -> None:
        super().__init__(Sleeper(), (0, 0), said.append)
        self.deaths, self.checks = deaths, 0

    def check(self) -> int:
        self.checks += 1
        return 0

    def _post(self, load: Load) -> Sample:  # noqa: ARG002 - the system's signature
        _, server = self._started()
        if self.deaths == 0:
            assert within(10, lambda: usage(server.pid).rss_mb > 0)  # it may have to be loaded yet
            return Sample(1.0, Quantiles(1, 2, 3), requests=1, lost=0)
        self.deaths -= 1
        os.kill(server.pid, signal.SIGSEGV)
        assert server.ends(10)
        raise DeviceError("requests failed")


@pytest.fixture
def workload(tmp_path: Path) -> Workload:
    (model,) = find_models(None)
    return Workload(model, np.zeros((32, 1), np.int8), [], (10,), "int8", tmp_path)


def test_a_peer_that_dies_is_started_and_checked_again(workload: Workload) -> None:
    said: list[str] = []
    system = Mortal(2, said)
    try:
        system.start(workload)
        sample = system.load(LOAD)
    finally:
        system.stop()
    assert (sample.restarts, system.checks) == (2, 2)
    assert sample.rss_mb > 0
    assert said == ["sleeper died under the load, with status -11; starting it again"] * 2


def test_a_peer_that_keeps_dying_is_an_error(workload: Workload) -> None:
    system = Mortal(99, [])
    try:
        system.start(workload)
        with pytest.raises(DeviceError, match="sleeper ended with exit status -11"):
            system.load(LOAD)
    finally:
        system.stop()
