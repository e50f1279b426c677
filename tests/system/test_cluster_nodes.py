"""A cluster client and real nodes over UDP, of which one is killed, stopped, restarted or drained under load."""

import asyncio
import itertools
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from host_sdk.cluster.aio import AsyncNapuCluster
from host_sdk.cluster.client import NapuCluster
from host_sdk.cluster.policy import ClusterPolicy
from host_sdk.operations import Timeout
from host_sdk.results import Inference
from host_sdk.wire.errors import NapuError, UncertainError
from tests.rig.nodes import NodeProcess, node_process, within
from tests.rig.packages import held_out

LIMIT = Timeout(request=20.0)  # that no request comes near, whatever the machine does besides
PATIENT = ClusterPolicy(suspect_after=100, down_after=100)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[NodeProcess]]:
    with ExitStack() as running:
        yield [running.enter_context(node_process(tmp_path_factory.mktemp("node"))) for _ in range(2)]


@pytest.fixture(scope="module")
def pictures(pair: list[NodeProcess]) -> list[tuple[str, bytes]]:
    """Pictures, each with what one appliance alone says of it."""
    jpegs = [jpeg for _, jpeg in held_out()]
    with pair[0].client() as client:
        answers = [answer for answer in client.infer_many("digits", jpegs) if isinstance(answer, Inference)]
    return [(str(answer.label), jpeg) for answer, jpeg in zip(answers, jpegs, strict=True)]


@pytest.fixture
def third(tmp_path: Path) -> Iterator[NodeProcess]:
    with node_process(tmp_path) as node:
        yield node


def cluster_of(nodes: list[NodeProcess], policy: ClusterPolicy | None = None) -> NapuCluster:
    return NapuCluster("udp:127.0.0.1:0", [node.address for node in nodes], timeout=LIMIT, policy=policy)


def state_of(cluster: NapuCluster, node: NodeProcess) -> str:
    return next(member.state for member in cluster.members() if member.address == node.address)


class Load:
    """Pictures to ask a cluster for, and what comes of them.

    Args:
        pictures: With their labels.
        count: How many.
        act: What is done before an item is taken, by its number.
    """

    def __init__(
        self, pictures: list[tuple[str, bytes]], count: int, act: dict[int, Callable[[], object]] | None = None
    ) -> None:
        self.pictures = list(itertools.islice(itertools.cycle(pictures), count))
        self._act = act or {}

    def items(self) -> Iterator[bytes]:
        for number, (_, jpeg) in enumerate(self.pictures):
            if number in self._act:
                self._act[number]()
            yield jpeg

    def on(self, cluster: NapuCluster) -> Counter[str]:
        """Have a cluster answer it all; return how many came from whom."""
        return self.right(list(cluster.infer_many("digits", self.items(), return_errors=True)))

    def right(self, results: list[Inference | NapuError]) -> Counter[str]:
        """Check that each was answered as it should be; return how many came from whom."""
        by: Counter[str] = Counter()
        for (label, _), result in zip(self.pictures, results, strict=True):
            assert isinstance(result, Inference), result
            assert result.label == label
            by[result.appliance] += 1
        return by


def test_one_of_three_is_killed_under_load_and_comes_back(
    pair: list[NodeProcess], third: NodeProcess, pictures: list[tuple[str, bytes]], tmp_path: Path
) -> None:
    with cluster_of([*pair, third]) as cluster:
        by = Load(pictures, 600, {300: third.process.kill}).on(cluster)
        assert set(by) == {node.address for node in (*pair, third)}
        assert within(20, lambda: state_of(cluster, third) == "down" or not cluster.refresh())
        device = {member.device for member in cluster.members() if member.address == third.address}
        with node_process(tmp_path, link=f"udp:{third.address}") as again:
            assert within(20, lambda: bool(cluster.refresh()) and state_of(cluster, again) == "up")
            assert {member.device for member in cluster.members() if member.address == again.address} == device
            assert Load(pictures, 300).on(cluster)[again.address] > 0


def test_one_of_three_is_stopped_under_load_and_goes_on(
    pair: list[NodeProcess], third: NodeProcess, pictures: list[tuple[str, bytes]]
) -> None:
    with cluster_of([*pair, third]) as cluster:
        assert len(Load(pictures, 200).on(cluster)) == 3
        try:
            Load(pictures, 400, {100: lambda: third.process.send_signal(signal.SIGSTOP)}).on(cluster)
            assert within(20, lambda: bool(cluster.refresh()) and state_of(cluster, third) == "down")
        finally:
            third.process.send_signal(signal.SIGCONT)
        assert within(20, lambda: bool(cluster.refresh()) and state_of(cluster, third) == "up")
        assert Load(pictures, 300).on(cluster)[third.address] > 0


def test_a_stopped_firmware_takes_nobody_out(
    pair: list[NodeProcess], third: NodeProcess, pictures: list[tuple[str, bytes]]
) -> None:
    with cluster_of([*pair, third], ClusterPolicy(quiet=0.05)) as cluster:
        assert len(Load(pictures, 200).on(cluster)) == 3
        firmware = third.firmware_pid()
        os.kill(firmware, signal.SIGSTOP)
        try:
            before = cluster.tally.probes
            cluster.refresh()
            cluster.refresh()
            assert cluster.tally.probes > before
            assert state_of(cluster, third) == "up"
            assert Load(pictures, 200).on(cluster)[third.address] > 0
        finally:
            os.kill(firmware, signal.SIGCONT)


def test_strict_says_of_what_it_cannot_know_and_loses_nothing_else(
    pair: list[NodeProcess], third: NodeProcess, pictures: list[tuple[str, bytes]]
) -> None:
    with cluster_of([*pair, third], ClusterPolicy(strict=True)) as cluster:
        load = Load(pictures, 600, {300: third.process.kill})
        results = list(cluster.infer_many("digits", load.items(), return_errors=True))
        uncertain = [result for result in results if isinstance(result, UncertainError)]
        assert all(third.address in error.member for error in uncertain)
        assert len(uncertain) == cluster.tally.uncertain
        assert all(isinstance(result, Inference | UncertainError) for result in results)
        assert 0 < len(uncertain) <= 64  # at most what it had outstanding


def test_drained_under_load_it_has_nothing_left(pair: list[NodeProcess], pictures: list[tuple[str, bytes]]) -> None:
    first = pair[0]
    with cluster_of(pair, PATIENT) as cluster:
        load = Load(pictures, 500)
        answers = cluster.infer_many("digits", load.items(), return_errors=True)
        results = list(itertools.islice(answers, 100))
        cluster.drain(first.address)
        asked = first.hardware()["inferences"]
        assert state_of(cluster, first) == "draining"
        load.right(results + list(answers))
        assert first.hardware()["inferences"] == asked
        cluster.undrain(first.address)
        assert Load(pictures, 200).on(cluster)[first.address] > 0
        assert cluster.tally.uncertain == 0


def test_on_an_event_loop_with_one_killed(
    pair: list[NodeProcess], third: NodeProcess, pictures: list[tuple[str, bytes]]
) -> None:
    async def main() -> None:
        addresses = [node.address for node in (*pair, third)]
        load = Load(pictures, 400, {200: third.process.kill})
        async with AsyncNapuCluster("udp:127.0.0.1:0", addresses, timeout=LIMIT) as cluster:
            load.right([answer async for answer in cluster.infer_many("digits", load.items(), return_errors=True)])
            singles = await asyncio.gather(*(cluster.infer("digits", jpeg) for _, jpeg in load.pictures[:50]))
            assert [answer.label for answer in singles] == [label for label, _ in load.pictures[:50]]
            assert {answer.appliance for answer in singles} <= {node.address for node in pair}

    asyncio.run(main())
