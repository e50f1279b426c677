"""The image format. The golden header is written by hand from the format's description."""

import hashlib
import io
import os
import shutil
import zipfile
from pathlib import Path

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware.image import build_image, read_image
from firmware.image.build import SOURCES
from firmware.image.format import encode_image
from host_sdk.wire.errors import DeviceError

MANIFEST = {
    "name": "napu",
    "version": "9",
    "entry": "a:b",
    "sha256": hashlib.sha256(b"payload").digest(),
    "build": {"files": "1"},
}


def image_of(manifest: object, payload: bytes = b"payload") -> bytes:
    packed = msgpack.packb(manifest)
    sizes = len(packed).to_bytes(4, "big") + len(payload).to_bytes(4, "big")
    return b"NAPUFW\0\0" + bytes.fromhex("0000 0018") + sizes + bytes(4) + packed + payload


GOOD = image_of(MANIFEST)


def test_golden_image() -> None:
    assert GOOD[:24] == bytes.fromhex("4e41505546570000 0000 0018 00000057 00000007 00000000")
    image = read_image(GOOD)
    assert (image.name, image.version, image.entry, image.build) == ("napu", "9", "a:b", {"files": "1"})
    assert image.payload == b"payload"
    assert image.digest == hashlib.sha256(GOOD).digest()


def test_encoding_gives_the_golden_image() -> None:
    assert encode_image("napu", "9", "a:b", {"files": "1"}, b"payload") == GOOD


@pytest.mark.parametrize(
    ("image", "complaint"),
    [
        (b"", "0 bytes are no image"),
        (GOOD[:23], "23 bytes are no image"),
        (b"\x7fELF" + GOOD[4:], "does not begin as one"),
        (GOOD[:9] + b"\1" + GOOD[10:], "format 1"),
        (GOOD[:11] + b"\x20" + GOOD[12:], "header of 32 bytes"),
        (GOOD[:23] + b"\1" + GOOD[24:], "format 0"),
        (GOOD[:12] + b"\xff" + GOOD[13:], "at most 65536"),
        (GOOD[:16] + b"\xff" + GOOD[17:], "at most 65536 and 8388608"),
        (GOOD[:-1], "header announces"),
        (GOOD + b"\0", "header announces"),
        (GOOD[:-1] + b"D", "does not match the digest"),
        (image_of([]), "no map"),
        (image_of({**MANIFEST, "sha256": b"short"}), "no SHA-256"),
        (image_of({**MANIFEST, "sha256": "x" * 32}), "no SHA-256"),
        (image_of({**MANIFEST, "version": "1 2"}), "manifest's version"),
        (image_of({**MANIFEST, "version": 3}), "manifest's version"),
        (image_of({**MANIFEST, "name": ""}), "manifest's name"),
        (image_of({**MANIFEST, "entry": "os.system"}), "manifest's entry"),
        (image_of({**MANIFEST, "build": {"files": 3}}), "build must map text to text"),
        (image_of({key: value for key, value in MANIFEST.items() if key != "build"}), "build must map"),
        (GOOD[:24] + b"\xc1" * 0x57 + b"payload", "not msgpack"),
        (GOOD[:24] + b"\x91" * 0x57 + b"payload", "not msgpack"),
    ],
)
def test_bad_images_are_refused_by_name(image: bytes, complaint: str) -> None:
    with pytest.raises(DeviceError, match=complaint):
        read_image(image)


@given(st.binary(max_size=300))
def test_any_bytes_are_an_image_or_one_error(raw: bytes) -> None:
    for image in (raw, GOOD[:24] + raw, GOOD[:12] + raw):
        with pytest.raises(DeviceError):
            read_image(image)


@given(st.integers(0, len(GOOD) * 8 - 1))
def test_no_bit_can_be_turned_in_the_payload_or_the_header(bit: int) -> None:
    raw = bytearray(GOOD)
    raw[bit // 8] ^= 1 << bit % 8
    if not 24 <= bit // 8 < len(GOOD) - 7:  # the manifest is bound by the signature of a later format only
        with pytest.raises(DeviceError):
            read_image(bytes(raw))


def test_the_same_sources_give_the_same_bytes(tmp_path: Path) -> None:
    copy = tmp_path / "somewhere" / "firmware"
    shutil.copytree(SOURCES, copy)
    for path in copy.rglob("*.py"):
        os.utime(path, (0, 0))
        path.chmod(0o600)
    (copy / "notes.txt").write_text("no source")
    assert build_image(source=copy) == build_image()


def test_an_image_holds_the_sources_and_its_version() -> None:
    image = read_image(build_image("7.8.9-test"))
    assert image.version == "7.8.9-test"
    with zipfile.ZipFile(io.BytesIO(image.payload)) as archive:
        assert archive.read("firmware/main.py") == (SOURCES / "main.py").read_bytes()
        assert b'VERSION = "7.8.9-test"' in archive.read("firmware/version.py")
        assert image.build == {"files": str(len(archive.namelist()))}


@pytest.mark.parametrize("version", ["", "a b", '1"; import os; "', "x" * 65])
def test_a_version_that_is_none_is_refused(version: str) -> None:
    with pytest.raises(DeviceError, match="version"):
        build_image(version)


def test_sources_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"has no main\.py"):
        build_image(source=tmp_path)


def test_a_payload_that_is_too_large_is_refused() -> None:
    with pytest.raises(DeviceError, match="at most"):
        encode_image("napu", "9", "a:b", {}, bytes(8 * 1024 * 1024 + 1))
