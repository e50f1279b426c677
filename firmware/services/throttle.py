"""Thermal throttling: the DLA is slowed down while the board is too warm."""

import logging

from firmware.hal import Hal

_log = logging.getLogger(__name__)


class Throttle:
    """Slows the DLA down at the limit, and lets go well below it, so that the rate does not swing.

    Args:
        hal: The hardware, which says what limits and rate are.
    """

    def __init__(self, hal: Hal) -> None:
        self._hal = hal
        self._limits = hal.thermal_limits()
        self._throttled = False

    def update(self) -> None:
        """Look at the temperature and set the DLA's rate where it has to change."""
        celsius = self._hal.temperature_c()
        if not self._throttled and celsius >= self._limits.limit_c:
            self._set(True, self._limits.throttled_percent, celsius)
        elif self._throttled and celsius <= self._limits.resume_c:
            self._set(False, 100, celsius)

    def _set(self, throttled: bool, percent: int, celsius: float) -> None:
        self._throttled = throttled
        self._hal.set_dla_rate(percent)
        _log.warning("the board is at %.1f °C; the DLA runs at %d %%", celsius, percent)
