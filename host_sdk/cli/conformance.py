"""``napu conformance``: hold a responder to the protocol."""

import os
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from host_sdk.cli.output import (
    EXIT_FAILED,
    EXIT_SILENT,
    EXIT_USAGE,
    IDENTITY,
    INSIDE,
    IdentityOption,
    JsonOption,
    LabOption,
    become_host,
    err,
    failures,
    out,
    print_json,
    table,
)
from host_sdk.conformance.case import DeadTargetError
from host_sdk.conformance.connect import connected
from host_sdk.conformance.report import Report, as_data, as_html, as_junit
from host_sdk.conformance.run import Outcome, Verdict, run_all
from host_sdk.conformance.suite import UNOBSERVABLE, chosen

_TOLD = 50  # cases between two words about how far it is, where nobody looks at a screen


def conformance(
    target: Annotated[
        str, typer.Option(help="udp:HOST[:PORT], packet:IFACE[:MAC] or xdp:IFACE[:MAC]; in a lab packet:eth0:MAC.")
    ] = "",
    lab: LabOption = "",
    only: Annotated[list[str] | None, typer.Option(help="Rule or case, repeatable: N-011, N-011.2.")] = None,
    listed: Annotated[bool, typer.Option("--list", help="Print the cases, and the rules without one.")] = False,
    slow: Annotated[bool, typer.Option(help="Run the cases as well that take up to a minute.")] = False,
    pipeline: Annotated[str, typer.Option(help="Infer with this one; by default the smallest of tensors.")] = "",
    source: Annotated[
        Path | None,
        typer.Option("--input", help="File with a body that the pipeline takes.", dir_okay=False, exists=True),
    ] = None,
    identity: IdentityOption = None,
    patience: Annotated[float, typer.Option(min=0.1, max=100, help="Factor of every time that is waited.")] = 1.0,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit's XML to this file.", dir_okay=False)] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page to this file.", dir_okay=False)] = None,
    as_json: JsonOption = False,
) -> None:
    """Hold a responder to every rule of the protocol that shows from outside.

    Exit status 0 when no case failed, 1 when one did, 3 when the target does not answer.
    """
    with failures(as_json=as_json):
        cases = chosen(only or ())
    if listed:
        _print_cases(only or [], as_json=as_json)
        return
    if not target:
        err.print("napu: name what to test: --target udp:HOST[:PORT] or packet:IFACE[:MAC]", style="red", markup=False)
        raise typer.Exit(EXIT_USAGE)
    outcomes: list[Outcome] = []
    who = identity or (Path(os.environ[IDENTITY]) if os.environ.get(IDENTITY) else None)
    dead, announced = "", {}
    with failures(as_json=as_json):
        if lab and not os.environ.get(INSIDE):
            become_host(lab)
        body = source.read_bytes() if source else None
        try:
            with connected(target, pipeline=pipeline, body=body, identity=who, patience=patience) as rig:
                announced = rig.target.announced
                for outcome in run_all(cases, rig, slow=slow):
                    outcomes.append(outcome)
                    if not as_json:
                        _tell(outcome, len(outcomes), len(cases))
        except DeadTargetError as error:
            dead = str(error)
    report = Report(target, announced, outcomes)
    if junit:
        junit.write_text(as_junit(report), encoding="utf-8")
    if html:
        html.write_text(as_html(report), encoding="utf-8")
    _finish(report, dead, as_json=as_json)


def _finish(report: Report, dead: str, *, as_json: bool) -> None:
    """Print a report, and end with its exit status; ``dead`` says that the target does not answer."""
    if as_json:
        print_json(as_data(report) | ({"error": dead} if dead else {}))
    elif report.outcomes:
        _print(report)
    if dead:
        err.print(f"napu: {dead}", style="red", markup=False)
        raise typer.Exit(EXIT_SILENT)
    if report.failed:
        raise typer.Exit(EXIT_FAILED)


def _tell(outcome: Outcome, done: int, total: int) -> None:
    """Say how far it is."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{done}/{total} {outcome.case.number} {outcome.case.sentence}"[:100])
        if done == total:
            sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()
    elif done % _TOLD == 0:
        err.print(f"{done} of {total} cases", style="dim")


def _print(report: Report) -> None:
    shown = table("FAILED", "RULES", "EXPECTED", "GOT")
    failed = [outcome for outcome in report.outcomes if outcome.verdict is Verdict.FAIL]
    for outcome in failed:
        rules = " ".join(outcome.case.rules)
        shown.add_row(outcome.case.number, rules, escape(outcome.expected), escape(outcome.got))
    if failed:
        out.print(shown)
        for outcome in failed:
            out.print(f"\n{outcome.case.number}: {outcome.case.sentence}", markup=False)
            for frame in outcome.frames:
                out.print(f"  {frame}", markup=False)
        out.print()
    reasons = Counter(entry.reason for entry in report.outcomes if entry.verdict is Verdict.NOT_APPLICABLE)
    for reason, count in reasons.items():
        out.print(f"not applicable, {count}: {reason}", markup=False, style="dim")
    counts = report.counts
    verdicts = f"{counts['pass']} passed, {counts['fail']} failed, {counts['not applicable']} not applicable"
    out.print(f"{report.subject}: {verdicts}, {report.seconds:.1f} s", markup=False)


def _print_cases(only: list[str], *, as_json: bool) -> None:
    cases = chosen(only)
    if as_json:
        print_json(
            {
                "cases": [{"case": case.number, "rules": case.rules, "sentence": case.sentence} for case in cases],
                "unobservable": UNOBSERVABLE,
            }
        )
        return
    shown = table("CASE", "RULES", "WHAT MUST BE SO")
    for case in cases:
        shown.add_row(case.number, " ".join(case.rules), escape(case.sentence))
    out.print(shown)
    if not only:
        hidden = table("RULE", "WHY IT HAS NO CASE")
        for rule, reason in sorted(UNOBSERVABLE.items()):
            hidden.add_row(rule, reason)
        out.print()
        out.print(hidden)
