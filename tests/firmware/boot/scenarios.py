"""What a host does with a board, over as many losses of power as there are, and what must hold all the while."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from appliance.board.power import Operation
from firmware.boot.layout import Slot
from firmware.boot.slots import Decision
from firmware.boot.state import SlotState
from firmware.boot.store import StateStore
from firmware.boot.update import Updater
from host_sdk.wire.errors import DeviceError, PowerCutError
from tests.firmware.boot.rig import LAST, NAMES, NEW, NEWER, OLD, RECOVERY, Rig

PART = 3000  # bytes of a write: no divisor of a block
MOST_BOOTS = 40
LATE_NS = 10**12
REREADS = 4
WHOLE = (SlotState.READY, SlotState.TRYING, SlotState.CONFIRMED)


class BrickedError(Exception):
    """Something that must hold on every board does not."""


def must(holds: bool, otherwise: str) -> None:
    if not holds:
        raise BrickedError(otherwise)


@dataclass
class Run:
    """One run of a scenario.

    Attributes:
        rig: The board.
        allowed: Images that may be booted now.
        counters: Security counters that the fuses may have now.
        boots: So far.
        after_cut: The operations of the first boot after the first cut, as far as it came.
        resets: Whether something was done already that is to be done once in a run.
    """

    rig: Rig
    allowed: set[bytes]
    counters: set[int]
    recovery: bytes
    boots: int = 0
    after_cut: list[Operation] = field(default_factory=list)
    once: set[str] = field(default_factory=set)

    def first_time(self, what: str) -> bool:
        if what in self.once:
            return False
        self.once.add(what)
        return True

    def boot(self) -> Decision:
        self.boots += 1
        must(self.boots <= MOST_BOOTS, "it boots for ever")
        decision = self.rig.rom.boot(0)
        if self.rig.power.cuts == 1 and not self.after_cut:
            self.after_cut = list(self.rig.power.log)
        self.check(decision)
        return decision

    def check(self, decision: Decision) -> None:
        """Hold the board against what must be so after every boot."""
        with self.rig.power.unwatched():
            store = StateStore(self.rig.chip, self.rig.layout)
            fused = self.rig.fuses.security_counter
            state = store.state
            must(not store.lost, "there is no boot state")
            again = [StateStore(self.rig.chip, self.rig.layout).state for _ in range(REREADS)]
            # A mark of the journal may be unstable until the next state is written: its block is whole either way.
            must(
                all(replace(other, progress=state.progress) == state for other in again),
                "the boot state reads differently from one time to the next",
            )
            must(decision.image in self.allowed, f"{NAMES.get(decision.image, 'an unknown image')} was booted")
            must(hashlib.sha256(decision.image).digest() == decision.verified.digest, "a wrong digest was booted")
            must(fused in self.counters, f"the fuses count {fused}")
            must(self.rig.contents(Slot.RECOVERY) == self.recovery, "the recovery image was touched")
            for slot in (Slot.A, Slot.B):
                record = state.slot(slot)
                content = self.rig.contents(slot)[: record.size]
                must(
                    record.state not in WHOLE or hashlib.sha256(content).digest() == record.digest,
                    f"slot {slot.name} is {record.state.name} and its image is damaged",
                )
            if decision.slot is not Slot.RECOVERY:
                must(state.active is decision.slot, "another slot is active than was booted")
                must(state.slot(decision.slot).state in WHOLE[1:], "the slot that was booted is not to be booted")
                must(decision.verified.counter >= fused, "an image below the fuses' counter was booted")


Step = Callable[[Run, Decision], bool]
"""What the host does after a boot; True when there is nothing left to do, False to boot again."""


@dataclass(frozen=True)
class Scenario:
    """A scenario.

    Attributes:
        prepare: Brings a board that was provisioned to where the scenario begins.
        step: What is done after each boot.
        allowed: Images that may be booted in it.
        final: The image that runs at its end.
    """

    prepare: Callable[[Rig], None]
    step: Step
    allowed: frozenset[bytes]
    final: bytes


def transfer(run: Run, updater: Updater, image: bytes, stop_at: int | None = None) -> bool:
    """Bring an image into its slot, or as much of it as to ``stop_at``; return whether it is whole."""
    begun = updater.begin(len(image), hashlib.sha256(image).digest())
    if stop_at is None and run.first_time("resume") and "stop" in run.once and not run.rig.power.cuts:
        must(begun.offset > 0, "an update that was interrupted begins anew")
    offset = begun.offset
    while offset < len(image):
        if stop_at is not None and offset >= stop_at:
            return False
        offset = updater.write(offset, image[offset : offset + PART]).offset
    updater.finish()
    return True


def update_to(image: bytes, interrupted: bool = False) -> Step:
    """Update to an image, and confirm it."""

    def step(run: Run, decision: Decision) -> bool:
        updater = run.rig.updater(decision.slot)
        if decision.image == image:
            run.counters.add(decision.verified.counter)
            updater.confirm()
            run.allowed &= {image}
            run.counters &= {decision.verified.counter}
            return True
        if interrupted and run.first_time("stop"):
            transfer(run, updater, image, stop_at=len(image) * 2 // 3)
            return False
        transfer(run, updater, image)
        run.allowed.add(image)
        updater.activate()
        return False

    return step


def revert(run: Run, decision: Decision) -> bool:
    """Try an image that never confirms; the ROM gives it up when its tries are used up."""
    if decision.image == NEW:
        return False
    if run.rig.updater(decision.slot).state.slot(decision.slot.other).state is SlotState.BAD:
        run.allowed.discard(NEW)
        return True
    return update_to(NEW)(run, decision)


def late(run: Run, decision: Decision) -> bool:
    """Try an image that never confirms; give it up by its deadline."""
    if decision.image == NEW:
        must(run.rig.rom.expire(decision, 0) is None, "it was given up too early")
        must(run.rig.rom.expire(decision, LATE_NS) is not None, "it was not given up")
        run.allowed.discard(NEW)
        return False
    return revert(run, decision)


def roll_back(run: Run, decision: Decision) -> bool:
    """Go back to the image before."""
    if decision.image == OLD:
        return True
    run.allowed.add(OLD)
    run.rig.updater(decision.slot).rollback()
    run.allowed.discard(NEW)
    return False


def carry_out(run: Run, step: Step) -> None:
    """Go on, over all losses of power, until there is nothing left to do."""
    while True:
        try:
            if step(run, run.boot()):
                return
        except PowerCutError:
            run.rig.power.power_on()
        except DeviceError as error:
            raise BrickedError(f"refused: {error}") from error


def play(scenario: Scenario, rig: Rig) -> Run:
    """Carry a scenario out, then one more update on the same board.

    Raises:
        BrickedError: Something does not hold.
    """
    with rig.power.unwatched():
        counter = rig.fuses.security_counter
    run = Run(rig, set(scenario.allowed), {counter}, rig.contents(Slot.RECOVERY))
    carry_out(run, scenario.step)
    with rig.power.unwatched():
        must(run.boot().image == scenario.final, "it ends with another image than it should")
        carry_out(run, update_to(LAST))
        must(run.boot().image == LAST, "it could not be updated afterwards")
        must(rig.fuses.security_counter == 2, "confirming did not raise the fuses' counter")
    return run


def nothing(rig: Rig) -> None:
    """Begin with a board as it was provisioned."""
    rig.rom.boot(0)


def updated(rig: Rig) -> None:
    """Begin with the new image confirmed, and the old one in the other slot."""
    carry_out(Run(rig, {OLD}, {1}, rig.contents(Slot.RECOVERY)), update_to(NEW))


def damaged(rig: Rig) -> None:
    """Begin with slots of which none can be started."""
    updated(rig)
    rig.damage(Slot.A)
    rig.damage(Slot.B)


SCENARIOS = {
    "update": Scenario(nothing, update_to(NEW), frozenset({OLD}), NEW),
    "interrupted": Scenario(nothing, update_to(NEW, interrupted=True), frozenset({OLD}), NEW),
    "upgrade": Scenario(updated, update_to(NEWER), frozenset({NEW}), NEWER),
    "revert": Scenario(nothing, revert, frozenset({OLD}), OLD),
    "deadline": Scenario(nothing, late, frozenset({OLD}), OLD),
    "rollback": Scenario(updated, roll_back, frozenset({NEW}), OLD),
    "recovery": Scenario(damaged, update_to(NEW), frozenset({RECOVERY}), NEW),
}
