"""The image format against its description: the golden image there, and images put together by hand."""

import hashlib
import shutil
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from firmware.image import read_image, verify_image
from firmware.image.build import SOURCES, build_image
from firmware.image.errors import (
    ImageError,
    NotAnImageError,
    OversizeError,
    TamperedError,
    TruncatedImageError,
    WrongKeyError,
)
from firmware.image.format import MAX_IMAGE, MAX_PAYLOAD, Content, Terms, encode_image, sign_image
from firmware.image.keys import KeyKind, Signer, certify, read_certificate
from firmware.image.policy import Policy
from host_sdk.wire.errors import ConfigError
from tests.firmware import ed25519_reference
from tests.firmware.images import GOOD, NEVER, OTHER_ROOT, OTHER_SIGNING, ROOT, SIGNING, Parts, golden, public

GOLDEN = golden()
# RFC 8032, section 7.1, TEST 1 and TEST 2.
GOLDEN_ROOT = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
GOLDEN_KEY = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
GOLDEN_ROOT_HASH = bytes.fromhex("21fe31dfa154a261626bf854046fd2271b7bed4b6abe45aa58877ef47f9721b9")
GOLDEN_POLICY = Policy(
    GOLDEN_ROOT_HASH, "napu-board-1", 5, frozenset((3, 4)), frozenset((KeyKind.RELEASE,)), 1893456000
)


def content(**changes: object) -> Content:
    fields = {"name": "napu", "version": "1.2.3", "entry": "a:b", "build": {"files": "1"}, "payload": b"payload"}
    return Content(**{**fields, **changes})  # type: ignore[arg-type]


def golden_signer() -> Signer:
    root, signing = (Ed25519PrivateKey.from_private_bytes(seed) for seed in (GOLDEN_ROOT, GOLDEN_KEY))
    return Signer(signing, certify(root, public(signing), KeyKind.RELEASE, 7, 1893456000))


def signer() -> Signer:
    return Signer(SIGNING, certify(ROOT, public(SIGNING), KeyKind.RELEASE, 7, 2000))


def test_the_golden_image_is_read() -> None:
    assert len(GOLDEN) == 434
    image = verify_image(GOLDEN, GOLDEN_POLICY)
    assert (image.name, image.version, image.entry, image.build) == ("napu", "1.2.3", "a:b", {"files": "1"})
    assert image.payload == b"payload"
    assert image.terms == Terms("napu-board-1", 5, 1767225600, 1924992000)
    assert (image.certificate.kind, image.certificate.serial) == (KeyKind.RELEASE, 7)
    assert image.certificate.not_after == 1893456000
    assert image.digest.hex() == "aeb46cd01aeff866ebae7c7625c006cc867fa7ded563a56b6c9f1647e94ab0ca"


def test_encoding_gives_the_golden_image() -> None:
    terms = Terms("napu-board-1", 5, 1767225600, 1924992000)
    assert encode_image(content(), terms, golden_signer()) == GOLDEN


def test_the_signatures_of_the_golden_image_are_those_of_rfc_8032() -> None:
    root, signing = (ed25519_reference.public_key(seed) for seed in (GOLDEN_ROOT, GOLDEN_KEY))
    assert GOLDEN[238:302] == signing + root
    assert hashlib.sha256(root).digest() == GOLDEN_ROOT_HASH
    assert GOLDEN[302:366] == ed25519_reference.sign(GOLDEN_ROOT, GOLDEN[206:302])
    assert GOLDEN[370:434] == ed25519_reference.sign(GOLDEN_KEY, GOLDEN[:366])
    assert ed25519_reference.verify(signing, GOLDEN[:366], GOLDEN[370:])


def test_what_is_put_together_by_hand_is_what_is_encoded() -> None:
    made = encode_image(content(version="1.2"), Terms("board-7", 5, 500, 3000), signer())
    assert made == GOOD


@pytest.mark.parametrize(
    ("image", "error", "complaint"),
    [
        (b"", TruncatedImageError, "0 bytes; its header alone has 96"),
        (GOOD[:95], TruncatedImageError, "95 bytes"),
        (b"\x7fELF" + GOOD[4:], NotAnImageError, "does not begin as one"),
        (GOOD[:9] + b"\0" + GOOD[10:], NotAnImageError, "format 0"),
        (GOOD[:11] + b"\x20" + GOOD[12:], NotAnImageError, "header of 32 bytes"),
        (GOOD[:15] + b"\1" + GOOD[16:], NotAnImageError, "flags 0x1"),
        (GOOD[:16] + b"\xff" + GOOD[17:], OversizeError, "at most 8388608 and 65536"),
        (GOOD[:20] + b"\xff" + GOOD[21:], OversizeError, "at most 8388608 and 65536"),
        (GOOD[:27] + b"\xf5" + GOOD[28:], OversizeError, "exactly 244"),
        (GOOD[:-1], TruncatedImageError, "header announces"),
        (GOOD + b"\0", OversizeError, "header announces"),
        (Parts(version=b"1 2").image(), TamperedError, "version"),
        (Parts(version=b"").image(), TamperedError, "version"),
        (Parts(version=b"1\0" + b"2").image(), TamperedError, "version"),
        (Parts(hardware=b"BOARD").image(), TamperedError, "hardware id"),
        (Parts(name=b"").image(), TamperedError, "name"),
        (Parts(name=b"n\xc3\xa4").image(), TamperedError, "name"),
        (Parts(entry=b"os.system").image(), TamperedError, "entry"),
        (Parts(build=b"files=1").image(), TamperedError, "no end of line"),
        (Parts(build=b"a=1\n\n").image(), TamperedError, "key=value"),
        (Parts(build=b"a=1\na=1\n").image(), TamperedError, "ascending"),
        (Parts(build=b"b=1\na=1\n").image(), TamperedError, "ascending"),
        (Parts(build=b"a=\xff\n").image(), TamperedError, "key=value"),
        (Parts(issued=bytes(4)).image(), TamperedError, "issue time has 4 bytes"),
        (Parts(expires=bytes(9)).image(), TamperedError, "expiry time has 9 bytes"),
        (Parts(digest=bytes(32)).image(), TamperedError, "does not match the digest"),
        (Parts(digest=bytes(31)).image(), TamperedError, "does not match the digest"),
        (Parts(protected=b"").image(), TamperedError, "end before type 0x0001"),
        (Parts(protected=b"\0\1\0\1").image(), TamperedError, "has 1 bytes, 0 are there"),
        (Parts(protected=b"\0\2\0\0").image(), TamperedError, "type 0x0002"),
        (Parts(key_id=bytes(8)).image(), WrongKeyError, "signed with key 0000000000000000"),
    ],
)
def test_bad_images_are_refused_by_name(image: bytes, error: type[ImageError], complaint: str) -> None:
    with pytest.raises(ImageError, match=complaint) as caught:
        read_image(image)
    assert type(caught.value) is error


def test_a_protected_tlv_too_many_is_refused() -> None:
    protected = GOOD[103 : 103 + 0x57]
    with pytest.raises(TamperedError, match="4 bytes follow"):
        read_image(Parts(protected=protected + b"\0\7\0\0").image())


def test_an_image_without_build_facts_is_one() -> None:
    assert read_image(Parts(build=b"").image()).build == {}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda data: data[:-1], "160"),
        (lambda data: data + b"\0", "160"),
        (lambda data: b"?" + data[1:], "format 1"),
        (lambda data: data[:9] + b"\2" + data[10:], "format 1"),
        (lambda data: data[:10] + b"\3" + data[11:], "format 1"),
        (lambda data: data[:11] + b"\1" + data[12:], "format 1"),
        (lambda data: data[:24] + bytes(8) + data[32:], "names key 0000000000000000"),
    ],
)
def test_bad_certificates_are_refused(change: Callable[[bytes], bytes], complaint: str) -> None:
    with pytest.raises(ImageError, match=complaint):
        read_certificate(change(signer().certificate.data))


@pytest.mark.parametrize(
    ("changes", "terms"),
    [
        ({"version": "1 2"}, Terms()),
        ({"version": "x" * 33}, Terms()),
        ({"name": "Napu"}, Terms()),
        ({"entry": "main"}, Terms()),
        ({"build": {"a": "b\nc=d"}}, Terms()),
        ({"build": {"a=b": "c"}}, Terms()),
        ({"build": {f"k{number}": "x" * 250 for number in range(300)}}, Terms()),
        ({"payload": bytes(MAX_PAYLOAD + 1)}, Terms()),
        ({}, Terms("Board")),
        ({}, Terms(counter=-1)),
        ({}, Terms(counter=2**32)),
        ({}, Terms(issued=2, expires=1)),
        ({}, Terms(issued=-1)),
        ({}, Terms(expires=2**64)),
    ],
)
def test_what_no_image_can_be_is_not_built(changes: dict[str, object], terms: Terms) -> None:
    with pytest.raises(ConfigError):
        encode_image(content(**changes), terms, signer())


def test_the_largest_image_is_taken() -> None:
    facts = {f"k{number:03}": "x" * 250 for number in range(255)}
    made = encode_image(content(payload=bytes(MAX_PAYLOAD), build=facts), Terms(), signer())
    assert len(read_image(made).payload) == MAX_PAYLOAD
    assert len(made) <= MAX_IMAGE == 8454484


def test_signing_anew_changes_the_signature_tlvs_alone() -> None:
    other = Signer(OTHER_SIGNING, certify(OTHER_ROOT, public(OTHER_SIGNING), KeyKind.DEVELOPMENT, 1, NEVER))
    signed = sign_image(GOOD, other)
    assert signed[:-244] == GOOD[:-244]
    assert read_image(signed).certificate == other.certificate
    assert sign_image(signed, signer()) == GOOD
    with pytest.raises(TamperedError):
        sign_image(GOOD[:100] + b"?" + GOOD[101:], other)


def test_a_signer_needs_a_certificate_that_holds() -> None:
    with pytest.raises(ConfigError, match="belong together"):
        Signer(OTHER_SIGNING, signer().certificate)
    forged = read_certificate(signer().certificate.data[:-1] + b"?")
    with pytest.raises(ConfigError, match="was not signed"):
        Signer(SIGNING, forged)


@pytest.mark.parametrize(("serial", "not_after"), [(-1, 0), (2**32, 0), (0, -1), (0, 2**64)])
def test_certificates_have_numbers_in_range(serial: int, not_after: int) -> None:
    with pytest.raises(ConfigError, match="serial number"):
        certify(ROOT, public(SIGNING), KeyKind.RELEASE, serial, not_after)


def test_a_root_key_certifies_no_root_key() -> None:
    with pytest.raises(ConfigError, match="signing key of its own"):
        certify(ROOT, public(ROOT), KeyKind.RELEASE, 0, 0)


def test_an_image_holds_the_sources_and_its_version() -> None:
    image = read_image(build_image("7.8.9-test"))
    assert image.version == "7.8.9-test"
    with zipfile.ZipFile(BytesIO(image.payload)) as archive:
        assert archive.read("firmware/main.py") == (SOURCES / "main.py").read_bytes()
        assert b'VERSION = "7.8.9-test"' in archive.read("firmware/version.py")
        assert image.build == {"files": str(len(archive.namelist()))}


@pytest.mark.parametrize("version", ["", "a b", '1"; import os; "', "x" * 65])
def test_a_version_that_is_none_is_refused(version: str) -> None:
    with pytest.raises(ConfigError, match="version"):
        build_image(version)


def test_sources_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no main\.py"):
        build_image(source=tmp_path)


def test_what_is_no_source_is_left_out(tmp_path: Path) -> None:
    copy = tmp_path / "firmware"
    shutil.copytree(SOURCES, copy)
    (copy / "notes.txt").write_text("no source")
    assert build_image(source=copy) == build_image()
