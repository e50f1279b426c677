"""Whether an image may be booted: every check, in the one order in which they are made."""

from collections.abc import Callable
from datetime import UTC, datetime

from firmware.image.errors import (
    ExpiredError,
    KeyKindError,
    RevokedKeyError,
    RollbackError,
    TamperedError,
    WrongHardwareError,
    WrongKeyError,
)
from firmware.image.format import Image, read_image
from firmware.image.keys import NEVER, root_hash, verified
from firmware.image.policy import Policy

_LAST_DATE = 253402300799  # end of the year 9999, after which there is no date to print


def verify_image(data: bytes, policy: Policy) -> Image:
    """Take an image apart and make sure that a board may boot it.

    Nothing of the payload is unpacked or run, and time and memory are bounded by the size of ``data``.

    Args:
        data: The whole image.
        policy: What the board takes.

    Raises:
        ImageError: It is refused; :mod:`firmware.image.errors` has one class for each cause.
    """
    image = read_image(data)
    for _, check in CHECKS:
        check(image, policy)
    return image


def time_text(seconds: int) -> str:
    """Return a time for people: a date in UTC, ``never``, or the seconds where there is no such date."""
    if seconds == NEVER:
        return "never"
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}" if seconds <= _LAST_DATE else f"{seconds} s"


def _root(image: Image, policy: Policy) -> None:
    found = root_hash(image.certificate.root)
    if found != policy.root_hash:
        raise WrongKeyError(
            f"its certificate is of the root key with hash {found.hex()}, this board takes {policy.root_hash.hex()}"
        )


def _certificate(image: Image, _policy: Policy) -> None:
    if not image.certificate.root_signed():
        raise WrongKeyError("the root key has not signed its certificate")


def _signature(image: Image, _policy: Policy) -> None:
    if not verified(image.certificate.key, image.signed, image.signature):
        raise TamperedError("the signature does not match; it was changed, or signed with another key than it names")


def _kind(image: Image, policy: Policy) -> None:
    if image.certificate.kind not in policy.kinds:
        raise KeyKindError(f"signed with a {image.certificate.kind.name.lower()} key, which this board does not take")


def _revoked(image: Image, policy: Policy) -> None:
    if image.certificate.serial in policy.revoked:
        raise RevokedKeyError(f"signed with the key of serial number {image.certificate.serial}, which was revoked")


def _time(image: Image, policy: Policy) -> None:
    if policy.now is None:
        return
    for what, end in (("its key's certificate", image.certificate.not_after), ("it", image.terms.expires)):
        if policy.now > end:
            raise ExpiredError(f"{what} expired at {time_text(end)}, it is {time_text(policy.now)}; get a newer one")


def _hardware(image: Image, policy: Policy) -> None:
    if image.terms.hardware != policy.hardware:
        raise WrongHardwareError(f"built for {image.terms.hardware}, this board is {policy.hardware}")


def _counter(image: Image, policy: Policy) -> None:
    if image.terms.counter < policy.lowest_counter:
        raise RollbackError(
            f"its security counter is {image.terms.counter}, this board takes {policy.lowest_counter} and above"
        )


CHECKS: tuple[tuple[str, Callable[[Image, Policy], None]], ...] = (
    ("root key", _root),
    ("certificate", _certificate),
    ("signature", _signature),
    ("kind of key", _kind),
    ("revocation", _revoked),
    ("time", _time),
    ("hardware", _hardware),
    ("security counter", _counter),
)
