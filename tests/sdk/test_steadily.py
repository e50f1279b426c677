"""Inferences at a steady rate, at an appliance in this process."""

import itertools
from collections.abc import Iterator

import pytest

from host_sdk.results import Inference
from tests.rig.nodes import NodeProcess, node_process
from tests.rig.packages import held_out


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    with node_process(tmp_path_factory.mktemp("node")) as running:
        yield running


@pytest.mark.parametrize("rate", [200.0, 1e6])
@pytest.mark.parametrize("count", [0, 1, 300])
def test_each_item_is_asked_for_once_and_then_it_ends(node: NodeProcess, rate: float, count: int) -> None:
    label, jpeg = held_out()[0]
    with node.client() as client:
        before = client.stats()["hardware"].get("inferences", 0)
        results = list(client.infer_steadily("digits", itertools.repeat(jpeg, count), rate))
        assert [isinstance(result, Inference) and result.label for result in results] == [label] * count
        assert client.stats()["hardware"].get("inferences", 0) == before + count


def test_items_are_taken_when_they_are_due_and_no_faster(node: NodeProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0

    def clock() -> int:
        return now

    _, jpeg = held_out()[0]
    taken = 0

    def items() -> Iterator[bytes]:
        nonlocal taken
        for _ in range(50):
            taken += 1
            yield jpeg

    with node.client() as client:
        client.pipelines()
        monkeypatch.setattr("host_sdk.client.time.monotonic_ns", clock)
        results = client.infer_steadily("digits", items(), 10.0)
        for number in range(1, 6):
            assert isinstance(next(results), Inference)
            assert taken == number  # the first at once, then one for each 100 ms of the clock
            now += 100_000_000
        results.close()


def test_one_bad_item_is_one_error_among_answers(node: NodeProcess) -> None:
    _, jpeg = held_out()[0]
    with node.client() as client:
        results = list(client.infer_steadily("digits", [jpeg, b"no image", jpeg], 1000.0))
    assert sorted(type(result).__name__ for result in results) == ["Inference", "Inference", "UndecodableError"]
