import json
import subprocess
import sys
from pathlib import Path

import pytest

from firmware.image import build_image, read_image


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from firmware.cli import run; run()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.napufw"
    assert run("build", str(path), "--version", "4.5").returncode == 0
    return path


def test_build_writes_the_image(image: Path) -> None:
    assert image.read_bytes() == build_image("4.5")
    assert [path.name for path in image.parent.iterdir()] == ["image.napufw"]


def test_inspect_shows_it(image: Path) -> None:
    result = run("inspect", str(image))
    assert result.returncode == 0
    assert read_image(image.read_bytes()).digest.hex() in result.stdout


def test_inspect_as_json(image: Path) -> None:
    description = json.loads(run("inspect", str(image), "--json").stdout)
    assert description["version"] == "4.5"
    assert description["size"] == image.stat().st_size


def test_verify_says_good_or_why_not(image: Path) -> None:
    assert run("verify", str(image)).returncode == 0
    image.write_bytes(image.read_bytes()[:-1] + b"?")
    result = run("verify", str(image))
    assert result.returncode == 1
    assert result.stderr == (
        "napu-fw: firmware image refused: the payload does not match the digest in the manifest; "
        "build or copy it again\n"
    )


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("inspect", "/nonexistent"), 1),
        (("verify", "/"), 1),
        (("build", "/nonexistent/out"), 1),
        (("build", "/nonexistent/out", "--version", "not a version"), 1),
        (("frobnicate",), 2),
        (("inspect",), 2),
    ],
)
def test_mistakes_end_in_a_sentence(arguments: tuple[str, ...], code: int) -> None:
    result = run(*arguments)
    assert result.returncode == code
    assert "Traceback" not in result.stderr
    assert result.stderr
