"""``napu replay``, to a virtual device and to a node."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from host_sdk.capture.tapped import TappedLink
from host_sdk.client import NapuClient
from host_sdk.operations import InferOptions
from host_sdk.wire.links.udp import UdpLink
from tests.rig.nodes import NodeProcess, node_process
from tests.rig.packages import DIGITS, held_out, tensor_package
from tests.rig.tiny_models import doubler

NAPU = [sys.executable, "-m", "host_sdk.cli.main"]


def napu(*arguments: str) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run([*NAPU, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    with node_process(tmp_path_factory.mktemp("node")) as running:
        yield running


@pytest.fixture(scope="module")
def capture(node: NodeProcess, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a host sent and got: the digits, some long tensors, and control."""
    path = tmp_path_factory.mktemp("captures") / "host.pcap"
    link = TappedLink(UdpLink("127.0.0.1", 0, peers=[node.address]), path)
    with NapuClient(link, node.address) as client:
        assert [answer.label for answer in client.infer_many("digits", [jpeg for _, jpeg in held_out()[:20]])]
    return path


@pytest.fixture(scope="module")
def of(node: NodeProcess, capture: Path) -> tuple[str, ...]:
    """Say which capture, and as whom: the node has no well-known port here."""
    return (str(capture), "--appliance", node.address)


def replay(*arguments: str, status: int = 0) -> dict[str, Any]:
    done = napu("replay", *arguments, "--json")
    assert done.returncode == status, done.stdout + done.stderr
    shown: dict[str, Any] = json.loads(done.stdout)
    return shown


def test_a_host_s_capture_is_answered_alike_by_a_virtual_device(of: tuple[str, ...], tmp_path: Path) -> None:
    one = replay(*of, "--virtual", "--out", str(tmp_path / "one.pcap"))
    two = replay(*of, "--virtual", "--out", str(tmp_path / "two.pcap"), "--package", str(DIGITS))
    assert (tmp_path / "one.pcap").read_bytes() == (tmp_path / "two.pcap").read_bytes() != b""
    assert one == two
    assert one["answers"]["identical"] + one["answers"]["alike"] == 20
    assert one["answers"]["different"] == one["answers"]["missing"] == 0
    assert one["left_out"]["control"] > 0
    text = napu("replay", *of, "--virtual").stdout
    assert f"digest of the replies: {one['digest']}" in text


def test_a_model_that_is_not_there_and_one_that_answers_otherwise_are_seen(of: tuple[str, ...], tmp_path: Path) -> None:
    package = tmp_path / "other.napu"
    package.write_bytes(tensor_package("other", doubler((1, 4))))
    shown = replay(*of, "--virtual", "--package", str(package), status=1)
    assert len(shown["unknown_pipelines"]) == 1
    assert shown["answers"]["different"] == 20
    assert any(
        "status was 0, is WRONG_SIZE" in text or "status was OK" in text for text in shown["answers"]["differences"]
    )


@pytest.mark.parametrize("speed", ["1", "4"])
def test_a_node_is_asked_again_at_the_capture_s_pace(of: tuple[str, ...], node: NodeProcess, speed: str) -> None:
    before = node.hardware()["inferences"]
    shown = replay(*of, "--node", node.address, "--link", "udp:127.0.0.1:0", "--speed", speed)
    assert shown["answers"]["different"] == shown["answers"]["missing"] == 0
    assert shown["answers"]["identical"] + shown["answers"]["alike"] == 20
    assert node.hardware()["inferences"] == before + 20


def test_large_requests_are_replayed_to_a_node(node: NodeProcess, tmp_path: Path) -> None:
    path = tmp_path / "long.pcap"
    bodies = np.arange(10 * 3000, dtype=np.float32).reshape(10, 3000)
    link = TappedLink(UdpLink("127.0.0.1", 0, peers=[node.address]), path)
    with NapuClient(link, node.address) as client:
        client.control("pipeline.install", package=tensor_package("long", doubler((1, 3000)), batch=4))
        answers = list(client.infer_many("long", bodies, options=InferOptions(trailer=True)))
        assert len(answers) == 10
    shown = replay(str(path), "--appliance", node.address, "--node", node.address, "--link", "udp:127.0.0.1:0")
    assert shown["answers"]["different"] == shown["answers"]["missing"] == 0


def test_a_capture_inside_a_node_is_replayed_once(tmp_path: Path) -> None:
    path = tmp_path / "node.pcapng"
    with node_process(tmp_path / "node", "--capture", str(path)) as node, node.client() as client:
        assert len(list(client.infer_many("digits", [jpeg for _, jpeg in held_out()[:20]]))) == 20
    shown = replay(str(path), "--virtual", "--appliance", node.address)
    assert shown["answers"]["identical"] + shown["answers"]["alike"] == 20
    assert shown["answers"]["different"] == shown["answers"]["missing"] == shown["answers"]["extra"] == 0
    assert shown["frames"] >= 21  # an opening, twenty requests, and what may have been sent again


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((), "--virtual, or --node"),
        (("--virtual", "--node", "x"), "--virtual, or --node"),
        (("--virtual", "--appliance", "9.9.9.9:1"), "to 9.9.9.9:1"),
        (("--virtual", "--profile", "none-such"), "none-such"),
        (("--virtual", "--package", "/no/such/file"), "/no/such/file"),
    ],
)
def test_a_users_mistake_is_a_sentence(of: tuple[str, ...], arguments: tuple[str, ...], word: str) -> None:
    done = napu("replay", *of, *arguments)
    assert done.returncode == 2
    assert word in done.stderr
    assert napu("replay", __file__, "--virtual").returncode == 2  # no capture
