"""Looking after a real node from the command line."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.test_cli import NAPU, napu
from tests.rig.nodes import NodeProcess, node_process

WAIT_S = 30


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeProcess]:
    with node_process(tmp_path) as running:
        yield running


def follow(node: NodeProcess, *options: str) -> "subprocess.Popen[str]":
    command = [*NAPU, "console", node.address, "--link", "udp:127.0.0.1:0", "-f", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_console_prints_the_log_and_ends(node: NodeProcess) -> None:
    done = napu("console", node.address, "--link", "udp:127.0.0.1:0")
    assert done.returncode == 0, done.stderr
    with node.client() as client:
        lines = client.control("logs")["lines"]
    assert [text.partition("] ")[2] for text in done.stdout.splitlines()] == [line["text"] for line in lines]
    as_json = napu("console", node.address, "--link", "udp:127.0.0.1:0", "--json")
    assert [json.loads(text) for text in as_json.stdout.splitlines()] == lines


def test_following_goes_over_restarts_of_the_firmware_and_ends_with_ctrl_c(node: NodeProcess) -> None:
    with follow(node, "--json") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        seen: list[dict[str, object]] = []

        def read_until(text: str) -> None:
            end = time.monotonic() + WAIT_S
            while not any(text in str(line["text"]) for line in seen):
                assert time.monotonic() < end, seen
                seen.append(json.loads(process.stdout.readline()))

        for epoch in (1, 2, 3):
            read_until(f"epoch {epoch}, ")
            os.kill(node.firmware_pid(), signal.SIGKILL)
        read_until("epoch 4, KILLED")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=WAIT_S)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert [line["sequence"] for line in seen] == list(range(1, len(seen) + 1))


def test_following_ends_when_its_reader_goes_away(node: NodeProcess) -> None:
    with follow(node) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert "epoch 1, POWER_ON" in process.stdout.readline() + process.stdout.readline()
        process.stdout.close()  # and nothing more is logged
        assert process.wait(WAIT_S) == 1
        assert process.stderr.read() == ""


def test_status_says_how_a_node_is(node: NodeProcess) -> None:
    os.kill(node.firmware_pid(), signal.SIGKILL)
    done = napu("status", node.address, "--link", "udp:127.0.0.1:0", "--json")
    assert done.returncode == 0, done.stderr
    health = json.loads(done.stdout)
    assert health["address"] == node.address
    assert health["resets"] == {"exited": 0, "killed": 1, "watchdog": 0}
    assert (health["firmware"]["boots"], health["firmware"]["reset_reason"]) == (2, "KILLED")
    assert health["firmware"]["uptime_s"] <= health["board"]["uptime_s"]
    assert 25.0 <= health["board"]["temperature_c"] < health["board"]["limit_c"] == 85.0
    assert 1.5 <= health["board"]["power_w"] <= 7.9
    assert (health["board"]["dla_rate_percent"], health["board"]["throttled"]) == (100, False)
    text = napu("status", node.address, "--link", "udp:127.0.0.1:0")
    rows = dict(line.split() for line in text.stdout.splitlines()[1:])
    assert rows["resets.killed"] == "1"
    assert rows["firmware.reset_reason"] == "KILLED"


def test_a_node_that_is_not_there() -> None:
    done = napu("console", "no-such-node", "--link", "udp:127.0.0.1:0")
    assert done.returncode == 2
    assert "no-such-node" in done.stderr
