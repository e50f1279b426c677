"""What of the boot ROM stays while the firmware runs: it boots from the slots, watches trials, serves updates."""

import subprocess
import time
from collections.abc import Callable
from dataclasses import replace

from firmware.boot.layout import Chip, FuseBox, Slot, layout_of
from firmware.boot.slots import BootRom, Decision, Finding, Reason, Verified, Verify
from firmware.boot.state import SlotRecord, SlotState
from firmware.boot.update import Updater
from firmware.image.format import HEADER, Image, read_image
from firmware.image.policy import Policy
from firmware.image.verify import verify_image
from host_sdk.wire.attest.boots import BootedImage
from host_sdk.wire.errors import DeviceError

Start = Callable[[Image, int, int, int], subprocess.Popen[bytes]]
"""Starts a verified image with the firmware's end of the bus, of the interrupt line, and the epoch of this boot."""

_MS = 1_000_000
_WHOLE = (SlotState.READY, SlotState.TRYING, SlotState.CONFIRMED)
_VERSION_FIELD = 8  # in an image's header


def verifier(policy: Policy) -> Verify:
    """Return what verifies images by a policy, whose lowest counter is 0 as the boot ROM looks at the fuses itself."""

    def verify(data: bytes) -> Verified:
        image = verify_image(data, policy)
        return Verified(image.digest, image.terms.counter)

    return verify


class ResidentRom:
    """The boot ROM of a board that is switched on. Used by the board's thread alone; holds no image.

    Args:
        chip: The flash.
        fuses: The fuses.
        policy: What the board takes, as its fuses say; the lowest counter is 0, and it has no time.
        start: Starts an image.
        now: Time, in ns, on the board's clock.
        wall: Seconds since 1970. New images are held against it; those in flash are not, as a board whose image
            grows old, or whose clock is wrong, must boot all the same.

    Attributes:
        deadline_ns: When the running image must have confirmed; None if it is not on trial.
        remark: What the last boot chose and why, in words; empty if it was the active slot's confirmed image.

        booted: What the last boot chose; None if that was nothing.

    Raises:
        DeviceError: The chip is too small.
    """

    def __init__(
        self,
        chip: Chip,
        fuses: FuseBox,
        policy: Policy,
        start: Start,
        now: Callable[[], int],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.deadline_ns: int | None = None
        self.remark = ""
        self.booted: BootedImage | None = None
        self._chip, self._fuses, self._verify = chip, fuses, verifier(policy)
        self._rom, self._layout = BootRom(chip, fuses, self._verify), layout_of(chip)
        self._start, self._now, self._wall, self._policy = start, now, wall, policy
        self._updater: Updater | None = None
        self._decision: Decision | None = None
        self._given_up: Finding | None = None  # why the next boot is not from the slot of the last one
        self._version = ""

    def launch(self, bus_fd: int, irq_fd: int, epoch: int) -> subprocess.Popen[bytes]:
        """Choose an image and start it: the board's launcher.

        Raises:
            DeviceError: Nothing can be booted; says why of each slot.
            OSError: The system is out of something.
        """
        self._updater, self.deadline_ns, self.booted = None, None, None
        decision = self._rom.boot(self._now())
        image = read_image(decision.image)
        findings = (self._given_up, *decision.findings) if self._given_up else decision.findings
        self._given_up = None
        self.booted = BootedImage(image.digest, image.version, image.terms.counter, decision.slot)
        self._decision = replace(decision, image=b"", findings=findings)
        self._version = image.version
        self.remark = f"booting {image.version}: {self._decision}"
        if decision.reason is Reason.CONFIRMED and not findings:
            self.remark = ""
        self._updater = Updater(self._chip, self._fuses, self._verify, decision.slot, self._verify_new)
        self.deadline_ns = decision.deadline_ns
        return self._start(image, bus_fd, irq_fd, epoch)

    @property
    def trial_ms(self) -> int:
        """Time that the running image has left to confirm, at least 1; 0 if it is not on trial."""
        return 0 if self.deadline_ns is None else max(1, (self.deadline_ns - self._now()) // _MS)

    def expire(self) -> str:
        """Give up a trial that is over, and say so; empty if none is. The board must be booted again after that."""
        if self._decision is None or self.deadline_ns is None or self._now() < self.deadline_ns:
            return ""
        finding = self._rom.expire(self._decision, self._now())
        self.deadline_ns = None
        if finding is None:
            return ""
        # What the updater knows of the boot state is out of date.
        self._updater, self._given_up = None, finding
        return str(finding)

    def status(self) -> dict[str, object]:
        """Return what runs and why, and what is in slots A and B.

        Raises:
            DeviceError: Nothing runs.
        """
        updater, decision = self._running()
        state = updater.state
        return {
            "slot": decision.slot.name,
            "version": self._version,
            "state": "recovery" if decision.slot is Slot.RECOVERY else state.slot(decision.slot).state.name.lower(),
            "reason": decision.reason.name,
            "detail": str(decision),
            "trial_ms": self.trial_ms,
            "active": state.active.name,
            "slots": {
                slot.name: self._describe(slot, state.slot(slot), state.progress) for slot in (Slot.A, Slot.B)
            },
        }  # fmt: skip

    def begin(self, size: int, digest: bytes) -> int:
        """Begin an update, or go on with it: :meth:`Updater.begin`; return where."""
        return self._running()[0].begin(size, digest).offset

    def write(self, offset: int, data: bytes) -> int:
        """Take the next part of the image: :meth:`Updater.write`; return the offset of the one after it."""
        return self._running()[0].write(offset, data).offset

    def finish(self) -> None:
        """Verify the image: :meth:`Updater.finish`."""
        self._running()[0].finish()

    def activate(self) -> None:
        """Have the image started at the next boot: :meth:`Updater.activate`."""
        self._running()[0].activate()

    def confirm(self) -> None:
        """Keep the running image: :meth:`Updater.confirm`."""
        self._running()[0].confirm()
        self.deadline_ns = None

    def roll_back(self) -> None:
        """Have the other slot's image started at the next boot: :meth:`Updater.rollback`."""
        self._running()[0].rollback()

    def _verify_new(self, data: bytes) -> Verified:
        return verifier(replace(self._policy, now=int(self._wall())))(data)

    def _running(self) -> tuple[Updater, Decision]:
        if self._updater is None or self._decision is None:
            raise DeviceError("the board is about to be booted again")
        return self._updater, self._decision

    def _describe(self, slot: Slot, record: SlotRecord, progress: int) -> dict[str, object]:
        described: dict[str, object] = {"state": record.state.name.lower()}
        if record.state is SlotState.EMPTY:
            return described
        described |= {"size": record.size, "digest": record.digest.hex()}
        if record.state is SlotState.WRITING:
            described["written"] = min(record.size, progress * self._layout.block_size)
        if record.state in _WHOLE:
            header = HEADER.unpack(self._chip.read(self._layout.slots[slot], HEADER.size))
            version = header[_VERSION_FIELD].rstrip(b"\0").decode("ascii", errors="replace")
            described |= {"version": version, "counter": record.counter, "tries": record.tries}
        return described
