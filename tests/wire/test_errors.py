"""The exception tree: as drawn, and with one class for each status."""

import re

import pytest

from host_sdk.wire import errors
from host_sdk.wire.errors import (
    STATUS_ERRORS,
    BusyError,
    FrameError,
    InternalError,
    NapuError,
    NapuTimeoutError,
    StatusError,
    status_error,
)
from host_sdk.wire.schema import STATUS_MEANING, DropReason, Status


def defined() -> list[type[Exception]]:
    """Return every exception class of the module."""
    return [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]


def drawn() -> dict[str, str]:
    """Return the tree in the module's docstring: the name of each class and of its parent."""
    parents: dict[str, str] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"    ([ │├└─]*)([A-Z]\w+)", line)
        if match:
            depth = len(match[1]) // 4
            del path[depth:]
            parents[match[2]] = path[-1] if path else ""
            path.append(match[2])
    return parents


def test_the_tree_in_the_docstring_is_the_real_one() -> None:
    # Those with a status are drawn as one line, "BusyError …".
    shown = [cls for cls in defined() if not issubclass(cls, StatusError) or cls in (StatusError, BusyError)]
    real = {cls.__name__: "" if cls is NapuError else cls.__bases__[0].__name__ for cls in shown}
    assert drawn() == real
    assert len(real) > 12


def test_every_status_but_ok_has_exactly_one_class() -> None:
    classes = [cls for cls in defined() if issubclass(cls, StatusError) and cls is not StatusError]
    assert sorted(cls.status for cls in classes) == sorted(set(Status) - {Status.OK})
    assert {cls.status: cls for cls in classes} == STATUS_ERRORS


@pytest.mark.parametrize("status", sorted(set(Status) - {Status.OK}))
def test_a_class_is_named_for_its_status_and_says_its_sentence(status: Status) -> None:
    error = status_error(status)
    assert type(error).__name__ == "".join(word.title() for word in status.name.split("_")) + "Error"
    assert str(error) == f"{status.name}: {STATUS_MEANING[status]}"
    told = status_error(status, "the queue is full", 0.25)
    assert (type(told), told.detail, told.retry_after_s) == (type(error), "the queue is full", 0.25)
    assert str(told) == f"{status.name}: the queue is full"


@pytest.mark.parametrize("status", [0, 1, 68, 0xFFFF])
def test_a_status_that_is_no_error_or_not_known_is_internal(status: int) -> None:
    error = status_error(status, "what is this")
    assert type(error) is InternalError
    assert f"{status}: what is this" in str(error)


def test_every_class_is_documented_and_below_the_root() -> None:
    for cls in defined():
        assert issubclass(cls, NapuError)
        assert (cls.__doc__ or "").strip()


def test_a_timeout_can_be_caught_as_the_builtin() -> None:
    assert issubclass(NapuTimeoutError, TimeoutError)


def test_a_frame_error_carries_its_reason() -> None:
    for reason in (DropReason.BAD_VERSION, Status.MALFORMED):
        error = FrameError(reason, "because")
        assert error.reason is reason
        assert str(error) == f"{reason.name}: because"
