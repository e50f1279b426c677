"""`napu cluster`, and commands that take several appliances as one."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from host_sdk.cli.demo_images import held_out
from tests.rig.nodes import NodeProcess, node_process

NAPU = [sys.executable, "-m", "host_sdk.cli.main"]
DEAD = "127.0.0.1:9"
LINK = ("--link", "udp:127.0.0.1:0")


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[NodeProcess]]:
    with ExitStack() as running:
        options = ("--name", "one"), ("--name", "two")
        yield [running.enter_context(node_process(tmp_path_factory.mktemp("node"), *each)) for each in options]


def napu(*arguments: str) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run([*NAPU, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr
    return done


def targets(*addresses: str) -> list[str]:
    return [*LINK, *(word for address in addresses for word in ("--target", address))]


def test_status_shows_each_member_and_those_that_are_silent(nodes: list[NodeProcess]) -> None:
    addresses = [node.address for node in nodes]
    done = napu("cluster", "status", *targets(*addresses, DEAD), "--json")
    assert done.returncode == 0
    members = json.loads(done.stdout)["members"]
    assert [(member["name"], member["address"], member["state"]) for member in members] == [
        ("one", addresses[0], "up"),
        ("two", addresses[1], "up"),
        ("", DEAD, "down"),
    ]
    assert members[0]["device"] == nodes[0].facts["device"]
    assert members[0]["pipelines"] == ["digits"]
    shown = napu("cluster", "status", *targets(*addresses, DEAD)).stdout.splitlines()
    assert [line.split()[:1] for line in shown] == [["NAME"], ["one"], ["two"], [DEAD]]


def test_nobody_is_up() -> None:
    done = napu("cluster", "status", *targets(DEAD))
    assert done.returncode == 3
    assert DEAD in done.stdout


def test_watch_goes_on_until_it_is_interrupted(nodes: list[NodeProcess]) -> None:
    command = [*NAPU, "cluster", "status", *targets(nodes[0].address), "--watch"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout
        try:
            lines = [watching.stdout.readline() for _ in range(4)]
            assert [line.split()[0] for line in lines] == ["NAME", "one", "NAME", "one"]
            watching.send_signal(signal.SIGINT)
            assert watching.wait(10) == 130
        finally:
            watching.kill()


def test_load_and_infer_go_past_one_that_is_dead(nodes: list[NodeProcess], tmp_path: Path) -> None:
    addresses = [node.address for node in nodes]
    picture = tmp_path / "picture.jpg"
    picture.write_bytes(held_out(1)[0].jpeg)
    done = napu("infer", "digits", str(picture), *targets(DEAD, *addresses), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["answers"][0]["appliance"] in addresses
    done = napu("load", "digits", str(picture), *targets(*addresses, DEAD), "--rate", "200", "--seconds", "1", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 0
    assert report["answered"] == report["sent"] > 100
    assert set(report["appliances"]) == set(addresses)
