"""Who may do what: how this appliance lets itself be controlled, who asks, and a line in the log for what is refused.

The mode and the device's credentials are objects of the board's, which firmware may read only. The list of revoked
certificates is the firmware's own, so that a newer one can be installed.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from firmware.hal import Hal
from firmware.services.grants import Grants, SecureStream
from host_sdk.wire.errors import (
    BadArgumentError,
    ConfigError,
    NotAuthenticatedError,
    NotPermittedError,
    StatusError,
    UnknownOperationError,
)
from host_sdk.wire.roles import Role

if TYPE_CHECKING:  # certificates take memory that an open appliance can do without
    from host_sdk.wire.secure.certificates import Authority
    from host_sdk.wire.secure.credentials import Credentials

OPEN = "open"
MUTUAL = "mutual"
MODE_OBJECT = "board/access"
CREDENTIALS_OBJECT = "board/credentials"
REVOKED_OBJECT = "access/revoked"
_MAX_OBJECT = 1 << 20
_AUDIT_RATE = 20  # lines in a second, so that a flood of refusals does not push all else out of the console
_MAX_SENTENCE = 300
_SECOND_NS = 1_000_000_000

_log = logging.getLogger(__name__)
_audit_log = logging.getLogger("audit")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks for an operation.

    Attributes:
        name: The user, as its certificate calls it; or a word for those without.
        role: What it may do.
        serial: Number of its certificate; 0 where it has none.
        stream: What it asks through; None where that is plain control.
    """

    name: str
    role: Role
    serial: int = 0
    stream: SecureStream | None = None


NOBODY = Caller("nobody", Role.NOBODY)  # has not said who it is
ANYBODY = Caller("anybody", Role.ADMIN)  # where access is open


def access_mode(hal: Hal) -> str:
    """Return OPEN where the board says so in as many words, else MUTUAL."""
    if MODE_OBJECT in hal.flash.sizes() and hal.flash.read(MODE_OBJECT, _MAX_OBJECT) == OPEN.encode():
        return OPEN
    return MUTUAL


def permit(caller: Caller, operation: str, lowest: Role) -> None:
    """Let a caller pass whose role is high enough for an operation.

    Raises:
        NotAuthenticatedError: It has not said who it is.
        NotPermittedError: Its role is too low.
    """
    if caller.role >= lowest:
        return
    needs = f"{operation} takes the role {lowest.name.lower()}"
    if caller.role is Role.NOBODY:
        raise NotAuthenticatedError(f"{needs}; ask through a secure stream, with a certificate of this lab's authority")
    raise NotPermittedError(f"{needs}; {caller.name} is {caller.role.name.lower()}")


class Bucket:
    """Lets through ``rate`` a second, and as many at once.

    Args:
        rate: More than 0.
        now: Time in ns.
    """

    def __init__(self, rate: int, now: int) -> None:
        self._rate, self._tokens, self._filled = rate, float(rate), now

    def take(self, now: int) -> bool:
        """Take a token; return whether there was one."""
        self._tokens = min(self._rate, self._tokens + (now - self._filled) * self._rate / _SECOND_NS)
        self._filled = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Audit:
    """Writes what was refused, and what was changed by whom, to the log.

    Args:
        clock: Monotonic ns.
    """

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._bucket = Bucket(_AUDIT_RATE, clock())
        self._left_out = 0

    def refused(self, caller: Caller, peer: int, what: str, error: StatusError) -> None:
        """Log who was refused what, and why; beyond some lines a second they are only counted."""
        if not self._bucket.take(self._clock()):
            self._left_out += 1
            return
        more = f" ({self._left_out} more were refused before)" if self._left_out else ""
        self._left_out = 0
        # The words may be a stranger's own, so they are shown as Python would and cannot make lines.
        why = f"{error.status.name} {error.detail[:_MAX_SENTENCE]!r}{more}"
        _audit_log.warning("refused %s from %#x: %r: %s", caller.name, peer, what[:80], why)

    def allowed(self, caller: Caller, peer: int, what: str) -> None:
        """Log who changed something."""
        _audit_log.info("allowed %s (%x) from %#x: %r", caller.name, caller.serial, peer, what)


class Access:
    """The mode, and in mutual mode the device's credentials and the authority that it trusts.

    Args:
        hal: The hardware.

    Attributes:
        mode: OPEN or MUTUAL.
        credentials: The device's own; None where access is open, or there are none that could be used.
        authority: Whose certificates count; None likewise.
        problem: Why there are none, in a sentence.
        grants: Of keys for sealed frames.
    """

    def __init__(self, hal: Hal) -> None:
        self._hal = hal
        self.mode = access_mode(hal)
        self.credentials: Credentials | None = None
        self.authority: Authority | None = None
        self.problem = ""
        self.grants = Grants(hal)
        if self.mode == OPEN:
            _log.warning("access is OPEN: whoever reaches this appliance controls it")
            return
        try:
            self._load()
        except ConfigError as error:
            self.problem = f"this appliance cannot say who it is: {error}"
            _log.error("access is mutual, but nobody can have any: %s", error)
        else:
            _log.info("access is mutual")

    def revoke(self, data: bytes) -> dict[str, int]:
        """Let a newer list of revoked certificates be in force, and keep it; return its number.

        Raises:
            UnknownOperationError: Access is open, or nobody is trusted.
            BadArgumentError: It is no list of this authority, or an older one.
            NoSpaceError: It does not fit into flash.
        """
        if self.authority is None:
            raise UnknownOperationError("access is open here, so there is no authority whose list could count")
        try:
            self.authority.replace_revoked(data)
        except ConfigError as error:
            raise BadArgumentError(str(error)) from None
        self._hal.flash.write(REVOKED_OBJECT, data)
        self.grants.drop_revoked(self.authority)
        return {"number": self.authority.number}

    def _load(self) -> None:
        from host_sdk.wire.secure.credentials import Credentials

        present = self._hal.flash.sizes()
        if CREDENTIALS_OBJECT not in present:
            raise ConfigError("it was given no credentials")
        credentials = Credentials.decode(self._hal.flash.read(CREDENTIALS_OBJECT, _MAX_OBJECT))
        authority = credentials.trust()
        credentials.context(server=True)
        if REVOKED_OBJECT in present:
            try:
                authority.replace_revoked(self._hal.flash.read(REVOKED_OBJECT, _MAX_OBJECT))
            except ConfigError as error:  # of an authority from before, or older than what came with the credentials
                _log.warning("the list of revoked certificates in flash is passed over: %s", error)
        self.credentials, self.authority = credentials, authority
        self.grants.drop_revoked(authority)  # which the firmware may have died before
