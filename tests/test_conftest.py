"""What a skip means in CI: whole runs of pytest on small files."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parent / "conftest.py"
TESTS = """
import pytest

def test_runs(): pass

@pytest.mark.skip(reason="tcpdump is not installed")
def test_marked(): pass

def test_called(): pytest.skip("tcpdump is not installed")

@pytest.mark.skip(reason="only where there is no IPv6")
def test_accepted(): pass

@pytest.mark.xfail(strict=True)
def test_expected_failure(): assert False
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "conftest.py").write_text(CONFTEST.read_text())
    (tmp_path / "test_cases.py").write_text(TESTS)
    return tmp_path


def run(project: Path, ci: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(project), str(project)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "CI": ci}, timeout=60, check=False
    )
    return done.returncode, done.stdout.splitlines()[-1]


def test_ci_fails_skips_but_those_with_an_accepted_reason(project: Path) -> None:
    code, summary = run(project, "true")
    assert code == 1
    assert "1 failed, 1 passed, 1 skipped, 1 xfailed, 1 error" in summary  # a marked one does not get to its call


def test_elsewhere_skips_are_skips(project: Path) -> None:
    code, summary = run(project, "")
    assert code == 0
    assert "1 passed, 3 skipped, 1 xfailed" in summary


def test_ci_fails_a_module_that_skips_itself(project: Path) -> None:
    (project / "test_cases.py").write_text("import pytest\npytest.importorskip('no_such_module')\n")
    code, summary = run(project, "true")
    assert code != 0
    assert "1 error" in summary
