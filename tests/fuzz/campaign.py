"""Fuzz all parsers, or some, by coverage and for a bounded time; or run one of them on one input.

Needs the environment that `.ci/setup fuzz` makes, but for --input. What is found is kept in .fuzz, and is where the
next campaign goes on from.
"""

import argparse
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KEPT = Path(".fuzz")
CHILD = "tests.fuzz.child"
SECONDS = 60
SLACK_S = 60  # after which a child that does not end is ended; it ends hangs of its own
TAIL = 40  # lines of a child's that are shown
_RUNS = re.compile(r"^stat::number_of_executed_units: (\d+)", re.MULTILINE)
_COVERAGE = re.compile(r"cov: (\d+) ft: \d+ corp: (\d+)/")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one target.

    Attributes:
        name: The target.
        runs: How often it was run.
        seconds: How long that took.
        coverage: Branches of the project that were reached.
        corpus: Inputs that reached one first.
        found: Inputs that it failed on.
        said: The end of what the fuzzer printed, where it failed.
    """

    name: str
    runs: int
    seconds: float
    coverage: int
    corpus: int
    found: tuple[Path, ...] = ()
    said: str = ""

    @property
    def failed(self) -> bool:
        """Whether there is something to look at."""
        return bool(self.found or self.said)


def fuzz(name: str, seconds: float, seeds: Sequence[bytes]) -> Outcome:
    """Fuzz one target in a process of its own."""
    directory = KEPT / name
    for part in ("corpus", "found"):
        (directory / part).mkdir(parents=True, exist_ok=True)
    before = set((directory / "found").iterdir())
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(seeds):
            Path(folder, str(number)).write_bytes(seed)
        command = [sys.executable, "-m", CHILD, name, str(seconds), str(directory), folder]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as child:
            try:
                said, _ = child.communicate(timeout=seconds + SLACK_S)
            except BaseException:
                child.kill()
                raise
    found = tuple(sorted(set((directory / "found").iterdir()) - before))
    runs, coverage = _RUNS.search(said), _COVERAGE.findall(said)
    reached, corpus = map(int, coverage[-1]) if coverage else (0, 0)
    tail = "\n".join(said.splitlines()[-TAIL:]) if child.returncode or not runs else ""
    return Outcome(name, int(runs[1]) if runs else 0, time.monotonic() - began, reached, corpus, found, tail)


def campaign(names: Sequence[str], seconds: float) -> int:
    """Fuzz targets, one for each core at a time, and print what came of each; return the exit status."""
    from tests.fuzz.targets import TARGETS

    workers = min(len(os.sched_getaffinity(0)), len(names))
    share = seconds * workers / len(names)
    bad = []
    with ThreadPoolExecutor(workers) as pool:
        tasks = [pool.submit(fuzz, name, share, TARGETS[name].seeds()) for name in names]
        try:
            for task in tasks:
                outcome = task.result()
                rate = outcome.runs / max(outcome.seconds, 1e-9)
                sys.stdout.write(
                    f"{outcome.name:12} {outcome.runs:9} runs {rate:8.0f}/s, {outcome.coverage:5} branches, "
                    f"{outcome.corpus:4} inputs{'  FAILED' if outcome.failed else ''}\n"
                )
                sys.stdout.flush()
                bad += [outcome] if outcome.failed else []
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    for outcome in bad:
        sys.stdout.write(f"\n{outcome.name} failed:\n{outcome.said}\n")
        for path in outcome.found:
            again = shlex.join([os.path.relpath(sys.executable), "-m", "tests.fuzz.campaign", outcome.name])
            sys.stdout.write(f"input: {path}\nto run it again: {again} --input {path}\n")
    return 1 if bad else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Do as the command line says; return 1 where a target failed."""
    from tests.fuzz.targets import TARGETS

    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.campaign", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)} (all)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"for all targets together ({SECONDS})")
    parser.add_argument("--input", type=Path, metavar="FILE", help="run the one target on this, without the fuzzer")
    asked = parser.parse_args(arguments)
    names = asked.targets or list(TARGETS)
    if unknown := [name for name in names if name not in TARGETS]:
        parser.error(f"there is no target {unknown[0]!r}; there are {', '.join(TARGETS)}")
    if asked.input:
        if len(asked.targets) != 1:
            parser.error("--input takes exactly one target")
        TARGETS[names[0]].run(asked.input.read_bytes())
        sys.stdout.write(f"{names[0]} takes this input, or refuses it as documented\n")
        return 0
    if importlib.util.find_spec("atheris") is None:
        parser.error("atheris is not installed in this environment; `make fuzz` makes one that has it")
    try:
        return campaign(names, asked.seconds)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
