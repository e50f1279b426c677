"""Running cases, one by one, each from and to a clean target."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from host_sdk.conformance.case import Case, DeadTargetError, FailedError, NotApplicableError
from host_sdk.conformance.rig import Rig


class Verdict(Enum):
    """What a case found."""

    PASS = "pass"  # noqa: S105 - a verdict, no password
    FAIL = "fail"
    NOT_APPLICABLE = "not applicable"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a case ended.

    Attributes:
        reason: Why it is not applicable, or did not pass, in words.
        expected: Of one that failed.
        got: Of one that failed.
        frames: Of one that failed: the last in both directions, in hexadecimal.
        seconds: How long it took, in real time.
    """

    case: Case
    verdict: Verdict
    seconds: float = 0.0
    reason: str = ""
    expected: str = ""
    got: str = ""
    frames: tuple[str, ...] = ()


def run_one(case: Case, rig: Rig, *, slow: bool = False) -> Outcome:
    """Run a case, whatever the target does to it.

    Raises:
        LinkError: The link is gone.
    """
    if case.slow and not slow:
        return Outcome(case, Verdict.NOT_APPLICABLE, reason="takes up to a minute; give --slow")
    began = time.monotonic()
    rig.begin()
    try:
        case.run(rig)
    except FailedError as failure:
        seconds = time.monotonic() - began
        words = (str(failure), failure.expected, failure.got)
        return Outcome(case, Verdict.FAIL, seconds, *words, failure.frames)
    except NotApplicableError as reason:
        return Outcome(case, Verdict.NOT_APPLICABLE, time.monotonic() - began, str(reason))
    finally:
        rig.finish()
    return Outcome(case, Verdict.PASS, time.monotonic() - began)


def run_all(cases: Iterable[Case], rig: Rig, *, slow: bool = False) -> Iterator[Outcome]:
    """Run cases in this order, and yield how each ended.

    Args:
        cases: In this order.
        rig: At the target.
        slow: Whether those are run that take up to a minute.

    Raises:
        DeadTargetError: After a case that failed, the target answers nothing any more.
        LinkError: The link is gone.
    """
    for case in cases:
        outcome = run_one(case, rig, slow=slow)
        yield outcome
        if outcome.verdict is Verdict.FAIL:
            _check_alive(rig, case)


def _check_alive(rig: Rig, case: Case) -> None:
    for _ in range(3):
        try:
            rig.fence()
        except FailedError:
            continue
        return
    raise DeadTargetError(f"since case {case.number} ({case.sentence}) the target answers nothing any more")
