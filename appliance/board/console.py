"""The console: the last lines that the firmware and the board said, kept by the hardware over resets."""

import threading
from collections import deque
from dataclasses import dataclass

from appliance.clock import Clock

LINES = 500
MAX_LINE = 1000  # characters; longer lines are cut into several


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the console.

    Attributes:
        sequence: Counts the lines since power-on, from 1.
        time_ns: When it came, in ns since power-on.
        text: The line without its end.
    """

    sequence: int
    time_ns: int
    text: str


class Console:
    """A ring of lines, written and read from any thread."""

    def __init__(self, clock: Clock, lines: int = LINES) -> None:
        self._clock = clock
        self._power_on = clock.now_ns()
        self._lines: deque[Line] = deque(maxlen=lines)
        self._sequence = 0
        self._partial = b""
        self._lock = threading.Lock()

    def write(self, text: str) -> None:
        """Add a line of the board's own."""
        with self._lock:
            self._append(text)

    def feed(self, data: bytes) -> None:
        """Take the firmware's output as it comes, in pieces of any size and content."""
        with self._lock:
            *whole, rest = (self._partial + data).split(b"\n")
            for line in whole:
                self._append(line.decode(errors="replace"))
            while len(rest) > MAX_LINE:
                self._append(rest[:MAX_LINE].decode(errors="replace"))
                rest = rest[MAX_LINE:]
            self._partial = rest

    def flush(self) -> None:
        """End the line that the firmware has begun: there is no more to come from it."""
        with self._lock:
            if self._partial:
                self._append(self._partial.decode(errors="replace"))
            self._partial = b""

    def after(self, sequence: int, limit: int = LINES) -> list[Line]:
        """Return the oldest lines after a sequence number, at most ``limit`` of them, in order."""
        with self._lock:
            return [line for line in self._lines if line.sequence > sequence][: max(limit, 0)]

    def _append(self, text: str) -> None:
        for begin in range(0, max(len(text), 1), MAX_LINE):
            self._sequence += 1
            self._lines.append(
                Line(self._sequence, self._clock.now_ns() - self._power_on, text[begin : begin + MAX_LINE])
            )
