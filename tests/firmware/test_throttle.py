from typing import cast

import pytest

from firmware.hal import Hal
from firmware.services.throttle import Throttle
from tests.firmware.fake_hal import FakeHal


@pytest.fixture
def hal() -> FakeHal:
    return FakeHal()  # throttles to 25 % from 80 °C down to 70 °C


def test_it_throttles_at_the_limit_and_lets_go_well_below(hal: FakeHal) -> None:
    throttle = Throttle(cast("Hal", hal))
    path = [(40.0, []), (79.999, []), (80.0, [25]), (95.0, [25]), (79.0, [25]), (70.001, [25]), (70.0, [25, 100])]
    for celsius, rates in [*path, (79.9, [25, 100]), (80.1, [25, 100, 25])]:
        hal.celsius = celsius
        throttle.update()
        assert hal.rates == rates, celsius


def test_each_change_is_told_once(hal: FakeHal, caplog: pytest.LogCaptureFixture) -> None:
    throttle = Throttle(cast("Hal", hal))
    for celsius in (81.0, 82.0, 60.0, 50.0):
        hal.celsius = celsius
        throttle.update()
    assert [record.getMessage() for record in caplog.records] == [
        "the board is at 81.0 °C; the DLA runs at 25 %",
        "the board is at 60.0 °C; the DLA runs at 100 %",
    ]
