"""Cases: what they are, how they are written down, and how one ends."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from host_sdk.conformance.rig import Rig


class FailedError(Exception):
    """A responder did something else than the protocol says.

    Attributes:
        expected: What should have come.
        got: What came.
        frames: The last frames of the case, in hexadecimal, with their direction.
    """

    def __init__(self, expected: str, got: str, frames: tuple[str, ...] = ()) -> None:
        super().__init__(f"expected {expected}; got {got}")
        self.expected, self.got, self.frames = expected, got, frames


class NotApplicableError(Exception):
    """A rule cannot be looked at on this target; the message says why."""


class DeadTargetError(Exception):
    """The target does not answer at all."""


@dataclass(frozen=True, slots=True)
class Case:
    """One thing that is looked at.

    Attributes:
        number: ``N-011.2``: the second case whose first rule is N-011.
        rules: Numbers of the rules that it is about.
        section: Of cases that belong together.
        sentence: What must be so.
        run: Looks at it; raises FailedError or NotApplicableError.
        slow: Takes more than half a minute.
    """

    number: str
    rules: tuple[str, ...]
    section: str
    sentence: str
    run: "Callable[[Rig], None]"
    slow: bool = False


class Section:
    """Cases of one file.

    Args:
        name: For people.

    Attributes:
        cases: In the order of the file; their numbers are still to come.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.cases: list[Case] = []

    def case(
        self, rules: str, sentence: str, variants: Mapping[str, Any] | None = None, *, slow: bool = False
    ) -> Callable[[Callable[..., None]], Callable[..., None]]:
        """Return a decorator that makes a case, or one for each variant, of a function.

        Args:
            rules: Numbers, with a space between them.
            sentence: What must be so; ``{}`` stands for a variant's name.
            variants: By name, what the function gets beside the rig.
            slow: Whether it takes more than half a minute.
        """
        numbers = tuple(rules.split())

        def register(function: Callable[..., None]) -> Callable[..., None]:
            if variants is None:
                self._add(numbers, sentence, function, slow=slow)
            for name, value in (variants or {}).items():
                self._add(numbers, sentence.format(name), _bound(function, value), slow=slow)
            return function

        return register

    def _add(self, rules: tuple[str, ...], sentence: str, run: "Callable[[Rig], None]", *, slow: bool) -> None:
        self.cases.append(Case("", rules, self.name, sentence, run, slow))


def numbered(sections: Iterable[Section]) -> tuple[Case, ...]:
    """Return the cases of all sections, each numbered by its first rule."""
    counted: Counter[str] = Counter()
    cases = []
    for case in (case for section in sections for case in section.cases):
        counted[case.rules[0]] += 1
        cases.append(replace(case, number=f"{case.rules[0]}.{counted[case.rules[0]]}"))
    return tuple(cases)


def _bound(function: Callable[..., None], value: Any) -> "Callable[[Rig], None]":
    return lambda rig: function(rig, value)
