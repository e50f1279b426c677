"""What the boot ROM chooses, and what it says of it."""

from dataclasses import replace
from pathlib import Path

import pytest

from firmware.boot.layout import Slot
from firmware.boot.slots import TRIES, BootRom, Decision, Finding, Reason
from firmware.boot.state import BootState, SlotState
from firmware.boot.store import StateStore
from firmware.boot.update import Updater
from host_sdk.wire.errors import DeviceError
from tests.firmware.boot.rig import NEW, NEWER, OLD, RECOVERY, Rig, image_of, verify
from tests.firmware.boot.scenarios import Run, transfer

SECOND_NS = 1_000_000_000


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    rig = Rig(tmp_path)
    rig.provision()
    return rig


def state_of(rig: Rig) -> BootState:
    return StateStore(rig.chip, rig.layout).state


def set_state(rig: Rig, state: BootState) -> None:
    StateStore(rig.chip, rig.layout).save(state)


def trial(rig: Rig, image: bytes = NEW) -> Updater:
    updater = rig.updater(rig.rom.boot(0).slot)
    transfer(Run(rig, set(), set(), b""), updater, image)
    updater.activate()
    return updater


def confirmed(rig: Rig, image: bytes = NEW) -> None:
    trial(rig, image)
    rig.updater(rig.rom.boot(0).slot).confirm()


def reasons(decision: Decision) -> list[tuple[Slot | None, Reason]]:
    return [(finding.slot, finding.reason) for finding in decision.findings]


def test_a_provisioned_board_boots_slot_a_and_writes_no_new_state(rig: Rig) -> None:
    before = state_of(rig)
    for _ in range(3):
        decision = rig.rom.boot(0)
        assert (decision.slot, decision.reason, decision.findings) == (Slot.A, Reason.CONFIRMED, ())
        assert decision.image == OLD
        assert decision.deadline_ns is None
    assert state_of(rig) == before


def test_a_trial_has_its_tries_counted_down_before_each_start(rig: Rig) -> None:
    trial(rig)
    for left in range(TRIES - 1, -1, -1):
        decision = rig.rom.boot(7 * SECOND_NS)
        assert (decision.slot, decision.reason, decision.tries_left) == (Slot.B, Reason.TRIAL, left)
        assert decision.deadline_ns == 67 * SECOND_NS
        assert state_of(rig).slot(Slot.B).tries == left
    decision = rig.rom.boot(0)
    assert (decision.slot, decision.image) == (Slot.A, OLD)
    assert reasons(decision) == [(Slot.B, Reason.TRIES_USED)]
    assert str(decision) == (
        "slot B: its image has used up its tries without confirming; slot A: holds a confirmed image"
    )
    assert state_of(rig).slot(Slot.B).state is SlotState.BAD
    assert rig.rom.boot(0).findings == ()


def test_a_confirmed_image_stays(rig: Rig) -> None:
    confirmed(rig)
    for _ in range(TRIES + 2):
        assert rig.rom.boot(0).image == NEW


def test_the_deadline_is_exact_and_only_for_those_on_trial(rig: Rig) -> None:
    first = rig.rom.boot(0)
    assert rig.rom.expire(first, 10**15) is None
    trial(rig)
    rom = BootRom(rig.chip, rig.fuses, verify, trial_ns=5)
    decision = rom.boot(100)
    assert rom.expire(decision, 104) is None
    assert state_of(rig).active is Slot.B
    assert rom.expire(decision, 105) == Finding(Slot.B, Reason.DEADLINE_MISSED)
    assert rom.expire(decision, 106) is None, "it was given up already"
    assert rom.boot(200).image == OLD


def test_an_image_that_confirmed_in_time_is_not_given_up(rig: Rig) -> None:
    trial(rig)
    decision = rig.rom.boot(0)
    rig.updater(decision.slot).confirm()
    assert rig.rom.expire(decision, 10**15) is None
    assert rig.rom.boot(0).image == NEW


@pytest.mark.parametrize("confirm", [True, False])
def test_a_damaged_active_image_makes_way_for_the_other(rig: Rig, confirm: bool) -> None:
    confirmed(rig) if confirm else trial(rig)
    rig.damage(Slot.B)
    decision = rig.rom.boot(0)
    assert decision.image == OLD
    assert reasons(decision) == [(Slot.B, Reason.REFUSED)]
    assert "does not hold the image that the boot state names" in str(decision)
    state = state_of(rig)
    assert (state.active, state.slot(Slot.B).state) == (Slot.A, SlotState.BAD)


def test_both_damaged_is_recovery(rig: Rig) -> None:
    confirmed(rig)
    rig.damage(Slot.A)
    rig.damage(Slot.B)
    decision = rig.rom.boot(0)
    assert (decision.slot, decision.reason, decision.image) == (Slot.RECOVERY, Reason.LAST_RESORT, RECOVERY)
    assert reasons(decision) == [(Slot.B, Reason.REFUSED), (Slot.A, Reason.REFUSED)]
    assert reasons(rig.rom.boot(0)) == [(Slot.B, Reason.NO_IMAGE), (Slot.A, Reason.NO_IMAGE)]


def test_three_damaged_is_an_error_that_names_all(rig: Rig) -> None:
    for slot in (Slot.A, Slot.RECOVERY):
        rig.damage(slot)
    with pytest.raises(DeviceError, match=r"nothing to boot: slot A: .*; slot B: .*empty; slot RECOVERY: "):
        rig.rom.boot(0)


def test_a_blank_chip_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"nothing to boot: there is no boot state; .*recovery image"):
        Rig(tmp_path).rom.boot(0)


def test_without_a_boot_state_there_is_recovery_and_an_update_from_it(rig: Rig) -> None:
    for address in rig.layout.states:
        rig.chip.erase(address)
    decision = rig.rom.boot(0)
    assert decision.slot is Slot.RECOVERY
    assert (None, Reason.NO_STATE) in reasons(decision)
    confirmed(rig)
    assert rig.rom.boot(0).image == NEW


def test_an_image_that_verification_refuses_is_not_booted(rig: Rig) -> None:
    """The digest of the boot state alone does not make an image one: it may have been written by anybody."""
    confirmed(rig)

    def strict(data: bytes):  # type: ignore[no-untyped-def]
        if data == NEW:
            raise DeviceError("its key was revoked")
        return verify(data)

    decision = BootRom(rig.chip, rig.fuses, strict).boot(0)
    assert decision.image == OLD
    assert "its key was revoked" in str(decision)


def test_an_image_below_the_fuses_is_not_booted_but_recovery_is(rig: Rig) -> None:
    confirmed(rig)
    rig.fuses.raise_security_counter(2)
    decision = rig.rom.boot(0)
    assert decision.slot is Slot.RECOVERY
    assert reasons(decision) == [(Slot.B, Reason.ROLLBACK), (Slot.A, Reason.ROLLBACK)]
    assert "security counter 1, the fuses want 2" in str(decision)


def test_an_old_flash_content_put_back_is_not_booted(tmp_path: Path, rig: Rig) -> None:
    rig.chip.close()
    before = (tmp_path / "nor").read_bytes()
    rig = Rig(tmp_path)
    confirmed(rig, NEWER)
    rig.chip.close()
    (tmp_path / "nor").write_bytes(before)
    decision = Rig(tmp_path).rom.boot(0)
    assert decision.slot is Slot.RECOVERY
    assert (Slot.A, Reason.ROLLBACK) in reasons(decision)


def test_the_fuses_are_raised_by_confirming_only(rig: Rig) -> None:
    rig.rom.boot(0)
    trial(rig, NEWER)
    decision = rig.rom.boot(0)
    assert (decision.image, rig.fuses.security_counter) == (NEWER, 1)
    rig.updater(decision.slot).confirm()
    assert rig.fuses.security_counter == 2


def test_the_rom_completes_fuses_that_confirming_did_not_come_to(rig: Rig) -> None:
    trial(rig, NEWER)
    slot = rig.rom.boot(0).slot
    set_state(rig, state_of(rig).marked(slot, SlotState.CONFIRMED))
    assert rig.rom.boot(0).image == NEWER
    assert rig.fuses.security_counter == 2


def test_a_counter_beyond_the_fuses_is_refused(rig: Rig) -> None:
    beyond = image_of("9", 257)
    with pytest.raises(DeviceError, match="count to 256"):
        confirmed(rig, beyond)
    assert rig.rom.boot(0).image == OLD


@pytest.mark.parametrize("state", [SlotState.EMPTY, SlotState.WRITING, SlotState.READY, SlotState.BAD])
def test_an_active_slot_that_is_not_to_be_started_is_passed_over(rig: Rig, state: SlotState) -> None:
    rig.rom.boot(0)
    set_state(rig, replace(state_of(rig).marked(Slot.B, state), active=Slot.B))
    decision = rig.rom.boot(0)
    assert decision.image == OLD
    assert reasons(decision) == [(Slot.B, Reason.NO_IMAGE)]
    assert state_of(rig).slot(Slot.B).state is state
    assert state_of(rig).active is Slot.A


def test_a_size_beyond_the_slot_is_refused(rig: Rig) -> None:
    huge = state_of(rig).changed(Slot.A, lambda record: replace(record, size=2**32 - 1))
    set_state(rig, huge)
    decision = rig.rom.boot(0)
    assert decision.slot is Slot.RECOVERY
    assert "an image of 4294967295 bytes is in no slot of 12288" in str(decision)


def test_a_trial_in_the_slot_that_is_not_active_is_not_started(rig: Rig) -> None:
    trial(rig)
    state = state_of(rig)
    set_state(rig, replace(state.marked(Slot.A, SlotState.BAD), active=Slot.A))
    assert rig.rom.boot(0).slot is Slot.RECOVERY
    assert state_of(rig).slot(Slot.B) == state.slot(Slot.B)
