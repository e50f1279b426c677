"""An interpreter whose file carries capabilities, as in the container image: the node has them, its firmware not."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig.nodes import ROOT
from tests.rig.wires import needs_root

pytestmark = [
    needs_root,
    pytest.mark.skipif(shutil.which("setcap") is None, reason="needs setcap, of the package libcap2-bin"),
]
NET_RAW = "0000000000002000"

# What a thread starts before and after it has started a firmware.
PROGRAM = """
import socket, subprocess, sys, threading
from firmware.boot.rom import boot
from firmware.image import build_image

READ = "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('CapEff')))"

def started():
    return subprocess.run([sys.executable, "-c", READ], capture_output=True, text=True, check=True).stdout.strip()

def run():
    told.append(started())
    ends = [socket.socketpair() for _ in range(2)]
    firmware = boot(build_image(), ends[0][1].fileno(), ends[1][1].fileno(), 1)
    told.append(started())
    firmware.kill()
    firmware.communicate()
    for pair in ends:
        for end in pair:
            end.close()

told = []
thread = threading.Thread(target=run)
thread.start()
thread.join()
told.append(started())
print(*told)
"""


@pytest.fixture
def capable(tmp_path: Path) -> Iterator[Path]:
    """A copy of this interpreter, with this environment, whose file has cap_net_raw."""
    environment = Path(sys.executable).parent.parent
    copy = tmp_path / "bin" / "python"
    copy.parent.mkdir()
    shutil.copy(Path(sys.executable).resolve(), copy)
    shutil.copy(environment / "pyvenv.cfg", tmp_path)
    (tmp_path / "lib").symlink_to(environment / "lib")
    subprocess.run(["setcap", "cap_net_raw+ep", copy], check=True)
    yield copy
    copy.unlink()


def test_what_a_node_starts_gains_nothing_by_the_interpreters_file(capable: Path) -> None:
    # Without root's own privileges: it is another user to the kernel then, who can still read this installation.
    plain = ["setpriv", "--securebits=+noroot", "--inh-caps=-all"]
    done = subprocess.run(
        [*plain, str(capable), "-c", PROGRAM], capture_output=True, text=True, timeout=60, cwd=ROOT, check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    before, after, elsewhere = done.stdout.split()
    assert (before, elsewhere) == (NET_RAW, NET_RAW), "the test shows nothing: the file's capability does not count"
    assert int(after, 16) == 0
