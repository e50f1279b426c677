"""A call that may be refused, as a value."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from host_sdk.wire.errors import FrameError

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def outcome(
    call: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> Result | FrameError:
    """Return what a call returns, or the FrameError that it raises; any other exception passes."""
    try:
        return call(*args, **kwargs)
    except FrameError as error:
        return error
