"""The register file: values, windows and what happens when the firmware touches them."""

import mmap
from bisect import bisect_right
from collections.abc import Callable
from typing import Protocol

from appliance.board.regmap import (
    MAX_BLOCK,
    Access,
    BusStatus,
    Register,
    RegisterMap,
    Window,
)
from host_sdk.wire.errors import DeviceError

_WORD = 0xFFFF_FFFF


class BusFaultError(DeviceError):
    """An access that the address map does not allow.

    Attributes:
        status: What the firmware is answered.
    """

    def __init__(self, status: BusStatus, detail: str) -> None:
        super().__init__(f"bus fault {status.name}: {detail}")
        self.status = status


class Storage(Protocol):
    """What stands behind a window."""

    def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes; the range lies within the window."""

    def write(self, offset: int, data: bytes) -> None:
        """Store bytes; the range lies within the window."""

    def clear(self) -> None:
        """Forget everything."""


class Memory:
    """Plain memory behind a window; costs nothing until it is written."""

    def __init__(self, size: int) -> None:
        self._memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes."""
        return self._memory[offset : offset + length]

    def write(self, offset: int, data: bytes) -> None:
        """Store bytes."""
        self._memory[offset : offset + len(data)] = data

    def clear(self) -> None:
        """Make it all 0 and give the pages back."""
        self._memory.madvise(mmap.MADV_DONTNEED)


class RegisterFile:
    """The values behind an address map, with hooks for registers that do something.

    Used by the board's thread alone.

    Args:
        address_map: What there is.
        report: Told of every fault, in a sentence.
    """

    def __init__(self, address_map: RegisterMap, report: Callable[[str], None]) -> None:
        self.faults = 0
        self._report = report
        self._registers = {register.address: register for register in address_map.registers}
        self._windows = sorted(address_map.windows, key=lambda window: window.address)
        self._starts = [window.address for window in self._windows]
        self._values = {register.address: register.reset for register in address_map.registers}
        self._storage: dict[str, Storage] = {window.name: Memory(window.size) for window in address_map.windows}
        self._read_hooks: dict[int, Callable[[], int]] = {}
        self._write_hooks: dict[int, Callable[[int], None]] = {}

    def on_read(self, register: Register, hook: Callable[[], int]) -> None:
        """Let a hook say what reading the register gives."""
        self._read_hooks[register.address] = hook

    def on_write(self, register: Register, hook: Callable[[int], None]) -> None:
        """Call a hook with every value that the firmware writes; a w1c register has nothing but its hook."""
        self._write_hooks[register.address] = hook

    def back(self, window: Window, storage: Storage) -> None:
        """Put something other than plain memory behind a window."""
        self._storage[window.name] = storage

    def storage(self, window: Window) -> Storage:
        """Return what stands behind a window."""
        return self._storage[window.name]

    def value(self, register: Register) -> int:
        """Return a register's stored value, as the hardware sees it."""
        return self._values[register.address]

    def set_value(self, register: Register, value: int) -> None:
        """Store a register's value from the hardware's side; no hook is called."""
        self._values[register.address] = value & _WORD

    def reset(self) -> None:
        """Bring registers to their reset values and clear the windows; hooks and fault counts stay."""
        for address, register in self._registers.items():
            self._values[address] = register.reset
        for storage in self._storage.values():
            storage.clear()

    def read(self, address: int) -> int:
        """Read a register for the firmware.

        Raises:
            BusFaultError: No register is there, or it cannot be read.
        """
        register = self._register(address)
        if not register.access.readable:
            raise self._fault(BusStatus.DENIED, f"register {register.name} cannot be read")
        hook = self._read_hooks.get(address)
        return hook() & _WORD if hook else self._values[address]

    def write(self, address: int, value: int) -> None:
        """Write a register for the firmware.

        Raises:
            BusFaultError: No register is there, or it cannot be written.
        """
        register = self._register(address)
        if not register.access.writable:
            raise self._fault(BusStatus.DENIED, f"register {register.name} cannot be written")
        if register.access is Access.READ_WRITE:
            self._values[address] = value
        hook = self._write_hooks.get(address)
        if hook:
            hook(value)

    def read_block(self, address: int, length: int) -> bytes:
        """Read from a window for the firmware.

        Raises:
            BusFaultError: The range is in no window, or the window cannot be read.
        """
        window, offset = self._window(address, length)
        if not window.access.readable:
            raise self._fault(BusStatus.DENIED, f"window {window.name} cannot be read")
        return self._storage[window.name].read(offset, length)

    def write_block(self, address: int, data: bytes) -> None:
        """Write into a window for the firmware.

        Raises:
            BusFaultError: The range is in no window, or the window cannot be written.
        """
        window, offset = self._window(address, len(data))
        if not window.access.writable:
            raise self._fault(BusStatus.DENIED, f"window {window.name} cannot be written")
        self._storage[window.name].write(offset, data)

    def _register(self, address: int) -> Register:
        register = self._registers.get(address)
        if register is None:
            raise self._fault(BusStatus.UNDEFINED, f"no register at {address:#010x}")
        return register

    def _window(self, address: int, length: int) -> tuple[Window, int]:
        index = bisect_right(self._starts, address) - 1
        window = self._windows[index] if index >= 0 else None
        if window is None or address >= window.address + window.size:
            raise self._fault(BusStatus.UNDEFINED, f"no window at {address:#010x}")
        if not 0 < length <= MAX_BLOCK or address + length > window.address + window.size:
            raise self._fault(BusStatus.OUT_OF_RANGE, f"{length} bytes at {address:#010x} in window {window.name}")
        return window, address - window.address

    def _fault(self, status: BusStatus, detail: str) -> BusFaultError:
        self.faults += 1
        fault = BusFaultError(status, detail)
        self._report(str(fault))
        return fault
