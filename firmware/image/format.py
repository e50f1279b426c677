"""Image format 0: header, manifest, payload; in one file.

::

    offset  bytes
         0      8  magic: NAPUFW, 0, 0
         8      2  format: 0
        10      2  bytes of this header: 24
        12      4  bytes of the manifest
        16      4  bytes of the payload
        20      4  bytes behind the payload: 0
        24         manifest: msgpack map
                     name      text     what the image is for
                     version   text     of the firmware
                     entry     text     module:function that the boot ROM calls, with the boot's arguments
                     sha256    32 bytes digest of the payload
                     build     map      what the image was built from: text to text; nothing that varies
                   payload: zip of the firmware's sources, stored

Integers are big-endian. The digest of an image is the SHA-256 of the whole file. What stands behind the payload in
later formats is signatures, over everything before them; format 0 has none and is refused with any byte there.
"""

import hashlib
import re
import struct
from dataclasses import dataclass
from typing import Any

import msgpack

from host_sdk.wire.errors import DeviceError

IMAGE_OBJECT = "firmware/image.napufw"  # name of the flash object that the boot ROM starts
MAGIC = b"NAPUFW\0\0"
FORMAT = 0
HEADER = struct.Struct(">8sHHIII")
MAX_MANIFEST = 64 * 1024
MAX_PAYLOAD = 8 * 1024 * 1024
DIGEST_SIZE = hashlib.sha256().digest_size

_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+_-]{0,63}")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_ENTRY = re.compile(r"[a-z_][a-z0-9_.]{0,119}:[a-z_][a-z0-9_]{0,119}")


@dataclass(frozen=True, slots=True)
class Image:
    """A verified image.

    Attributes:
        name: What it is for.
        version: Version of the firmware.
        entry: ``module:function`` to call.
        build: What it was built from.
        payload: Zip of the sources.
        digest: SHA-256 of the whole image, 32 bytes.
    """

    name: str
    version: str
    entry: str
    build: dict[str, str]
    payload: bytes
    digest: bytes


def encode_image(name: str, version: str, entry: str, build: dict[str, str], payload: bytes) -> bytes:
    """Return the bytes of an image.

    Raises:
        DeviceError: The image would be refused: a text is not of its form, or a part is too large.
    """
    manifest = msgpack.packb(
        {
            "name": name,
            "version": version,
            "entry": entry,
            "sha256": hashlib.sha256(payload).digest(),
            "build": build,
        }
    )
    image: bytes = HEADER.pack(MAGIC, FORMAT, HEADER.size, len(manifest), len(payload), 0) + manifest + payload
    read_image(image)
    return image


def read_image(data: bytes) -> Image:
    """Take an image apart and verify it.

    Raises:
        DeviceError: It is not an image of this format, is damaged, or was tampered with; says which.
    """
    manifest_size = _check_header(data)
    manifest = _read_manifest(data[HEADER.size : HEADER.size + manifest_size])
    payload = data[HEADER.size + manifest_size :]
    if hashlib.sha256(payload).digest() != manifest["sha256"]:
        raise _refusal("the payload does not match the digest in the manifest; build or copy it again")
    return Image(
        name=_text(manifest, "name", _NAME),
        version=_text(manifest, "version", _VERSION),
        entry=_text(manifest, "entry", _ENTRY),
        build=manifest["build"],
        payload=payload,
        digest=hashlib.sha256(data).digest(),
    )


def _refusal(why: str) -> DeviceError:
    return DeviceError(f"firmware image refused: {why}")


def _check_header(data: bytes) -> int:
    if len(data) < HEADER.size:
        raise _refusal(f"{len(data)} bytes are no image; its header alone has {HEADER.size}")
    magic, form, header_size, manifest_size, payload_size, rest = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise _refusal("it does not begin as one; build one with napu-fw build")
    if form != FORMAT or header_size != HEADER.size or rest:
        raise _refusal(f"format {form} with a header of {header_size} bytes; this boot ROM takes format {FORMAT}")
    if manifest_size > MAX_MANIFEST or payload_size > MAX_PAYLOAD:
        raise _refusal(
            f"manifest of {manifest_size} and payload of {payload_size} bytes; "
            f"at most {MAX_MANIFEST} and {MAX_PAYLOAD} are taken"
        )
    expected = HEADER.size + manifest_size + payload_size
    if len(data) != expected:
        raise _refusal(f"{len(data)} bytes, its header announces {expected}; copy it again")
    return int(manifest_size)


def _read_manifest(raw: bytes) -> dict[str, Any]:
    try:
        manifest = msgpack.unpackb(raw, max_array_len=0, max_map_len=64, max_ext_len=0)
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise _refusal(f"the manifest is not msgpack: {error}") from None
    if not isinstance(manifest, dict):
        raise _refusal("the manifest is no map")
    digest, build = manifest.get("sha256"), manifest.get("build")
    if not isinstance(digest, bytes) or len(digest) != DIGEST_SIZE:
        raise _refusal("the manifest has no SHA-256 of the payload")
    if not isinstance(build, dict) or not all(
        isinstance(key, str) and isinstance(value, str) for key, value in build.items()
    ):
        raise _refusal("the manifest's build must map text to text")
    return manifest


def _text(manifest: dict[str, Any], key: str, form: re.Pattern[str]) -> str:
    value = manifest.get(key)
    if not isinstance(value, str) or not form.fullmatch(value):
        raise _refusal(f"the manifest's {key} must be text of the form {form.pattern}")
    return value
