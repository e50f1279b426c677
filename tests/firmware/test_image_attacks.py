"""Every attack that docs/firmware-image.md names, against verify_image."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest

from firmware.boot.rom import boot
from firmware.image import verify_image
from firmware.image.build import build_image
from firmware.image.development import DEVELOPMENT_POLICY, DEVELOPMENT_ROOT, DEVELOPMENT_ROOT_HASH, development_signer
from firmware.image.errors import (
    ExpiredError,
    ImageError,
    KeyKindError,
    NotAnImageError,
    OversizeError,
    RevokedKeyError,
    RollbackError,
    TamperedError,
    TruncatedImageError,
    WrongHardwareError,
    WrongKeyError,
)
from firmware.image.keys import KeyKind
from firmware.image.policy import Policy
from tests.firmware import ed25519_reference
from tests.firmware.images import (
    GOOD,
    NEVER,
    OTHER_ROOT,
    OTHER_SIGNING,
    POLICY,
    ROOT,
    SIGNING,
    Parts,
    certificate,
    public,
)

RELEASE_ONLY = replace(POLICY, kinds=frozenset((KeyKind.RELEASE,)))
PAYLOAD_AT = 96
PROTECTED_AT = PAYLOAD_AT + len(b"payload")
SIGNATURES = 244


def refused(image: bytes, policy: Policy = POLICY) -> type[ImageError]:
    with pytest.raises(ImageError) as caught:
        verify_image(image, policy)
    assert str(caught.value).startswith("firmware image refused: ")
    return type(caught.value)


def changed(image: bytes, at: int, bit: int = 0) -> bytes:
    return image[:at] + bytes([image[at] ^ 1 << bit]) + image[at + 1 :]


def test_a_good_image_is_taken() -> None:
    assert verify_image(GOOD, POLICY).payload == b"payload"
    assert verify_image(GOOD, RELEASE_ONLY).terms.counter == 5


def test_no_bit_of_an_image_can_be_turned() -> None:
    for at in range(len(GOOD)):
        for bit in range(8):
            refused(changed(GOOD, at, bit))


def test_truncated_at_every_length() -> None:
    for length in range(len(GOOD)):
        assert refused(GOOD[:length]) is TruncatedImageError


@pytest.mark.parametrize("image", [b"\x7fELF" + bytes(1000), b"PK\x03\x04" + bytes(50), b"NAPUFX", b"#!/bin/sh\n"])
def test_arbitrary_image(image: bytes) -> None:
    assert refused(image) is NotAnImageError


def test_endless_data() -> None:
    assert refused(GOOD + b"\0") is OversizeError
    assert refused(GOOD + bytes(1 << 20)) is OversizeError


@pytest.mark.parametrize("at", [16, 20, 24])
def test_sizes_beyond_their_bounds(at: int) -> None:
    assert refused(GOOD[:at] + b"\xff\xff\xff\xff" + GOOD[at + 4 :]) is OversizeError


def test_tampered_header() -> None:
    for at in (31, 32, 64):  # counter, version, hardware id
        assert refused(changed(GOOD, at)) is TamperedError


def test_a_header_with_a_digest_to_match_is_not_what_was_signed() -> None:
    """Anybody can compute the digest anew; the signature is what they lack."""
    raised = Parts(counter=6, signer=OTHER_SIGNING).image()
    assert refused(raised) is TamperedError


def test_tampered_payload() -> None:
    for at in range(PAYLOAD_AT, PROTECTED_AT):
        assert refused(changed(GOOD, at)) is TamperedError


def test_tampered_payload_with_a_digest_to_match() -> None:
    forged = Parts(payload=b"payl0ad").image()
    assert verify_image(forged, POLICY).payload == b"payl0ad"  # by the right key it is as good as the other
    assert refused(forged[:-64] + GOOD[-64:]) is TamperedError


def test_tampered_tlv() -> None:
    for at in range(PROTECTED_AT, len(GOOD) - SIGNATURES):
        assert refused(changed(GOOD, at)) is TamperedError


def test_a_later_expiry_is_not_what_was_signed() -> None:
    forged = Parts(expires=NEVER.to_bytes(8, "big"), signer=OTHER_SIGNING).image()
    assert refused(forged) is TamperedError


def test_wrong_key() -> None:
    """Somebody with keys of their own, all signatures of which are right."""
    chain = certificate(OTHER_ROOT, OTHER_SIGNING)
    assert refused(Parts(chain=chain, signer=OTHER_SIGNING).image()) is WrongKeyError


def test_certificate_signed_by_another_root() -> None:
    chain = certificate(OTHER_ROOT, SIGNING)
    assert refused(Parts(chain=chain).image()) is WrongKeyError


def test_certificate_that_names_the_root_and_is_signed_by_another() -> None:
    fields = certificate(ROOT, OTHER_SIGNING)[:-64]
    chain = fields + OTHER_ROOT.sign(fields)
    assert refused(Parts(chain=chain, signer=OTHER_SIGNING).image()) is WrongKeyError


def test_certificate_signed_by_a_signing_key() -> None:
    chain = certificate(SIGNING, OTHER_SIGNING)
    assert refused(Parts(chain=chain, signer=OTHER_SIGNING).image()) is WrongKeyError


def test_another_key_than_the_certificates() -> None:
    assert refused(Parts(signer=OTHER_SIGNING).image()) is TamperedError
    assert refused(Parts(signer=ROOT).image()) is TamperedError


def test_revoked_key() -> None:
    assert refused(GOOD, replace(POLICY, revoked=frozenset((1, 7)))) is RevokedKeyError
    assert verify_image(GOOD, replace(POLICY, revoked=frozenset((1, 8))))


def test_a_revoked_key_under_a_number_of_its_holders_choice() -> None:
    fields = certificate(serial=8)[:-64]
    chain = fields + SIGNING.sign(fields)
    assert refused(Parts(chain=chain).image(), replace(POLICY, revoked=frozenset((7,)))) is WrongKeyError


def test_rollback() -> None:
    assert refused(GOOD, replace(POLICY, lowest_counter=6)) is RollbackError
    assert verify_image(GOOD, replace(POLICY, lowest_counter=5))


def test_freeze() -> None:
    assert verify_image(GOOD, replace(POLICY, now=2000))
    assert refused(GOOD, replace(POLICY, now=2001)) is ExpiredError  # the certificate
    lasting = Parts(chain=certificate(not_after=NEVER)).image()
    assert verify_image(lasting, replace(POLICY, now=3000))
    assert refused(lasting, replace(POLICY, now=3001)) is ExpiredError  # the image


def test_a_board_without_a_clock_cannot_tell() -> None:
    assert verify_image(GOOD, replace(POLICY, now=None))


def test_wrong_hardware() -> None:
    assert refused(GOOD, replace(POLICY, hardware="board-8")) is WrongHardwareError
    assert refused(GOOD, replace(POLICY, hardware="board-")) is WrongHardwareError


def test_development_image_on_a_board_that_takes_release_keys_alone() -> None:
    image = Parts(chain=certificate(kind=1)).image()
    assert verify_image(image, POLICY)
    assert refused(image, RELEASE_ONLY) is KeyKindError


def test_a_development_image_under_the_same_keys_release_certificate() -> None:
    """The signature covers the certificate, so that it cannot be exchanged for another one of the same key."""
    image = Parts(chain=certificate(kind=1)).image()
    at = image.index(b"NAPUCERT")
    assert refused(image[:at] + certificate(kind=2) + image[at + 160 :], RELEASE_ONLY) is TamperedError


def test_signature_from_another_image() -> None:
    other = Parts(version=b"1.1").image()
    assert refused(GOOD[:-64] + other[-64:]) is TamperedError
    assert refused(GOOD[:-SIGNATURES] + other[-SIGNATURES:]) is TamperedError


def test_any_mix_of_two_images_parts() -> None:
    other = Parts(b"PAYLOAD", b"1.1", counter=9, build=b"files=2\n").image()
    cuts = (0, PAYLOAD_AT, PROTECTED_AT, len(GOOD) - SIGNATURES, len(GOOD))
    assert len(other) == len(GOOD)
    assert verify_image(other, POLICY)
    for choice in range(1, 15):
        mixed = b"".join(
            (GOOD, other)[choice >> part & 1][begin:end] for part, (begin, end) in enumerate(pairwise(cuts))
        )
        assert refused(mixed) is TamperedError


def test_nothing_is_unpacked_before_all_is_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*_: object, **__: object) -> None:
        raise AssertionError("the payload was opened")

    image = build_image()
    monkeypatch.setattr("zipfile.ZipFile.__init__", explode)
    monkeypatch.setattr("zipimport.zipimporter.__init__", explode)
    assert verify_image(image, DEVELOPMENT_POLICY)


def test_the_boot_rom_starts_nothing_that_its_policy_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*_: object, **__: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr("subprocess.Popen.__init__", explode)
    monkeypatch.setattr("os.memfd_create", explode)
    with pytest.raises(KeyKindError):
        boot(build_image(), -1, -1, 0, replace(DEVELOPMENT_POLICY, kinds=frozenset((KeyKind.RELEASE,))))
    with pytest.raises(AssertionError, match="a process was started"):
        boot(build_image(), -1, -1, 0)  # by default it takes what napu-fw builds


ORDER: list[tuple[type[ImageError], Callable[[Parts], None], dict[str, object]]] = [
    (WrongKeyError, lambda parts: setattr(parts, "key_id", bytes(8)), {}),
    (WrongKeyError, lambda _: None, {"root_hash": bytes(32)}),
    (TamperedError, lambda parts: setattr(parts, "signer", OTHER_SIGNING), {}),
    (KeyKindError, lambda _: None, {"kinds": frozenset()}),
    (RevokedKeyError, lambda _: None, {"revoked": frozenset((7,))}),
    (ExpiredError, lambda _: None, {"now": 4000}),
    (WrongHardwareError, lambda _: None, {"hardware": "other"}),
    (RollbackError, lambda _: None, {"lowest_counter": 6}),
]


def test_the_first_check_that_fails_decides() -> None:
    for first, (error, _, _) in enumerate(ORDER):
        parts, policy = Parts(), POLICY
        for _, break_image, changes in ORDER[first:]:
            break_image(parts)
            policy = replace(policy, **changes)  # type: ignore[arg-type]
        assert refused(parts.image(), policy) is error


def test_the_development_keys_are_what_the_emulated_board_has_in_its_fuses() -> None:
    root = ed25519_reference.public_key(DEVELOPMENT_ROOT)
    assert hashlib.sha256(root).digest() == DEVELOPMENT_ROOT_HASH
    signer = development_signer()
    assert signer.certificate.kind is KeyKind.DEVELOPMENT
    assert signer.certificate.root == root
    image = build_image()
    assert verify_image(image, DEVELOPMENT_POLICY)
    assert refused(image, replace(DEVELOPMENT_POLICY, kinds=frozenset((KeyKind.RELEASE,)))) is KeyKindError
    assert refused(image, replace(DEVELOPMENT_POLICY, root_hash=hashlib.sha256(public(ROOT)).digest())) is WrongKeyError
