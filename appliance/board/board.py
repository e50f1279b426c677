"""The board: starts the firmware, serves its bus, and starts it again when it dies.

Nothing here is on the way of an inference request. The board's thread sleeps in poll while the firmware has
no wishes.
"""

import logging
import os
import selectors
import threading

from appliance.board.attestation import ATTEST_PORT, Attestor
from appliance.board.bus import BusServer
from appliance.board.command import Command, CommandPort
from appliance.board.console import Console, Line
from appliance.board.flash import Flash
from appliance.board.interrupts import Interrupts
from appliance.board.keys import KEYS_PORT, Keys, key_commands
from appliance.board.mailbox import Mailbox
from appliance.board.ports import FLASH_PORT, SERVICE_PORT, Hardware, flash_commands, service_commands
from appliance.board.process import SECOND_NS, Backoff, FirmwareProcess, Launcher
from appliance.board.registers import RegisterFile
from appliance.board.regmap import (
    EPOCH,
    MAP,
    READY,
    RESET_REASON,
    RESETS,
    RESETS_EXITED,
    RESETS_KILLED,
    RESETS_WATCHDOG,
    THROTTLE,
    TRIAL,
    UPTIME,
    ResetReason,
)
from appliance.board.sensors import Sensors
from appliance.board.update import UPDATE_PORT, Slots, update_commands
from appliance.board.watchdog import Watchdog
from appliance.clock import Clock
from host_sdk.wire.errors import DeviceError, NoSpaceError

_log = logging.getLogger(__name__)
EPOCH_OBJECT = "board/epoch"
_EPOCHS = 1 << 16
_COUNTED = {
    ResetReason.EXITED: RESETS_EXITED,
    ResetReason.KILLED: RESETS_KILLED,
    ResetReason.WATCHDOG: RESETS_WATCHDOG,
}
_STOP_GRACE_NS = SECOND_NS // 2
_JOIN_S = 1.2  # a compiling pipeline may hold the board's thread for longer, and a node is to stop within 2 s


class Board:
    """The management side of one appliance.

    Args:
        flash: Where the firmware's image, packages and settings are.
        mailbox: Between the dataplane and the firmware.
        hardware: What the dataplane's side offers.
        launcher: Starts the firmware.
        clock: For run lengths and delays.

    Attributes:
        console: The last lines that firmware and board said.
    """

    def __init__(self, flash: Flash, mailbox: Mailbox, hardware: Hardware, launcher: Launcher, clock: Clock) -> None:
        self.console = Console(clock)
        self._flash = flash
        self._hardware = hardware
        self._mailbox = mailbox
        self._launcher = launcher
        self._clock = clock
        self._registers = RegisterFile(MAP, self._report)
        self._bus = BusServer(self._registers, self._report)
        self._interrupts = Interrupts()
        self._interrupts.attach(self._registers)
        mailbox.attach(self._registers, self._interrupts)
        CommandPort(self._registers, FLASH_PORT, flash_commands(flash))
        self._service_commands = service_commands(hardware, self.counters, self._console_lines)
        CommandPort(self._registers, SERVICE_PORT, self._service_commands)
        self._slots: Slots | None = None
        self._update_commands: dict[int, Command] = {}
        CommandPort(self._registers, UPDATE_PORT, self._update_commands)
        self._attestor: Attestor | None = None
        self._attest_commands: dict[int, Command] = {}
        CommandPort(self._registers, ATTEST_PORT, self._attest_commands)
        self._key_commands: dict[int, Command] = {}
        CommandPort(self._registers, KEYS_PORT, self._key_commands)
        self._registers.on_read(TRIAL, lambda: self._slots.trial_ms if self._slots else 0)
        self._registers.on_write(READY, self._set_ready)
        self._watchdog = Watchdog(clock)
        self._watchdog.attach(self._registers)
        self._sensors = Sensors(hardware.thermal(), hardware.energy_nj, clock)
        self._sensors.attach(self._registers)
        self._registers.on_write(THROTTLE, self._throttle)
        self._registers.on_read(THROTTLE, lambda: self._sensors.dla_percent)
        power_on = clock.now_ns()
        self._registers.on_read(UPTIME, lambda: (clock.now_ns() - power_on) // SECOND_NS)
        self._selector = selectors.DefaultSelector()
        self._thread: threading.Thread | None = None
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._changed = threading.Condition()
        self._ready = False
        self._boot_error: str | None = None
        self._process: FirmwareProcess | None = None
        self._backoff = Backoff()
        self._boots = 0
        self._epoch = self._stored_epoch()
        self._reason = ResetReason.POWER_ON
        self._resets_by = dict.fromkeys(_COUNTED, 0)
        self._stopping = False
        self._boot_at: int | None = None
        self._kill_at: int | None = None

    def attach(self, slots: Slots) -> None:
        """Let the firmware see and update the slots that the launcher boots from; before :meth:`start`.

        A trial that does not confirm in time is given up then, too.
        """
        self._slots = slots
        self._update_commands.update(update_commands(slots))

    def measure(self, attestor: Attestor) -> None:
        """Let boots and pipelines be measured, and the firmware ask for quotes of that; before :meth:`start`."""
        self._attestor = attestor
        self._attest_commands.update(attestor.commands())
        self._service_commands.update(attestor.measured(self._service_commands))

    def attach_keys(self, keys: Keys) -> None:
        """Let the firmware grant keys for sealed frames; before :meth:`start`."""
        self._key_commands.update(key_commands(keys))

    @property
    def epoch(self) -> int:
        """Boots of the firmware over the board's life, modulo 65536; kept in flash."""
        return self._epoch

    @property
    def firmware_pid(self) -> int | None:
        """Process id of the firmware; None while none is running."""
        process = self._process
        return process.pid if process else None

    @property
    def firmware_ready(self) -> bool:
        """Whether the firmware is running and answers its mailbox."""
        return self._ready

    @property
    def boot_error(self) -> str | None:
        """Why there is no firmware to start, in a sentence; None if that is not so."""
        return self._boot_error

    @property
    def resets(self) -> int:
        """Restarts of the firmware since power-on."""
        return max(0, self._boots - 1)

    def counters(self) -> dict[str, int]:
        """Return the board's counters by name; from any thread."""
        return {
            "firmware_resets": self.resets,
            **{f"resets_{reason.name.lower()}": count for reason, count in self._resets_by.items()},
            "bus_transactions": self._bus.transactions,
            "bus_faults": self._registers.faults,
            "bus_broken": self._bus.broken,
            "mailbox_received": self._mailbox.received,
            "mailbox_sent": self._mailbox.sent,
            "mailbox_refused": self._mailbox.refused,
            "mailbox_overflows": self._mailbox.overflows,
        }

    def start(self) -> None:
        """Start the board's thread, and with it the firmware. A board is started once."""
        self._selector.register(self._wake_fd, selectors.EVENT_READ, self._on_wake)
        self._boot_at = self._clock.now_ns()
        self._thread = threading.Thread(target=self._run, name="board", daemon=True)
        self._thread.start()

    def wait_ready(self, timeout: float) -> bool:
        """Wait until the firmware is ready; return whether it is.

        Args:
            timeout: Seconds to wait; less if there is no firmware that may be started.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._boot_error is not None, timeout)
            return self._ready

    def stop(self) -> None:
        """Stop the firmware, by force after half a second, and the board's thread; again does nothing.

        A thread that is in the middle of long work is left to end with the program, and the firmware with it.
        """
        if self._wake_fd < 0:
            return
        os.eventfd_write(self._wake_fd, 1)
        if self._thread:
            self._thread.join(_JOIN_S)
            if self._thread.is_alive():
                _log.warning("the board is at work still, and ends with the program")
                return
        self._selector.close()
        os.close(self._wake_fd)
        self._wake_fd = -1

    def _run(self) -> None:
        # The thread that starts the firmware must outlive it: the kernel ends the child with that thread.
        while not (self._stopping and self._process is None):
            for key, _ in self._selector.select(self._timeout()):
                key.data()
            now = self._clock.now_ns()
            if self._boot_at is not None and now >= self._boot_at:
                self._boot()
            if self._process and self._kill_at is not None and now >= self._kill_at:
                self._process.kill()
                self._kill_at = None
            if self._process and self._watchdog.expired():
                self._process.reset(self._watchdog.period_ms)
                self._watchdog.stop()
            if self._process and self._slots and (given_up := self._slots.expire()):
                self._report(given_up)
                self._process.kill()

    def _timeout(self) -> float | None:
        trial_end = self._slots.deadline_ns if self._slots and self._process else None
        every = (self._boot_at, self._kill_at, self._watchdog.deadline_ns, trial_end)
        timers = [timer for timer in every if timer is not None]
        if not timers:
            return None
        return max(0, min(timers) - self._clock.now_ns()) / SECOND_NS

    def _on_wake(self) -> None:
        os.eventfd_read(self._wake_fd)
        self._stopping = True
        self._boot_at = None
        if self._process:
            self._process.terminate()
            self._kill_at = self._clock.now_ns() + _STOP_GRACE_NS

    def _boot(self) -> None:
        self._boot_at = None
        self._next_epoch()
        if self._reason in self._resets_by:
            self._resets_by[self._reason] += 1
        self._registers.reset()
        self._registers.set_value(EPOCH, self._epoch)
        self._registers.set_value(RESETS, self.resets)
        self._registers.set_value(RESET_REASON, self._reason)
        for reason, register in _COUNTED.items():
            self._registers.set_value(register, self._resets_by[reason])
        self._throttle(THROTTLE.reset)
        bus, bus_end = self._bus.connect()
        with bus_end, self._interrupts.connect() as line_end:
            try:
                popen = self._launcher(bus_end.fileno(), line_end.fileno(), self._epoch)
            except (DeviceError, OSError) as error:
                self._measure_boot()
                self._boot_failed(error)
                return
        # Before the bus is served, so that nothing that runs is not measured.
        self._measure_boot()
        if self._slots and self._slots.remark:
            self._report(self._slots.remark)
        self._process = FirmwareProcess(popen, self._clock.now_ns(), self.console)
        self._selector.register(bus, selectors.EVENT_READ, self._on_bus)
        if self._process.console_fd is not None:
            self._selector.register(self._process.console_fd, selectors.EVENT_READ, self._on_console)

    def _measure_boot(self) -> None:
        if self._attestor and (trouble := self._attestor.boot(self._epoch, self._reason)):
            self._report(trouble)

    def _boot_failed(self, error: DeviceError | OSError) -> None:
        self._bus.disconnect()
        self._interrupts.disconnect()
        self.console.write(f"board: firmware cannot be started: {error}")
        _log.error("firmware cannot be started: %s", error)
        if isinstance(error, OSError):
            self._boot_at = self._clock.now_ns() + self._backoff.after_run(0)
            return
        # The same image would be refused again, so nothing is gained by trying.
        with self._changed:
            self._boot_error = str(error)
            self._changed.notify_all()

    def _on_bus(self) -> None:
        broken, begun = self._bus.broken, self._clock.now_ns()
        usable = self._bus.service()
        self._watchdog.excuse(self._clock.now_ns() - begun)
        if self._process and not usable:
            if self._bus.broken > broken:
                self._process.kill()
            self._bury(self._process)

    def _on_console(self) -> None:
        if self._process and self._process.console_fd is not None and not self._process.pump_console():
            self._selector.unregister(self._process.console_fd)
            self._process.console_fd = None

    def _console_lines(self, after: int, limit: int) -> list[Line]:
        # What the firmware wrote before it asked is in the answer.
        self._on_console()
        return self.console.after(after, limit)

    def _bury(self, process: FirmwareProcess) -> None:
        for key in list(self._selector.get_map().values()):
            if key.data in (self._on_bus, self._on_console):
                self._selector.unregister(key.fileobj)
        self._bus.disconnect()
        self._interrupts.disconnect()
        self._watchdog.stop()
        self._process = None
        self._set_ready(0)
        self._reason, how = process.bury()
        self._kill_at = None
        if self._stopping:
            return
        now = self._clock.now_ns()
        delay = self._backoff.after_run(now - process.started_ns)
        self._boot_at = now + delay
        self._report(f"firmware {how}; next boot in {delay / SECOND_NS:g} s")
        _log.warning("firmware (pid %d) %s; next boot in %g s", process.pid, how, delay / SECOND_NS)

    def _set_ready(self, value: int) -> None:
        with self._changed:
            self._ready = bool(value)
            self._changed.notify_all()

    def _throttle(self, value: int) -> None:
        percent = min(max(value, 1), 100)
        if percent != self._sensors.dla_percent:
            self._sensors.temperature_c()  # up to now, at the rate until now
            self._sensors.dla_percent = percent
            self._hardware.set_dla_rate(percent)

    def _report(self, sentence: str) -> None:
        self.console.write(f"board: {sentence}")

    def _stored_epoch(self) -> int:
        if EPOCH_OBJECT not in self._flash.list():
            return 0
        text = self._flash.read(EPOCH_OBJECT, 0, 8)
        return int(text) % _EPOCHS if text.isdigit() else 0

    def _next_epoch(self) -> None:
        self._boots += 1
        self._epoch = (self._epoch + 1) % _EPOCHS
        try:
            self._flash.write(EPOCH_OBJECT, str(self._epoch).encode())
        except (DeviceError, NoSpaceError) as error:
            self._report(f"the epoch cannot be kept over a loss of power: {error}")
