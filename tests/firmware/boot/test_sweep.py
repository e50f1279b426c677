"""A small sweep of all scenarios; and wrong boot ROMs, each of which the sweep must notice."""

import json
import sys
from collections.abc import Callable
from typing import Any

import pytest

from appliance.board.power import Moment, Operation
from firmware.boot.layout import Slot
from firmware.boot.slots import BootRom, Decision, Reason
from firmware.boot.state import BootState, SlotState
from firmware.boot.store import StateStore
from firmware.boot.update import Progress, Updater
from tests.firmware.boot import sweep as command
from tests.firmware.boot.scenarios import SCENARIOS
from tests.firmware.boot.sweep import SMALL, Size, single_cuts, sweep

MUTANT = Size(tearings=24, second=9, sequences=200)


@pytest.mark.parametrize("name", SCENARIOS)
def test_no_cut_bricks_a_board(name: str) -> None:
    report = sweep(SMALL, 1, name)
    assert report.bricked == []
    assert report.operations > 40
    assert report.cuts["before"] == report.operations
    assert report.cuts["torn"] == SMALL.tearings * report.cuts["after"] > 0
    assert report.cuts["second, in the boot after one"] > 0
    assert report.cuts["random sequence"] > SMALL.sequences


def test_every_operation_is_cut_in_every_way() -> None:
    cuts = list(single_cuts([Operation.READ, Operation.ERASE], 2))
    before, inside, after = Moment
    assert cuts == [(0, before, 0), (1, before, 0), (1, inside, 0), (1, inside, 1), (1, after, 0)]


def both_copies_at_once(store: StateStore, _address: int, raw: bytes) -> None:
    for address in store._layout.states:
        store._chip.erase(address)
    for address in store._layout.states:
        store._chip.program(address, raw)


SAVE, BEGIN, BOOT, CHOSEN = StateStore.save, Updater.begin, BootRom.boot, BootRom._chosen


def over_the_newest_copy(store: StateStore, state: BootState) -> None:
    store._at = store._at if store.lost else 1 - store._at
    SAVE(store, state)


def erase_before_the_state_says_so(updater: Updater, size: int, digest: bytes) -> Progress:
    slot = updater._target()
    if updater.state.slot(slot).state is SlotState.CONFIRMED:
        updater._chip.erase(updater._layout.slots[slot])
    return BEGIN(updater, size, digest)


def mark_before_the_block_is_whole(updater: Updater, slot: Slot, offset: int) -> None:
    address = updater._layout.slots[slot] + offset
    updater._store.mark()
    updater._chip.erase(address)
    updater._chip.program(address, bytes(updater._buffer).ljust(-(-len(updater._buffer) // 16) * 16, b"\xff"))
    updater._buffer.clear()


def start_a_trial_without_counting(rom: BootRom, *arguments: Any) -> Decision:
    decision: Decision = arguments[2]
    return decision if decision.reason is Reason.TRIAL else CHOSEN(rom, *arguments)


def erase_before_the_other_slot_was_verified(rom: BootRom, now_ns: int) -> Decision:
    store = StateStore(rom._chip, rom._layout)
    rom._chip.erase(rom._layout.slots[store.state.active.other])
    return BOOT(rom, now_ns)


WRONG: dict[str, tuple[Any, str, Callable[..., Any], str]] = {
    "both copies of the state at once": (StateStore, "_write_copy", both_copies_at_once, "update"),
    "the newest copy of the state": (StateStore, "save", over_the_newest_copy, "update"),
    "what was torn is left unstable": (StateStore, "settle", lambda store: None, "update"),  # noqa: ARG005
    "erased before the state says so": (Updater, "begin", erase_before_the_state_says_so, "upgrade"),
    "a mark before its block is whole": (Updater, "_flush", mark_before_the_block_is_whole, "update"),
    "tries that are not counted": (BootRom, "_chosen", start_a_trial_without_counting, "revert"),
    "the way back erased, unverified": (BootRom, "boot", erase_before_the_other_slot_was_verified, "revert"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_rom_is_noticed(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, method, replacement, scenario = WRONG[wrong]
    monkeypatch.setattr(owner, method, replacement)
    assert sweep(MUTANT, 1, scenario, to_the_first=True).bricked != []


def test_the_command_prints_json_and_fails_when_a_board_is_bricked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "FULL", Size(1, 100, 1))
    monkeypatch.setattr(sys, "argv", ["sweep", "--json", "--seed", "3"])
    assert command.main() == 0
    found = json.loads(capsys.readouterr().out)
    assert found["seed"] == 3
    assert set(found["scenarios"]) == set(SCENARIOS)
    monkeypatch.setattr(StateStore, "_write_copy", both_copies_at_once)
    monkeypatch.setattr(command, "SCENARIOS", {"update": SCENARIOS["update"]})
    monkeypatch.setattr(sys, "argv", ["sweep"])
    assert command.main() == 1
    assert "BRICKED: " in capsys.readouterr().out
