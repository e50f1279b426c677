"""A test that fails leaves a capture behind, and the command that it prints shows what happened again."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rig.nodes import ROOT

FAILING = """
import numpy as np
from host_sdk.wire.links.memory import MemorySwitch
from tests.rig.packages import tensor_package
from tests.rig.tiny_models import doubler

def test_that_is_wrong_about_the_world(reproducer):
    reproducer._kept = __KEPT__
    with reproducer.wire([tensor_package("two", doubler((1, 2)))], ("loss=20%", "loss=20%")) as wire:
        answers = wire.ask("two", np.zeros((20, 8), np.uint8))
        assert len(answers) == -1

def test_that_passes(reproducer):
    reproducer._kept = __KEPT__
    with reproducer.wire([tensor_package("two", doubler((1, 2)))]) as wire:
        assert wire.ask("two", np.zeros((1, 8), np.uint8))
"""


@pytest.fixture
def failed(tmp_path: Path) -> tuple[Path, str]:
    kept = tmp_path / "kept"
    code = FAILING.replace("__KEPT__", f"__import__('pathlib').Path({str(kept)!r})")
    (tmp_path / "test_failing.py").write_text(code)
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path / "conftest.py")
    run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--rootdir={tmp_path}", str(tmp_path)]
    done = subprocess.run(run, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    return kept, done.stdout


def test_the_command_that_is_printed_replays_what_happened(failed: tuple[Path, str]) -> None:
    kept, printed = failed
    (place,) = kept.iterdir()  # of the test that passed nothing is kept
    assert place.name == "test_that_is_wrong_about_the_world-0"
    assert "- to reproduce -" in printed
    (command,) = (line for line in printed.splitlines() if line.startswith("napu replay "))
    words = shlex.split(command)
    again = [sys.executable, "-m", "host_sdk.cli.main", *words[1:]]
    done = subprocess.run(again, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 the same but for volatile fields, 0 different, 0 missing, 0 not in the capture" in done.stdout
