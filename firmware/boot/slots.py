"""The boot ROM's choice: which slot is started, and why. Pure logic over chip and fuses; it starts nothing itself.

A slot is started if it is confirmed, or active and on trial with tries left; and its image must have the size and
digest of the boot state, verify, and have a security counter not below that of the fuses.
"""

import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

from firmware.boot.layout import Chip, FuseBox, Layout, Slot, layout_of
from firmware.boot.state import BootState, SlotState
from firmware.boot.store import StateStore
from host_sdk.wire.crc import crc32c
from host_sdk.wire.errors import DeviceError

TRIES = 3  # boots of a trial image that does not confirm, before it is given up
TRIAL_NS = 60 * 1_000_000_000  # for a trial image to confirm, from when it was started

_RECOVERY_MAGIC = b"NAPURCVR"
_RECOVERY_HEAD = struct.Struct(">8sII")  # magic, bytes of the image, CRC-32C of both


@dataclass(frozen=True, slots=True)
class Verified:
    """What verification says of an image.

    Attributes:
        digest: SHA-256 of the whole image, 32 bytes.
        counter: Its security counter.
    """

    digest: bytes
    counter: int


Verify = Callable[[bytes], Verified]
"""Verifies an image; raises DeviceError if it is refused.

It does not look at the fuses' security counter: here is decided to which images that applies.
"""


class Reason(Enum):
    """Why a slot is started, or is not."""

    CONFIRMED = "holds a confirmed image"
    TRIAL = "holds an image on trial"
    LAST_RESORT = "no other slot can be started"
    NO_STATE = "there is no boot state"
    NO_IMAGE = "holds no image that may be started"
    TRIES_USED = "its image has used up its tries without confirming"
    DEADLINE_MISSED = "its image did not confirm in time"
    REFUSED = "its image is refused"
    ROLLBACK = "its image is older than the fuses allow"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that the ROM found about a slot.

    Attributes:
        slot: Which; None where it is about all.
        reason: What.
        detail: More about it; may be empty.
    """

    slot: Slot | None
    reason: Reason
    detail: str = ""

    def __str__(self) -> str:
        where = "" if self.slot is None else f"slot {self.slot.name}: "
        return f"{where}{self.reason.value}{': ' if self.detail else ''}{self.detail}"


@dataclass(frozen=True, slots=True)
class Decision:
    """What to start.

    Attributes:
        slot: From where.
        reason: Why: CONFIRMED, TRIAL or LAST_RESORT.
        findings: Why not from the slots before it.
        image: The image, the very bytes that were verified.
        verified: What verification said.
        tries_left: Boots that a trial has left after this one; 0 if this is none.
        deadline_ns: When a trial image must have confirmed, on the clock that :meth:`BootRom.boot` was given; None if
            this is no trial.
    """

    slot: Slot
    reason: Reason
    findings: tuple[Finding, ...]
    image: bytes
    verified: Verified
    tries_left: int = 0
    deadline_ns: int | None = None

    def __str__(self) -> str:
        return "; ".join(str(finding) for finding in (*self.findings, Finding(self.slot, self.reason)))


class BootRom:
    """The boot ROM of one board.

    Args:
        chip: The flash.
        fuses: The fuses.
        verify: Verifies an image.
        trial_ns: Time that a trial image has to confirm, in ns.

    Raises:
        DeviceError: The chip is too small.
    """

    def __init__(self, chip: Chip, fuses: FuseBox, verify: Verify, trial_ns: int = TRIAL_NS) -> None:
        self._chip, self._fuses, self._verify, self._trial_ns = chip, fuses, verify, trial_ns
        self._layout = layout_of(chip)

    def boot(self, now_ns: int) -> Decision:
        """Choose what to start, and write down what follows from it: a try that is used, a slot that is given up.

        Raises:
            DeviceError: Nothing can be started, not even the recovery image; says why of each slot.
            PowerCutError: There is no power, or no longer.
        """
        store = StateStore(self._chip, self._layout)
        store.settle()
        findings: list[Finding] = [Finding(None, Reason.NO_STATE)] if store.lost else []
        state, active = store.state, store.state.active
        for slot in (active, active.other):
            found = self._examine(state, slot)
            if isinstance(found, Finding):
                findings.append(found)
                if found.reason is not Reason.NO_IMAGE:
                    state = state.marked(slot, SlotState.BAD)
                continue
            return self._chosen(store, state, replace(found, findings=tuple(findings)), now_ns)
        if state != store.state:
            store.save(state)
        return self._recovery(findings)

    def expire(self, decision: Decision, now_ns: int) -> Finding | None:
        """Give a trial image up that has not confirmed in time; then the board must be booted again.

        Args:
            decision: The last boot's.
            now_ns: The time.

        Returns:
            What was given up; None if there is no reason to.

        Raises:
            PowerCutError: There is no power, or no longer.
        """
        if decision.deadline_ns is None or now_ns < decision.deadline_ns:
            return None
        store = StateStore(self._chip, self._layout)
        if store.state.slot(decision.slot).state is not SlotState.TRYING:
            return None
        store.save(replace(store.state.marked(decision.slot, SlotState.BAD), active=decision.slot.other))
        return Finding(decision.slot, Reason.DEADLINE_MISSED)

    def _examine(self, state: BootState, slot: Slot) -> Decision | Finding:
        """Return the decision for a slot if it can be started, else why it cannot."""
        record = state.slot(slot)
        trial = record.state is SlotState.TRYING and slot is state.active
        if not trial and record.state is not SlotState.CONFIRMED:
            return Finding(slot, Reason.NO_IMAGE, record.state.name.lower())
        if trial and not record.tries:
            return Finding(slot, Reason.TRIES_USED)
        try:
            image = read_slot(self._chip, self._layout, slot, record.size, record.digest)
            verified = self._verify(image)
            check_counter(self._fuses, verified)
        except DeviceError as error:
            return Finding(slot, Reason.REFUSED, str(error))
        if verified.counter < (lowest := self._fuses.security_counter):
            return Finding(slot, Reason.ROLLBACK, f"security counter {verified.counter}, the fuses want {lowest}")
        return Decision(slot, Reason.TRIAL if trial else Reason.CONFIRMED, (), image, verified)

    def _chosen(self, store: StateStore, state: BootState, decision: Decision, now_ns: int) -> Decision:
        state = replace(state, active=decision.slot)
        if decision.reason is Reason.TRIAL:
            tries = state.slot(decision.slot).tries - 1
            store.save(state.marked(decision.slot, SlotState.TRYING, tries))
            return replace(decision, tries_left=tries, deadline_ns=now_ns + self._trial_ns)
        if state != store.state:
            store.save(state)
        # What a loss of power between confirming and this has left undone.
        if decision.verified.counter > self._fuses.security_counter:
            self._fuses.raise_security_counter(decision.verified.counter)
        return decision

    def _recovery(self, findings: list[Finding]) -> Decision:
        # The fuses' counter does not count here: the recovery image is as old as the board.
        try:
            image = read_recovery(self._chip, self._layout)
            verified = self._verify(image)
        except DeviceError as error:
            findings.append(Finding(Slot.RECOVERY, Reason.REFUSED, str(error)))
            raise DeviceError(f"nothing to boot: {'; '.join(str(finding) for finding in findings)}") from None
        return Decision(Slot.RECOVERY, Reason.LAST_RESORT, tuple(findings), image, verified)


def read_slot(chip: Chip, layout: Layout, slot: Slot, size: int, digest: bytes) -> bytes:
    """Return the image in A or B.

    Raises:
        DeviceError: It is larger than the slot, or not the one with this SHA-256.
        PowerCutError: There is no power, or no longer.
    """
    if size > layout.slot_size:
        raise DeviceError(f"an image of {size} bytes is in no slot of {layout.slot_size}")
    image = chip.read(layout.slots[slot], size)
    if hashlib.sha256(image).digest() != digest:
        raise DeviceError("the slot does not hold the image that the boot state names")
    return image


def check_counter(fuses: FuseBox, verified: Verified) -> None:
    """Refuse an image that could not be confirmed.

    Raises:
        DeviceError: Its security counter is beyond the fuses'.
    """
    if not 0 <= verified.counter <= fuses.max_security_counter:
        raise DeviceError(
            f"the image's security counter is {verified.counter}; the fuses count to {fuses.max_security_counter}"
        )


def read_recovery(chip: Chip, layout: Layout) -> bytes:
    """Return the recovery image, whose size stands before it as it must be found without a boot state.

    Raises:
        DeviceError: There is none.
        PowerCutError: There is no power, or no longer.
    """
    head = chip.read(layout.slots[Slot.RECOVERY], _RECOVERY_HEAD.size)
    _, size, _ = _RECOVERY_HEAD.unpack(head)
    if head != recovery_head(size) or size > layout.slot_size - _RECOVERY_HEAD.size:
        raise DeviceError("the slot does not begin as one with a recovery image")
    return chip.read(layout.slots[Slot.RECOVERY] + _RECOVERY_HEAD.size, size)


def recovery_head(size: int) -> bytes:
    """Return the bytes that stand before a recovery image of this size."""
    head = _RECOVERY_MAGIC + struct.pack(">I", size)
    return head + struct.pack(">I", crc32c(head))
