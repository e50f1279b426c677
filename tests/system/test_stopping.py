"""A node that is told to stop, as the first process of a container: at rest, at work, at its beginning, in trouble."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from appliance.stopping import OrphanReaper
from host_sdk.client import NapuClient
from host_sdk.wire.errors import NapuError
from tests.rig.nodes import ROOT, within
from tests.rig.packages import held_out
from tests.rig.wires import needs_root

STOP_S = 10.0


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


class First:
    """A node that is the first process of a PID namespace, as in a container, where signals have no default action."""

    def __init__(self, directory: Path) -> None:
        self.log = directory / "log"
        command = ("-m", "appliance.main", "--link", "udp:127.0.0.1:0", "--access", "open", "--flash")
        with self.log.open("wb") as sink:
            self.outer = subprocess.Popen(
                ["unshare", "--pid", "--fork", "--kill-child", sys.executable, *command, str(directory / "flash")],
                stdout=subprocess.PIPE,
                stderr=sink,
                cwd=ROOT,
            )
        assert within(10, lambda: bool(children(self.outer.pid)))
        (self.pid,) = children(self.outer.pid)

    def ready(self) -> str:
        """Wait until it serves, and return its address."""
        assert self.outer.stdout
        line = self.outer.stdout.readline().decode()
        assert line, self.log.read_text()
        return line.partition('"address": "')[2].partition('"')[0]

    def runs_firmware(self) -> bool:
        """Return whether its firmware's first stage has begun."""
        return any(b"first_stage" in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children(self.pid))

    def stop(self) -> int:
        """Send SIGTERM and return the exit status."""
        os.kill(self.pid, signal.SIGTERM)
        return self.outer.wait(STOP_S)


@pytest.fixture
def first(tmp_path: Path) -> Iterator[First]:
    node = First(tmp_path)
    try:
        yield node
    finally:
        node.outer.kill()
        node.outer.wait()
        if node.outer.stdout:
            node.outer.stdout.close()


@contextmanager
def load(address: str) -> Iterator[list[object]]:
    """Have requests made all the time."""
    answers: list[object] = []
    images = [jpeg for _, jpeg in held_out()[:200]]

    def run() -> None:
        with NapuClient("udp:127.0.0.1:0", address) as client:
            try:
                while True:
                    answers.extend(client.infer_many("digits", images))
            except NapuError:
                return

    thread = threading.Thread(target=run)
    thread.start()
    yield answers
    thread.join(60)


@needs_root
class TestTheFirstProcess:
    def test_stops_at_work_with_its_firmware(self, first: First) -> None:
        address = first.ready()
        (firmware,) = children(first.pid)
        with load(address) as answers:
            assert within(20, lambda: len(answers) > 100)
            assert first.stop() == 0
        assert not Path(f"/proc/{firmware}").exists()

    def test_stops_with_a_firmware_that_hangs(self, first: First) -> None:
        first.ready()
        (firmware,) = children(first.pid)
        os.kill(firmware, signal.SIGSTOP)
        assert first.stop() == 0
        assert not Path(f"/proc/{firmware}").exists()

    @pytest.mark.parametrize("begun", ["the flash is there", "its firmware runs", "its firmware hangs"])
    def test_stops_while_it_boots(self, first: First, begun: str, tmp_path: Path) -> None:
        assert within(20, lambda: (tmp_path / "flash").exists())
        if begun != "the flash is there":
            assert within(20, first.runs_firmware)
        if begun == "its firmware hangs":
            os.kill(children(first.pid)[0], signal.SIGSTOP)
        assert first.stop() == 0
        assert b"napu-node" not in (first.outer.stdout or sys.stdin.buffer).read()
        assert "Traceback" not in first.log.read_text()

    def test_buries_orphans(self, first: First) -> None:
        first.ready()
        # Started from outside, as `docker exec` does, by a parent that ends before it.
        orphan = ["nsenter", "-t", str(first.pid), "--pid", "sh", "-c", "sleep 0.2 & echo $!"]
        subprocess.run(orphan, check=True, capture_output=True, timeout=10)
        assert within(5, lambda: len(children(first.pid)) == 2)
        assert within(30, lambda: len(children(first.pid)) == 1)
        assert first.stop() == 0


def test_what_is_its_own_is_left_to_its_owner() -> None:
    with subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"]) as own:
        os.waitid(os.P_PID, own.pid, os.WEXITED | os.WNOWAIT)
        assert OrphanReaper(lambda: own.pid).reap() == 0
        assert own.wait() == 3
