"""Firmware over the wire: the next image comes in by parts, is tried, and is kept or given up."""

import logging
from typing import Any

from appliance.board.regmap import MAX_PART
from firmware.hal import Hal
from host_sdk.wire.errors import BadArgumentError

_log = logging.getLogger(__name__)
_audit_log = logging.getLogger("audit")
_MAX_SENTENCE = 300
CONFIRM_OBJECT = "update/host-confirms"  # digest of an image that does not confirm itself
HOST, SELF = "host", "self"


class Updates:
    """Hands the board's boot ROM what it is sent. What it refuses is BadArgumentError, in the ROM's words.

    Activating and rolling back name the image that they are about, so that a copy which arrives after the reboot that
    they cause does nothing.

    Args:
        hal: The hardware.
        digest: SHA-256 of the image that was booted, in hex.

    Attributes:
        reboot: Whether the firmware is to end, for the board to boot what was chosen.
    """

    def __init__(self, hal: Hal, digest: str) -> None:
        self.reboot = False
        self._hal, self._rom, self._digest = hal, hal.rom, digest

    def status(self) -> dict[str, Any]:
        """Return what runs and why, and what is in the slots."""
        return {**self._rom.status(), "digest": self._digest, "epoch": self._hal.epoch()}

    def begin(self, size: int, digest: bytes) -> dict[str, Any]:
        """Begin an update, or go on with one; return from which offset on, and how much is taken at once."""
        offset = self._rom.begin(size, digest)
        _log.info("an image of %d bytes, %s, is written from %d on", size, digest.hex()[:16], offset)
        return {"offset": offset, "part": MAX_PART}

    def chunk(self, offset: int, data: bytes) -> dict[str, Any]:
        """Take the next part; return the offset of the one after it."""
        if len(data) > MAX_PART:
            raise BadArgumentError(f"a part of {len(data)} bytes; at most {MAX_PART} are taken at once")
        return {"offset": self._rom.write(offset, data)}

    def finish(self) -> dict[str, Any]:
        """Verify the image that was written."""
        try:
            self._rom.finish()
        except BadArgumentError as error:
            _audit_log.warning("refused an image: %r", error.detail[:_MAX_SENTENCE])
            raise
        _log.info("the image is whole and verified")
        return {}

    def activate(self, digest: bytes, confirm: str) -> dict[str, Any]:
        """Boot an image that is ready, on trial.

        Args:
            digest: Of the image.
            confirm: Who decides that it works: SELF, the image, as soon as it is up; or HOST, by :meth:`confirm`.

        Raises:
            BadArgumentError: There is no such image, or nobody of this name decides.
            NoSpaceError: Flash is full.
        """
        if confirm not in (HOST, SELF):
            raise BadArgumentError(f"confirm is {confirm[:20]!r}; it must be {HOST} or {SELF}")
        if digest.hex() == self._digest:
            return {"reboot": 0}
        slots: dict[str, dict[str, Any]] = self._rom.status()["slots"]
        if digest.hex() not in {slot.get("digest") for slot in slots.values()}:
            raise BadArgumentError(f"no slot holds an image {digest.hex()[:16]}")
        if confirm == HOST:
            self._hal.flash.write(CONFIRM_OBJECT, digest)
        else:
            self._hal.flash.delete(CONFIRM_OBJECT)
        self._rom.activate()
        return self._leave(f"for image {digest.hex()[:16]}, on trial")

    def try_out(self) -> None:
        """Confirm the running image if it is on trial and nobody else does so; once it is up."""
        if not self._hal.on_trial():
            return
        if self._hal.flash.sizes().get(CONFIRM_OBJECT) and self._told_to_wait():
            _log.info("this image is on trial until a host confirms it")
            return
        self.confirm()

    def confirm(self) -> dict[str, Any]:
        """Keep the running image."""
        on_trial = self._hal.on_trial()
        self._rom.confirm()
        self._hal.flash.delete(CONFIRM_OBJECT)
        if on_trial:
            _log.info("this image is confirmed to work")
        return {}

    def roll_back(self, leaving: bytes) -> dict[str, Any]:
        """Boot the image of the other slot.

        Args:
            leaving: Digest of the image that is to run no longer.
        """
        if leaving.hex() != self._digest:
            return {"reboot": 0}
        self._rom.roll_back()
        return self._leave("for the image in the other slot")

    def _told_to_wait(self) -> bool:
        return self._hal.flash.read(CONFIRM_OBJECT, 32).hex() == self._digest

    def _leave(self, why: str) -> dict[str, Any]:
        _log.info("rebooting %s", why)
        self.reboot = True
        return {"reboot": 1}
