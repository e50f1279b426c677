"""What an image holds and in what two differ, for people and scripts. Nothing here says whether to trust an image."""

import hashlib
import io
import struct
import zipfile
from dataclasses import dataclass
from typing import Any

from firmware.image.errors import NotAnImageError
from firmware.image.format import Image
from firmware.image.keys import key_id, root_hash
from firmware.image.times import time_text

MAX_FILES = 4096
# Everything that the zip reader of the standard library answers hostile bytes with.
_ZIP_ERRORS = (zipfile.BadZipFile, EOFError, LookupError, NotImplementedError, RuntimeError, ValueError, struct.error)


@dataclass(frozen=True, slots=True)
class Differences:
    """In what a second image differs from a first.

    Attributes:
        fields: Field to its values in the first and in the second.
        added: Files of the payload that only the second has.
        removed: Files that only the first has.
        changed: Files that both have, with other bytes.
    """

    fields: dict[str, tuple[Any, Any]]
    added: list[str]
    removed: list[str]
    changed: list[str]

    def __bool__(self) -> bool:
        return bool(self.fields or self.added or self.removed or self.changed)


def describe(image: Image) -> dict[str, Any]:
    """Return the fields of an image as JSON values, in the order of the format."""
    certificate = image.certificate
    return {
        "version": image.version,
        "hardware": image.terms.hardware,
        "security_counter": image.terms.counter,
        "payload_size": len(image.payload),
        "name": image.name,
        "entry": image.entry,
        "build": image.build,
        "payload_sha256": hashlib.sha256(image.payload).hexdigest(),
        "issued": time_text(image.terms.issued),
        "expires": time_text(image.terms.expires),
        "key_id": key_id(certificate.key).hex(),
        "key_kind": certificate.kind.name.lower(),
        "key_serial": certificate.serial,
        "key_not_after": time_text(certificate.not_after),
        "root_hash": root_hash(certificate.root).hex(),
        "signature": image.signature.hex(),
        "digest": image.digest.hex(),
    }


def payload_files(payload: bytes) -> dict[str, str]:
    """Return the SHA-256 of each file in a payload, in hex, by name.

    Entries are read only if they are stored as they are and are together no larger than the payload, so that a payload
    that nobody vouches for cannot unpack to more than it is.

    Raises:
        NotAnImageError: It is no zip of this kind.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(payload)) as archive:
            entries = archive.infolist()
            stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
            if len(entries) > MAX_FILES or not stored or sum(entry.file_size for entry in entries) > len(payload):
                raise NotAnImageError(f"its payload is not a zip of at most {MAX_FILES} stored files")
            return {entry.filename: hashlib.sha256(archive.read(entry)).hexdigest() for entry in entries}
    except _ZIP_ERRORS as error:
        raise NotAnImageError(f"its payload is no zip: {error}") from None


def compare(first: Image, second: Image) -> Differences:
    """Return in what two images differ.

    Raises:
        NotAnImageError: A payload is no zip.
    """
    old, new = describe(first), describe(second)
    before, after = payload_files(first.payload), payload_files(second.payload)
    return Differences(
        fields={key: (old[key], new[key]) for key in old if old[key] != new[key]},
        added=sorted(after.keys() - before.keys()),
        removed=sorted(before.keys() - after.keys()),
        changed=sorted(name for name in before.keys() & after.keys() if before[name] != after[name]),
    )
