"""Reports of a run: plain data for JSON, JUnit's XML, and one HTML file that needs no other."""

import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from host_sdk.conformance.run import Outcome, Verdict
from host_sdk.conformance.suite import UNOBSERVABLE

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 70em; padding: 0 1em; color: #222 }
table { border-collapse: collapse; width: 100% } td, th { text-align: left; padding: .25em .6em; vertical-align: top }
tr { border-top: 1px solid #ddd } pre { margin: .3em 0; overflow-x: auto; font-size: 12px; background: #f5f5f5 }
.pass { color: #1a7f37 } .fail { color: #c00; font-weight: bold } .na { color: #777 }
"""
_CLASSES = {Verdict.PASS: "pass", Verdict.FAIL: "fail", Verdict.NOT_APPLICABLE: "na"}


@dataclass(frozen=True, slots=True)
class Report:
    """A run that has ended.

    Attributes:
        target: As it was named.
        announced: What it said of itself.
        outcomes: Of every case.
    """

    target: str
    announced: dict[str, Any]
    outcomes: Sequence[Outcome]

    @property
    def counts(self) -> dict[str, int]:
        """Cases by verdict, all three."""
        found = Counter(outcome.verdict for outcome in self.outcomes)
        return {verdict.value: found[verdict] for verdict in Verdict}

    @property
    def failed(self) -> bool:
        """Whether any case did not pass that was applicable."""
        return any(outcome.verdict is Verdict.FAIL for outcome in self.outcomes)

    @property
    def seconds(self) -> float:
        """How long all cases took."""
        return sum(outcome.seconds for outcome in self.outcomes)

    @property
    def subject(self) -> str:
        """What was tested, in words."""
        firmware = self.announced.get("firmware")
        version = firmware.get("version") if isinstance(firmware, dict) else None
        return f"{self.announced.get('profile', '?')} at {self.target}, firmware {version or '?'}"


def as_data(report: Report) -> dict[str, Any]:
    """Return a report as plain data."""
    return {
        "target": report.target,
        "appliance": {key: report.announced.get(key) for key in ("device", "name", "address", "profile", "access")},
        "counts": report.counts,
        "seconds": round(report.seconds, 3),
        "cases": [_case(outcome) for outcome in report.outcomes],
        "unobservable": UNOBSERVABLE,
    }


def _case(outcome: Outcome) -> dict[str, Any]:
    case = outcome.case
    shown: dict[str, Any] = {
        "case": case.number,
        "rules": list(case.rules),
        "section": case.section,
        "sentence": case.sentence,
        "verdict": outcome.verdict.value,
        "seconds": round(outcome.seconds, 6),
    }
    if outcome.verdict is Verdict.NOT_APPLICABLE:
        shown["reason"] = outcome.reason
    if outcome.verdict is Verdict.FAIL:
        shown |= {"expected": outcome.expected, "got": outcome.got, "frames": list(outcome.frames)}
    return shown


def as_junit(report: Report) -> str:
    """Return a report as JUnit's XML: a test suite for each section, a test case for each case."""
    root = _element("testsuites", None, {"name": "NIP conformance", **_numbers(report)})
    sections: dict[str, list[Outcome]] = {}
    for outcome in report.outcomes:
        sections.setdefault(outcome.case.section, []).append(outcome)
    for name, outcomes in sections.items():
        found = Report(report.target, report.announced, outcomes)
        suite = _element("testsuite", root, {"name": name, **_numbers(found)})
        for outcome in outcomes:
            title = f"{outcome.case.number} {outcome.case.sentence}"
            case = _element("testcase", suite, {"classname": name, "name": title, "time": f"{outcome.seconds:.3f}"})
            if outcome.verdict is Verdict.FAIL:
                failure = _element("failure", case, {"message": outcome.reason})
                failure.text = "\n".join(outcome.frames)
            elif outcome.verdict is Verdict.NOT_APPLICABLE:
                _element("skipped", case, {"message": outcome.reason})
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _numbers(report: Report) -> dict[str, str]:
    counts = report.counts
    numbers = {"tests": len(report.outcomes), "failures": counts["fail"], "skipped": counts["not applicable"]}
    return {**{name: str(number) for name, number in numbers.items()}, "errors": "0", "time": f"{report.seconds:.3f}"}


def _element(tag: str, parent: ET.Element | None, attributes: dict[str, str]) -> ET.Element:
    texts = {key: _printable(value) for key, value in attributes.items()}
    return ET.Element(tag, texts) if parent is None else ET.SubElement(parent, tag, texts)


def _printable(text: str) -> str:
    """Return a text without what XML has no way to write; some of it came off the wire."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def as_html(report: Report) -> str:
    """Return a report as one HTML page."""
    counts = ", ".join(f"{count} {name}" for name, count in report.counts.items())
    rows = "\n".join(_row(outcome) for outcome in report.outcomes)
    hidden = "\n".join(f"<tr><td>{rule}</td><td>{escape(why)}</td></tr>" for rule, why in sorted(UNOBSERVABLE.items()))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>NIP conformance</title><style>{_STYLE}</style></head><body>
<h1>NIP conformance</h1>
<p>{escape(report.subject)}: {counts}, in {report.seconds:.1f} s.</p>
<table><tr><th>Case</th><th>Rules</th><th>What must be so</th><th>Verdict</th></tr>
{rows}
</table>
<h2>Rules without a case</h2>
<table>{hidden}</table>
</body></html>
"""


def _row(outcome: Outcome) -> str:
    detail = ""
    if outcome.verdict is Verdict.FAIL:
        frames = escape("\n".join(outcome.frames))
        detail = f"<br>expected {escape(outcome.expected)}<br>got {escape(outcome.got)}<pre>{frames}</pre>"
    elif outcome.reason:
        detail = f"<br>{escape(outcome.reason)}"
    case = outcome.case
    verdict = f'<td class="{_CLASSES[outcome.verdict]}">{outcome.verdict.value}</td>'
    rules = " ".join(case.rules)
    return f"<tr><td>{case.number}</td><td>{rules}</td><td>{escape(case.sentence)}{detail}</td>{verdict}</tr>"
