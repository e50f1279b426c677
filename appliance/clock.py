"""Where time comes from."""

import time
from typing import Protocol


class Clock(Protocol):
    """A monotonic clock in ns."""

    def now_ns(self) -> int:
        """Return the time in ns since some fixed moment."""


class WallClock:
    """The machine's monotonic clock."""

    now_ns = staticmethod(time.monotonic_ns)  # CLOCK_MONOTONIC; as it is, for it is read several times a request


class VirtualClock:
    """A clock that moves when it is told to, for tests and replays."""

    def __init__(self, start_ns: int = 0) -> None:
        self._now = start_ns

    def now_ns(self) -> int:
        """Return the time that was last set."""
        return self._now

    def advance(self, by_ns: int) -> None:
        """Move forward by ``by_ns`` ns.

        Raises:
            ValueError: ``by_ns`` is negative.
        """
        if by_ns < 0:
            raise ValueError("a monotonic clock does not go back")
        self._now += by_ns

    def advance_to(self, time_ns: int) -> None:
        """Move forward to a time; one that has been is no error, and changes nothing."""
        self._now = max(self._now, time_ns)
