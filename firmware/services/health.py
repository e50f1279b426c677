"""How the appliance is: since when it runs, what it was reset by, how warm it is."""

from collections.abc import Callable
from typing import Any

from firmware.hal import Hal

_SECOND_NS = 1_000_000_000


class Health:
    """Answers from registers and the boot ROM alone, so it works whatever the dataplane does.

    Args:
        hal: The hardware.
        clock: Monotonic, in ns.
    """

    def __init__(self, hal: Hal, clock: Callable[[], int]) -> None:
        self._hal = hal
        self._clock = clock
        self._boot_ns = clock()

    def describe(self) -> dict[str, Any]:
        """Return four maps: board, firmware, resets, watchdog."""
        hal = self._hal
        limits = hal.thermal_limits()
        rate = hal.dla_rate()
        booted = hal.rom.status()
        return {
            "board": {
                "uptime_s": hal.uptime_s(),
                "temperature_c": hal.temperature_c(),
                "limit_c": limits.limit_c,
                "power_w": hal.power_w(),
                "dla_rate_percent": rate,
                "throttled": rate < 100,
            },
            "firmware": {
                "version": booted["version"],
                "epoch": hal.epoch(),
                "boots": hal.resets() + 1,
                "uptime_s": (self._clock() - self._boot_ns) // _SECOND_NS,
                "reset_reason": hal.reset_reason().name,
                **{name: booted[name] for name in ("slot", "state", "reason", "trial_ms")},
            },
            "resets": {reason.name.lower(): count for reason, count in hal.resets_by_reason().items()},
            "watchdog": {"period_ms": hal.watchdog_period_ms()},
        }
