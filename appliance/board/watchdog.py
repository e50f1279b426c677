"""The watchdog: a timer that the firmware must kick, and that resets it when it does not."""

from appliance.board.registers import RegisterFile
from appliance.board.regmap import WATCHDOG_KICK, WATCHDOG_PERIOD
from appliance.clock import Clock

_MS_NS = 1_000_000


class Watchdog:
    """Off until the firmware writes a period; used by the board's thread alone.

    Time that the firmware waits for the hardware is not its fault and does not count: see :meth:`excuse`. So a
    pipeline may take as long to compile as it likes, and the period need only cover the firmware's own work.

    Args:
        clock: For deadlines.

    Attributes:
        period_ms: What the firmware has set, in ms; 0 is off.
        deadline_ns: When the firmware will have been silent for too long, on the clock; None while it is off.
    """

    def __init__(self, clock: Clock) -> None:
        self.period_ms = 0
        self.deadline_ns: int | None = None
        self._clock = clock

    def attach(self, registers: RegisterFile) -> None:
        """Take the watchdog's registers of a register file."""
        registers.on_write(WATCHDOG_PERIOD, self._set_period)
        registers.on_write(WATCHDOG_KICK, lambda _: self._kick())

    def expired(self) -> bool:
        """Return whether the firmware has been silent for too long."""
        return self.deadline_ns is not None and self._clock.now_ns() >= self.deadline_ns

    def excuse(self, duration_ns: int) -> None:
        """Give the firmware back the time, in ns, that a transaction of its own took in the hardware."""
        if self.deadline_ns is not None:
            self.deadline_ns += duration_ns

    def stop(self) -> None:
        """Turn it off: the firmware that it watched is gone."""
        self._set_period(0)

    def _set_period(self, period_ms: int) -> None:
        self.period_ms = period_ms
        self._kick()

    def _kick(self) -> None:
        self.deadline_ns = self._clock.now_ns() + self.period_ms * _MS_NS if self.period_ms else None
