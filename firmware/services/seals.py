"""A line in the log when sealed frames are refused: the hardware alone sees them, and only counts."""

import logging

from firmware.hal import Hal

_audit_log = logging.getLogger("audit")
_REFUSED = {
    "frames_bad_seal": "BAD_SEAL",
    "frames_replayed": "REPLAYED",
    "frames_unknown_key": "UNKNOWN_KEY",
    "answers_not_sealed": "NOT_SEALED",
}


class SealWatch:
    """Compares the hardware's counters from one turn of the firmware to the next.

    Args:
        hal: The hardware.
    """

    def __init__(self, hal: Hal) -> None:
        self._hal = hal
        self._seen = self._counters()

    def update(self) -> None:
        """Write down what was refused since the last time, if anything was."""
        now = self._counters()
        grown = {name: now[name] - self._seen[name] for name in _REFUSED if now[name] > self._seen[name]}
        self._seen = now
        if grown:
            what = ", ".join(f"{_REFUSED[name]} {count}" for name, count in grown.items())
            _audit_log.warning("refused frames of inference: %s", what)

    def _counters(self) -> dict[str, int]:
        counters = self._hal.counters()
        return {name: counters.get(name, 0) for name in _REFUSED}
