"""The suite: all cases, which of them are wanted, and the rules that none can be about."""

from collections.abc import Sequence

from host_sdk.conformance.case import Case, numbered
from host_sdk.conformance.cases import (
    carriage,
    control,
    fragments,
    granted,
    header,
    inference,
    limits,
    notices,
    parts,
    sealed,
    sessions,
    window,
)
from host_sdk.wire.errors import ConfigError

_MODULES = (carriage, header, fragments, parts, notices, sessions, window, granted, inference, limits, sealed, control)
CASES = numbered(module.SECTION for module in _MODULES)

_REQUESTER = "speaks of requesters alone, and this asks a responder"
UNOBSERVABLE = {
    **dict.fromkeys(
        (
            *("N-015", "N-016", "N-017", "N-021", "N-035", "N-040", "N-041", "N-049", "N-050", "N-054", "N-066"),
            *("N-068", "N-069", "N-086", "N-088", "N-095", "N-096", "N-097", "N-109", "N-110", "N-120", "N-121"),
            *("N-122", "N-139", "N-140", "N-141", "N-144", "N-147"),
        ),
        _REQUESTER,
    ),
    "N-128": "takes 2^31 frames under one key",
    "N-003": "the target is asked at the address that it was given with; which one its maker set, nobody outside knows",
    "N-056": "a beacon comes when the management side boots, and nobody outside can make it",
    "N-071": "takes hundreds of packages that can be run to install",
    "N-083": "nobody outside can stop the management side",
    "N-085": "nobody outside can restart a responder",
    "N-090": "the memory of unfinished messages is bounded by a number that is not announced",
    "N-092": "as N-090, and takes two peers that fill it",
    "N-093": "as N-090",
    "N-104": "which requests wait at the same time shows to nobody outside",
    "N-143": "takes an image of firmware that the responder would boot",
}


def chosen(only: Sequence[str]) -> tuple[Case, ...]:
    """Return the cases with one of these rules or numbers; all where none is given.

    Raises:
        ConfigError: There is no case for one of them; the message says why.
    """
    for wanted in only:
        if not any(wanted in (case.number, *case.rules) for case in CASES):
            reason = UNOBSERVABLE.get(wanted, "see --list")
            raise ConfigError(f"there is no case for {wanted}: {reason}")
    return tuple(case for case in CASES if not only or not {case.number, *case.rules}.isdisjoint(only))
