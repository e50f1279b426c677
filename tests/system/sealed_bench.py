"""What sealing costs: ``python -m tests.system.sealed_bench``; not a test, as it times.

Two nodes over UDP on loopback, one with open access and one with mutual, run the same small model; their clients
take turns, so that what the machine gives meets both alike. Before that, what sealing and opening take for each
frame, without any node.
"""

import os
import statistics
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from host_sdk.access.ca import LabCa, utc_now
from host_sdk.access.identity import Identity
from host_sdk.client import NapuClient
from host_sdk.wire.links.base import SEALED_PEER
from host_sdk.wire.links.memory import MemorySwitch
from host_sdk.wire.roles import Grant, Role
from host_sdk.wire.sealed.keys import MATERIAL_SIZE, KeyRing, SealKey
from host_sdk.wire.sealed.link import SealedLink, Tally
from tests.rig.nodes import node_process
from tests.rig.packages import tensor_package
from tests.rig.tiny_models import doubler
from tests.rig.wires import send

FLOATS, TURNS, SECONDS = 64, 9, 0.5
FOREVER = 1 << 62


def rate(napu: NapuClient, window: int) -> float:
    """Return inferences a second."""
    item, done, began = np.zeros((1, FLOATS), "<f4"), 0, time.perf_counter()
    while (passed := time.perf_counter() - began) < SECONDS:
        done += sum(1 for _ in napu.infer_many("small", [item] * 512, window=window))
    return done / passed


def compare(directory: Path) -> None:
    """Print rates in the clear and sealed, by requests outstanding."""
    ca = LabCa.create(directory / "ca", utc_now)
    ca.issue_user("oleg", Grant(Role.OPERATOR), directory / "oleg")
    ca.issue_device("napu1", directory / "device")
    who = Identity.load(directory / "oleg")
    with ExitStack() as stack:
        mutual = ("--access", "mutual", "--credentials", str(directory / "device"))
        plain = stack.enter_context(node_process(directory / "open"))
        sealed = stack.enter_context(node_process(directory / "mutual", *mutual))
        link = "udp:127.0.0.1:0"
        clients = [
            stack.enter_context(NapuClient(link, plain.address)),
            stack.enter_context(NapuClient(link, sealed.address, identity=who)),
        ]
        for each in clients:
            each.control("pipeline.install", package=tensor_package("small", doubler((1, FLOATS)), batch=32))
        for window in (1, 16, 64):
            turns = [[rate(each, window) for each in clients] for _ in range(TURNS)]
            in_clear, with_seals = (statistics.median(column) for column in zip(*turns, strict=True))
            ratio = statistics.median(two / one for one, two in turns)
            print(f"{window:3} outstanding: {in_clear:8.0f}/s in the clear, {with_seals:8.0f}/s sealed: {ratio:.2f}")  # noqa: T201


def parts() -> None:
    """Print what a frame costs to seal and to open, by the frames that come at once."""
    switch = MemorySwitch()
    one, two = switch.attach(), switch.attach()
    material, peer = os.urandom(MATERIAL_SIZE), SEALED_PEER | 1
    links = []
    for link, other, responder in ((one, two, False), (two, one, True)):
        ring = KeyRing()
        ring.add(SealKey(1, other.address, material, responder=responder, expires_ns=FOREVER))
        links.append(SealedLink(link, ring, Tally(), time.monotonic_ns, responder=responder))
    sender, receiver = links
    for size in (300, 1400):
        for count in (1, 16, 64):
            pdus, taken = [bytes(size)] * count, {"seal": [], "open": [], "copy": [], "take": []}
            for _ in range(300):
                for names, target, source, sink in (
                    (("seal", "open"), peer, sender, receiver), (("copy", "take"), two.address, one, two)
                ):  # fmt: skip
                    began = time.perf_counter()
                    send(source, pdus, target)
                    sent = time.perf_counter()
                    assert len(sink.receive()) == count
                    taken[names[0]].append(sent - began)
                    taken[names[1]].append(time.perf_counter() - sent)
            cost = {name: statistics.median(values) / count * 1e6 for name, values in taken.items()}
            seal, opened = cost["seal"] - cost["copy"], cost["open"] - cost["take"]
            print(f"{size:5} bytes, {count:3} at once: {seal:5.1f} µs to seal, {opened:5.1f} µs to open, a frame")  # noqa: T201


if __name__ == "__main__":
    parts()
    with TemporaryDirectory() as name:
        compare(Path(name))
