"""Upgrades of an appliance's firmware over the wire, and fleets of them one by one.

An image is sent by parts, tried, looked at from outside, and only then confirmed: an image that boots but does not
answer here any more is given up by the board itself, and the one before comes back.
"""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from host_sdk.wire.errors import (
    BadArgumentError,
    BusyError,
    ConfigError,
    DeviceError,
    NapuTimeoutError,
    RemoteProtocolError,
    UnavailableError,
)
from host_sdk.wire.schema import MAX_PACKAGE

Result = TypeVar("Result")
Step = Callable[[str, int, int], None]
"""Told how far an upgrade is: what is being done, bytes done, bytes of the image."""

_MAGIC = b"NAPUFW\0\0"
_PASSING = (NapuTimeoutError, UnavailableError, BusyError)  # while the firmware is being started, or the link is down
PATIENCE_S = 90.0  # longer than the trial of an image that hangs
_PAUSE_S = 0.05
_BEGINS = 3  # in a row without a byte of progress, before what the appliance says is believed


class Control(Protocol):
    """Runs an operation of one appliance's control plane."""

    def __call__(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """Return its answer; raises StatusError and NapuTimeoutError."""


@dataclass(frozen=True, slots=True)
class FirmwareImage:
    """An image as it is sent; whether it is any good the appliance says.

    Attributes:
        data: All its bytes.
        digest: Their SHA-256.
    """

    data: bytes
    digest: bytes

    @classmethod
    def read(cls, path: Path) -> "FirmwareImage":
        """Read an image from a file.

        Raises:
            ConfigError: It cannot be read, or is no firmware image.
        """
        try:
            with path.open("rb") as file:
                data = file.read(MAX_PACKAGE + 1)
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
        if not data.startswith(_MAGIC) or len(data) > MAX_PACKAGE:
            raise ConfigError(f"{path} is no firmware image; napu-fw build and napu-fw sign make one")
        return cls(data, hashlib.sha256(data).digest())


@dataclass(frozen=True, slots=True)
class Upgraded:
    """What an upgrade has come to.

    Attributes:
        before: Version that ran.
        after: Version that runs.
        changed: Whether anything was done: an appliance that runs the image is left alone.
        confirmed: Whether the image stays.
    """

    before: str
    after: str
    changed: bool
    confirmed: bool


class Upgrade:
    """One appliance's firmware.

    Args:
        control: Its control plane.
        step: Told how far it is.
        patience_s: How long the appliance may be silent.
    """

    def __init__(self, control: Control, step: Step = lambda *_: None, patience_s: float = PATIENCE_S) -> None:
        self._control, self._step, self._patience_s = control, step, patience_s

    def status(self) -> dict[str, Any]:
        """Return what runs and why, and what is in the slots."""
        return self._ask("fw.status")

    def run(self, image: FirmwareImage, *, confirm: bool = True) -> Upgraded:
        """Bring an appliance to an image: send it, boot it, look whether all is well, and confirm it.

        What an earlier run has sent already is not sent again.

        Args:
            image: The image.
            confirm: Keep it once it was looked at; else it is on trial until :meth:`confirm`, or its time is over.

        Raises:
            StatusError: The appliance refuses the image.
            DeviceError: The image was booted and given up, or does not serve what was served before.
            NapuTimeoutError: The appliance does not answer any more.
        """
        before = self.status()
        if self._runs(before, image):
            confirmed = before["state"] == "confirmed"
            if not confirmed and confirm:
                self.confirm()
            return Upgraded(before["version"], before["version"], not confirmed, confirmed or confirm)
        served = self._served()
        self.send(image)
        self._step("rebooting", len(image.data), len(image.data))
        self._ask("fw.activate", digest=image.digest, confirm="host")
        after = self._await(image, before)
        missing = served - self._served()
        if missing:
            self.roll_back()
            raise DeviceError(
                f"version {after['version']} served no longer: {', '.join(sorted(missing))}; "
                f"{before['version']} runs again"
            )
        if confirm:
            self.confirm()
        return Upgraded(before["version"], after["version"], True, confirm)

    def send(self, image: FirmwareImage) -> None:
        """Send what of an image is not in the slot yet, and have it verified.

        A link that is lost meanwhile, or a firmware, is waited for.

        Raises:
            StatusError: The appliance refuses.
            NapuTimeoutError: It does not answer any more; the same call goes on where it stopped.
        """
        size, reached, begins = len(image.data), -1, 0
        while True:
            answer = self._ask("fw.begin", size=size, digest=image.digest)
            offset, part = _number(answer, "offset", 0, size), _number(answer, "part", 1, MAX_PACKAGE)
            begins = 0 if offset > reached else begins + 1
            reached = max(reached, offset)
            try:
                while offset < size:
                    self._step("sending", offset, size)
                    answer = self._ask("fw.chunk", offset=offset, data=image.data[offset : offset + part])
                    offset = _number(answer, "offset", offset + 1, size)
                self._step("verifying", size, size)
                self._ask("fw.finish")
            except BadArgumentError:
                # Perhaps its firmware was started anew meanwhile, which knows of no update before it is begun again.
                if begins >= _BEGINS or self._refused(image):
                    raise
                continue
            return

    def _refused(self, image: FirmwareImage) -> bool:
        slots = self.status()["slots"].values()
        return any(slot.get("digest") == image.digest.hex() and slot.get("state") == "bad" for slot in slots)

    def confirm(self) -> None:
        """Keep the image that runs."""
        self._ask("fw.confirm")

    def roll_back(self) -> Upgraded:
        """Go back to the image in the other slot.

        Raises:
            StatusError: There is none.
            DeviceError: It was booted and given up.
        """
        before = self.status()
        other = before["slots"].get("B" if before["slot"] == "A" else "A", {})
        self._step("rebooting", 0, 0)
        self._ask("fw.rollback", leaving=bytes.fromhex(before["digest"]))
        after = self._await_other(before)
        if after["digest"] != other.get("digest"):
            raise DeviceError(f"the other image was not booted: {after['detail']}")
        return Upgraded(before["version"], after["version"], True, after["state"] == "confirmed")

    def _await(self, image: FirmwareImage, before: dict[str, Any]) -> dict[str, Any]:
        after = self._await_other(before)
        if not self._runs(after, image):
            raise DeviceError(f"the image was not kept; version {after['version']} runs: {after['detail']}")
        return after

    def _await_other(self, before: dict[str, Any]) -> dict[str, Any]:
        """Wait until the firmware was started anew; return what runs then."""
        end = time.monotonic() + self._patience_s
        while True:
            after = self.status()
            if after["epoch"] != before["epoch"]:
                return after
            if time.monotonic() > end:
                raise NapuTimeoutError(f"the firmware was not started anew within {self._patience_s:g} s")
            time.sleep(_PAUSE_S)

    @staticmethod
    def _runs(status: dict[str, Any], image: FirmwareImage) -> bool:
        return bool(status["digest"] == image.digest.hex())

    def _served(self) -> set[str]:
        answer = self._ask("pipelines").get("pipelines")
        if not isinstance(answer, list) or not all(isinstance(entry, dict) for entry in answer):
            raise RemoteProtocolError("answer has no list of pipelines")
        return {str(entry.get("name")) for entry in answer}

    def _ask(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """Run an operation, again and again while nobody is there who could answer it."""
        end = time.monotonic() + self._patience_s
        while True:
            try:
                answer = self._control(operation, **arguments)
            except _PASSING:
                if time.monotonic() > end:
                    raise
                time.sleep(_PAUSE_S)
            else:
                return _checked(answer) if operation == "fw.status" else answer


def _checked(status: dict[str, Any]) -> dict[str, Any]:
    """Return the answer to fw.status if it has what is looked at.

    Raises:
        RemoteProtocolError: It has not.
    """
    texts = ("slot", "version", "state", "reason", "detail", "digest")
    slots = status.get("slots")
    if (
        all(isinstance(status.get(name), str) for name in texts)
        and isinstance(status.get("epoch"), int)
        and isinstance(slots, dict)
        and all(isinstance(slot, dict) for slot in slots.values())
        and len(status["digest"]) == 2 * hashlib.sha256().digest_size
        and set(status["digest"]) <= set("0123456789abcdef")
    ):
        return status
    raise RemoteProtocolError("the answer to fw.status is not what docs/protocol.md says")


def _number(answer: dict[str, Any], name: str, low: int, high: int) -> int:
    value = answer.get(name)
    if type(value) is not int or not low <= value <= high:
        raise RemoteProtocolError(f"{name} of the answer is {value!r}; it must be {low} to {high}")
    return value
