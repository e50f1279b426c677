"""The board's command ports as the firmware sees them: commands, flash, boot ROM, keys."""

from typing import Any

import msgpack

from appliance.board.regmap import (
    FLASH_ARGUMENT,
    FLASH_COMMAND,
    FLASH_DATA,
    FLASH_RESULT,
    FLASH_STATUS,
    KEYS_ARGUMENT,
    KEYS_COMMAND,
    KEYS_DATA,
    KEYS_RESULT,
    KEYS_STATUS,
    UPDATE_ARGUMENT,
    UPDATE_COMMAND,
    UPDATE_DATA,
    UPDATE_RESULT,
    UPDATE_STATUS,
    CommandStatus,
    FlashCommand,
    KeyCommand,
    Register,
    UpdateCommand,
    Window,
)
from firmware.bus import BusClient
from host_sdk.wire.errors import BadArgumentError, DeviceError, NoSpaceError


class CommandError(DeviceError):
    """A command port did not do what it was told.

    Attributes:
        status: What the port says.
        detail: The hardware's sentence.
    """

    def __init__(self, status: CommandStatus, detail: str) -> None:
        super().__init__(f"the hardware answers {status.name}: {detail}")
        self.status = status
        self.detail = detail


class CommandPort:
    """Gives commands to one of the board's command ports."""

    def __init__(self, bus: BusClient, registers: tuple[Register, Register, Register, Register], window: Window):
        self._bus = bus
        self._argument, self._command, self._status, self._result = (entry.address for entry in registers)
        self._window = window.address

    def run(self, command: int, argument: bytes) -> bytes:
        """Run a command and return its result.

        Raises:
            NoSpaceError: Flash is full.
            CommandError: The command failed otherwise.
        """
        self._bus.write_block(self._window, argument)
        self._bus.write(self._argument, len(argument))
        self._bus.write(self._command, command)
        status = CommandStatus(self._bus.read(self._status))
        result = self._bus.read_block(self._window, self._bus.read(self._result))
        if status is CommandStatus.OK:
            return result
        detail = result.decode(errors="replace")
        if status is CommandStatus.NO_SPACE:
            raise NoSpaceError(detail)
        raise CommandError(status, detail)

    def ask(self, command: int, argument: object = None) -> Any:
        """Run a command whose argument and result are msgpack."""
        return msgpack.unpackb(self.run(command, msgpack.packb(argument)))


class FlashStore:
    """Named objects in the board's flash. Methods raise CommandError, and NoSpaceError where they write."""

    def __init__(self, bus: BusClient) -> None:
        self._port = CommandPort(bus, (FLASH_ARGUMENT, FLASH_COMMAND, FLASH_STATUS, FLASH_RESULT), FLASH_DATA)

    def sizes(self) -> dict[str, int]:
        """Return the sizes in bytes of all objects by name, in order of name."""
        return dict(self._port.ask(FlashCommand.LIST))

    def read(self, name: str, length: int) -> bytes:
        """Return an object's first ``length`` bytes, or all if it has fewer."""
        return self._port.run(FlashCommand.READ, msgpack.packb([name, 0, length]))

    def write(self, name: str, data: bytes) -> None:
        """Write an object as a whole, or not at all."""
        self._port.ask(FlashCommand.WRITE, [name, data])

    def delete(self, name: str) -> bool:
        """Delete an object; return whether there was one."""
        return bool(self._port.ask(FlashCommand.DELETE, [name]))

    def free_bytes(self) -> int:
        """Return how many bytes of new objects fit."""
        return int(self._port.ask(FlashCommand.FREE))


class RomPort:
    """The boot ROM behind the update port. What it refuses is BadArgumentError, in its words."""

    def __init__(self, bus: BusClient) -> None:
        self._port = CommandPort(bus, (UPDATE_ARGUMENT, UPDATE_COMMAND, UPDATE_STATUS, UPDATE_RESULT), UPDATE_DATA)

    def status(self) -> dict[str, Any]:
        """Return what runs and why, and what is in the slots."""
        return dict(self._ask(UpdateCommand.STATUS))

    def begin(self, size: int, digest: bytes) -> int:
        """Begin to write an image, or go on with it; return the offset of the first part that is missing."""
        return int(self._ask(UpdateCommand.BEGIN, [size, digest]))

    def write(self, offset: int, data: bytes) -> int:
        """Write the next part, of at most MAX_PART bytes; return the offset of the one after it."""
        return int(self._ask(UpdateCommand.WRITE, [offset, data]))

    def finish(self) -> None:
        """Verify the image."""
        self._ask(UpdateCommand.FINISH)

    def activate(self) -> None:
        """Have it started at the next boot, on trial."""
        self._ask(UpdateCommand.ACTIVATE)

    def confirm(self) -> None:
        """Keep the running image."""
        self._ask(UpdateCommand.CONFIRM)

    def roll_back(self) -> None:
        """Have the other slot's image started at the next boot."""
        self._ask(UpdateCommand.ROLL_BACK)

    def _ask(self, command: UpdateCommand, argument: object = None) -> Any:
        try:
            return self._port.ask(command, argument)
        except CommandError as error:
            if error.status in (CommandStatus.REFUSED, CommandStatus.BAD_ARGUMENT):
                raise BadArgumentError(error.detail) from None
            raise


class KeyStore:
    """The keys of sealed frames, in hardware. Methods raise CommandError; none gives a key's material back.

    Certificates are named by their numbers, in hexadecimal.
    """

    def __init__(self, bus: BusClient) -> None:
        self._port = CommandPort(bus, (KEYS_ARGUMENT, KEYS_COMMAND, KEYS_STATUS, KEYS_RESULT), KEYS_DATA)

    def grant(self, key: int, peer: int, material: bytes, grant: bytes, serial: str, lifetime_ms: int) -> None:
        """Put a key into force for a certificate at an address; CommandError with REFUSED where there is no room."""
        self._port.ask(KeyCommand.GRANT, [key, peer, material, grant, serial, lifetime_ms])

    def lifetime_ms(self, key: int, peer: int, serial: str) -> int:
        """Return how long a key is still in force for a certificate at an address; 0 where it is not."""
        return int(self._port.ask(KeyCommand.LIFETIME, [key, peer, serial]))

    def holders(self) -> list[str]:
        """Return the certificates that have keys."""
        return [str(serial) for serial in self._port.ask(KeyCommand.HOLDERS)]

    def drop(self, serial: str) -> None:
        """Drop the keys of a certificate."""
        self._port.ask(KeyCommand.DROP, [serial])
