"""The history of boots: which firmware ran in which epoch, so that a trailer of an earlier one can be explained."""

import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from host_sdk.wire.attest.errors import MalformedEvidenceError
from host_sdk.wire.attest.events import DIGEST_SIZE, EMPTY

MAX_BOOTS = 64
_NOTHING = 0xFF  # in place of a slot: nothing could be started
_SLOTS = ("A", "B", "RECOVERY")
_REASONS = ("POWER_ON", "EXITED", "KILLED", "WATCHDOG")
_BOOT = struct.Struct(f">HBBI32s{DIGEST_SIZE}s")
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+_-]{0,31}")


@dataclass(frozen=True, slots=True)
class BootedImage:
    """An image that the boot ROM has chosen.

    Attributes:
        digest: SHA-256 of all its bytes, 32 bytes.
        version: Its version.
        counter: Its security counter.
        slot: Where it was: 0 is A, 1 is B, 2 is recovery.
    """

    digest: bytes
    version: str
    counter: int
    slot: int

    @property
    def slot_name(self) -> str:
        """Where it was, as people call it."""
        return _SLOTS[self.slot]

    def facts(self) -> dict[str, str]:
        """Return what the event of this image says besides its digest."""
        return {"security_counter": str(self.counter), "slot": self.slot_name, "version": self.version}


@dataclass(frozen=True, slots=True)
class Boot:
    """One boot.

    Attributes:
        epoch: Its number, modulo 65536.
        reason: Why: 0 power-on, and as the board's register RESET_REASON.
        image: What was started; None where nothing could be.
    """

    epoch: int
    reason: int
    image: BootedImage | None

    @property
    def reason_name(self) -> str:
        """Why, in a word."""
        return _REASONS[self.reason]


def encode_boots(boots: Iterable[Boot]) -> bytes:
    """Return a history, oldest boot first."""
    nothing = BootedImage(EMPTY, "", 0, _NOTHING)
    parts = []
    for boot in boots:
        image = boot.image or nothing
        parts.append(
            _BOOT.pack(boot.epoch, boot.reason, image.slot, image.counter, image.version.encode(), image.digest)
        )
    return b"".join(parts)


def decode_boots(data: bytes) -> tuple[Boot, ...]:
    """Read a history of at most MAX_BOOTS.

    Raises:
        MalformedEvidenceError: It is none.
    """
    if len(data) % _BOOT.size or len(data) > MAX_BOOTS * _BOOT.size:
        raise MalformedEvidenceError(f"{len(data)} bytes are no history of at most {MAX_BOOTS} boots")
    return tuple(_read(*fields) for fields in _BOOT.iter_unpack(data))


def _read(epoch: int, reason: int, slot: int, counter: int, raw: bytes, digest: bytes) -> Boot:
    if reason >= len(_REASONS):
        raise MalformedEvidenceError(f"a boot of unknown reason {reason}")
    if slot == _NOTHING:
        if counter or any(raw) or any(digest):
            raise MalformedEvidenceError("a boot of nothing that names an image")
        return Boot(epoch, reason, None)
    version = raw.rstrip(b"\0").decode("ascii", "replace")
    if slot >= len(_SLOTS) or not _VERSION.fullmatch(version):
        raise MalformedEvidenceError(f"a boot from slot {slot} of a version that is none")
    return Boot(epoch, reason, BootedImage(digest, version, counter, slot))
