"""``napu fw`` and ``napu load`` as their users type them."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from firmware.image.build import build_image
from tests.rig.nodes import NodeProcess, node_process
from tests.rig.packages import held_out

NAPU = [sys.executable, "-m", "host_sdk.cli.main"]
LINK = ["--link", "udp:127.0.0.1:0"]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[NodeProcess]]:
    with node_process(tmp_path_factory.mktemp("one")) as one, node_process(tmp_path_factory.mktemp("two")) as two:
        yield [one, two]


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "digit.jpg"
    path.write_bytes(held_out()[0][1])
    return path


def napu(*arguments: str, status: int = 0) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run([*NAPU, *arguments, *LINK], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def asked(*arguments: str, status: int = 0) -> Any:
    return json.loads(napu(*arguments, "--json", status=status).stdout)


def test_a_fleet_is_flashed_and_taken_back(nodes: list[NodeProcess], tmp_path: Path) -> None:
    image, addresses = tmp_path / "new.img", [node.address for node in nodes]
    image.write_bytes(build_image("2.0"))
    done = asked("fw", "flash", *addresses, "--image", str(image))["appliances"]
    assert [(entry["address"], entry["result"], entry["after"]) for entry in done] == [
        (address, "confirmed", "2.0") for address in addresses
    ]
    assert "unchanged" in napu("fw", "flash", addresses[0], "--image", str(image)).stdout
    found = asked("fw", "status", *addresses)["appliances"]
    assert {entry["version"] for entry in found.values()} == {"2.0"}
    lines = napu("fw", "rollback", *addresses).stdout.splitlines()
    assert [line.split(": ")[:2] for line in lines] == [[address, "confirmed"] for address in addresses]
    shown = napu("fw", "status", addresses[0]).stdout
    assert "A runs" in shown
    assert "2.0" in shown
    assert asked("fw", "confirm", addresses[0])["appliances"][0]["result"] == "unchanged"


def test_a_fleet_stops_at_the_first_failure(nodes: list[NodeProcess], tmp_path: Path) -> None:
    image, addresses = tmp_path / "bad.img", [node.address for node in nodes]
    content = bytearray(build_image("3.0"))
    content[5000] ^= 1
    image.write_bytes(content)
    before = asked("fw", "status", *addresses)["appliances"]
    done = asked("fw", "flash", *addresses, "--image", str(image), status=1)["appliances"]
    assert [entry["result"] for entry in done] == ["failed", "not begun"]
    assert "does not match the digest" in done[0]["message"]
    after = asked("fw", "status", *addresses)["appliances"]
    assert after[addresses[0]]["slots"]["B"]["state"] == "bad"
    assert after[addresses[1]] == before[addresses[1]]
    again = napu("fw", "flash", *addresses, "--image", str(image), status=1)
    assert "1 of 2 not begun" in again.stderr


def test_what_is_no_image_or_no_appliance(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    error = napu("fw", "flash", "127.0.0.1:9", "--image", str(tmp_path / "text"), status=2).stderr
    assert "is no firmware image; napu-fw build and napu-fw sign make one" in error
    image = tmp_path / "new.img"
    image.write_bytes(build_image("2.0"))
    done = asked("fw", "flash", "127.0.0.1:9", "--image", str(image), "--patience", "1", status=3)
    assert done["appliances"][0]["error"] == "NapuTimeoutError"


def test_a_load_counts_what_became_of_everything(nodes: list[NodeProcess], picture: Path, tmp_path: Path) -> None:
    targets = [option for node in nodes for option in ("--target", node.address)]
    report = asked("load", "digits", str(picture), "--rate", "200", "--seconds", "1", *targets)
    assert report["sent"] == report["answered"] == sum(report["appliances"].values()) > 0
    assert (report["lost"], report["failed"], set(report["appliances"])) == (0, 0, {node.address for node in nodes})
    assert all(len(epochs) == 1 for epochs in report["epochs"].values())
    (tmp_path / "no.jpg").write_text("no image")
    files = (str(picture), str(tmp_path / "no.jpg"))
    report = asked("load", "digits", *files, "--rate", "100", "--seconds", "0.5", *targets, status=1)
    assert report["failures"] == {"UndecodableError": report["failed"]}
    assert report["answered"] + report["failed"] == report["sent"]
    assert "failed" in napu("load", "digits", *files, "--seconds", "0.2", *targets, status=1).stdout


def test_a_load_ends_at_ctrl_c_with_its_report(nodes: list[NodeProcess], picture: Path) -> None:
    command = [*NAPU, "load", "digits", str(picture), "--seconds", "600", "--json", "--target", nodes[0].address, *LINK]
    before = nodes[0].hardware().get("inferences", 0)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while nodes[0].hardware().get("inferences", 0) < before + 10:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        output, error = process.communicate(timeout=30)
    assert (process.returncode, error) == (0, "")
    report = json.loads(output)
    assert report["sent"] == report["answered"] >= 9
    assert (report["lost"], report["failed"]) == (0, 0)
