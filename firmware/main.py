"""The firmware: boots, then answers its mailbox until it is told to stop. Sleeps when there is nothing to do."""

import logging
import select
import signal
import socket
import time
from collections import OrderedDict
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

from appliance.board.regmap import SendStatus
from firmware.control import Control, OpenGate, Services
from firmware.hal import Hal, Letter
from firmware.services.access import NOBODY, OPEN, Access
from firmware.services.discovery import beacon, reply
from firmware.services.logs import start_logging
from firmware.services.seals import SealWatch
from firmware.services.throttle import Throttle
from firmware.version import VERSION
from host_sdk.wire.errors import ClosedError, DeviceError
from host_sdk.wire.schema import Opcode, Status

if TYPE_CHECKING:
    from firmware.secure.gate import MutualGate

_log = logging.getLogger(__name__)
WATCHDOG_MS = 8000  # far longer than any work of the firmware's own; what the hardware takes does not count
TURN_MS = 2000  # an idle main loop turns so often, which is when it kicks
_TURN_NS = TURN_MS * 1_000_000
REMEMBERED = 64  # answers that a retransmitted CONTROL gets again


class Firmware:
    """Everything that runs on the management core.

    Args:
        hal: The hardware.
        digest: SHA-256 of the image that was booted, in hex.
        clock: Monotonic, in ns.
        wall: Seconds since 1970.
    """

    def __init__(self, hal: Hal, digest: str, clock: Callable[[], int], wall: Callable[[], float]) -> None:
        self._hal = hal
        self._services = Services.on(hal, digest, clock)
        self._throttle = Throttle(hal)
        self._seals = SealWatch(hal) if self._services.access.mode != OPEN else None
        self._control = Control(self._services)
        self._gate = _make_gate(self._control, self._services.access, clock, wall)
        self._answers: OrderedDict[tuple[int, int, int], tuple[Status, bytes]] = OrderedDict()
        self._unsent: Letter | None = None
        self._stopping = False
        self._clock = clock
        self._turn_at = 0

    def boot(self) -> None:
        """Bring the pipelines back, then tell the hardware and the network that the firmware is there.

        Raises:
            ClosedError: The hardware has gone.
        """
        _log.info("firmware %s, epoch %d, %s", VERSION, self._hal.epoch(), self._hal.reset_reason().name)
        self._hal.start_watchdog(WATCHDOG_MS)
        self._services.pipelines.restore()
        self._hal.announce_ready()
        self._services.updates.try_out()
        status, identity = self._control.execute("identity", {}, NOBODY)
        if status is Status.OK:
            self._post(beacon(identity))

    def run(self, wake: socket.socket) -> None:
        """Answer the mailbox until :meth:`stop` is called.

        Args:
            wake: Becomes readable when there is a reason to look whether to stop.

        Raises:
            ClosedError: The hardware has gone.
        """
        poll = select.poll()
        poll.register(self._hal, select.POLLIN)
        poll.register(wake, select.POLLIN)
        # What was posted before interrupts were enabled has signalled nothing.
        self._work()
        while not self._stopping:
            poll.poll(TURN_MS)
            self._hal.acknowledge_interrupts()
            self._work()

    def stop(self, _signal: int, _frame: FrameType | None) -> None:
        """Let :meth:`run` end after the letter in hand: a handler for signals."""
        self._stopping = True

    def _turn(self) -> None:
        """Do what is due at every turn of the main loop, but no oftener than an idle one turns.

        The watchdog is kicked here and nowhere else once the firmware is up: a handler that hangs is not kicked for.
        """
        now = self._clock()
        if now >= self._turn_at:
            self._turn_at = now + _TURN_NS
            self._hal.kick_watchdog()
            self._throttle.update()
            if self._seals:
                self._seals.update()

    def _work(self) -> None:
        while not self._stopping:
            self._turn()
            if self._unsent and not self._post(self._unsent):
                return
            if self._services.updates.reboot:  # whoever asked for it has been told
                self._stopping = True
                return
            letter = self._hal.receive()
            if letter is None:
                return
            self._services.statistics.letters += 1
            self._post(self._answer(letter))

    def _answer(self, letter: Letter) -> Letter:
        opcode = letter.message.header.opcode
        if opcode == Opcode.DISCOVER:
            return reply(letter, *self._control.execute("identity", {}, NOBODY))
        if opcode == Opcode.CONTROL:
            return reply(letter, *self._once(letter))
        return reply(letter, Status.UNKNOWN_OPCODE, f"this firmware does not serve opcode {opcode:#04x}".encode())

    def _once(self, letter: Letter) -> tuple[Status, bytes]:
        """Carry out an operation, or repeat the answer to one that was sent again because it took its time.

        A copy has the same body: one that was damaged where its CRC does not show it has another.
        """
        key = (letter.peer, letter.message.header.request, hash(letter.message.body))
        if key in self._answers:
            return self._answers[key]
        answer = self._gate.handle(letter.peer, letter.message.body)
        if answer[0] is not Status.BUSY:  # nothing was done, and a copy may find room
            self._answers[key] = answer
            if len(self._answers) > REMEMBERED:
                self._answers.popitem(last=False)
        return answer

    def _post(self, letter: Letter) -> bool:
        status = self._hal.send(letter)
        if status is SendStatus.REFUSED:
            _log.error("the hardware refuses to send opcode %#04x", letter.message.header.opcode)
        self._unsent = letter if status is SendStatus.FULL else None
        return self._unsent is None


def _make_gate(
    control: Control, access: Access, clock: Callable[[], int], wall: Callable[[], float]
) -> "OpenGate | MutualGate":
    if access.mode == OPEN:
        return OpenGate(control)
    # Here, as TLS takes megabytes that an open appliance can do without.
    from firmware.secure.gate import MutualGate

    return MutualGate(control, access, clock, wall)


def main(arguments: list[str]) -> int:
    """Run the firmware; the boot ROM calls this.

    Args:
        arguments: Descriptor of the bus, of the interrupt line, and the image's digest in hex.

    Returns:
        Exit code: 0 after SIGTERM, 1 when the hardware has gone or is not the right one.
    """
    bus_fd, irq_fd, digest = arguments
    start_logging()
    waker, wake = socket.socketpair()
    with socket.socket(fileno=int(bus_fd)) as bus, socket.socket(fileno=int(irq_fd)) as line, waker, wake:
        try:
            firmware = Firmware(Hal(bus, line), digest, time.monotonic_ns, time.time)
            waker.setblocking(False)
            signal.signal(signal.SIGTERM, firmware.stop)
            signal.set_wakeup_fd(waker.fileno())
            firmware.boot()
            firmware.run(wake)
        except (ClosedError, DeviceError) as error:
            _log.error("firmware ends: %s", error)
            return 1
        finally:
            signal.set_wakeup_fd(-1)
    return 0
