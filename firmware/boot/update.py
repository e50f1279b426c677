"""Updates: an image streams into the slot that nobody needs, goes on after a loss of power, and becomes active.

The steps: begin, write in order, finish, activate, then a boot, then confirm; or roll back. Each that changes the boot
state does so by one save of it, so that a cut of the power leaves the state before it or the one after it.
"""

import hashlib
from dataclasses import dataclass, replace

from firmware.boot.layout import Chip, FuseBox, Layout, Slot, layout_of
from firmware.boot.slots import TRIES, Verified, Verify, check_counter, read_slot, recovery_head
from firmware.boot.state import DIGEST_SIZE, BootState, SlotRecord, SlotState
from firmware.boot.store import StateStore
from host_sdk.wire.errors import DeviceError


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an update is.

    Attributes:
        slot: Where it is written.
        offset: Bytes that are there; the next write begins here.
        size: Bytes of the image.
    """

    slot: Slot
    offset: int
    size: int


class Updater:
    """Updates the board that runs the image of one slot; made anew after each boot. Holds one block in memory.

    Args:
        chip: The flash.
        fuses: The fuses.
        verify: Verifies an image as the boot ROM does.
        running: The slot that was booted.
        verify_new: Verifies an image that comes in; this may look at a clock, as refusing one then leaves the board
            with what it runs. By default as ``verify``.

    Raises:
        DeviceError: The chip is too small.
        PowerCutError: There is no power, or no longer; this holds for every method.
    """

    def __init__(
        self, chip: Chip, fuses: FuseBox, verify: Verify, running: Slot, verify_new: Verify | None = None
    ) -> None:
        self._chip, self._fuses, self._verify, self._running = chip, fuses, verify, running
        self._verify_new = verify_new or verify
        self._layout = layout_of(chip)
        self._store = StateStore(chip, self._layout)
        self._buffer = bytearray()
        self._progress: Progress | None = None

    @property
    def state(self) -> BootState:
        """The boot state."""
        return self._store.state

    def begin(self, size: int, digest: bytes) -> Progress:
        """Begin an update, or take up the one that was begun with the same size and digest.

        Args:
            size: Bytes of the image.
            digest: Its SHA-256, 32 bytes.

        Returns:
            Where it is written and from which offset on.

        Raises:
            DeviceError: The image does not fit, or the running image is on trial, so that the other is needed.
        """
        if not 0 < size <= self._layout.slot_size:
            raise DeviceError(f"an image of {size} bytes does not go into a slot of {self._layout.slot_size}")
        if len(digest) != DIGEST_SIZE:
            raise DeviceError(f"{len(digest)} bytes are no SHA-256")
        slot = self._target()
        record, offset = self.state.slot(slot), 0
        same = (record.size, record.digest) == (size, digest)
        if same and record.state is SlotState.READY:
            offset = size
        elif same and record.state is SlotState.WRITING:
            # Saved again, so that a mark or state that a cut of the power left unstable is so no longer.
            offset = min(size, self.state.progress * self._layout.block_size)
            self._store.save(self.state)
        else:
            writing = self.state.changed(slot, lambda _: SlotRecord(SlotState.WRITING, 0, size, 0, digest))
            self._store.save(replace(writing, progress=0, active=slot.other))
        self._buffer.clear()
        self._progress = Progress(slot, offset, size)
        return self._progress

    def write(self, offset: int, data: bytes) -> Progress:
        """Take the next part of the image; what fills no block yet is kept in memory until one is full.

        Args:
            offset: Of the part in the image; that of the last Progress.
            data: The part, of any size.

        Raises:
            DeviceError: No update was begun, or the part is not the next, or goes beyond the image's end.
        """
        progress = self._begun()
        if offset != progress.offset:
            raise DeviceError(f"the next part of the image begins at {progress.offset}, not at {offset}")
        if offset + len(data) > progress.size:
            raise DeviceError(f"{len(data)} bytes at {offset} go beyond an image of {progress.size} bytes")
        place, view = offset, memoryview(data)
        while view:
            taken = view[: self._layout.block_size - len(self._buffer)]
            self._buffer += taken
            view, place = view[len(taken) :], place + len(taken)
            if len(self._buffer) == self._layout.block_size or place == progress.size:
                self._flush(progress.slot, place - len(self._buffer))
        self._progress = replace(progress, offset=place)
        return self._progress

    def finish(self) -> Verified:
        """Verify the whole image in its slot, which then is ready to be activated.

        Raises:
            DeviceError: No update was begun, a part is missing, or the image is refused: then the slot is bad.
        """
        progress = self._begun()
        if progress.offset != progress.size:
            raise DeviceError(f"{progress.offset} of {progress.size} bytes of the image are there")
        try:
            verified = self._check(progress.slot, self._verify_new)
        except DeviceError:
            self._store.save(self.state.marked(progress.slot, SlotState.BAD))
            self._progress = None
            raise
        if self.state.slot(progress.slot).state is not SlotState.READY:
            ready = self.state.changed(
                progress.slot, lambda record: replace(record, state=SlotState.READY, counter=verified.counter)
            )
            self._store.save(ready)
        return verified

    def activate(self) -> Slot:
        """Make the image that is ready the one to be started at the next boot, on trial; again does nothing.

        Returns:
            Its slot.

        Raises:
            DeviceError: No image is ready.
        """
        slot = self._target()
        record = self.state.slot(slot)
        if record.state is SlotState.TRYING and self.state.active is slot:
            return slot
        if record.state is not SlotState.READY:
            raise DeviceError(f"slot {slot.name} is {record.state.name.lower()}, not ready; finish an update first")
        self._store.save(replace(self.state.marked(slot, SlotState.TRYING, TRIES), active=slot))
        self._progress = None
        return slot

    def confirm(self) -> None:
        """Keep the running image, and let none with a lower security counter be started from now on.

        Again does nothing but complete the fuses; the recovery image needs no confirming.

        Raises:
            DeviceError: The running image was given up meanwhile.
        """
        if self._running is Slot.RECOVERY:
            return
        record = self.state.slot(self._running)
        if record.state not in (SlotState.TRYING, SlotState.CONFIRMED):
            raise DeviceError(f"slot {self._running.name} is {record.state.name.lower()} and cannot be confirmed")
        if record.state is SlotState.TRYING:
            self._store.save(self.state.marked(self._running, SlotState.CONFIRMED))
        # In this order: were the fuses first, a cut of the power could leave no image that may be started.
        if record.counter > self._fuses.security_counter:
            self._fuses.raise_security_counter(record.counter)

    def rollback(self) -> Slot:
        """Go back to the other slot at the next boot; an image on trial that is left so is bad.

        Returns:
            The other slot.

        Raises:
            DeviceError: The other slot has no confirmed image that may be started.
        """
        if self._running is Slot.RECOVERY:
            raise DeviceError("the recovery image runs, and has nothing to go back to")
        other = self._running.other
        if self.state.slot(other).state is not SlotState.CONFIRMED:
            raise DeviceError(f"slot {other.name} holds no confirmed image to go back to")
        self._check(other, self._verify)
        state = replace(self.state, active=other)
        if state.slot(self._running).state is SlotState.TRYING:
            state = state.marked(self._running, SlotState.BAD)
        if state != self.state:
            self._store.save(state)
        return other

    def _target(self) -> Slot:
        """Return the slot that nobody needs."""
        if self._running is Slot.RECOVERY:
            active = self.state.active
            return active if self.state.slot(active).state is SlotState.TRYING else active.other
        if self.state.slot(self._running).state is not SlotState.CONFIRMED:
            raise DeviceError(
                f"the running image is on trial and slot {self._running.other.name} its way back; confirm it"
            )
        return self._running.other

    def _begun(self) -> Progress:
        if self._progress is None:
            raise DeviceError("no update was begun")
        return self._progress

    def _flush(self, slot: Slot, offset: int) -> None:
        address = self._layout.slots[slot] + offset
        self._chip.erase(address)
        self._chip.program(address, _padded(bytes(self._buffer), self._chip.unit))
        self._store.mark()
        self._buffer.clear()

    def _check(self, slot: Slot, verify: Verify) -> Verified:
        record = self.state.slot(slot)
        verified = verify(read_slot(self._chip, self._layout, slot, record.size, record.digest))
        check_counter(self._fuses, verified)
        if verified.counter < (lowest := self._fuses.security_counter):
            raise DeviceError(f"the image's security counter is {verified.counter}; the fuses want {lowest}")
        return verified


def provision(chip: Chip, fuses: FuseBox, verify: Verify, image: bytes, recovery: bytes) -> None:
    """Give a chip what it leaves the factory with: a confirmed image in slot A, and the recovery image.

    The boot state is written last: a chip without one was not provisioned to the end.

    Raises:
        DeviceError: An image is refused or does not fit.
        PowerCutError: There is no power, or no longer.
    """
    layout = layout_of(chip)
    verified = verify(image)
    check_counter(fuses, verified)
    verify(recovery)
    for slot, content in ((Slot.RECOVERY, recovery_head(len(recovery)) + recovery), (Slot.A, image)):
        if len(content) > layout.slot_size:
            raise DeviceError(f"{len(content)} bytes do not go into slot {slot.name} of {layout.slot_size}")
        _fill(chip, layout, slot, content)
    digest = hashlib.sha256(image).digest()
    first = SlotRecord(SlotState.CONFIRMED, 0, len(image), verified.counter, digest)
    StateStore(chip, layout).save(BootState(Slot.A, (first, SlotRecord())))


def _fill(chip: Chip, layout: Layout, slot: Slot, content: bytes) -> None:
    for offset in range(0, len(content), layout.block_size):
        address = layout.slots[slot] + offset
        chip.erase(address)
        chip.program(address, _padded(content[offset : offset + layout.block_size], chip.unit))


def _padded(data: bytes, unit: int) -> bytes:
    return data.ljust(-(-len(data) // unit) * unit, b"\xff")
