"""The same sources give the same image, wherever, whenever and by whomever it is built."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from firmware.image.build import SOURCES, build_image
from host_sdk.wire.errors import DeviceError

ROOT = SOURCES.parent
SCRIPT = """
import os, sys, time
from pathlib import Path
os.umask(int(sys.argv[3], 8))
real = time.time
time.time = lambda: real() + float(sys.argv[4])
from firmware.image.build import build_image
Path(sys.argv[1]).write_bytes(build_image("1.0", Path(sys.argv[2])))
"""


def built(folder: Path, umask: int, later_s: int, **environment: str) -> bytes:
    """Copy the sources under a umask, change their times, and build from them in a process of its own."""
    folder.mkdir()
    copy, out = folder / "firmware", folder / "image"
    old = os.umask(umask)
    try:
        shutil.copytree(SOURCES, copy, copy_function=shutil.copyfile)
    finally:
        os.umask(old)
    for path in copy.rglob("*.py"):
        os.utime(path, (later_s, later_s))
    command = [sys.executable, "-c", SCRIPT, str(out), str(copy), f"{umask:o}", str(later_s)]
    env = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], **environment}
    subprocess.run(command, check=True, timeout=60, cwd=folder, env=env)
    return out.read_bytes()


def test_the_same_sources_give_the_same_bytes(tmp_path: Path) -> None:
    first = built(tmp_path / "here", 0o022, 1_000_000, PYTHONHASHSEED="1", TZ="UTC", LC_ALL="C")
    second = built(
        tmp_path / "some where else", 0o077, 900_000_000, PYTHONHASHSEED="2", TZ="Asia/Tokyo", LC_ALL="C.UTF-8"
    )
    assert first == second == build_image("1.0")


def test_a_changed_source_gives_another_image(tmp_path: Path) -> None:
    copy = tmp_path / "firmware"
    shutil.copytree(SOURCES, copy)
    with (copy / "main.py").open("a") as file:
        file.write("\n")
    assert build_image("1.0", copy) != build_image("1.0")


def test_sources_that_cannot_be_read_are_said(tmp_path: Path) -> None:
    copy = tmp_path / "firmware"
    shutil.copytree(SOURCES, copy)
    (copy / "gone.py").symlink_to("nowhere.py")
    with pytest.raises(DeviceError, match="cannot be read"):
        build_image(source=copy)
