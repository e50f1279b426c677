"""Reading a node's log on and on: nothing twice, and nothing lost without a word."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from host_sdk.wire.errors import RemoteProtocolError


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line of the log: its number since power-on, seconds since power-on, text."""

    sequence: int
    time_s: float
    text: str


@dataclass(frozen=True, slots=True)
class Lost:
    """So many lines are gone: the node keeps only its last ones."""

    count: int


@dataclass(frozen=True, slots=True)
class PowerCycle:
    """The node was switched on anew; its lines count from 1 again."""


LogEvent = LogLine | Lost | PowerCycle


class LogReader:
    """Turns pages of a log into what is new in them.

    Each page is asked for from the last known line on, that line included: when it comes back as it was, what follows
    is what is new; when another line has its number, or none has, the node was switched on anew.

    Args:
        ask: Returns the answer to the operation ``logs`` with this ``after``.
    """

    def __init__(self, ask: Callable[[int], dict[str, Any]]) -> None:
        self._ask = ask
        self._last: LogLine | None = None

    def read(self) -> list[LogEvent]:
        """Ask for one page and return what is new, in order.

        Raises:
            RemoteProtocolError: The answer is no page of a log.
            NapuError: There is no answer, or it is a refusal.
        """
        if self._last is None:
            return list(self._take(self._page(0), 0))
        last = self._last
        lines = self._page(last.sequence - 1)
        if lines and lines[0] == last:
            return list(self._take(lines[1:], last.sequence))
        if lines and lines[0].sequence > last.sequence and lines[0].time_s >= last.time_s:
            return list(self._take(lines, last.sequence))
        self._last = None
        return [PowerCycle(), *self.read()]

    def _take(self, lines: list[LogLine], sequence: int) -> Iterator[LogEvent]:
        for line in lines:
            if line.sequence > sequence + 1:
                yield Lost(line.sequence - sequence - 1)
            yield line
            self._last = line
            sequence = line.sequence

    def _page(self, after: int) -> list[LogLine]:
        entries = self._ask(after).get("lines")
        if not isinstance(entries, list):
            raise RemoteProtocolError("the answer has no list of lines")
        lines = [_parse(entry) for entry in entries]
        for line in lines:
            if line.sequence <= after:
                raise RemoteProtocolError(f"line {line.sequence} of the log came after line {after}")
            after = line.sequence
        return lines


def _parse(entry: Any) -> LogLine:
    if not isinstance(entry, dict):
        raise RemoteProtocolError("a line of the log is no map")
    sequence, time_s, text = entry.get("sequence"), entry.get("time_s"), entry.get("text")
    if type(sequence) is not int or not isinstance(time_s, int | float) or not isinstance(text, str):
        raise RemoteProtocolError("a line of the log has no sequence, time_s or text")
    return LogLine(sequence, float(time_s), text)
