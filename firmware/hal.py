"""Everything the firmware may touch: the bus and the interrupt line. The only module that knows addresses."""

import socket
from dataclasses import dataclass
from typing import Any

import msgpack

from appliance.board.regmap import (
    BOARD_ID,
    EPOCH,
    FLASH_ARGUMENT,
    FLASH_COMMAND,
    FLASH_DATA,
    FLASH_RESULT,
    FLASH_STATUS,
    IRQ_ENABLE,
    IRQ_STATUS,
    KEYS_ARGUMENT,
    KEYS_COMMAND,
    KEYS_DATA,
    KEYS_RESULT,
    KEYS_STATUS,
    LETTER,
    LETTER_FRAGMENT_SIZE,
    MAILBOX_RX,
    MAILBOX_RX_LENGTH,
    MAILBOX_RX_POP,
    MAILBOX_TX,
    MAILBOX_TX_SEND,
    MAILBOX_TX_STATUS,
    POWER,
    READY,
    RESET_REASON,
    RESETS,
    RESETS_EXITED,
    RESETS_KILLED,
    RESETS_WATCHDOG,
    REVISION,
    SERVICE_ARGUMENT,
    SERVICE_COMMAND,
    SERVICE_DATA,
    SERVICE_RESULT,
    SERVICE_STATUS,
    TEMPERATURE,
    TEMPERATURE_LIMIT,
    TEMPERATURE_RESUME,
    THROTTLE,
    THROTTLED_RATE,
    TRIAL,
    UPDATE_ARGUMENT,
    UPDATE_COMMAND,
    UPDATE_DATA,
    UPDATE_RESULT,
    UPDATE_STATUS,
    UPTIME,
    WATCHDOG_KICK,
    WATCHDOG_PERIOD,
    CommandStatus,
    FlashCommand,
    Interrupt,
    KeyCommand,
    Register,
    ResetReason,
    SendStatus,
    ServiceCommand,
    UpdateCommand,
    Window,
)
from firmware.bus import BusClient
from host_sdk.wire.errors import BadPipelineError, ClosedError, DeviceError, NoSpaceError
from host_sdk.wire.header import decode_header
from host_sdk.wire.message import Message, decode_message, encode_message
from host_sdk.wire.schema import HEADER_SIZE

_HEAD = LETTER.size + HEADER_SIZE
_SIGNALS = 4096


@dataclass(frozen=True, slots=True)
class Letter:
    """One control message.

    Attributes:
        peer: Key of who sent it or shall get it, as in :mod:`host_sdk.wire.links.base`.
        message: The whole message.
    """

    peer: int
    message: Message


@dataclass(frozen=True, slots=True)
class ThermalLimits:
    """Where the firmware is to throttle: from ``limit_c`` down to ``resume_c``, °C, to ``throttled_percent``."""

    limit_c: float
    resume_c: float
    throttled_percent: int


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


class Hal:
    """The hardware as the firmware sees it.

    Every method that goes over the bus raises ClosedError when the hardware has gone.

    Args:
        bus: The firmware's end of the bus.
        line: The firmware's end of the interrupt line.

    Raises:
        DeviceError: The board is not one that this firmware is written for.
    """

    def __init__(self, bus: socket.socket, line: socket.socket) -> None:
        self._bus = BusClient(bus)
        self._line = line
        self._line.setblocking(False)
        identity = (self._bus.read(BOARD_ID.address), self._bus.read(REVISION.address))
        if identity != (BOARD_ID.reset, REVISION.reset):
            raise DeviceError(
                f"board {identity[0]:#010x} revision {identity[1]}; this firmware is for "
                f"{BOARD_ID.reset:#010x} revision {REVISION.reset}"
            )
        self.flash = FlashStore(self._bus)
        self.keys = KeyStore(self._bus)
        self._services = CommandPort(
            self._bus, (SERVICE_ARGUMENT, SERVICE_COMMAND, SERVICE_STATUS, SERVICE_RESULT), SERVICE_DATA
        )
        self._update = CommandPort(
            self._bus, (UPDATE_ARGUMENT, UPDATE_COMMAND, UPDATE_STATUS, UPDATE_RESULT), UPDATE_DATA
        )

    def fileno(self) -> int:
        """Return the descriptor that polls readable when an interrupt is signalled."""
        return self._line.fileno()

    def epoch(self) -> int:
        """Return the number of this boot."""
        return self._bus.read(EPOCH.address)

    def resets(self) -> int:
        """Return the restarts of the firmware since power-on."""
        return self._bus.read(RESETS.address)

    def reset_reason(self) -> ResetReason:
        """Return why this boot happened."""
        return ResetReason(self._bus.read(RESET_REASON.address))

    def announce_ready(self) -> None:
        """Enable the interrupts and tell the hardware that the mailbox is being answered."""
        self._bus.write(IRQ_ENABLE.address, Interrupt.MAILBOX_RX | Interrupt.MAILBOX_TX)
        self._bus.write(READY.address, 1)

    def on_trial(self) -> bool:
        """Return whether this image is given up unless it confirms."""
        return self._bus.read(TRIAL.address) > 0

    def confirm(self) -> None:
        """Keep this image; raises CommandError where it was given up meanwhile."""
        self._update.ask(UpdateCommand.CONFIRM)

    def resets_by_reason(self) -> dict[ResetReason, int]:
        """Return the restarts of the firmware since power-on by their reason."""
        return {
            ResetReason.EXITED: self._bus.read(RESETS_EXITED.address),
            ResetReason.KILLED: self._bus.read(RESETS_KILLED.address),
            ResetReason.WATCHDOG: self._bus.read(RESETS_WATCHDOG.address),
        }

    def uptime_s(self) -> int:
        """Return the seconds since power-on."""
        return self._bus.read(UPTIME.address)

    def temperature_c(self) -> float:
        """Return the board's temperature in °C."""
        return self._bus.read(TEMPERATURE.address) / 1000

    def power_w(self) -> float:
        """Return the board's power in W."""
        return self._bus.read(POWER.address) / 1000

    def thermal_limits(self) -> ThermalLimits:
        """Return where the firmware is to throttle."""
        return ThermalLimits(
            self._bus.read(TEMPERATURE_LIMIT.address) / 1000,
            self._bus.read(TEMPERATURE_RESUME.address) / 1000,
            self._bus.read(THROTTLED_RATE.address),
        )

    def dla_rate(self) -> int:
        """Return the rate of the DLA in percent."""
        return self._bus.read(THROTTLE.address)

    def set_dla_rate(self, percent: int) -> None:
        """Let the DLA run at a rate of 1 to 100 percent."""
        self._bus.write(THROTTLE.address, percent)

    def watchdog_period_ms(self) -> int:
        """Return the watchdog's period in ms; 0: it is off."""
        return self._bus.read(WATCHDOG_PERIOD.address)

    def start_watchdog(self, period_ms: int) -> None:
        """Be reset from now on whenever the watchdog is not kicked for so many ms; 0 turns it off."""
        self._bus.write(WATCHDOG_PERIOD.address, period_ms)

    def kick_watchdog(self) -> None:
        """Say that the firmware makes progress."""
        self._bus.write(WATCHDOG_KICK.address, 1)

    def acknowledge_interrupts(self) -> None:
        """Clear the line and what is pending; whatever was pending is to be looked after now."""
        try:
            if not self._line.recv(_SIGNALS):
                raise ClosedError("the hardware has cut the interrupt line")
        except BlockingIOError:
            return
        self._bus.write(IRQ_STATUS.address, self._bus.read(IRQ_STATUS.address))

    def receive(self) -> Letter | None:
        """Take the oldest letter out of the mailbox, if there is one.

        It is out of the mailbox before anybody reads it: a letter that is the death of the firmware is so once.
        """
        length = self._bus.read(MAILBOX_RX_LENGTH.address)
        if not length:
            return None
        raw = self._bus.read_block(MAILBOX_RX.address, length)
        self._bus.write(MAILBOX_RX_POP.address, 1)
        (peer,) = LETTER.unpack_from(raw)
        header = decode_header(raw[LETTER.size : _HEAD + LETTER_FRAGMENT_SIZE])
        return Letter(peer, decode_message(header, raw[_HEAD:]))

    def send(self, letter: Letter) -> SendStatus:
        """Put a letter into the mailbox; FULL means to try again after the next interrupt.

        Raises:
            LocalProtocolError: A value does not fit its field, or the message is too long.
        """
        header, payload = encode_message(letter.message, LETTER_FRAGMENT_SIZE)
        raw = LETTER.pack(letter.peer) + header.encode() + payload
        self._bus.write_block(MAILBOX_TX.address, raw)
        self._bus.write(MAILBOX_TX_SEND.address, len(raw))
        return SendStatus(self._bus.read(MAILBOX_TX_STATUS.address))

    def facts(self) -> dict[str, Any]:
        """Return what the device is."""
        return dict(self._services.ask(ServiceCommand.FACTS))

    def counters(self) -> dict[str, int]:
        """Return the hardware's counters by name."""
        return dict(self._services.ask(ServiceCommand.COUNTERS))

    def pipelines(self) -> list[dict[str, Any]]:
        """Return the descriptions of the pipelines that the hardware serves."""
        return list(self._services.ask(ServiceCommand.PIPELINES))

    def load_pipeline(self, package: bytes) -> dict[str, Any]:
        """Let the hardware compile and serve a package; return the pipeline's description.

        Raises:
            BadPipelineError: The hardware cannot; in its own words.
        """
        try:
            return dict(msgpack.unpackb(self._services.run(ServiceCommand.LOAD_PIPELINE, package)))
        except CommandError as error:
            if error.status is CommandStatus.REFUSED:
                raise BadPipelineError(error.detail) from None
            raise

    def unload_pipeline(self, name: str) -> bool:
        """Let the hardware serve a pipeline no longer; return whether it did."""
        return bool(self._services.ask(ServiceCommand.UNLOAD_PIPELINE, [name]))

    def console(self, after: int, limit: int) -> list[tuple[int, int, str]]:
        """Return console lines after a sequence number: sequence, ns since power-on, text."""
        return [tuple(line) for line in self._services.ask(ServiceCommand.CONSOLE, [after, limit])]
