"""The thermal model, against the solution of its differential equation written down by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.board.registers import RegisterFile
from appliance.board.regmap import MAP
from appliance.board.sensors import Sensors, ThermalModel, thermal_model
from appliance.clock import VirtualClock
from appliance.profile import load_profile

S = 1_000_000_000
TEMPERATURE, POWER, LIMIT, RESUME, THROTTLED = 0x0600, 0x0604, 0x060C, 0x0610, 0x0614
# From 20 °C; 10 K/W * 6 J/K is a time constant of 60 s; idle ends at 20 + 10 * 1 = 30 °C.
MODEL = ThermalModel(
    20.0, 10.0, 6.0, idle_w=1.0, parts_w=1.0, dla_w=8.0, limit_c=90.0, resume_c=60.0, throttled_percent=25
)


class Board:
    """A virtual clock, an energy counter and the sensors over them."""

    def __init__(self) -> None:
        self.clock, self.energy = VirtualClock(5 * S), 1_000_000
        self.sensors = Sensors(MODEL, lambda: self.energy, self.clock)

    def run(self, seconds: float, watts: float) -> None:
        """Let requests take so many W, above the idle power, for a while."""
        self.clock.advance(round(seconds * S))
        self.energy += round(seconds * watts * S)


def test_a_board_that_was_just_switched_on_is_as_warm_as_the_air() -> None:
    board = Board()
    assert (board.sensors.temperature_c(), board.sensors.power_w()) == (20.0, 1.0)


@pytest.mark.parametrize(
    ("seconds", "watts", "celsius"),
    [
        (60, 0, 20 + 10 * (1 - 1 / math.e)),  # one time constant: 26.32 °C
        (120, 0, 20 + 10 * (1 - 1 / math.e**2)),
        (60, 4, 20 + 50 * (1 - 1 / math.e)),
        (60 * math.log(2), 7, 60.0),  # half of the way to 100 °C
        (6000, 7, 100.0),
    ],
)
def test_it_warms_as_the_equation_says(seconds: float, watts: float, celsius: float) -> None:
    board = Board()
    board.run(seconds, watts)
    assert board.sensors.temperature_c() == pytest.approx(celsius, abs=1e-6)
    assert board.sensors.power_w() == pytest.approx(1 + watts, rel=1e-6)


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=20))
def test_how_often_it_is_read_changes_nothing(pauses: list[float]) -> None:
    often, once = Board(), Board()
    for pause in pauses:
        often.run(pause, 5)
        often.sensors.temperature_c()
    once.run(sum(pauses), 5)
    assert often.sensors.temperature_c() == pytest.approx(once.sensors.temperature_c(), abs=1e-3)


def test_two_readings_at_once_are_the_same() -> None:
    board = Board()
    board.run(10, 3)
    first = board.sensors.power_w()
    board.run(0.05, 1000)
    assert board.sensors.power_w() == first
    board.clock.advance(S)  # the burst is not lost
    assert board.sensors.power_w() > first


def test_power_is_at_most_what_all_parts_draw() -> None:
    board = Board()
    board.run(10, 500)
    assert board.sensors.power_w() == 10.0  # 1 idle, 1 parts, 8 DLA
    board.sensors.dla_percent = 25
    board.run(10, 500)
    assert board.sensors.power_w() == 4.0


def test_over_the_limit_and_back() -> None:
    board = Board()
    board.run(60 * math.log(8), 8)  # 20 °C to 110 °C, of which an eighth is left: 98.75 °C
    assert board.sensors.temperature_c() == pytest.approx(98.75, abs=1e-6)
    board.run(60 * math.log(2), 3)  # half of the way to 60 °C
    assert board.sensors.temperature_c() == pytest.approx(79.375, abs=1e-6)
    board.run(6000, 0)
    assert board.sensors.temperature_c() == pytest.approx(30.0, abs=1e-6)


def test_registers_are_in_thousandths() -> None:
    board = Board()
    registers = RegisterFile(MAP, lambda sentence: pytest.fail(sentence))
    board.sensors.attach(registers)
    board.run(60 * math.log(2), 7)
    read = [registers.read(address) for address in (TEMPERATURE, POWER, LIMIT, RESUME, THROTTLED)]
    assert read == [60_000, 8000, 90_000, 60_000, 25]


def test_the_shipped_profile_is_cool_when_idle_and_throttles_at_full_load() -> None:
    model = thermal_model(load_profile("napu-s"))
    idle = model.ambient_c + model.resistance_k_per_w * model.idle_w
    full = idle + model.resistance_k_per_w * (model.parts_w + model.dla_w)
    throttled = full - model.resistance_k_per_w * model.dla_w * (1 - model.throttled_percent / 100)
    assert idle == pytest.approx(37.0)
    assert full == pytest.approx(88.2)
    assert idle < throttled < model.resume_c < model.limit_c < full
