import pytest

from appliance.board.registers import RegisterFile
from appliance.board.regmap import MAP
from appliance.board.watchdog import Watchdog
from appliance.clock import VirtualClock

PERIOD, KICK = 0x0500, 0x0504  # as regmap.py documents them
MS = 1_000_000


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(7 * MS)


@pytest.fixture
def registers() -> RegisterFile:
    return RegisterFile(MAP, lambda sentence: pytest.fail(sentence))


@pytest.fixture
def watchdog(clock: VirtualClock, registers: RegisterFile) -> Watchdog:
    watchdog = Watchdog(clock)
    watchdog.attach(registers)
    return watchdog


def test_it_is_off_until_it_has_a_period(watchdog: Watchdog, registers: RegisterFile, clock: VirtualClock) -> None:
    registers.write(KICK, 1)
    clock.advance(10**18)
    assert not watchdog.expired()
    assert watchdog.deadline_ns is None


def test_it_expires_when_the_period_has_passed(
    watchdog: Watchdog, registers: RegisterFile, clock: VirtualClock
) -> None:
    registers.write(PERIOD, 100)
    assert watchdog.deadline_ns == 107 * MS
    clock.advance(100 * MS - 1)
    assert not watchdog.expired()
    clock.advance(1)
    assert watchdog.expired()


def test_a_kick_starts_the_period_anew(watchdog: Watchdog, registers: RegisterFile, clock: VirtualClock) -> None:
    registers.write(PERIOD, 100)
    for _ in range(5):
        clock.advance(99 * MS)
        assert not watchdog.expired()
        registers.write(KICK, 0)
    clock.advance(100 * MS)
    assert watchdog.expired()


def test_time_in_the_hardware_does_not_count(watchdog: Watchdog, registers: RegisterFile, clock: VirtualClock) -> None:
    registers.write(PERIOD, 100)
    clock.advance(60 * MS)  # of the firmware's own
    clock.advance(30_000 * MS)  # a pipeline is compiled
    watchdog.excuse(30_000 * MS)
    clock.advance(40 * MS - 1)
    assert not watchdog.expired()
    clock.advance(1)
    assert watchdog.expired()


def test_it_can_be_turned_off_again(watchdog: Watchdog, registers: RegisterFile, clock: VirtualClock) -> None:
    registers.write(PERIOD, 100)
    registers.write(PERIOD, 0)
    watchdog.excuse(5)
    clock.advance(10**12)
    assert not watchdog.expired()
    registers.write(PERIOD, 100)
    watchdog.stop()
    clock.advance(10**12)
    assert not watchdog.expired()


def test_the_longest_period_that_a_register_holds(
    watchdog: Watchdog, registers: RegisterFile, clock: VirtualClock
) -> None:
    registers.write(PERIOD, 0xFFFF_FFFF)
    clock.advance(0xFFFF_FFFF * MS - 1)
    assert not watchdog.expired()
    clock.advance(1)
    assert watchdog.expired()
