"""The boot ROM's digest, against the tools that the text names."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from firmware.boot.rom_digest import PARTS, rom_digest
from host_sdk.wire.errors import DeviceError

ROOT = Path(__file__).parents[2]


def test_the_line_of_the_text_gives_the_same() -> None:
    page = (ROOT / "docs" / "attestation.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^find .*$", page, re.MULTILINE)
    done = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == rom_digest().hex()


def test_it_is_of_every_file_and_of_nothing_else(tmp_path: Path) -> None:
    for part in PARTS:
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    good = rom_digest(tmp_path)
    assert good == rom_digest()
    (tmp_path / "firmware" / "boot" / "notes.txt").write_text("no code")
    assert rom_digest(tmp_path) == good
    changed = tmp_path / "firmware" / "image" / "verify.py"
    text = changed.read_text()
    changed.write_text(text + "\n")
    assert rom_digest(tmp_path) != good
    changed.write_text(text)
    changed.rename(changed.with_name("verify_2.py"))
    assert rom_digest(tmp_path) != good


def test_an_installation_without_sources_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="as source files"):
        rom_digest(tmp_path)
