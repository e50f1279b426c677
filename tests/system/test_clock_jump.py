"""A wall clock that jumps beneath a node: sessions, timers and the watchdog go by the monotonic one."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.rig.asking import Asking
from tests.rig.nodes import NodeProcess, node_process, within

LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
pytestmark = pytest.mark.skipif(LIBRARY is None, reason="only where libfaketime is, of the Debian package of that name")
DAY_S = 86400
NOW = "import time; print(time.time())"


@pytest.fixture
def jump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Let what is started from here on have a wall clock that can be set; return what sets it, in s from the true one."""
    file = tmp_path / "offset"

    def set_to(offset_s: int) -> None:
        beside = file.with_suffix(".new")
        beside.write_text(f"{offset_s:+d}")
        beside.replace(file)

    set_to(0)
    for name, value in (
        ("LD_PRELOAD", str(LIBRARY)),
        ("FAKETIME_TIMESTAMP_FILE", str(file)),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ):
        monkeypatch.setenv(name, value)
    yield set_to


def wall_s() -> float:
    return float(subprocess.run([sys.executable, "-c", NOW], capture_output=True, check=True).stdout)


def firmware_uptime_s(node: NodeProcess) -> int:
    with node.client() as client:
        return int(client.control("health")["board"]["uptime_s"])


def test_a_clock_that_jumps(tmp_path: Path, jump: Callable[[int], None]) -> None:
    with node_process(tmp_path / "node") as node, node.client(request=10) as client:
        assert "libfaketime" in Path(f"/proc/{node.process.pid}/maps").read_text()
        true = wall_s()
        thread = Asking(client)
        for days in (2, -3, 4000):
            jump(days * DAY_S)
            assert abs(wall_s() - true - days * DAY_S) < DAY_S / 2, (
                "the clock has not jumped, and the test shows nothing"
            )
            seen = len(thread.answers)
            assert within(20, lambda seen=seen: thread.has(seen + 50))  # type: ignore[misc]
        thread.end()
        assert firmware_uptime_s(node) < DAY_S
        counters = node.hardware()
        assert counters["sessions"] >= 1
        assert (counters["sessions_expired"], counters["firmware_resets"], counters["answers_busy"]) == (0, 0, 0)
        os.kill(node.firmware_pid(), 9)  # and the watchdog's board still starts another one
        assert within(20, lambda: node.hardware()["resets_killed"] == 1)
