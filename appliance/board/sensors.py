"""What the board senses: its power, from the energy that it has counted, and the temperature that follows from it.

A first-order model: one heat capacity C, one thermal resistance R to the ambient. With constant power P the
temperature goes towards ambient + R * P, and the difference shrinks by the factor exp(-t / RC). That is exact, so how
often the model is advanced changes nothing but how finely the power is averaged.

P is the idle power plus what was counted for requests, at most what all parts draw together at their present rates:
the emulator may serve more than the modelled board could. What is counted for a request holds a share of the idle
power, so a busy board is taken for up to that much warmer than it would be.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from appliance.board.registers import RegisterFile
from appliance.board.regmap import POWER, TEMPERATURE, TEMPERATURE_LIMIT, TEMPERATURE_RESUME, THROTTLED_RATE
from appliance.clock import Clock
from appliance.profile import Profile

_SECOND_NS = 1_000_000_000
SHORTEST_STEP_NS = _SECOND_NS // 10  # over less than this, a mean power says little


@dataclass(frozen=True, slots=True)
class ThermalModel:
    """The constants of a board.

    Attributes:
        ambient_c: Temperature around the board and of a board that was just switched on, °C.
        resistance_k_per_w: Kelvin above the ambient for each watt, in the end.
        capacity_j_per_k: Joules that warm the board by one kelvin.
        idle_w: Power of a board that does nothing; what is counted for requests comes on top.
        parts_w: Power of all parts but the DLA, at work.
        dla_w: Power of all cores of the DLA, at work and not throttled.
        limit_c: Where the firmware is to throttle, °C.
        resume_c: Where it is to stop throttling, °C; lower than the limit.
        throttled_percent: Rate of the DLA while throttled.
    """

    ambient_c: float
    resistance_k_per_w: float
    capacity_j_per_k: float
    idle_w: float
    parts_w: float
    dla_w: float
    limit_c: float
    resume_c: float
    throttled_percent: int


def thermal_model(profile: Profile) -> ThermalModel:
    """Return the constants that a profile assumes."""
    value = profile.value
    return ThermalModel(
        ambient_c=value("thermal", "ambient_c"),
        resistance_k_per_w=value("thermal", "resistance_k_per_w"),
        capacity_j_per_k=value("thermal", "capacity_j_per_k"),
        idle_w=value("board", "idle_watts"),
        parts_w=sum(value(part, "watts") for part in ("port", "image_engine", "vector_engine")),
        dla_w=value("dla", "cores") * value("dla", "watts"),
        limit_c=value("thermal", "limit_c"),
        resume_c=value("thermal", "resume_c"),
        throttled_percent=int(value("thermal", "throttled_percent")),
    )


class Sensors:
    """Power and temperature, advanced by the clock whenever somebody reads them; used by the board's thread alone.

    Args:
        model: The constants.
        energy_nj: Returns what the board has counted since power-on, in nJ.
        clock: For the time between two readings.

    Attributes:
        dla_percent: Rate of the DLA: what its power is cut to.
    """

    def __init__(self, model: ThermalModel, energy_nj: Callable[[], int], clock: Clock) -> None:
        self._model, self._energy_nj, self._clock = model, energy_nj, clock
        self.dla_percent = 100
        self._at_ns, self._counted_nj = clock.now_ns(), energy_nj()
        self._celsius, self._watts = model.ambient_c, model.idle_w

    def attach(self, registers: RegisterFile) -> None:
        """Take the sensors' registers of a register file."""
        registers.on_read(TEMPERATURE, lambda: round(self.temperature_c() * 1000))
        registers.on_read(POWER, lambda: round(self.power_w() * 1000))
        registers.on_read(TEMPERATURE_LIMIT, lambda: round(self._model.limit_c * 1000))
        registers.on_read(TEMPERATURE_RESUME, lambda: round(self._model.resume_c * 1000))
        registers.on_read(THROTTLED_RATE, lambda: self._model.throttled_percent)

    def temperature_c(self) -> float:
        """Return the temperature in °C."""
        self._advance()
        return self._celsius

    def power_w(self) -> float:
        """Return the mean power in W between the last two readings that were not too close."""
        self._advance()
        return self._watts

    def _advance(self) -> None:
        now, model = self._clock.now_ns(), self._model
        passed_ns = now - self._at_ns
        if passed_ns < SHORTEST_STEP_NS:
            return
        counted = self._energy_nj()
        most = model.parts_w + model.dla_w * self.dla_percent / 100
        self._watts = model.idle_w + min((counted - self._counted_nj) / passed_ns, most)  # nJ a ns are W
        final = model.ambient_c + model.resistance_k_per_w * self._watts
        time_constant_s = model.resistance_k_per_w * model.capacity_j_per_k
        self._celsius = final + (self._celsius - final) * math.exp(-passed_ns / _SECOND_NS / time_constant_s)
        self._at_ns, self._counted_nj = now, counted
