"""``napu-node-health`` beside real nodes, well and ill."""

import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from appliance import health
from host_sdk.access.ca import LabCa, utc_now
from host_sdk.client import NapuClient
from host_sdk.wire import schema
from host_sdk.wire.header import Header
from tests.rig import tiny_models
from tests.rig.nodes import ROOT, NodeProcess, node_process, within
from tests.rig.packages import digits_labels, digits_model, image_manifest, pack, tensor_package
from tests.rig.switched import Switched, switched
from tests.rig.wires import needs_root


def probe(*options: str) -> tuple[int, str]:
    """Run the program in the caller's namespace; return its exit status and what it says."""
    command = [sys.executable, "-m", "appliance.health", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT, check=False)
    assert not done.stderr
    return done.returncode, done.stdout


@pytest.fixture(scope="module")
def lab() -> Iterator[Switched]:
    with switched("host", "node") as made:
        yield made


@contextmanager
def served(lab: Switched, directory: Path, link: str, *options: str) -> Iterator[NodeProcess]:
    with lab.places["node"].entered(), node_process(directory, *options, link=link) as node:
        yield node


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def firmware_of(node: NodeProcess) -> int:
    tasks = Path(f"/proc/{node.process.pid}/task")
    (pid,) = [int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()]
    return pid


def test_what_it_knows_of_the_protocol_is_what_the_schema_says() -> None:
    assert health.HEADER.size == schema.HEADER_SIZE
    assert schema.REQUEST_HEADER.struct_format == health.HEADER.format
    assert (health.VERSION, health.REPLY_BIT) == (schema.VERSION, schema.REPLY_BIT)
    assert (health.ETHERTYPE, health.UDP_PORT) == (schema.ETHERTYPE, schema.UDP_PORT)
    for name in ("DISCOVER", "OPEN", "CLOSE", "INFER"):
        assert getattr(health, name) == schema.Opcode[name]
    for name in ("OK", "BUSY", "UNKNOWN_PIPELINE", "WRONG_SIZE", "UNDECODABLE", "TOO_LARGE", "NOT_SEALED"):
        assert getattr(health, name) == schema.Status[name]
    reply = Header(opcode=0x90, request=7, session=9, status=50, retry_after=3, fragment_size=64)
    assert health.HEADER.unpack(reply.encode())[-1] >> 16 == 50


def test_it_imports_little() -> None:
    code = "import sys, appliance.health; print(*sorted(m.partition('.')[0] for m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not {"numpy", "dataclasses", "argparse", "ctypes", "inspect", "subprocess"} & set(done.stdout.split())


def test_its_pictures_are_pictures() -> None:
    for body in (health.smallest_png(), health.SMALLEST_JPEG):
        assert Image.open(io.BytesIO(body)).convert("L").size == (8, 8)


@needs_root
@pytest.mark.parametrize("link", ["packet:any", "xdp:any"])
def test_through_the_interface(lab: Switched, tmp_path: Path, link: str) -> None:
    with served(lab, tmp_path, link) as node:
        code, said = probe()
        assert (code, said.startswith("healthy: digits has answered in ")) == (0, True)
        assert said.endswith("on packet:eth0\n")
        with lab.places["host"].entered(), NapuClient("packet:eth0", node.address) as client:
            counters = client.stats()["hardware"]
        assert counters["answers_ok"] >= 1
        assert counters["sessions"] == 0, "it has left its session behind"
        with stopped(firmware_of(node)):
            code, said = probe()
            assert code == 0
            assert said.startswith(
                "healthy, but its firmware does not answer; an inference was answered on packet:eth0"
            )
        with stopped(node.process.pid):
            assert probe("--timeout", "0.7", "--link", link) == (1, "unhealthy: no answer to OPEN on packet:eth0\n")
        lab.places["node"].set("eth0", state="down")
        assert probe("--link", link) == (1, "unhealthy: interface eth0 is down\n")
        lab.places["node"].set("eth0", state="up")
        assert within(10, lambda: probe("--timeout", "1")[0] == 0)


def test_over_udp_with_pipelines_of_every_input(tmp_path: Path) -> None:
    with node_process(tmp_path) as node, node.client() as client:
        link = ("--link", f"udp:{node.address}")
        assert probe(*link)[1].startswith("healthy: digits has answered")
        client.control("pipeline.remove", name="digits")
        assert probe(*link)[1].startswith("healthy: there is no pipeline to try, and sessions open")
        files = {"model.tflite": digits_model(), "labels.txt": digits_labels()}
        manifest = image_manifest(digits_model(), "photos").replace('["jpeg", "png"]', '["jpeg"]')
        client.control("pipeline.install", package=pack(manifest, files))
        assert probe(*link)[1].startswith("healthy: photos has answered")
        client.control("pipeline.install", package=tensor_package("wide", tiny_models.doubler((1, 9000))))
        client.control("pipeline.remove", name="photos")
        assert probe(*link)[1].startswith("healthy: wide has answered")  # of 36,000 bytes, in fragments
        client.control("pipeline.install", package=tensor_package("rows", tiny_models.embedding(np.eye(4)), batch=4))
        assert probe(*link)[1].startswith("healthy: rows has answered")
        with stopped(firmware_of(node)):
            code, said = probe(*link)
            assert code == 0
            assert "its dataplane answers (status " in said


def test_a_node_that_serves_sealed_frames_alone(tmp_path: Path) -> None:
    ca = LabCa.create(tmp_path / "ca", utc_now)
    ca.issue_device("napu1", tmp_path / "napu1")
    options = ("--access", "mutual", "--credentials", str(tmp_path / "napu1"))
    with node_process(tmp_path / "node", *options) as node:
        code, said = probe("--link", f"udp:{node.address}")
        assert code == 0
        assert said.startswith("healthy: digits wants sealed frames, so no inference was tried")


def test_where_nobody_is() -> None:
    nobody = 1, "unhealthy: no answer to OPEN on udp:127.0.0.1:9\n"
    assert probe("--link", "udp:127.0.0.1:9", "--timeout", "0.3") == nobody
    assert probe("--link", "tcp") == (2, "napu-node-health: 'tcp' is not a link; write it as for napu-node\n")
    assert probe("--link", "packet:nothere7")[0] == 1
