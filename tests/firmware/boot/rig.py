"""A board whose power can be cut by plan, and small images to boot from it."""

import random
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from appliance.board.fuses import Fuses
from appliance.board.nor import BLOCK_SIZE, Nor
from appliance.board.power import Cut, Moment, Operation, PowerSupply
from firmware.boot.layout import Slot, layout_of
from firmware.boot.slots import BootRom, Verified
from firmware.boot.update import Updater, provision
from firmware.image.development import DEVELOPMENT_POLICY, development_signer
from firmware.image.format import Content, Terms, encode_image
from firmware.image.verify import verify_image

SLOT_BLOCKS = 3
BLOCKS = 2 + 3 * SLOT_BLOCKS


def image_of(version: str, counter: int = 0, size: int = BLOCK_SIZE + 500) -> bytes:
    """Return an image of about so many bytes, other ones for every version."""
    payload = random.Random(version).randbytes(size)
    return encode_image(Content("napu", version, "a:b", {}, payload), Terms(counter=counter), development_signer())


def verify(data: bytes) -> Verified:
    image = verify_image(data, DEVELOPMENT_POLICY)
    return Verified(image.digest, image.terms.counter)


OLD = image_of("1.0", 1)
NEW = image_of("2.0", 1, 2 * BLOCK_SIZE + 100)
NEWER = image_of("3.0", 2, BLOCK_SIZE // 2)
LAST = image_of("4.0", 2, BLOCK_SIZE - 200)
RECOVERY = image_of("0.1", 0, BLOCK_SIZE)
NAMES = {OLD: "old", NEW: "new", NEWER: "newer", LAST: "last", RECOVERY: "recovery"}


class PlannedCut(NamedTuple):
    """One cut of a plan.

    Attributes:
        after: Operations since the cut before that are let pass.
        moment: When, in the next one.
        tearing: Number of the random tearing.
    """

    after: int
    moment: Moment
    tearing: int = 0


class PlannedPower(PowerSupply):
    """Power that is cut when the plan says.

    Args:
        plan: The cuts; those that a run does not come to are left out.
        seed: Of what is torn. The same cuts tear the same, whatever cuts follow them.

    Attributes:
        log: The operations since the last cut, the one that was cut not among them.
        cuts: How often it was cut.
    """

    def __init__(self, plan: Iterable[PlannedCut] = (), seed: object = 0) -> None:
        super().__init__()
        self._plan = list(plan)
        self._seed = seed
        self._watched = True
        self.log: list[Operation] = []
        self.cuts = 0

    def cut(self, operation: Operation) -> Cut | None:
        if not self._watched:
            return None
        if not self._plan or self._plan[0].after != len(self.log):
            self.log.append(operation)
            return None
        cut = self._plan.pop(0)
        self.log = []
        self.cuts += 1
        return Cut(cut.moment, random.Random(f"{self._seed}/{self.cuts}/{cut}"))

    @contextmanager
    def unwatched(self) -> Iterator[None]:
        """Look at the board without being part of the plan."""
        before, self._watched = self._watched, False
        try:
            yield
        finally:
            self._watched = before


class Rig:
    """A board: flash, fuses and power.

    Args:
        directory: Where its files are.
        power: Its power.
        blocks: Of the flash.
    """

    def __init__(self, directory: Path, power: PlannedPower | None = None, blocks: int = BLOCKS) -> None:
        self.power = power or PlannedPower()
        self.chip = Nor(directory / "nor", blocks, self.power)
        self.fuses = Fuses(directory / "fuses", self.power)
        self.layout = layout_of(self.chip)
        self.rom = BootRom(self.chip, self.fuses, verify)

    def updater(self, running: Slot) -> Updater:
        return Updater(self.chip, self.fuses, verify, running)

    def provision(self) -> None:
        provision(self.chip, self.fuses, verify, OLD, RECOVERY)

    def damage(self, slot: Slot) -> None:
        """Turn all bits of a slot's first unit to 0."""
        self.chip.program(self.layout.slots[slot], bytes(self.chip.unit))

    def contents(self, slot: Slot) -> bytes:
        with self.power.unwatched():
            return self.chip.read(self.layout.slots[slot], self.layout.slot_size)

    def close(self) -> None:
        self.chip.close()
        self.fuses.close()


def copy_board(source: Path, target: Path) -> None:
    """Copy the files of a board that is closed."""
    for name in ("nor", "fuses"):
        shutil.copyfile(source / name, target / name)
