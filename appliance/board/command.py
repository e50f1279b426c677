"""A command port: argument and result in a window, a doorbell, a status; one for flash, one for services."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgpack

from appliance.board.registers import RegisterFile
from appliance.board.regmap import CommandStatus, Register, Window
from host_sdk.wire.errors import ConfigError, DeviceError, NapuError, NoSpaceError

_log = logging.getLogger(__name__)
_MAX_SENTENCE = 1000  # bytes
_SMALL_ARRAY = 0x90  # first byte of a msgpack array of up to 15 elements, which are added to it

Command = Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class Port:
    """The registers and the window of one command port."""

    argument: Register
    command: Register
    status: Register
    result: Register
    window: Window


class ArgumentError(NapuError):
    """The argument of a command is not what the command takes."""


def unpack_argument(argument: bytes, *kinds: type) -> list[Any]:
    """Return the elements of a msgpack array that must have these types.

    Raises:
        ArgumentError: It is something else.
    """
    if argument[:1] != bytes([_SMALL_ARRAY | len(kinds)]):
        raise ArgumentError(f"not an array of {len(kinds)}")
    # The array's own header is taken off by hand, so that no array or map within it is ever built.
    unpacker = msgpack.Unpacker(max_buffer_size=len(argument), max_array_len=0, max_map_len=0)
    try:
        unpacker.feed(memoryview(argument)[1:])
        values = [unpacker.unpack() for _ in kinds]
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise ArgumentError(f"not msgpack: {error}") from None
    if unpacker.tell() != len(argument) - 1 or [type(value) for value in values] != list(kinds):
        raise ArgumentError(f"not an array of {', '.join(kind.__name__ for kind in kinds)}")
    return values


class CommandPort:
    """Runs commands for the firmware; whatever becomes of one, the port takes the next."""

    def __init__(self, registers: RegisterFile, port: Port, commands: dict[int, Command]) -> None:
        self._registers = registers
        self._port = port
        self._commands = commands
        registers.on_write(port.command, self._ring)

    def _ring(self, code: int) -> None:
        status, result = self._run(code)
        if len(result) > self._port.window.size:
            status, result = CommandStatus.FAILED, b"the result is larger than the window"
        # The argument is of no more use, and a package is large: its memory goes back.
        self._registers.storage(self._port.window).clear()
        self._registers.storage(self._port.window).write(0, result)
        self._registers.set_value(self._port.status, status)
        self._registers.set_value(self._port.result, len(result))

    def _run(self, code: int) -> tuple[CommandStatus, bytes]:
        command = self._commands.get(code)
        length = self._registers.value(self._port.argument)
        if command is None:
            return CommandStatus.UNKNOWN, f"there is no command {code}".encode()
        if length > self._port.window.size:
            return CommandStatus.BAD_ARGUMENT, f"{length} bytes of argument are more than the window".encode()
        try:
            return CommandStatus.OK, command(self._registers.storage(self._port.window).read(0, length))
        except ArgumentError as error:
            return CommandStatus.BAD_ARGUMENT, _sentence(error)
        except NoSpaceError as error:
            return CommandStatus.NO_SPACE, _sentence(error.detail)
        except (ConfigError, DeviceError) as error:
            return CommandStatus.REFUSED, _sentence(error)
        except Exception as error:  # noqa: BLE001 - a package is anybody's; what it breaks must not be the bus
            _log.exception("command %d of the firmware failed", code)
            return CommandStatus.FAILED, _sentence(f"{type(error).__name__}: {error}")


def _sentence(detail: object) -> bytes:
    return str(detail).encode(errors="replace")[:_MAX_SENTENCE]
