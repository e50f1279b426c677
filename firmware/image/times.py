"""Times as people write them: in UTC, to the second."""

import os
from datetime import UTC, datetime

from firmware.image.keys import NEVER
from host_sdk.wire.errors import ConfigError

_LAST_DATE = 253402300799  # end of the year 9999, after which there is no date to print


def time_text(seconds: int) -> str:
    """Return a time for people: a date in UTC, ``never``, or the seconds where there is no such date."""
    if seconds == NEVER:
        return "never"
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}" if seconds <= _LAST_DATE else f"{seconds} s"


def parse_time(text: str, what: str) -> int:
    """Return seconds since 1970 of a date or time in UTC, or NEVER of ``never``.

    Args:
        text: Like 2027-01-31 or 2027-01-31T12:00:00.
        what: What it is of, for the error.

    Raises:
        ConfigError: It is none.
    """
    if text == "never":
        return NEVER
    try:
        parsed = datetime.fromisoformat(text)
        seconds = int((parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        seconds = -1
    if seconds < 0:
        raise ConfigError(f"{what} {text[:40]!r} is no time; write it like 2027-01-31 or 2027-01-31T12:00:00, or never")
    return seconds


def source_date(otherwise: int) -> int:
    """Return what the environment's SOURCE_DATE_EPOCH says, so that the same sources can give the same bytes.

    Args:
        otherwise: Seconds since 1970 where it says nothing.

    Raises:
        ConfigError: It is no time.
    """
    text = os.environ.get("SOURCE_DATE_EPOCH", str(otherwise))
    if not (text.isascii() and text.isdigit() and len(text) < len(str(NEVER))):
        raise ConfigError(f"SOURCE_DATE_EPOCH is {text[:40]!r}; it must be seconds since 1970")
    return int(text)
