"""A steady load on appliances, and what became of every request of it."""

import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import numpy as np
import typer

from host_sdk.cli.files import read_input
from host_sdk.cli.output import (
    EXIT_FAILED,
    IdentityOption,
    JsonOption,
    LabOption,
    LinkOption,
    TargetOption,
    TimeoutOption,
    client_for,
    err,
    failures,
    out,
    print_json,
    table,
)
from host_sdk.operations import InferOptions
from host_sdk.results import Inference
from host_sdk.streams import Data
from host_sdk.wire.errors import NapuError, NapuTimeoutError


@dataclass
class Tally:
    """What became of a load.

    Attributes:
        sent: Requests that were submitted.
        answered: Those that were answered well.
        lost: Those that nobody answered in time.
        failed: Those that were answered with a status, by its exception.
        sent_again: Those that were sent more than once until they were answered.
        appliances: Answers by appliance.
        epochs: Firmware epochs that answers named, by appliance, in the order in which they came.
        latencies_us: Of answers, from submission.
    """

    sent: int = 0
    answered: int = 0
    lost: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    sent_again: int = 0
    appliances: Counter[str] = field(default_factory=Counter)
    epochs: dict[str, list[int]] = field(default_factory=dict)
    latencies_us: list[float] = field(default_factory=list)

    def take(self, result: Inference | NapuError) -> None:
        """Count what became of one request."""
        if isinstance(result, NapuTimeoutError):
            self.lost += 1
        elif isinstance(result, NapuError):
            self.failed[type(result).__name__] += 1
        else:
            self.answered += 1
            self.sent_again += result.transmissions > 1
            self.appliances[result.appliance] += 1
            self.latencies_us.append(result.latency_us)
            epochs = self.epochs.setdefault(result.appliance, [])
            if result.trailer and result.trailer.firmware_epoch not in epochs[-1:]:
                epochs.append(result.trailer.firmware_epoch)

    def report(self, seconds: float) -> dict[str, Any]:
        """Return it as plain data, for a load that lasted so long."""
        quantiles = np.quantile(self.latencies_us, (0.5, 0.99, 1.0)).tolist() if self.latencies_us else [0.0] * 3
        return {
            "seconds": seconds,
            "sent": self.sent,
            "answered": self.answered,
            "lost": self.lost,
            "failed": sum(self.failed.values()),
            "failures": dict(self.failed),
            "sent_again": self.sent_again,
            "answered_per_s": self.answered / seconds,
            "latency_us": dict(zip(("p50", "p99", "max"), quantiles, strict=True)),
            "appliances": dict(self.appliances),
            "epochs": self.epochs,
        }


class _Stop:
    """Becomes true at Ctrl-C: the load ends, and what is under way is still waited for."""

    def __init__(self) -> None:
        self.requested = False

    def __call__(self, _signal: int, _frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


def load(
    pipeline: Annotated[str, typer.Argument(help="Name of the pipeline.")],
    files: Annotated[
        list[Path],
        typer.Argument(help="Media files, .npy arrays, or raw tensors, in turn.", exists=True, dir_okay=False),
    ],
    rate: Annotated[float, typer.Option(min=1, max=1e6, help="Inferences a second, over all appliances.")] = 1000.0,
    seconds: Annotated[float, typer.Option(min=0.1, max=86400, help="How long; Ctrl-C ends it before.")] = 10.0,
    link: LinkOption = "auto",
    target: TargetOption = None,
    lab: LabOption = "",
    identity: IdentityOption = None,
    timeout: TimeoutOption = 5.0,
    once: Annotated[bool, typer.Option(help="Execute each at most once, however often it is sent.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Put a steady load on appliances and say what became of every request: answered, lost, failed.

    Exit status 1 if any was lost or failed.
    """
    with failures(as_json=as_json), client_for(link, target, lab, timeout, identity) as napu:
        inputs = [read_input(file) for file in files]
        stop, tally = _Stop(), Tally()
        list(napu.infer_many(pipeline, inputs[:1], return_errors=True))  # opens sessions, which takes a while
        before = signal.signal(signal.SIGINT, stop)
        start = time.monotonic()
        try:
            items = _items(inputs, tally, stop, start + seconds)
            shown = start
            for result in napu.infer_steadily(pipeline, items, rate, options=InferOptions(once=once)):
                tally.take(result)
                if time.monotonic() - shown >= 1:
                    shown = time.monotonic()
                    _show(tally, shown - start)
        finally:
            signal.signal(signal.SIGINT, before)
            _end_line()
        report = tally.report(time.monotonic() - start)
    if as_json:
        print_json(report)
    else:
        _print(report)
    if report["lost"] or report["failed"]:
        raise typer.Exit(EXIT_FAILED)


def _items(inputs: list[Data], tally: Tally, stop: _Stop, end: float) -> Iterator[Data]:
    while not stop.requested and time.monotonic() < end:
        yield inputs[tally.sent % len(inputs)]
        tally.sent += 1


def _show(tally: Tally, seconds: float) -> None:
    if sys.stderr.isatty():
        failed = sum(tally.failed.values())
        err.print(f"\r{seconds:.0f} s: {tally.answered} answered, {tally.lost} lost, {failed} failed", end="")


def _end_line() -> None:
    if sys.stderr.isatty():
        err.print()


def _print(report: dict[str, Any]) -> None:
    shown = table("LOAD", "")
    shown.add_row("sent", f"{report['sent']} in {report['seconds']:.1f} s, {report['answered_per_s']:.0f} answered/s")
    shown.add_row("answered", str(report["answered"]))
    shown.add_row("lost", str(report["lost"]))
    shown.add_row("failed", str(report["failed"]) + (f" {json.dumps(report['failures'])}" if report["failed"] else ""))
    shown.add_row("sent again", str(report["sent_again"]))
    shown.add_row("latency µs", ", ".join(f"{name} {value:.0f}" for name, value in report["latency_us"].items()))
    for address, count in sorted(report["appliances"].items()):
        epochs = ", ".join(map(str, report["epochs"].get(address, ())))
        shown.add_row(address, f"{count} answers, firmware epochs {epochs}")
    out.print(shown)
