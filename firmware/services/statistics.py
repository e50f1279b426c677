"""What is counted."""

from collections.abc import Callable
from typing import Any

from firmware.hal import Hal

_SECOND_NS = 1_000_000_000


class Statistics:
    """Counters of the hardware and of the firmware.

    Args:
        hal: The hardware.
        clock: Monotonic, in ns.

    Attributes:
        letters: Letters taken out of the mailbox since this boot.
    """

    def __init__(self, hal: Hal, clock: Callable[[], int]) -> None:
        self.letters = 0
        self._hal = hal
        self._clock = clock
        self._boot_ns = clock()

    def describe(self) -> dict[str, Any]:
        """Return all counters by name, in two maps: hardware, firmware; of the latter also what runs and why."""
        booted = self._hal.rom.status()
        firmware = {
            **{name: booted[name] for name in ("version", "slot", "state", "reason")},
            "uptime_s": (self._clock() - self._boot_ns) // _SECOND_NS,
            "epoch": self._hal.epoch(),
            "resets": self._hal.resets(),
            "letters": self.letters,
        }
        return {"hardware": self._hal.counters(), "firmware": firmware}
