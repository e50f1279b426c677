"""The update's steps one by one, and against a model that forgets nothing."""

import hashlib
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from firmware.boot.layout import Slot
from firmware.boot.slots import TRIES, Reason
from firmware.boot.state import SlotState, decode_state
from firmware.boot.update import Progress, Updater
from host_sdk.wire.errors import DeviceError, PowerCutError
from tests.firmware.boot.rig import NEW, NEWER, OLD, RECOVERY, Rig, image_of, verify


def digest(image: bytes) -> bytes:
    return hashlib.sha256(image).digest()


def written(updater: Updater, image: bytes, part: int = 1000) -> None:
    offset = updater.begin(len(image), digest(image)).offset
    while offset < len(image):
        offset = updater.write(offset, image[offset : offset + part]).offset


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    rig = Rig(tmp_path)
    rig.provision()
    rig.rom.boot(0)
    return rig


@pytest.mark.parametrize("part", [1, 4095, 4096, 4097, 100_000])
def test_an_image_arrives_whole_in_parts_of_any_size(rig: Rig, part: int) -> None:
    updater = rig.updater(Slot.A)
    written(updater, NEWER, part)
    assert updater.finish().digest == digest(NEWER)
    assert rig.contents(Slot.B)[: len(NEWER)] == NEWER
    assert updater.state.slot(Slot.B).state is SlotState.READY
    assert rig.contents(Slot.A)[: len(OLD)] == OLD


def test_nothing_is_booted_before_it_is_activated(rig: Rig) -> None:
    updater = rig.updater(Slot.A)
    written(updater, NEW)
    assert rig.rom.boot(0).image == OLD
    updater.finish()
    assert rig.rom.boot(0).image == OLD
    assert updater.activate() is updater.activate() is Slot.B
    assert rig.rom.boot(0).image == NEW


def test_parts_come_in_order_and_not_beyond_the_end(rig: Rig) -> None:
    updater = rig.updater(Slot.A)
    with pytest.raises(DeviceError, match="no update was begun"):
        updater.write(0, b"x")
    updater.begin(10, bytes(32))
    for offset in (1, -1, 10):
        with pytest.raises(DeviceError, match=f"begins at 0, not at {offset}"):
            updater.write(offset, b"x")
    with pytest.raises(DeviceError, match="beyond an image of 10"):
        updater.write(0, bytes(11))
    assert updater.write(0, bytes(4)) == Progress(Slot.B, 4, 10)
    with pytest.raises(DeviceError, match="4 of 10 bytes"):
        updater.finish()


@pytest.mark.parametrize("size", [0, -1, 3 * 4096 + 1, 1 << 40])
def test_a_size_that_does_not_fit_is_refused(rig: Rig, size: int) -> None:
    before = rig.updater(Slot.A).state
    with pytest.raises(DeviceError, match="does not go into a slot of 12288"):
        rig.updater(Slot.A).begin(size, bytes(32))
    with pytest.raises(DeviceError, match="no SHA-256"):
        rig.updater(Slot.A).begin(10, bytes(31))
    assert rig.updater(Slot.A).state == before


def test_an_update_goes_on_after_a_reset_where_the_last_block_ended(rig: Rig) -> None:
    updater = rig.updater(Slot.A)
    updater.begin(len(NEW), digest(NEW))
    updater.write(0, NEW[:5000])
    erased = rig.chip.wear(2 + 3)
    again = rig.updater(rig.rom.boot(0).slot)
    assert again.begin(len(NEW), digest(NEW)) == Progress(Slot.B, 4096, len(NEW))
    again.write(4096, NEW[4096:])
    assert rig.chip.wear(2 + 3) == erased, "the first block was not written again"
    third = rig.updater(rig.rom.boot(0).slot)
    assert third.begin(len(NEW), digest(NEW)).offset == len(NEW)
    third.finish()
    assert rig.contents(Slot.B)[: len(NEW)] == NEW


def test_a_resumed_update_has_its_progress_in_the_state_before_it_erases(rig: Rig) -> None:
    """A mark that a cut left unstable must not count a block that is being written again."""
    updater = rig.updater(Slot.A)
    updater.begin(len(NEW), digest(NEW))
    updater.write(0, NEW[:5000])
    rig.updater(Slot.A).begin(len(NEW), digest(NEW))
    newest = max((decode_state(rig.chip.read(at, 128)) for at in rig.layout.states), key=lambda state: state.sequence)
    assert newest.progress == 1


def test_another_image_begins_anew(rig: Rig) -> None:
    updater = rig.updater(Slot.A)
    updater.begin(len(NEW), digest(NEW))
    updater.write(0, NEW[:5000])
    assert updater.begin(len(NEWER), digest(NEWER)).offset == 0
    written(updater, NEWER)
    updater.finish()


def test_a_ready_image_needs_no_second_transfer(rig: Rig) -> None:
    written(rig.updater(Slot.A), NEW)
    updater = rig.updater(Slot.A)
    updater.begin(len(NEW), digest(NEW))
    updater.finish()
    state = updater.state
    assert updater.begin(len(NEW), digest(NEW)).offset == len(NEW)
    updater.finish()
    assert updater.state == state


@pytest.mark.parametrize(
    ("image", "name", "complaint"),
    [
        (NEW[:-1] + b"x", digest(NEW), "does not hold the image"),
        (b"no image at all", digest(b"no image at all"), "refused"),
        (image_of("0.9", 0), digest(image_of("0.9", 0)), "security counter is 0; the fuses want 1"),
        (image_of("9", 257), digest(image_of("9", 257)), "counter is 257; the fuses count to 256"),
    ],
)
def test_an_image_that_is_refused_leaves_its_slot_bad(rig: Rig, image: bytes, name: bytes, complaint: str) -> None:
    updater = rig.updater(Slot.A)
    updater.begin(len(image), name)
    updater.write(0, image)
    with pytest.raises(DeviceError, match=complaint):
        updater.finish()
    assert updater.state.slot(Slot.B).state is SlotState.BAD
    with pytest.raises(DeviceError, match="slot B is bad, not ready"):
        updater.activate()
    written(updater, NEW)
    updater.finish()


def test_the_only_way_back_is_not_overwritten(rig: Rig) -> None:
    updater = rig.updater(Slot.A)
    written(updater, NEW)
    updater.finish()
    updater.activate()
    running = rig.updater(rig.rom.boot(0).slot)
    for action in (lambda: running.begin(10, bytes(32)), running.activate):
        with pytest.raises(DeviceError, match="on trial and slot A its way back"):
            action()
    running.confirm()
    assert running.begin(len(NEWER), digest(NEWER)).slot is Slot.A


def test_an_activated_image_can_be_replaced_before_it_was_booted(rig: Rig) -> None:
    updater = rig.updater(Slot.A)
    written(updater, NEW)
    updater.finish()
    updater.activate()
    written(updater, NEWER)
    assert rig.rom.boot(0).image == OLD
    assert updater.state.active is Slot.A


def test_under_recovery_an_update_goes_on_and_is_activated_as_well(rig: Rig) -> None:
    rig.damage(Slot.A)
    updater = rig.updater(rig.rom.boot(0).slot)
    updater.begin(len(NEW), digest(NEW))
    updater.write(0, NEW[:5000])
    updater = rig.updater(rig.rom.boot(0).slot)
    assert updater.begin(len(NEW), digest(NEW)) == Progress(Slot.B, 4096, len(NEW))
    written(updater, NEW)
    updater.finish()
    assert updater.activate() is updater.activate() is Slot.B
    assert updater.begin(len(NEW), digest(NEW)) == Progress(Slot.B, 0, len(NEW))
    assert rig.rom.boot(0).slot is Slot.RECOVERY
    written(updater, NEW)
    updater.finish()
    updater.activate()
    assert rig.rom.boot(0).image == NEW


def test_rolling_back_needs_a_confirmed_image_that_is_not_too_old(rig: Rig) -> None:
    with pytest.raises(DeviceError, match="slot B holds no confirmed image"):
        rig.updater(Slot.A).rollback()
    with pytest.raises(DeviceError, match="nothing to go back to"):
        rig.updater(Slot.RECOVERY).rollback()
    updater = rig.updater(Slot.A)
    written(updater, NEWER)
    updater.finish()
    updater.activate()
    running = rig.updater(rig.rom.boot(0).slot)
    running.confirm()
    with pytest.raises(DeviceError, match="counter is 1; the fuses want 2"):
        running.rollback()
    assert rig.rom.boot(0).image == NEWER


def test_an_image_on_trial_that_is_left_is_bad(rig: Rig) -> None:
    updater = rig.updater(Slot.A)
    written(updater, NEW)
    updater.finish()
    updater.activate()
    running = rig.updater(rig.rom.boot(0).slot)
    assert running.rollback() is Slot.A
    assert rig.rom.boot(0).image == OLD
    with pytest.raises(DeviceError, match="slot B is bad and cannot be confirmed"):
        running.confirm()


def test_a_cut_between_confirming_and_the_fuses_leaves_a_confirmed_image(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    updater = rig.updater(Slot.A)
    written(updater, NEWER)
    updater.finish()
    updater.activate()
    running = rig.updater(rig.rom.boot(0).slot)

    def cut(_value: int) -> None:
        raise PowerCutError("now")

    with monkeypatch.context() as patch:
        patch.setattr(rig.fuses, "raise_security_counter", cut)
        with pytest.raises(PowerCutError):
            running.confirm()
    assert rig.fuses.security_counter == 1
    decision = rig.rom.boot(0)
    assert (decision.image, decision.reason) == (NEWER, Reason.CONFIRMED)
    assert rig.fuses.security_counter == 2


def test_recovery_needs_no_confirming(rig: Rig) -> None:
    state = rig.updater(Slot.RECOVERY).state
    rig.updater(Slot.RECOVERY).confirm()
    assert rig.updater(Slot.RECOVERY).state == state


def test_an_image_that_does_not_fit_is_not_provisioned(tmp_path: Path) -> None:
    small = Rig(tmp_path, blocks=5)
    with pytest.raises(DeviceError, match="do not go into slot"):
        small.provision()


class Board(RuleBasedStateMachine):
    """Steps and boots in any order. The model: which image each slot holds, in which state, and what runs."""

    @initialize()
    def begin_life(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.rig = Rig(Path(self.directory.name))
        self.rig.provision()
        self.images: dict[Slot, bytes | None] = {Slot.A: OLD, Slot.B: None}
        self.states = {Slot.A: SlotState.CONFIRMED, Slot.B: SlotState.EMPTY}
        self.active, self.tries, self.fused = Slot.A, 0, 1
        self.offset: int | None = None  # of the update under way since the last boot
        self.written = 0  # bytes of it that are on the chip
        self.boot()

    def teardown(self) -> None:
        if hasattr(self, "rig"):
            self.rig.close()
            self.directory.cleanup()

    def usable(self, slot: Slot) -> bool:
        image = self.images[slot]
        return image is not None and verify(image).counter >= self.fused

    def expected(self) -> Slot:
        """Return what must be booted, after changing the model as that boot changes the board."""
        for slot in (self.active, self.active.other):
            trial = self.states[slot] is SlotState.TRYING and slot is self.active
            if not trial and self.states[slot] is not SlotState.CONFIRMED:
                continue
            if self.usable(slot) and not (trial and self.tries == 0):
                self.active = slot
                self.tries -= trial
                return slot
            self.states[slot] = SlotState.BAD
        return Slot.RECOVERY

    @rule()
    def boot(self) -> None:
        decision = self.rig.rom.boot(0)
        self.running = self.expected()
        assert decision.slot is self.running
        assert decision.image == (RECOVERY if self.running is Slot.RECOVERY else self.images[self.running])
        self.updater, self.offset = self.rig.updater(self.running), None

    @property
    def target(self) -> Slot | None:
        if self.running is Slot.RECOVERY:
            return self.active if self.states[self.active] is SlotState.TRYING else self.active.other
        return self.running.other if self.states[self.running] is SlotState.CONFIRMED else None

    @rule(image=st.sampled_from([NEW, NEW, NEWER]))
    def begin(self, image: bytes) -> None:
        slot = self.target
        if slot is None:
            with pytest.raises(DeviceError, match="its way back"):
                self.updater.begin(len(image), digest(image))
            return
        again = self.images[slot] == image and self.states[slot] in (SlotState.WRITING, SlotState.READY)
        if not again:
            self.images[slot], self.states[slot], self.written = image, SlotState.WRITING, 0
            self.active = slot.other
        self.offset = self.written
        assert self.updater.begin(len(image), digest(image)) == Progress(slot, self.offset, len(image))

    @precondition(lambda self: self.offset is not None)
    @rule(size=st.sampled_from([1, 1000, 4096, 20000]))
    def write(self, size: int) -> None:
        assert self.target is not None
        assert self.offset is not None
        image = self.images[self.target]
        assert image is not None
        part = image[self.offset : self.offset + size]
        assert self.updater.write(self.offset, part).offset == self.offset + len(part)
        self.offset += len(part)
        if self.offset == len(image) or self.offset - self.written >= 4096:
            self.written = self.offset if self.offset == len(image) else self.offset // 4096 * 4096

    @precondition(lambda self: self.offset is not None)
    @rule()
    def finish(self) -> None:
        assert self.target is not None
        image = self.images[self.target]
        assert image is not None
        if self.offset != len(image):
            with pytest.raises(DeviceError, match=r"bytes of the image are there"):
                self.updater.finish()
        elif verify(image).counter < self.fused:
            with pytest.raises(DeviceError, match="the fuses want"):
                self.updater.finish()
            self.states[self.target], self.offset = SlotState.BAD, None
        else:
            self.updater.finish()
            self.states[self.target] = SlotState.READY

    @rule()
    def activate(self) -> None:
        slot = self.target
        if slot is None or self.states[slot] not in (SlotState.READY, SlotState.TRYING):
            with pytest.raises(DeviceError):
                self.updater.activate()
            return
        if self.states[slot] is SlotState.READY:
            self.states[slot], self.tries, self.active, self.offset = SlotState.TRYING, TRIES, slot, None
        assert self.updater.activate() is slot

    @rule()
    def confirm(self) -> None:
        if self.running is not Slot.RECOVERY and self.states[self.running] is SlotState.BAD:
            with pytest.raises(DeviceError, match="cannot be confirmed"):
                self.updater.confirm()
            return
        self.updater.confirm()
        if self.running is not Slot.RECOVERY:
            self.states[self.running] = SlotState.CONFIRMED
            image = self.images[self.running]
            assert image is not None
            self.fused = max(self.fused, verify(image).counter)

    @rule()
    def roll_back(self) -> None:
        other = self.running.other
        if self.running is Slot.RECOVERY or self.states[other] is not SlotState.CONFIRMED or not self.usable(other):
            with pytest.raises(DeviceError):
                self.updater.rollback()
            return
        assert self.updater.rollback() is other
        self.active = other
        if self.states[self.running] is SlotState.TRYING:
            self.states[self.running] = SlotState.BAD

    @precondition(lambda self: self.running is not Slot.RECOVERY)
    @rule(slot=st.sampled_from([Slot.A, Slot.B]))
    def damage(self, slot: Slot) -> None:
        """What is whole is damaged from outside; the model holds it as no image."""
        if self.states[slot] in (SlotState.CONFIRMED, SlotState.TRYING) and self.images[slot]:
            self.rig.damage(slot)
            self.images[slot] = None
            self.boot()

    @invariant()
    def the_board_is_as_the_model_says(self) -> None:
        state = self.updater.state
        assert state.active is self.active
        assert {slot: state.slot(slot).state for slot in (Slot.A, Slot.B)} == self.states
        assert self.rig.fuses.security_counter == self.fused
        for slot, image in self.images.items():
            if image is not None and self.states[slot] not in (SlotState.WRITING, SlotState.EMPTY):
                assert self.rig.contents(slot)[: len(image)] == image


TestBoard = Board.TestCase
TestBoard.settings = settings(deadline=None, max_examples=100, stateful_step_count=40)
