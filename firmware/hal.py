"""Everything the firmware may touch: the bus and the interrupt line. It and the ports alone know addresses."""

import socket
from dataclasses import dataclass
from typing import Any

import msgpack

from appliance.board.regmap import (
    ATTEST_ARGUMENT,
    ATTEST_COMMAND,
    ATTEST_DATA,
    ATTEST_RESULT,
    ATTEST_STATUS,
    BOARD_ID,
    EPOCH,
    IRQ_ENABLE,
    IRQ_STATUS,
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
    UPTIME,
    WATCHDOG_KICK,
    WATCHDOG_PERIOD,
    AttestCommand,
    CommandStatus,
    Interrupt,
    ResetReason,
    SendStatus,
    ServiceCommand,
)
from firmware.bus import BusClient
from firmware.ports import CommandError, CommandPort, FlashStore, KeyStore, RomPort
from host_sdk.wire.errors import (
    BadPipelineError,
    BusyError,
    ClosedError,
    DeviceError,
)
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
        self.rom = RomPort(self._bus)
        self._attest = CommandPort(
            self._bus, (ATTEST_ARGUMENT, ATTEST_COMMAND, ATTEST_STATUS, ATTEST_RESULT), ATTEST_DATA
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

    def quote(self, nonce: bytes) -> tuple[bytes, bytes, bytes, bytes]:
        """Return a quote over a nonce of 32 bytes, its signature, the device key, and the history of boots.

        Raises:
            BusyError: One was signed just now.
        """
        try:
            quote, signature, key, boots = msgpack.unpackb(self._attest.run(AttestCommand.QUOTE, nonce))
        except CommandError as error:
            if error.status is CommandStatus.REFUSED:
                raise BusyError(error.detail) from None
            raise
        return quote, signature, key, boots

    def measurements(self, after: int) -> tuple[int, list[bytes]]:
        """Return the number of the measurement log, and its next events after so many, as many as fit."""
        log, events = self._attest.ask(AttestCommand.LOG, [after])
        return int(log), list(events)

    def console(self, after: int, limit: int) -> list[tuple[int, int, str]]:
        """Return console lines after a sequence number: sequence, ns since power-on, text."""
        return [tuple(line) for line in self._services.ask(ServiceCommand.CONSOLE, [after, limit])]
