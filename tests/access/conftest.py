from pathlib import Path

import pytest

from tests.access.lab import AccessLab, Appliance, Time, Wire


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def lab(tmp_path: Path, time: Time) -> AccessLab:
    return AccessLab(tmp_path, time)


@pytest.fixture
def appliance(lab: AccessLab) -> Appliance:
    return lab.appliance()


@pytest.fixture
def wire(appliance: Appliance) -> Wire:
    return Wire(appliance)
