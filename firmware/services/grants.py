"""Keys for sealed frames: made from a secure stream, given to the hardware, dropped with a revoked certificate."""

import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from appliance.board.regmap import CommandStatus
from firmware.hal import Hal
from firmware.ports import CommandError
from host_sdk.wire.errors import BadArgumentError, BusyError, NotAuthenticatedError, UnknownOperationError

if TYPE_CHECKING:  # certificates take memory that an open appliance can do without
    from host_sdk.wire.secure.certificates import Authority, Subject

MAX_LIFETIME_S = 24 * 3600
_NUMBER_BITS = 62

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SecureStream:
    """The stream that an operation came through.

    Attributes:
        peer: The address at its other end.
        subject: Whose certificate was shown there.
        export: Returns key material by label and length.
        lifetime_s: How long the certificate is still valid.
    """

    peer: int
    subject: "Subject"
    export: Callable[[bytes, int], bytes]
    lifetime_s: float


class Grants:
    """Grants keys.

    Args:
        hal: The hardware, which keeps them.
    """

    def __init__(self, hal: Hal) -> None:
        self._hal = hal

    def grant(self, stream: SecureStream | None, known: int) -> dict[str, Any]:
        """Grant a key to the other end of a stream; or say that the one it has is still in force.

        Args:
            stream: What it asks through.
            known: The key that it has and is not sure of; 0 where it wants one.

        Raises:
            UnknownOperationError: Access is open, so there are no streams to make keys of.
            NotAuthenticatedError: The certificate is about to expire.
            BusyError: All keys are in use.
            BadArgumentError: The stream itself came through a key.
        """
        if stream is None:
            raise UnknownOperationError("access is open here, so there is nothing to seal frames with")
        serial = f"{stream.subject.serial:x}"
        left = self._hal.keys.lifetime_ms(known, stream.peer, serial) if known else 0
        if left:
            return {"key": known, "lifetime_ms": left, "fresh": False}
        lifetime_ms = int(min(stream.lifetime_s, MAX_LIFETIME_S) * 1000)
        if lifetime_ms < 1:
            raise NotAuthenticatedError("the certificate is about to expire")
        number = secrets.randbits(_NUMBER_BITS) + 1
        self._install(number, serial, stream, lifetime_ms)
        return {"key": number, "lifetime_ms": lifetime_ms, "fresh": True}

    def _install(self, number: int, serial: str, stream: SecureStream, lifetime_ms: int) -> None:
        from host_sdk.wire.sealed.keys import MATERIAL_SIZE, label_of

        if stream.subject.grant is None:
            raise NotAuthenticatedError("the certificate grants nothing")
        material = stream.export(label_of(number), MATERIAL_SIZE)
        try:
            self._hal.keys.grant(number, stream.peer, material, stream.subject.grant.encode(), serial, lifetime_ms)
        except CommandError as error:
            if error.status is not CommandStatus.REFUSED:
                raise
            if stream.peer >> 63:
                raise BadArgumentError(error.detail) from None
            raise BusyError(error.detail) from None

    def drop_revoked(self, authority: "Authority") -> None:
        """Drop the keys of all certificates that are revoked."""
        for serial in self._hal.keys.holders():
            if authority.is_revoked(int(serial, 16)):
                self._hal.keys.drop(serial)
                _log.warning("the keys of certificate %s are dropped: it is revoked", serial)
