"""The hardware as the services see it, without a bus."""

from typing import Any, NoReturn

from appliance.board.regmap import ResetReason
from firmware.hal import ThermalLimits
from host_sdk.wire.errors import BadArgumentError, BadPipelineError, ConfigError, NoSpaceError
from tests.appliance.board.fake_hardware import FakeHardware


class FakeFlash:
    """Objects in a dictionary."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.objects: dict[str, bytes] = {}

    def sizes(self) -> dict[str, int]:
        return {name: len(data) for name, data in sorted(self.objects.items())}

    def read(self, name: str, length: int) -> bytes:
        return self.objects[name][:length]

    def write(self, name: str, data: bytes) -> None:
        if len(data) > self.capacity:
            raise NoSpaceError("flash is full; remove something first")
        self.objects[name] = data

    def delete(self, name: str) -> bool:
        return self.objects.pop(name, None) is not None


class FakeRom:
    """A boot ROM that has booted a confirmed image, and refuses everything that would change that."""

    def status(self) -> dict[str, Any]:
        booted = {"slot": "A", "version": "1.0", "state": "confirmed", "reason": "CONFIRMED", "trial_ms": 0}
        return {**booted, "detail": "", "active": "A", "slots": {}}

    def _refuse(self, *_: object) -> NoReturn:
        raise BadArgumentError("no update was begun")

    begin = write = finish = activate = roll_back = _refuse

    def confirm(self) -> None:
        pass


class FakeKeys:
    """Keys in a dictionary: of each its peer, material, grant, certificate and lifetime."""

    def __init__(self) -> None:
        self.granted: dict[int, tuple[int, bytes, bytes, str, int]] = {}
        self.failure: Exception | None = None

    def grant(self, key: int, peer: int, material: bytes, grant: bytes, serial: str, lifetime_ms: int) -> None:
        if self.failure:
            raise self.failure
        self.granted[key] = (peer, material, grant, serial, lifetime_ms)

    def lifetime_ms(self, key: int, peer: int, serial: str) -> int:
        found = self.granted.get(key)
        return found[4] if found and (found[0], found[3]) == (peer, serial) else 0

    def holders(self) -> list[str]:
        return sorted({found[3] for found in self.granted.values()})

    def drop(self, serial: str) -> None:
        self.granted = {key: found for key, found in self.granted.items() if found[3] != serial}


class FakeHal:
    """Passes everything on to the fake hardware."""

    def __init__(self, capacity: int = 1 << 24) -> None:
        self.flash = FakeFlash(capacity)
        self.hardware = FakeHardware()
        self.rom = FakeRom()
        self.keys = FakeKeys()
        self.failure: Exception | None = None
        self.kicks = 0
        self.celsius = 40.0
        self.rates: list[int] = []

    def epoch(self) -> int:
        return 3

    def resets(self) -> int:
        return 2

    def on_trial(self) -> bool:
        return False

    def reset_reason(self) -> ResetReason:
        return ResetReason.WATCHDOG

    def resets_by_reason(self) -> dict[ResetReason, int]:
        return {ResetReason.EXITED: 0, ResetReason.KILLED: 1, ResetReason.WATCHDOG: 1}

    def uptime_s(self) -> int:
        return 86_400

    def temperature_c(self) -> float:
        return self.celsius

    def power_w(self) -> float:
        return 4.5

    def thermal_limits(self) -> ThermalLimits:
        return ThermalLimits(limit_c=80.0, resume_c=70.0, throttled_percent=25)

    def dla_rate(self) -> int:
        return self.rates[-1] if self.rates else 100

    def set_dla_rate(self, percent: int) -> None:
        self.rates.append(percent)

    def watchdog_period_ms(self) -> int:
        return 8000

    def kick_watchdog(self) -> None:
        self.kicks += 1

    def facts(self) -> dict[str, Any]:
        return self.hardware.facts()

    def counters(self) -> dict[str, int]:
        if self.failure:
            raise self.failure
        return self.hardware.counters()

    def pipelines(self) -> list[dict[str, Any]]:
        return self.hardware.pipelines()

    def load_pipeline(self, package: bytes) -> dict[str, Any]:
        try:
            return self.hardware.load_pipeline(package)
        except ConfigError as error:
            raise BadPipelineError(str(error)) from None

    def unload_pipeline(self, name: str) -> bool:
        return self.hardware.unload_pipeline(name)

    def quote(self, nonce: bytes) -> tuple[bytes, bytes, bytes, bytes]:
        return nonce, b"signature", b"key", b"boots"

    def measurements(self, after: int) -> tuple[int, list[bytes]]:
        return 5, [b"first", b"second"][after:]

    def console(self, after: int, limit: int) -> list[tuple[int, int, str]]:
        return [(number, number * 10**9, f"line {number}") for number in range(1, 11)][after : after + limit]
