"""The program of the damaged lab, in small; by hand it asks a hundred thousand times."""

from pathlib import Path

import pytest

from tests.rig.labs import needs_lab
from tests.system.faulty_lab import run


@needs_lab
@pytest.mark.timeout(240)
def test_two_thousand_once_requests_over_a_damaged_cable_in_a_lab(tmp_path: Path) -> None:
    checks = list(run(2000, 5, tmp_path / "faulty.pcapng", replays=True))
    assert [check for check in checks if not check.held] == []
    found = {check.name: check.found for check in checks}
    assert found["sent again: timeout"] > 100  # type: ignore[operator]
    assert found["sent again: pause"] > 0  # type: ignore[operator]
