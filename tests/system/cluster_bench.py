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


def rate(client: NapuClient, requests: int) -> tuple[float, float]:
    """Return answers a second, and µs of processor time that the client took for each."""
    item, began, used = np.zeros((1, FLOATS), "<f4"), time.perf_counter(), time.process_time()
    answers = sum(isinstance(answer, Inference) for answer in client.infer_many("small", [item] * requests))
    return answers / (time.perf_counter() - began), (time.process_time() - used) / answers * 1e6


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
        turns: list[list[tuple[float, float]]] = []
        for turn in range(options.turns + 1):
            order = (plain, cluster) if turn % 2 else (cluster, plain)
            measured = {client: rate(client, options.requests) for client in order}
            turns += [[measured[plain], measured[cluster]]] if turn else []  # the first warms up
        moved = cluster.tally.moved
    for index, name in enumerate(("NapuClient", "NapuCluster")):
        rates, used = zip(*(turn[index] for turn in turns), strict=True)
        text = f"{statistics.median(rates):8.0f}/s ({min(rates):.0f} to {max(rates):.0f})"
        sys.stdout.write(f"{name:12}{text}, {statistics.median(used):.1f} µs of processor time for each\n")
    ratios = [cluster[0] / plain[0] for plain, cluster in turns]
    text = f"{statistics.median(ratios):8.3f}   ({min(ratios):.3f} to {max(ratios):.3f})"
    sys.stdout.write(f"{'ratio':12}{text}; {moved} moved\n")


if __name__ == "__main__":
    main()
