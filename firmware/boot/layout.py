"""Where things are on the flash chip, and what the boot ROM needs of chip and fuses."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from host_sdk.wire.errors import DeviceError

RECORD_SIZE = 128  # bytes of a boot state at the start of its block; behind it is the journal of an update


class Slot(IntEnum):
    """Where an image can be."""

    A = 0
    B = 1
    RECOVERY = 2

    @property
    def other(self) -> "Slot":
        """The other one of A and B."""
        return Slot.B if self is Slot.A else Slot.A


class Chip(Protocol):
    """NOR flash. Every call may raise PowerCutError, and DeviceError where the chip refuses.

    Attributes:
        block_size: Bytes that are erased at once.
        unit: Bytes that are programmed at once.
        size: Bytes of the chip.
    """

    block_size: int
    unit: int
    size: int

    def read(self, address: int, length: int) -> bytes:
        """Return bytes."""

    def program(self, address: int, data: bytes) -> None:
        """Turn bits from 1 to 0, in whole units."""

    def erase(self, address: int) -> None:
        """Turn all bits of the block that begins here to 1."""


class FuseBox(Protocol):
    """The fuses that the boot ROM uses. Every call may raise PowerCutError.

    Attributes:
        max_security_counter: Where the counter ends.
    """

    max_security_counter: int

    @property
    def security_counter(self) -> int:
        """Lowest security counter that an image may have."""

    def raise_security_counter(self, value: int) -> None:
        """Raise the counter, for ever."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Addresses on one chip.

    Attributes:
        block_size: Bytes of a block.
        states: Where the two copies of the boot state are, a block each.
        slots: Where the slots begin, by Slot.
        slot_size: Bytes of each slot, whole blocks.
    """

    block_size: int
    states: tuple[int, int]
    slots: tuple[int, int, int]
    slot_size: int


def layout_of(chip: Chip) -> Layout:
    """Return the layout of a chip: two blocks of boot state, then three slots as large as fit.

    Raises:
        DeviceError: The chip is too small, or so large that a boot state cannot count a slot's blocks.
    """
    block = chip.block_size
    slot_blocks = (chip.size // block - 2) // len(Slot)
    most = block - RECORD_SIZE
    if not 1 <= slot_blocks <= most:
        raise DeviceError(
            f"a flash chip of {chip.size} bytes gives slots of {slot_blocks} blocks; they have 1 to {most}"
        )
    slot_size = slot_blocks * block
    first, second, third = (2 * block + slot * slot_size for slot in Slot)
    return Layout(block, (0, block), (first, second, third), slot_size)
