"""The interrupt controller: pending bits, which of them count, and the line to the firmware."""

import socket
import threading

from appliance.board.registers import RegisterFile
from appliance.board.regmap import IRQ_ENABLE, IRQ_STATUS, Interrupt

_SIGNAL = b"\x01"


class Interrupts:
    """Pending interrupts and a line that wakes the firmware; bits are raised from any thread.

    The line is one end of a socket pair and not an eventfd: firmware would share the eventfd's file
    description, so hostile firmware could make the hardware's write to it block. A send that must not block
    stays one whatever the other end does.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pending = 0
        self._enabled = 0
        self._line: socket.socket | None = None

    def attach(self, registers: RegisterFile) -> None:
        """Take the interrupt registers of a register file."""
        registers.on_read(IRQ_STATUS, lambda: self._pending)
        registers.on_write(IRQ_STATUS, self._clear)
        registers.on_write(IRQ_ENABLE, self._enable)

    def connect(self) -> socket.socket:
        """Make a new line and return the firmware's end: readable once for every signal, or for several."""
        ours, theirs = socket.socketpair()
        with self._lock:
            self._line = ours
        return theirs

    def disconnect(self) -> None:
        """Cut the line; nothing is pending or enabled afterwards."""
        with self._lock:
            if self._line:
                self._line.close()
            self._line = None
            self._pending = self._enabled = 0

    def trigger(self, bits: Interrupt) -> None:
        """Make interrupts pending and signal the line if one of them is enabled."""
        with self._lock:
            self._pending |= bits
            self._signal()

    def _clear(self, value: int) -> None:
        with self._lock:
            self._pending &= ~value

    def _enable(self, value: int) -> None:
        with self._lock:
            self._enabled = value
            self._signal()

    def _signal(self) -> None:
        if self._line is None or not self._pending & self._enabled:
            return
        try:
            self._line.send(_SIGNAL, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError:
            # Full: signalled already. Broken: the firmware is dead, and the bus notices that.
            return
