"""The log, as it can be read from afar.

The firmware logs to its standard error, which is the board's console; the hardware keeps its last lines. So the log
of a firmware that died, and what it died of, can be read from the one that was started after it.
"""

import logging
import sys
from typing import Any

from firmware.hal import Hal

MAX_LINES = 500
_SECOND_NS = 1e9


def start_logging() -> None:
    """Let everything that is logged go to the console."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")


class Logs:
    """Reads the console's ring."""

    def __init__(self, hal: Hal) -> None:
        self._hal = hal

    def after(self, sequence: int, limit: int) -> dict[str, Any]:
        """Return the oldest lines after a sequence number, at most ``limit``.

        Returns:
            ``lines``, a list of maps of sequence, time_s (seconds since power-on) and text; ``next``, the sequence
            number to ask after for what follows.
        """
        lines = [
            {"sequence": number, "time_s": time_ns / _SECOND_NS, "text": text}
            for number, time_ns, text in self._hal.console(sequence, limit)
        ]
        return {"lines": lines, "next": lines[-1]["sequence"] if lines else sequence}
