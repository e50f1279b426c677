"""A wall clock that jumps beneath a node: sessions, timers and the watchdog go by the monotonic one."""

import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.rig.asking import Asking
from tests.rig.nodes import ROOT, node_process, within

SOURCE = ROOT / "tests" / "rig" / "jumping_clock.c"
COMPILER = shutil.which("cc") or ""
DAY_S = 86400
NOW = "import time; print(time.time())"
pytestmark = pytest.mark.skipif(not COMPILER, reason="only where there is a C compiler")


@pytest.fixture
def jump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let what is started from here on have another wall clock; return what sets it, in days from the true one."""
    library, offset = tmp_path / "clock.so", tmp_path / "offset"
    subprocess.run([COMPILER, "-O1", "-shared", "-fPIC", "-o", library, SOURCE], check=True)

    def set_to(days: int) -> None:
        with offset.open("r+b" if offset.exists() else "wb") as file:
            file.write(struct.pack("=q", days * DAY_S))

    set_to(0)
    monkeypatch.setenv("LD_PRELOAD", str(library))
    monkeypatch.setenv("NAPU_CLOCK_OFFSET", str(offset))
    return set_to


def wall_s() -> float:
    return float(subprocess.run([sys.executable, "-c", NOW], capture_output=True, check=True).stdout)


def test_a_clock_that_jumps(tmp_path: Path, jump: Callable[[int], None]) -> None:
    with node_process(tmp_path / "node") as node, node.client(request=10) as client:
        assert "clock.so" in Path(f"/proc/{node.process.pid}/maps").read_text()
        true, thread = wall_s(), Asking(client)
        for days in (2000, -3):
            jump(days)
            assert abs(wall_s() - true - days * DAY_S) < DAY_S / 2, "the clock has not jumped"
            assert within(20, partial(thread.has, len(thread.answers) + 50))
        thread.end()
        before = node.firmware_pid()
        assert client.control("health")["board"]["uptime_s"] < DAY_S
        counters = node.hardware()
        assert counters["sessions"] >= 1
        assert (counters["sessions_expired"], counters["firmware_resets"], counters["answers_busy"]) == (0, 0, 0)
        assert node.firmware_pid() == before
