"""Explore: ``python -m tests.wire.explorer --scenario three``, or several, ``small``, ``large`` or ``all``."""

import argparse
import sys
import time
from dataclasses import replace

from tests.wire.explorer.channels import Bag
from tests.wire.explorer.mutants import kill_rate
from tests.wire.explorer.search import Report, Search
from tests.wire.explorer.worlds import LARGE, SMALL, WORLDS, World


def say(text: str) -> None:
    """Write a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def explore(name: str, world: World, most: int | None, depth: int | None) -> Report:
    """Explore one world, saying how far it has come every few seconds."""
    began = said = time.monotonic()

    def progress(report: Report, new: int) -> None:
        nonlocal said
        if time.monotonic() - said > 5:
            said = time.monotonic()
            say(f"  {name}: depth {report.depth}, {report.states} states, {new} of them new")

    report = Search(world.scenario, world.channel).run(most, depth, progress)
    verdict = "complete" if report.complete else "not complete"
    if report.pruned:
        verdict += f", {report.pruned} steps beyond the budget"
    counts = f"{report.states} states, {report.transitions} transitions, depth {report.depth}"
    say(f"{name}: {counts}, {verdict}, {time.monotonic() - began:.1f} s ({world.about})")
    if report.violation:
        say("\n  ".join([f"VIOLATION in {name}: {report.violation}", *report.trace]))
    return report


def main() -> int:
    """Explore what the command line names; return 1 where a property does not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.wire.explorer", description=__doc__)
    parser.add_argument("--scenario", nargs="+", default=["small"], help=f"small, large, all, {', '.join(WORLDS)}")
    parser.add_argument("--depth", type=int, help="steps from the beginning, at most")
    parser.add_argument("--states", type=int, help="states of one world, at most")
    parser.add_argument("--faults", type=int, help="losses and copies, where the world counts them")
    parser.add_argument("--mutants", action="store_true", help="change one rule at a time instead, and see it noticed")
    asked = parser.parse_args()
    if asked.mutants:
        return 0 if kill_rate(say) else 1
    groups = {"small": SMALL, "large": LARGE, "all": WORLDS}
    found = []
    for name in asked.scenario:
        for each, world in groups.get(name, {name: WORLDS[name]} if name in WORLDS else {}).items():
            channel = world.channel
            if asked.faults is not None and isinstance(channel, Bag):
                world = replace(world, channel=Bag(channel.flight, asked.faults, channel.timeouts))
            found.append(explore(each, world, asked.states, asked.depth))
    if not found:
        parser.error(f"no scenario {' or '.join(asked.scenario)}; there are small, large, all, {', '.join(WORLDS)}")
    total = (
        f"{sum(report.states for report in found)} states, {sum(report.transitions for report in found)} transitions"
    )
    say(f"{len(found)} worlds, {total}")
    return 1 if any(report.violation for report in found) else 0


if __name__ == "__main__":
    sys.exit(main())
