"""Frames of the model, as tuples, and values: what an answer holds."""

from enum import IntEnum
from typing import NamedTuple


class Kind(IntEnum):
    """What a frame is; those from RESULT on go to the requester."""

    REQUEST = 0
    CANCEL = 1
    SETTLE = 2
    RESEND = 3
    RESULT = 4
    REFUSAL = 5
    WORKING = 6
    UNKNOWN = 7
    GRANT = 8


class Frame(NamedTuple):
    """One PDU.

    Attributes:
        kind: What it is.
        id: The request that it belongs to; of a SETTLE, the highest of the settled prefix, or -1.
        part: Index of the fragment in REQUEST and RESULT; in RESEND and GRANT the fragments that arrived, and in SETTLE
            the settled requests from ``id`` + 1 on, as bits.
        value: What the RESULT as a whole says; of a REQUEST, STRAY if it comes from an earlier requester.
    """

    kind: Kind
    id: int
    part: int = 0
    value: int = 0

    def __str__(self) -> str:
        text = f"{self.kind.name} {self.id}"
        if self.kind in (Kind.REQUEST, Kind.RESULT):
            text += f".{self.part}"
        if self.kind in (Kind.RESEND, Kind.GRANT):
            text += f" has {self.part:b}"
        if self.kind is Kind.SETTLE:
            return f"SETTLE to {self.id} and {[self.id + 1 + at for at in bits(self.part)]}"
        if self.kind is Kind.REQUEST and self.value:
            text = f"stray {text}"
        return text + (f" = {describe(self.value)}" if self.kind is Kind.RESULT else "")


# Values: of the answer that an execution gave, four to each request; 0 is none.
NOTHING = 0
NO_SESSION = 1
FAILED = 2  # an outcome, never in a frame: the user was told that it failed
_FIRST = 4
STRAY = 3  # in place of the ordinal of an execution: of the request of an earlier requester


def answer_of(number: int, execution: int) -> int:
    """Return the answer that the first or second execution of a request gives."""
    return _FIRST * (number + 1) + execution


def cancelled(number: int) -> int:
    """Return the answer CANCELLED to a request."""
    return _FIRST * (number + 1)


def owner_of(value: int) -> int | None:
    """Return the request that a value answers; None for those that any may get."""
    return None if value < _FIRST else value // _FIRST - 1


def is_short(value: int) -> bool:
    """Return whether the value is a status, in one fragment whatever the answer would need."""
    return value < _FIRST or value % _FIRST == 0


def executions_in(value: int) -> int:
    """Return the ordinal of the execution that a value comes from; 0 if from none."""
    return 0 if is_short(value) else value % _FIRST


def describe(value: int) -> str:
    """Return a value in words."""
    if value in (NOTHING, NO_SESSION, FAILED):
        return ("nothing", "UNKNOWN_SESSION", "failed")[value]
    what = "CANCELLED" if is_short(value) else f"answer {value % _FIRST}"
    if value % _FIRST == STRAY:
        what = "answer to a stray"
    return f"{what} of {owner_of(value)}"


def bits(mask: int) -> list[int]:
    """Return the places of a mask's bits."""
    return [at for at in range(mask.bit_length()) if mask >> at & 1]


def base_of(mask: int) -> int:
    """Return the first place whose bit is not set."""
    return (~mask & (mask + 1)).bit_length() - 1
