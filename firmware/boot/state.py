"""The boot state: which slot is active, and what is in the slots. docs/firmware-boot.md has its bytes."""

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum

from firmware.boot.layout import RECORD_SIZE, Slot
from host_sdk.wire.crc import crc32c
from host_sdk.wire.errors import DeviceError

DIGEST_SIZE = 32
SEQUENCES = 1 << 32

_MAGIC = b"NAPUBOOT"
_FORMAT = 1
_HEAD = struct.Struct(">8sHBxIII")  # magic, format, active slot, sequence, progress, 0
_SLOT = struct.Struct(">BBxxII32s")  # state, tries, size, security counter, digest
_CRC = struct.Struct(">I")


class SlotState(IntEnum):
    """What is known of a slot."""

    EMPTY = 0
    WRITING = 1
    READY = 2
    TRYING = 3
    CONFIRMED = 4
    BAD = 5


@dataclass(frozen=True, slots=True)
class SlotRecord:
    """One slot.

    Attributes:
        state: What is known of it.
        tries: Boots that a trial has left, 0 to 255.
        size: Bytes of its image, up to 2³² - 1.
        counter: Security counter of its image, once that was verified; up to 2³² - 1.
        digest: SHA-256 of its image.
    """

    state: SlotState = SlotState.EMPTY
    tries: int = 0
    size: int = 0
    counter: int = 0
    digest: bytes = bytes(DIGEST_SIZE)


@dataclass(frozen=True, slots=True)
class BootState:
    """The boot state.

    Attributes:
        active: The slot to start, A or B.
        slots: What is in A and in B.
        progress: Blocks of the slot in state WRITING that are whole.
        sequence: Number of this state, modulo SEQUENCES.
    """

    active: Slot = Slot.A
    slots: tuple[SlotRecord, SlotRecord] = (SlotRecord(), SlotRecord())
    progress: int = 0
    sequence: int = 0

    def slot(self, slot: Slot) -> SlotRecord:
        """Return what is in A or B."""
        return self.slots[slot]

    def changed(self, slot: Slot, change: Callable[[SlotRecord], SlotRecord]) -> "BootState":
        """Return this state with another record of A or B."""
        first, second = self.slots
        slots = (change(first), second) if slot is Slot.A else (first, change(second))
        return replace(self, slots=slots)

    def marked(self, slot: Slot, state: SlotState, tries: int = 0) -> "BootState":
        """Return this state with A or B in another state."""
        return self.changed(slot, lambda record: replace(record, state=state, tries=tries))

    def newer_than(self, other: "BootState") -> bool:
        """Return whether this one was written after another, not more than 2³¹ states ago."""
        return 0 < (self.sequence - other.sequence) % SEQUENCES < SEQUENCES // 2


def encode_state(state: BootState) -> bytes:
    """Return the RECORD_SIZE bytes of a state."""
    head = _HEAD.pack(_MAGIC, _FORMAT, state.active, state.sequence, state.progress, 0)
    slots = b"".join(
        _SLOT.pack(record.state, record.tries, record.size, record.counter, record.digest) for record in state.slots
    )
    body = (head + slots).ljust(RECORD_SIZE - _CRC.size, b"\0")
    return body + _CRC.pack(crc32c(body))


def decode_state(data: bytes) -> BootState:
    """Return the state that these bytes are; every state has exactly one encoding.

    Raises:
        DeviceError: They are none.
    """
    if len(data) != RECORD_SIZE or data[:8] != _MAGIC:
        raise DeviceError("these bytes are no boot state")
    if _CRC.pack(crc32c(data[: -_CRC.size])) != data[-_CRC.size :]:
        raise DeviceError("the boot state's CRC is wrong")
    _, _, active, sequence, progress, _ = _HEAD.unpack_from(data)
    raw = _SLOT.iter_unpack(data[_HEAD.size : _HEAD.size + 2 * _SLOT.size])
    try:
        first, second = (SlotRecord(SlotState(state), *rest) for state, *rest in raw)
    except ValueError:
        raise DeviceError("the boot state has a slot in a state that is none") from None
    if active not in (Slot.A, Slot.B):
        raise DeviceError(f"the boot state says that slot {active} is active; there are 0 and 1")
    state = BootState(Slot(active), (first, second), progress, sequence)
    if encode_state(state) != data:
        raise DeviceError("the boot state is of another format than 1, or has something where zeros must be")
    return state
