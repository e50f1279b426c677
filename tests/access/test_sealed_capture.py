"""A capture inside a node with mutual access: sealed on its wire, open behind the seal, and explained all the same."""

from pathlib import Path

import numpy as np

from host_sdk.access.ca import LabCa, utc_now
from host_sdk.access.identity import Identity
from host_sdk.capture.analysis import Analysis, histories
from host_sdk.capture.explain import outcome
from host_sdk.capture.file import CaptureFile
from host_sdk.capture.history import Kind
from host_sdk.capture.sightings import Sightings
from host_sdk.client import NapuClient
from host_sdk.operations import Timeout
from host_sdk.wire.roles import Grant, Role
from host_sdk.wire.schema import Flag, Opcode
from tests.rig.nodes import node_process, stop
from tests.rig.packages import tensor_package
from tests.rig.tiny_models import doubler


def test_what_was_sealed_is_open_behind_the_seal_alone(tmp_path: Path) -> None:
    ca = LabCa.create(tmp_path / "ca", utc_now)
    ca.issue_user("ada", Grant(Role.ADMIN), tmp_path / "ada")
    ca.issue_device("napu1", tmp_path / "device")
    path, secret = tmp_path / "node.pcapng", np.array([3.25, 4.5, 5.75, 6.125], np.float32)
    options = ("--access", "mutual", "--credentials", str(tmp_path / "device"), "--capture", str(path))
    with node_process(tmp_path, *options) as node:
        who = Identity.load(tmp_path / "ada")
        with NapuClient("udp:127.0.0.1:0", node.address, timeout=Timeout(30.0, 30.0), identity=who) as client:
            client.control("pipeline.install", package=tensor_package("small", doubler((1, 4)), batch=8))
            for _ in range(5):
                client.infer("small", secret)
        assert stop(node.process) == 0
    with CaptureFile(path) as capture:
        seen = list(Sightings(capture))
    infers = [entry for entry in seen if entry.opcode in (Opcode.INFER, Opcode.RESULT)]
    wire = [entry for entry in infers if entry.tap in ("in", "out")]
    assert len(wire) == 10
    assert all(entry.flags & Flag.SEALED and secret.tobytes() not in entry.payload for entry in wire)
    opened = [entry for entry in infers if entry.tap == "classified"]
    assert [secret.tobytes() in entry.payload for entry in opened] == [True] * 5
    assert not any(entry.reason for entry in seen)
    assert {entry.source >> 40 for entry in opened} == {0xF0}  # 240.…: the key that they were sealed with
    assert sum(entry.tap == "dla" for entry in seen) == 5
    found = [history for history in histories(seen, Analysis()) if history.opcode == Opcode.INFER]
    assert [outcome(history) for history in found] == ["answered"] * 5
    assert [history.counts[Kind.BEGAN] for history in found] == [1] * 5
