"""The boot ROM while the firmware runs, over a board of the test's own and a firmware that is never started."""

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from firmware.boot.layout import Slot
from firmware.boot.resident import ResidentRom
from firmware.boot.slots import TRIAL_NS, TRIES
from firmware.image.development import DEVELOPMENT_POLICY
from firmware.image.format import Image, read_image
from host_sdk.wire.attest.boots import BootedImage
from host_sdk.wire.errors import DeviceError
from tests.firmware.boot.rig import BLOCK_SIZE, NEW, OLD, Rig, image_of


class Bench:
    """A resident ROM with a clock that is set by hand, and what it has started."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.now = 1_000
        self.started: list[tuple[str, int]] = []
        self.rom = ResidentRom(rig.chip, rig.fuses, DEVELOPMENT_POLICY, self._start, lambda: self.now)

    def _start(self, image: Image, _bus: int, _irq: int, epoch: int) -> "subprocess.Popen[bytes]":
        self.started.append((image.version, epoch))
        with subprocess.Popen([sys.executable, "-c", ""]) as process:
            return process

    def boot(self) -> str:
        self.rom.launch(3, 4, len(self.started) + 1)
        return self.started[-1][0]

    def flash(self, image: bytes) -> None:
        offset = self.rom.begin(len(image), hashlib.sha256(image).digest())
        for start in range(offset, len(image), 1000):
            assert self.rom.write(start, image[start : start + 1000]) == min(len(image), start + 1000)
        self.rom.finish()
        self.rom.activate()

    def slots(self) -> dict[str, dict[str, object]]:
        slots = self.rom.status()["slots"]
        assert isinstance(slots, dict)
        return slots


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    rig = Rig(tmp_path)
    rig.provision()
    yield Bench(rig)
    rig.close()


def test_what_was_booted_is_told_for_its_measurement(bench: Bench) -> None:
    assert bench.rom.booted is None
    bench.boot()
    assert bench.rom.booted == BootedImage(hashlib.sha256(OLD).digest(), "1.0", read_image(OLD).terms.counter, 0)
    bench.flash(NEW)
    bench.boot()
    assert bench.rom.booted
    assert (bench.rom.booted.digest, bench.rom.booted.slot_name) == (hashlib.sha256(NEW).digest(), "B")


def test_a_confirmed_image_is_booted_without_a_word(bench: Bench) -> None:
    assert bench.boot() == "1.0"
    assert (bench.rom.remark, bench.rom.deadline_ns, bench.rom.trial_ms) == ("", None, 0)
    status = bench.rom.status()
    assert (status["slot"], status["version"], status["state"]) == ("A", "1.0", "confirmed")
    assert (status["reason"], status["active"]) == ("CONFIRMED", "A")
    assert status["slots"] == {
        "A": {
            "state": "confirmed",
            "size": len(OLD),
            "digest": hashlib.sha256(OLD).hexdigest(),
            "version": "1.0",
            "counter": 1,
            "tries": 0,
        },
        "B": {"state": "empty"},
    }


def test_an_update_is_tried_and_confirmed(bench: Bench) -> None:
    bench.boot()
    bench.flash(NEW)
    assert bench.slots()["B"]["tries"] == TRIES
    assert bench.boot() == "2.0"
    assert bench.rom.deadline_ns == bench.now + TRIAL_NS
    assert bench.rom.trial_ms == TRIAL_NS // 1_000_000
    assert bench.rom.remark == "booting 2.0: slot B: holds an image on trial"
    bench.rom.confirm()
    bench.now += 2 * TRIAL_NS
    assert (bench.rom.deadline_ns, bench.rom.expire()) == (None, "")
    assert bench.boot() == "2.0"
    assert bench.rom.status()["state"] == "confirmed"


def test_a_trial_that_is_over_is_given_up_and_the_next_boot_says_why(bench: Bench) -> None:
    bench.boot()
    bench.flash(NEW)
    bench.boot()
    bench.now += TRIAL_NS - 1
    assert bench.rom.expire() == ""
    assert bench.rom.trial_ms == 1
    bench.now += 1
    assert bench.rom.expire() == "slot B: its image did not confirm in time"
    assert bench.rom.expire() == ""
    # The firmware that is about to be ended can no longer save itself.
    for step in (bench.rom.confirm, bench.rom.roll_back, bench.rom.status):
        with pytest.raises(DeviceError, match="about to be booted"):
            step()
    assert bench.boot() == "1.0"
    assert bench.rom.remark == (
        "booting 1.0: slot B: its image did not confirm in time; slot A: holds a confirmed image"
    )
    assert bench.slots()["B"]["state"] == "bad"
    bench.boot()
    assert bench.rom.remark == ""


def test_an_image_that_never_confirms_has_its_boots_and_no_more(bench: Bench) -> None:
    bench.boot()
    bench.flash(NEW)
    assert [bench.boot() for _ in range(TRIES + 2)] == ["2.0"] * TRIES + ["1.0"] * 2


def test_how_much_of_an_update_is_there(bench: Bench) -> None:
    bench.boot()
    bench.rom.begin(len(NEW), hashlib.sha256(NEW).digest())
    bench.rom.write(0, NEW[: BLOCK_SIZE + 5])
    assert bench.slots()["B"] == {
        "state": "writing",
        "size": len(NEW),
        "digest": hashlib.sha256(NEW).hexdigest(),
        "written": BLOCK_SIZE,
    }


def test_rolling_back_boots_the_other_slot(bench: Bench) -> None:
    bench.boot()
    bench.flash(NEW)
    bench.boot()
    bench.rom.confirm()
    bench.rom.roll_back()
    assert bench.boot() == "1.0"


def test_nothing_is_served_before_the_first_boot(bench: Bench) -> None:
    with pytest.raises(DeviceError, match="about to be booted"):
        bench.rom.begin(1, bytes(32))


def test_the_recovery_image_takes_an_update(bench: Bench) -> None:
    bench.rig.damage(Slot.A)
    assert bench.boot() == "0.1"
    assert bench.rom.status()["state"] == "recovery"
    assert "LAST_RESORT" in str(bench.rom.status()["reason"])
    bench.flash(image_of("5.0", 1))
    assert bench.boot() == "5.0"
