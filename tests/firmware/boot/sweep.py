"""Cut the power at every operation of every scenario: ``python -m tests.firmware.boot.sweep [--seed N] [--json]``."""

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from appliance.board.power import Moment, Operation
from tests.firmware.boot.rig import PlannedCut, PlannedPower, Rig, copy_board
from tests.firmware.boot.scenarios import SCENARIOS, BrickedError, Run, Scenario, play

Plan = tuple[PlannedCut, ...]
MEMORY = Path("/dev/shm")
MOST_CUTS = 5


@dataclass(frozen=True)
class Size:
    """How much is tried.

    Attributes:
        tearings: Random ones of each operation that is cut inside.
        second: Of so many first cuts, one is followed by a second one at every change that the next boot makes.
        sequences: Random sequences of up to MOST_CUTS cuts, of each scenario.
    """

    tearings: int
    second: int
    sequences: int


FULL = Size(tearings=8, second=1, sequences=400)
SMALL = Size(tearings=2, second=9, sequences=15)


@dataclass
class Report:
    """What was tried of one scenario.

    Attributes:
        operations: Of the scenario without a cut.
        cuts: How often the power was cut, by kind.
        bricked: What did not hold, with the plan that led there.
    """

    operations: int = 0
    cuts: Counter[str] = field(default_factory=Counter)
    bricked: list[str] = field(default_factory=list)


class Sweep:
    """Runs of one scenario, each on a copy of the same board.

    Args:
        name: Of the scenario.
        directory: An empty one for the boards.
        seed: Of all that is random.
    """

    def __init__(self, name: str, directory: Path, seed: int) -> None:
        self.report = Report()
        self._name, self._scenario, self._seed = name, SCENARIOS[name], seed
        self._first, self._copy = directory / "first", directory / "copy"
        self._first.mkdir()
        self._copy.mkdir()
        prepare(self._scenario, self._first)

    def tries(self, size: Size) -> Iterator[Report]:
        """Try everything of this size; yield the report as it stands after each run."""
        log, _ = self._play((), "none")
        self.report.operations = len(log)
        yield self.report
        changes = 0
        for cut in single_cuts(log, size.tearings):
            _, run = self._play((cut,), cut.moment.value)
            yield self.report
            if log[cut.after] is Operation.READ:
                continue
            changes += 1
            if run and changes % size.second == 0:
                for second in single_cuts(run.after_cut, 1, reads=False):
                    self._play((cut, second), "second, in the boot after one")
                    yield self.report
        generator = random.Random(f"{self._seed}/{self._name}")
        for _ in range(size.sequences):
            self._play(random_plan(generator, len(log)), "random sequence")
            yield self.report

    def _play(self, plan: Plan, kind: str) -> tuple[list[Operation], Run | None]:
        copy_board(self._first, self._copy)
        power = PlannedPower(plan, f"{self._seed}/{self._name}")
        rig = Rig(self._copy, power)
        run = None
        try:
            run = play(self._scenario, rig)
        except BrickedError as error:
            cuts = ", then ".join(f"{cut.moment.value} operation {cut.after} (tearing {cut.tearing})" for cut in plan)
            self.report.bricked.append(f"{error}; {cuts or 'no cut'}")
        finally:
            rig.close()
        # The first of two cuts was counted when it was tried alone.
        self.report.cuts[kind] += power.cuts - (kind.startswith("second") and power.cuts > 0)
        return power.log, run


def prepare(scenario: Scenario, directory: Path) -> None:
    rig = Rig(directory)
    rig.provision()
    scenario.prepare(rig)
    rig.close()


def single_cuts(log: Sequence[Operation], tearings: int, *, reads: bool = True) -> Iterator[PlannedCut]:
    """Yield a cut at every operation: before, inside with so many tearings, and after it.

    A read changes nothing, so that a cut inside or after it is one before the next operation; and where reads are left
    out, so is one before it.
    """
    for number, operation in enumerate(log):
        if operation is not Operation.READ or reads:
            yield PlannedCut(number, Moment.BEFORE)
        if operation is not Operation.READ:
            yield from (PlannedCut(number, Moment.INSIDE, tearing) for tearing in range(tearings))
            yield PlannedCut(number, Moment.AFTER)


def random_plan(generator: random.Random, operations: int) -> Plan:
    """Return one to MOST_CUTS cuts; half of them come soon, as the first operations after a cut are delicate ones."""
    return tuple(
        PlannedCut(
            generator.randrange(operations if generator.random() < 0.5 else 12),
            generator.choice(list(Moment)),
            generator.getrandbits(16),
        )
        for _ in range(generator.randint(1, MOST_CUTS))
    )


def sweep(size: Size, seed: int, name: str, *, to_the_first: bool = False) -> Report:
    """Try one scenario, all of it or until something does not hold."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as directory:
        attempt = Sweep(name, Path(directory), seed)
        for report in attempt.tries(size):
            if to_the_first and report.bricked:
                break
        return attempt.report


def _lines(reports: dict[str, Report]) -> Iterator[str]:
    for name, report in reports.items():
        yield f"{name}: {report.operations} operations, {sum(report.cuts.values())} cuts, {len(report.bricked)} bricked"
        yield from (f"    {count:6} {kind}" for kind, count in report.cuts.items() if count)
        yield from (f"    BRICKED: {sentence}" for sentence in report.bricked[:5])
    cuts = sum(sum(report.cuts.values()) for report in reports.values())
    yield f"all: {cuts} cuts, bricked {sum(len(report.bricked) for report in reports.values())}"


def main() -> int:
    """Sweep as the command line says; return 1 where a board was bricked."""
    parser = argparse.ArgumentParser(prog="python -m tests.firmware.boot.sweep", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of all that is random (1)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    asked = parser.parse_args()
    began = time.monotonic()
    reports = {name: sweep(FULL, asked.seed, name) for name in SCENARIOS}
    if asked.json:
        found = {
            name: {"operations": report.operations, "cuts": dict(report.cuts), "bricked": report.bricked}
            for name, report in reports.items()
        }
        text = json.dumps({"seed": asked.seed, "scenarios": found})
    else:
        text = "\n".join([*_lines(reports), f"seed {asked.seed}, {time.monotonic() - began:.1f} s"])
    sys.stdout.write(f"{text}\n")
    return 1 if any(report.bricked for report in reports.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
