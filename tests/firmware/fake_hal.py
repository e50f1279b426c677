"""The hardware as the services see it, without a bus."""

from typing import Any

from host_sdk.wire.errors import BadPipelineError, ConfigError, NoSpaceError
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


class FakeHal:
    """Passes everything on to the fake hardware."""

    def __init__(self, capacity: int = 1 << 24) -> None:
        self.flash = FakeFlash(capacity)
        self.hardware = FakeHardware()
        self.failure: Exception | None = None
        self.kicks = 0

    def epoch(self) -> int:
        return 3

    def resets(self) -> int:
        return 2

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

    def console(self, after: int, limit: int) -> list[tuple[int, int, str]]:
        return [(number, number * 10**9, f"line {number}") for number in range(1, 11)][after : after + limit]
