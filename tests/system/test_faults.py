"""A node behind a wire that loses, duplicates and reorders: every request is answered, and executed exactly once."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from host_sdk.results import Inference
from tests.rig.nodes import NodeProcess, node_process
from tests.rig.packages import tensor_package
from tests.rig.tiny_models import doubler

FAULTS = "loss=5%,duplicate=2%,reorder=5%"
SMALL, LONG = 4, 3000  # floats; the long one takes nine frames there and nine back


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeProcess]:
    options = ("--faults-in", FAULTS, "--faults-out", FAULTS, "--fault-seed", "7", "--poll", "adaptive")
    with node_process(tmp_path, *options) as node:
        yield node


def check(node: NodeProcess, name: str, bodies: np.ndarray) -> dict[str, int]:
    """Ask for every body, check every answer, and return by how much the node's counters rose."""
    with node.client(request=60.0, control=30.0) as client:
        client.control("pipeline.install", package=tensor_package(name, doubler((1, bodies.shape[1])), batch=32))
        before = client.stats()["hardware"]
        answers = client.infer_many(name, bodies)
        count = 0
        for body, answer in zip(bodies, answers, strict=True):
            assert isinstance(answer, Inference)
            (twice,) = answer.outputs.values()
            assert np.array_equal(np.ravel(twice), 2 * body)
            count += 1
        assert count == len(bodies)
        after = client.stats()["hardware"]
    assert after["rx_frames"] == sum(value for key, value in after.items() if key.startswith("frames_"))
    return {key: after[key] - before.get(key, 0) for key in after}


@pytest.mark.timeout(240)
def test_tens_of_thousands_of_requests_are_executed_once_each(node: NodeProcess) -> None:
    count = 50_000
    bodies = np.arange(count * SMALL, dtype=np.float32).reshape(count, SMALL)
    rose = check(node, "small", bodies)
    assert rose["inferences"] == count
    assert rose["frames_duplicate"] > count // 50
    assert rose["link_rx_fault_lost"] > count // 25
    assert rose["link_tx_fault_lost"] > count // 25


def test_long_requests_with_long_answers_get_through(node: NodeProcess) -> None:
    bodies = np.arange(300 * LONG, dtype=np.float32).reshape(300, LONG)
    rose = check(node, "long", bodies)
    assert rose["inferences"] == 300
    assert rose["notices"] > 0
