"""What stands behind the two command ports: the flash controller and the hardware's services."""

from collections.abc import Callable
from typing import Any, Protocol

import msgpack

from appliance.board.command import ArgumentError, Command, Port, unpack_argument
from appliance.board.console import Line
from appliance.board.flash import Flash
from appliance.board.regmap import (
    FLASH_ARGUMENT,
    FLASH_COMMAND,
    FLASH_DATA,
    FLASH_RESULT,
    FLASH_STATUS,
    SERVICE_ARGUMENT,
    SERVICE_COMMAND,
    SERVICE_DATA,
    SERVICE_RESULT,
    SERVICE_STATUS,
    FlashCommand,
    ServiceCommand,
)
from appliance.board.sensors import ThermalModel
from host_sdk.wire.errors import DeviceError

FLASH_PORT = Port(FLASH_ARGUMENT, FLASH_COMMAND, FLASH_STATUS, FLASH_RESULT, FLASH_DATA)
SERVICE_PORT = Port(SERVICE_ARGUMENT, SERVICE_COMMAND, SERVICE_STATUS, SERVICE_RESULT, SERVICE_DATA)
OWN_PREFIX = "board/"  # objects of the hardware's own, which firmware may read only


class Hardware(Protocol):
    """What the dataplane's side offers the board. Called from the board's thread."""

    def facts(self) -> dict[str, object]:
        """Return what the device is: constant, and of types that msgpack knows."""

    def counters(self) -> dict[str, int]:
        """Return a snapshot of the counters by name."""

    def thermal(self) -> ThermalModel:
        """Return what the board's temperature depends on: constant."""

    def energy_nj(self) -> int:
        """Return the energy, in nJ, that was counted for requests since power-on; without waiting for anybody."""

    def set_dla_rate(self, percent: int) -> None:
        """Let the DLA run at a rate of 1 to 100 percent; without waiting for anybody."""

    def load_pipeline(self, package: bytes) -> dict[str, object]:
        """Compile a package and serve it, in place of one of the same name; return its description.

        Raises:
            ConfigError: It cannot be served; whatever had its name still is.
        """

    def unload_pipeline(self, name: str) -> bool:
        """Serve a pipeline no longer; return whether there was one of this name."""

    def pipelines(self) -> list[dict[str, object]]:
        """Return the descriptions of all pipelines that are served."""


def _pack(value: object) -> bytes:
    packed: bytes = msgpack.packb(value)
    return packed


def flash_commands(flash: Flash) -> dict[int, Command]:
    """Return the flash controller's commands."""

    def own(name: str) -> str:
        if name.startswith(OWN_PREFIX):
            raise DeviceError(f"flash object {name!r} belongs to the board and is read-only")
        return name

    def read(argument: bytes) -> bytes:
        name, offset, length = unpack_argument(argument, str, int, int)
        if not (offset >= 0 and 0 <= length <= FLASH_DATA.size):
            raise ArgumentError(f"{length} bytes at {offset} cannot be read at once")
        return flash.read(name, offset, length)

    def write(argument: bytes) -> bytes:
        name, data = unpack_argument(argument, str, bytes)
        flash.write(own(name), data)
        return _pack(None)

    def delete(argument: bytes) -> bytes:
        (name,) = unpack_argument(argument, str)
        return _pack(flash.delete(own(name)))

    return {
        FlashCommand.LIST: lambda _: _pack(list(flash.list().items())),
        FlashCommand.READ: read,
        FlashCommand.WRITE: write,
        FlashCommand.DELETE: delete,
        FlashCommand.FREE: lambda _: _pack(flash.free_bytes),
    }


def service_commands(
    hardware: Hardware,
    counters: Callable[[], dict[str, int]],
    lines: Callable[[int, int], list[Line]],
) -> dict[int, Command]:
    """Return the commands of the hardware's services.

    Args:
        hardware: The dataplane's side.
        counters: The board's own counters.
        lines: The console after a sequence number, at most so many lines.
    """

    def unload(argument: bytes) -> bytes:
        (name,) = unpack_argument(argument, str)
        return _pack(hardware.unload_pipeline(name))

    def console(argument: bytes) -> bytes:
        after, limit = unpack_argument(argument, int, int)
        return _pack([(line.sequence, line.time_ns, line.text) for line in lines(after, limit)])

    commands: dict[int, Any] = {
        ServiceCommand.FACTS: lambda _: _pack(hardware.facts()),
        ServiceCommand.COUNTERS: lambda _: _pack({**hardware.counters(), **counters()}),
        ServiceCommand.PIPELINES: lambda _: _pack(hardware.pipelines()),
        ServiceCommand.LOAD_PIPELINE: lambda package: _pack(hardware.load_pipeline(package)),
        ServiceCommand.UNLOAD_PIPELINE: unload,
        ServiceCommand.CONSOLE: console,
    }
    return commands
