"""What is left of an appliance's rate while one session floods it: ``python -m tests.system.overload_bench MODEL``.

One appliance on one core, the flood on the other, on one cable. In turns: the peak, from a session that keeps to its
credits, and the flood, of ten times that rate or what the load can do, from one that does not. Only root has AF_XDP.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from host_sdk.bench.load import Sender
from host_sdk.bench.loops import closed_loop
from host_sdk.bench.models import Model, find_models
from host_sdk.bench.pinned import pinned
from host_sdk.bench.prepared import PreparedWindow
from host_sdk.client import NapuClient
from host_sdk.engine import Engine
from host_sdk.lab.file_format import JUMBO_MTU
from host_sdk.lab.lab import Lab
from host_sdk.lab.topology import Appliance, Topology, default_mac
from host_sdk.wire.links.auto import open_link
from host_sdk.wire.schema import Flag

MODELS = Path(__file__).resolve().parents[3] / "shared" / "models"
TIMES = 10
SECONDS = 0.5
ROUNDS = 9
_FLAGS = int(Flag.ONCE | Flag.TRAILER)
_BURST = 64
FATES = (
    "answers_busy",
    "frames_over_credit",
    "link_rx_rx_fill_ring_empty",
    "link_rx_rx_ring_full",
    "link_rx_rx_dropped",
)


def flood(window: PreparedWindow, per_s: float, seconds: float) -> dict[str, float]:
    """Send at a rate, whatever comes back; return what was sent and answered OK, each per second."""
    burst = min(_BURST, window.room)
    began = time.perf_counter_ns()
    end, sent, answered = began + int(seconds * 1e9), 0, 0
    while (now := time.perf_counter_ns()) < end:
        if sent < (now - began) * per_s / 1e9:
            window.submit(np.full(burst, now))
            sent += burst
        taken = window.receive()
        answered += len(taken.due_ns) if taken else 0
    return {"sent": sent / seconds, "ok": answered / seconds}


def host(spec: str, pipeline: str) -> None:
    """Measure from the host of the lab and print one line of JSON for each turn."""
    with NapuClient(spec, []) as client:
        target = client.discover()[0].address
        known = next(entry for entry in client.pipelines(target) if entry.name == pipeline)

    def counters() -> dict[str, int]:
        with NapuClient(spec, [target]) as client:
            found: dict[str, int] = client.stats(target)["hardware"]
            return found

    body = bytes(known.max_bytes)
    for _ in range(ROUNDS):
        engine = Engine(open_link(spec).link, now=time.perf_counter_ns)
        sender = Sender(engine, engine.link.parse_address(target), known.handle)
        window = sender.prepared(body, _FLAGS, time.perf_counter_ns)
        end = time.perf_counter_ns() + int(SECONDS * 1e9)
        answered = closed_loop(window, window.room, end, time.perf_counter_ns)
        peak = sum(len(each.due_ns) for each in answered) / SECONDS
        engine.close()
        before = counters()
        engine = Engine(open_link(spec).link, now=time.perf_counter_ns)
        sender = Sender(engine, engine.link.parse_address(target), known.handle)
        figures = flood(sender.prepared(body, _FLAGS, time.perf_counter_ns), TIMES * peak, SECONDS)
        engine.close()
        after = counters()
        fates = {name: (after.get(name, 0) - before.get(name, 0)) / SECONDS for name in FATES}
        sys.stdout.write(json.dumps({"peak": peak, **figures, **fates, "goodput": figures["ok"] / peak}) + "\n")
        sys.stdout.flush()


def main() -> None:
    """Bring the lab up and run the host's part in it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="kws")
    parser.add_argument("--host", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.host:
        host("xdp:eth0", arguments.model)
        return
    model: Model = find_models(MODELS if MODELS.is_dir() else None, (arguments.model,))[0]
    with tempfile.TemporaryDirectory() as directory:
        pipeline = model.write_pipeline(Path(directory))
        node = ["-m", "appliance.cli", "--access", "open", "--pipeline", str(pipeline), "--link", "xdp:eth0"]
        command = pinned(1, [sys.executable, *node, "--flash", "{flash}", "--ready-fd", "{ready_fd}"])
        appliance = Appliance("napu1", default_mac(1), command=tuple(command))
        name = f"overload-{os.getpid()}"
        with Lab.up(Topology(name, (appliance,), mtu=JUMBO_MTU, link="xdp", cabling="direct")) as lab:
            load = [sys.executable, "-m", "tests.system.overload_bench", arguments.model, "--host"]
            subprocess.run(lab.inside("host", pinned(0, load)), check=True)


if __name__ == "__main__":
    main()
