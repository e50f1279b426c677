"""What a cluster client costs: ``python -m tests.system.cluster_bench``; not a test, as it times.

A plain client and a cluster client take turns at the same two nodes over UDP on loopback, which run a model that
takes no time, so that what the clients themselves do counts for as much as it can.
"""

import argparse
import statistics
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from host_sdk.client import NapuClient
from host_sdk.cluster.client import NapuCluster
from host_sdk.results import Inference
from tests.rig.nodes import node_process
from tests.rig.packages import tensor_package
from tests.rig.tiny_models import doubler

FLOATS = 64


def rate(client: NapuClient, requests: int) -> float:
    """Return answers a second."""
    item, began = np.zeros((1, FLOATS), "<f4"), time.perf_counter()
    answers = sum(isinstance(answer, Inference) for answer in client.infer_many("small", [item] * requests))
    return answers / (time.perf_counter() - began)


def main() -> None:
    """Print the rates of each client, and the ratio of each pair of turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--requests", type=int, default=20_000)
    options = parser.parse_args()
    with ExitStack() as stack:
        place = Path(stack.enter_context(TemporaryDirectory()))
        addresses = [stack.enter_context(node_process(place / name)).address for name in "ab"]
        plain = stack.enter_context(NapuClient("udp:127.0.0.1:0", addresses))
        for address in addresses:
            package = tensor_package("small", doubler((1, FLOATS)), batch=32)
            plain.control("pipeline.install", target=address, package=package)
        cluster = stack.enter_context(NapuCluster("udp:127.0.0.1:0", addresses))
        rates: list[tuple[float, float]] = []
        for turn in range(options.turns + 1):
            first, second = (plain, cluster) if turn % 2 else (cluster, plain)
            begun, ended = rate(first, options.requests), rate(second, options.requests)
            pair = (begun, ended) if turn % 2 else (ended, begun)
            rates += [pair] if turn else []  # the first warms up
        moved = cluster.tally.moved
    for name, each in zip(("NapuClient", "NapuCluster"), zip(*rates, strict=True), strict=True):
        sys.stdout.write(f"{name:12} {statistics.median(each):8.0f}/s  ({min(each):.0f} to {max(each):.0f})" + "\n")
    ratios = [second / first for first, second in rates]
    sys.stdout.write(
        f"ratio        {statistics.median(ratios):8.3f}    ({min(ratios):.3f} to {max(ratios):.3f}); {moved} moved\n"
    )


if __name__ == "__main__":
    main()
