"""The lab's tests once more as user nobody, where this run is root's."""

import os
import re
import shutil
import site
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOBODY = 65534
HERE = [sys.executable, f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"]

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="not root: the lab's other tests ran unprivileged already"),
    pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv (util-linux) is not installed"),
]


@pytest.fixture
def tree() -> Iterator[Path]:
    """Return a copy of what the tests need, in a directory that everybody can read."""
    with tempfile.TemporaryDirectory(prefix="napu-test-") as name:
        tree = Path(name)
        tree.chmod(0o755)
        for part in ("appliance", "firmware", "host_sdk", "tests/lab", "tests/rig"):
            shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", tree)
        subprocess.run(["/bin/chmod", "-R", "a+rX", str(tree)], check=True)
        home = tree / "home"
        home.mkdir()
        os.chown(home, NOBODY, NOBODY)
        yield tree


def as_nobody(tree: Path, python: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    setpriv = [str(shutil.which("setpriv")), f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join([str(tree), *site.getsitepackages()]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": "/nonexistent",
        "TMPDIR": str(tree / "home"),
    }
    command = [*setpriv, python, *arguments]
    return subprocess.run(
        command, cwd=tree / "home", env=environment, capture_output=True, text=True, timeout=600, check=False
    )


# A grandchild, because setpriv still has root's capabilities when it starts the child.
CAN_RUN = """
import subprocess, sys
subprocess.run([sys.executable, "-c", "import dpkt, hypothesis, pyroute2, pytest"], check=True)
"""


def interpreter(tree: Path) -> str:
    """Return a Python that nobody may run and that finds the lab's dependencies."""
    for python in HERE:
        if as_nobody(tree, python, "-c", CAN_RUN).returncode == 0:
            return python
    pytest.skip("user nobody may not run this Python, or not read its packages")


@pytest.mark.timeout(600)
def test_the_lab_works_without_root(tree: Path) -> None:
    python = interpreter(tree)
    probe = "from host_sdk.lab.capability import capability as c; print(c().kind, c().reason)"
    allowed = as_nobody(tree, python, "-c", probe)
    assert allowed.returncode == 0, allowed.stderr
    if not allowed.stdout.startswith("userns"):
        pytest.skip(f"user nobody may not have labs here: {allowed.stdout}")
    pytest_here = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tree / "tests/lab")]
    # What a file says does not depend on who reads it; and nobody has no engine.
    others = ("test_lab_file", "test_lab_export", "test_docker_lab", "test_drivers")
    result = as_nobody(tree, *pytest_here, *(f"--ignore={tree}/tests/lab/{name}.py" for name in others))
    assert result.returncode == 0, result.stdout + result.stderr
    passed = re.search(r"(\d+) passed", result.stdout)
    assert passed
    assert int(passed[1]) > 60
    assert not list(Path("/tmp").glob(f"napu-{NOBODY}/*"))
