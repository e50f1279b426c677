"""What all tests share: profiles of Hypothesis, and what a skip means in CI.

In CI (``CI=true``) every tool and privilege that tests ask for is expected to be there, so a skipped test is a failed
one. Where a test makes no sense on a machine at all, whatever is installed there, its reason says so with the words
"only where", as in "only where the kernel has no netem", and it stays skipped.
"""

import os
import signal
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.rig.engine import napu_image  # noqa: F401 - a fixture of all

# Where the run was started in the background, SIGINT is ignored, and would be by all that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

IN_CI = os.environ.get("CI") == "true"
ACCEPTED = "only where"

# No deadlines: how long an example takes says more about the machine than about the code.
settings.register_profile("local", deadline=None, max_examples=100)
settings.register_profile("ci", deadline=None, max_examples=100, derandomize=True, print_blob=True)
settings.load_profile("ci" if IN_CI else "local")


def refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip without an accepted reason into a failure; an expected failure is none."""
    if not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if ACCEPTED not in reason:
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {reason}"


@pytest.fixture
def reproducer(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Keep the captures of a test that fails; see :mod:`tests.rig.reproducer`."""
    # Here, as most tests need nothing of what it takes to make a device.
    from tests.rig.reproducer import Reproducer

    return Reproducer(request.node.name, tmp_path)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    kept = getattr(item, "funcargs", {}).get("reproducer")
    if kept is not None and report.when == "call" and report.failed:
        report.sections.append(("to reproduce", "\n".join(kept.leave())))
    if IN_CI:
        refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if IN_CI:
        refuse_skip(report)
    return report
