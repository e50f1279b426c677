"""The tables of ``docs/conformance.md``: which cases a rule has, and which rules have none.

``python -m host_sdk.conformance.tables docs/conformance.md`` renews them.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from host_sdk.conformance.suite import CASES, UNOBSERVABLE
from host_sdk.wire.tables import markdown_table

_BLOCK = re.compile(r"(<!-- generated: (?P<name>[a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def rule_cases() -> dict[str, list[str]]:
    """Return the numbers of the cases of each rule, by rule in order."""
    found: dict[str, list[str]] = {}
    for case in CASES:
        for rule in case.rules:
            found.setdefault(rule, []).append(case.number)
    return dict(sorted(found.items()))


def _shortened(numbers: Sequence[str]) -> str:
    """Return case numbers with those of one rule in a row as a range."""
    runs: list[list[str]] = []
    for number in numbers:
        rule, _, index = number.partition(".")
        before = runs[-1][-1].partition(".") if runs else ("", "", "0")
        if before[0] == rule and int(before[2]) + 1 == int(index):
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(run[0] if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)


def generated() -> dict[str, str]:
    """Return every generated table by the name of its marker."""
    cases = ((rule, str(len(numbers)), _shortened(numbers)) for rule, numbers in rule_cases().items())
    return {
        "cases": markdown_table(("Rule", "Cases", "Their numbers"), cases),
        "unobservable": markdown_table(("Rule", "Why it has no case"), sorted(UNOBSERVABLE.items())),
    }


def renew(text: str) -> str:
    """Return a document with everything between its markers as it is generated now.

    Raises:
        ValueError: A marker is missing or names nothing that is generated.
    """
    parts = generated()
    found = {match["name"] for match in _BLOCK.finditer(text)}
    if found != set(parts):
        raise ValueError(f"markers missing or unknown: {', '.join(sorted(found ^ set(parts)))}")
    return _BLOCK.sub(lambda match: f"{match[1]}\n{parts[match['name']]}\n\n{match[3]}", text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Renew a document; return the exit code."""
    (name,) = sys.argv[1:] if arguments is None else arguments
    document = Path(name)
    document.write_text(renew(document.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
