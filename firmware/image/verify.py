"""Whether an image may be booted: every check, in the one order in which they are made."""

from collections.abc import Callable
from typing import Protocol

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
from firmware.image.keys import Certificate, root_hash, verified
from firmware.image.policy import Policy
from firmware.image.times import time_text


class Signed(Protocol):
    """What a signing key has signed: an image, or a reference manifest."""

    @property
    def certificate(self) -> Certificate:
        """Of the key that signed it."""

    @property
    def signed(self) -> bytes:
        """The bytes that are signed."""

    @property
    def signature(self) -> bytes:
        """The signature, 64 bytes."""


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


def check_expiry(what: str, end: int, now: int) -> None:
    """Refuse what is past its time.

    Raises:
        ExpiredError: Now is after the end; both in seconds since 1970 in UTC.
    """
    if now > end:
        raise ExpiredError(f"{what} expired at {time_text(end)}, it is {time_text(now)}; get a newer one")


def _root(image: Signed, policy: Policy) -> None:
    found = root_hash(image.certificate.root)
    if found != policy.root_hash:
        raise WrongKeyError(
            f"its certificate is of the root key with hash {found.hex()}, this board takes {policy.root_hash.hex()}"
        )


def _certificate(image: Signed, _policy: Policy) -> None:
    if not image.certificate.root_signed():
        raise WrongKeyError("the root key has not signed its certificate")


def _signature(image: Signed, _policy: Policy) -> None:
    if not verified(image.certificate.key, image.signed, image.signature):
        raise TamperedError("the signature does not match; it was changed, or signed with another key than it names")


def _kind(image: Signed, policy: Policy) -> None:
    if image.certificate.kind not in policy.kinds:
        raise KeyKindError(f"signed with a {image.certificate.kind.name.lower()} key, which this board does not take")


def _revoked(image: Signed, policy: Policy) -> None:
    if image.certificate.serial in policy.revoked:
        raise RevokedKeyError(f"signed with the key of serial number {image.certificate.serial}, which was revoked")


def _time(image: Image, policy: Policy) -> None:
    if policy.now is None:
        return
    check_expiry("its key's certificate", image.certificate.not_after, policy.now)
    check_expiry("it", image.terms.expires, policy.now)


def _hardware(image: Image, policy: Policy) -> None:
    if image.terms.hardware != policy.hardware:
        raise WrongHardwareError(f"built for {image.terms.hardware}, this board is {policy.hardware}")


def _counter(image: Image, policy: Policy) -> None:
    if image.terms.counter < policy.lowest_counter:
        raise RollbackError(
            f"its security counter is {image.terms.counter}, this board takes {policy.lowest_counter} and above"
        )


KEY_CHECKS: tuple[tuple[str, Callable[[Signed, Policy], None]], ...] = (
    ("root key", _root),
    ("certificate", _certificate),
    ("signature", _signature),
    ("kind of key", _kind),
    ("revocation", _revoked),
)
CHECKS: tuple[tuple[str, Callable[[Image, Policy], None]], ...] = (
    *KEY_CHECKS,
    ("time", _time),
    ("hardware", _hardware),
    ("security counter", _counter),
)
