"""Appliances in containers under load, one of them hurt every few seconds: ``python -m tests.system.soak``, as root.

The load is *once* requests of a cluster client at a steady rate. Which fault befalls whom is drawn by a seed. One fault
is over, and its appliance healthy and answering again, before the next begins, so all but one are there all the time:
not one request may be lost, answered wrongly, or end with an error. The first appliance is spared what ends its
process, and neither it nor the client may grow.

Exit status: 0 all of that held, 1 it did not, 2 it cannot be run here or with these arguments, 130 interrupted.
"""

import argparse
import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import Final, NoReturn

from host_sdk.wire.errors import ConfigError, NapuError
from tests.rig.container_faults import FAULTS, Fault, FaultError, wait_until
from tests.rig.container_lab import FaultLab, Victim, fault_lab, left_of, why_not
from tests.rig.engine import built_image
from tests.rig.load_process import LoadProcess, load_process
from tests.rig.usage import Growth, Usage, family, growth, usage
from tests.system.soak_report import Befallen, Report

_HOLD_S: Final = 3.0
_BACK_S: Final = 60.0
_SAMPLE_S: Final = 2.0
_WARM_UP: Final = 0.2  # of the run: what is held at first is not growth
_FEWEST: Final = 10  # samples that say something
_INTERRUPTED: Final = 130


@dataclass
class Sampler:
    """Looks at an appliance and at the client every few seconds, in a thread.

    Attributes:
        appliance: Samples of the node and its firmware.
        client: Samples of the client.
    """

    node: Victim
    client_pid: int
    appliance: list[Usage] = field(default_factory=list)
    client: list[Usage] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._pid = self.node.pid
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.wait(_SAMPLE_S):
            now = time.monotonic()
            with suppress(OSError):  # one ends just now, as at the end of the run
                self.appliance.append(usage(family(self._pid), now))
                self.client.append(usage([self.client_pid], now))

    def stop(self) -> dict[str, Growth]:
        """Stop, and return how what was held has changed; nothing where the run was too short to say."""
        self._ended.set()
        self._thread.join()
        found = {"appliance": self.appliance, "client": self.client}
        kept = {who: samples[int(len(samples) * _WARM_UP) :] for who, samples in found.items()}
        return {who: growth(samples) for who, samples in kept.items() if len(samples) >= _FEWEST}


def drawn(generator: random.Random, lab: FaultLab) -> Iterator[tuple[Fault, Victim]]:
    """Yield what happens next, and to whom: every fault once in some order, then again in another."""
    possible = [fault for fault in FAULTS.values() if lab.turns_clocks or fault.name != "clock"]
    while True:
        for fault in generator.sample(possible, len(possible)):
            yield fault, generator.choice(lab.victims[1:] if fault.ends_process else lab.victims)


def befall(fault: Fault, victim: Victim, load: LoadProcess) -> float:
    """Have something happen to an appliance; return the seconds from the end of it until it served again.

    Raises:
        FaultError: It did not happen, or the appliance did not come back.
    """
    load.enter(fault.name)
    fault.begin(victim)
    try:
        time.sleep(_HOLD_S)
    finally:
        fault.end(victim)
    ended, answered = time.monotonic(), load.answered_by(victim.address)
    back = lambda: victim.healthy and load.answered_by(victim.address) > answered  # noqa: E731
    wait_until(back, f"{victim.node} is healthy and answers after {fault.name}", _BACK_S)
    return time.monotonic() - ended


def soak(arguments: argparse.Namespace, lab: FaultLab, load: LoadProcess, report: Report) -> None:
    """Let one thing after the other happen until the time is over."""
    draw = drawn(random.Random(arguments.seed), lab)
    begun = time.monotonic()
    sampler = Sampler(lab.victims[0], load.pid)
    try:
        for number in range(1, max(1, round(arguments.minutes * 60 / arguments.every)) + 1):
            due = begun + number * arguments.every
            fault, victim = next(draw)
            at = time.monotonic() - begun
            back = befall(fault, victim, load)
            report.faults.append(Befallen(at, fault.name, victim.node, back))
            tell(report.faults[-1].line(load.now))
            if due - time.monotonic() > 0:
                time.sleep(due - time.monotonic())
            if time.monotonic() - begun >= arguments.minutes * 60:
                break
    except FaultError as error:
        report.broken.append(str(error))
    finally:
        report.seconds = time.monotonic() - begun
        report.growth = sampler.stop()


def tell(line: str) -> None:
    """Say how far it is, beside the result."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def run(arguments: argparse.Namespace) -> Report:
    """Run the soak; what it has found so far is returned when it is interrupted, too.

    Raises:
        NapuError: The lab cannot be had.
    """
    name = f"soak-{os.getpid()}"
    report = Report(arguments.seed, arguments.appliances, arguments.rate)
    try:
        with fault_lab(name, arguments.appliances) as lab:
            tell(f"{arguments.appliances} appliances serve; a fault every {arguments.every:g} s, seed {arguments.seed}")
            options = ["--rate", str(arguments.rate), "--appliances", str(arguments.appliances)]
            with load_process(lab.lab, "host", options) as load:
                try:
                    soak(arguments, lab, load, report)
                except KeyboardInterrupt:
                    report.interrupted = True
                report.requests = load.stop()
    except KeyboardInterrupt:
        report.interrupted = True
    except FaultError as error:
        report.broken.append(str(error))
    report.left = left_of(name)
    return report


def parsed() -> argparse.Namespace:
    """Return the arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.system.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="of load (10)")
    parser.add_argument("--every", type=float, default=10.0, help="seconds from one fault to the next (10)")
    parser.add_argument("--appliances", type=int, default=3, help="2 to 32 (3)")
    parser.add_argument("--rate", type=float, default=100.0, help="requests a second over all (100)")
    parser.add_argument("--seed", type=int, default=1, help="of what happens to whom (1)")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    arguments = parser.parse_args()
    if not (2 <= arguments.appliances <= 32 and 0 < arguments.minutes <= 1440 and 0 < arguments.rate <= 2000):
        parser.error("give 2 to 32 appliances, up to 1440 minutes, and a rate up to 2000 requests/s")
    if arguments.every < _HOLD_S + 1:
        parser.error(f"give at least {_HOLD_S + 1:g} s with --every: a fault is held for {_HOLD_S:g}")
    return arguments


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    for number in (signal.SIGINT, signal.SIGTERM):  # once: what is there is taken down now
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> int:
    """Run the soak and print its report; return the exit status."""
    arguments = parsed()
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)  # ignored where this was started in the background
    try:
        if reason := why_not():
            raise ConfigError(reason)
        os.environ["NAPU_IMAGE"] = built_image()
        report = run(arguments)
    except NapuError as error:
        tell(f"soak: {error}")
        return 2
    except KeyboardInterrupt:
        return _INTERRUPTED
    sys.stdout.write((json.dumps(report.plain(), indent=2) if arguments.json else report.text()) + "\n")
    if report.interrupted:
        return _INTERRUPTED
    return 1 if report.problems() else 0


if __name__ == "__main__":
    sys.exit(main())
