"""What the hardware refuses of sealed frames is told in the audit."""

from typing import cast

import pytest

from firmware.hal import Hal
from firmware.services.seals import SealWatch
from tests.firmware.fake_hal import FakeHal


class Counting(FakeHal):
    def __init__(self) -> None:
        super().__init__()
        self.now = {"frames_bad_seal": 7, "rx_frames": 9}

    def counters(self) -> dict[str, int]:
        return self.now


def test_only_what_is_new_is_told_and_once(caplog: pytest.LogCaptureFixture) -> None:
    hal = Counting()
    watch = SealWatch(cast("Hal", hal))
    watch.update()
    assert caplog.records == []
    hal.now = {"frames_bad_seal": 9, "frames_replayed": 1, "rx_frames": 99}
    watch.update()
    watch.update()
    (line,) = caplog.records
    assert (line.name, line.getMessage()) == ("audit", "refused frames of inference: BAD_SEAL 2, REPLAYED 1")
