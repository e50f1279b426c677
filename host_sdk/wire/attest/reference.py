"""What a reference manifest says: which ROMs, images, configurations, pipelines, devices are good, and until when."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from host_sdk.wire.attest.errors import MalformedReferenceError
from host_sdk.wire.attest.events import DIGEST_SIZE

MAX_CONTENT = 1 << 20  # bytes of JSON
MAX_ENTRIES = 4096  # of each list
MAX_TEXT = 255
MAX_NUMBER = 2**64 - 1
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class ReferenceImage:
    """A firmware image that is good."""

    digest: bytes
    version: str
    counter: int


@dataclass(frozen=True, slots=True)
class ReferencePipeline:
    """A pipeline that is good: name, SHA-256 of its package and of its model file."""

    name: str
    package: bytes
    model: bytes


@dataclass(frozen=True, slots=True)
class ReferenceDevice:
    """A device and its key, 32 bytes."""

    device: str
    key: bytes


@dataclass(frozen=True, slots=True)
class Reference:
    """What a reference manifest says. Whoever made it vouches for all of it; docs/attestation.md has the form.

    Attributes:
        sequence: Higher in each that replaces another.
        issued: When it was made, in seconds since 1970 in UTC.
        expires: Last second in which it holds, likewise.
        roms: SHA-256 of the boot ROMs that are good.
        images: Firmware images that are good.
        configurations: Facts that are pinned; a configuration is good if it has all facts of one of these.
        pipelines: Pipelines that may be served; none has to be.
        devices: Devices and their keys; where there are none, the keys have to be known otherwise.
    """

    sequence: int
    issued: int
    expires: int
    roms: tuple[bytes, ...] = ()
    images: tuple[ReferenceImage, ...] = ()
    configurations: tuple[Mapping[str, str], ...] = ()
    pipelines: tuple[ReferencePipeline, ...] = ()
    devices: tuple[ReferenceDevice, ...] = ()

    def encode(self) -> bytes:
        """Return the reference as JSON; the same one gives the same bytes.

        Raises:
            MalformedReferenceError: A value is of a form that none has.
        """
        data = (json.dumps(self.as_json(), indent=1, sort_keys=True) + "\n").encode()
        if Reference.decode(data) != self:
            raise MalformedReferenceError("a value does not survive being written down")
        return data

    def as_json(self) -> dict[str, Any]:
        """Return the reference as JSON values."""
        return {
            "sequence": self.sequence,
            "issued": self.issued,
            "expires": self.expires,
            "roms": [rom.hex() for rom in self.roms],
            "images": [
                {"digest": image.digest.hex(), "version": image.version, "security_counter": image.counter}
                for image in self.images
            ],
            "configurations": [dict(facts) for facts in self.configurations],
            "pipelines": [
                {"name": entry.name, "digest": entry.package.hex(), "model": entry.model.hex()}
                for entry in self.pipelines
            ],
            "devices": [{"device": entry.device, "key": entry.key.hex()} for entry in self.devices],
        }

    @classmethod
    def decode(cls, data: bytes) -> "Reference":
        """Read a reference's JSON: all of its keys, and no others.

        Raises:
            MalformedReferenceError: It is none.
        """
        if len(data) > MAX_CONTENT:
            raise MalformedReferenceError(f"{len(data)} bytes; at most {MAX_CONTENT} are taken")
        try:
            found = json.loads(data.decode("utf-8"), object_pairs_hook=_unique)
        except (ValueError, RecursionError) as error:
            raise MalformedReferenceError(f"it is no JSON: {error}") from None
        entry = _take(found, "a reference", cls.__slots__)
        return cls(
            sequence=_number(entry["sequence"], "sequence"),
            issued=_number(entry["issued"], "issued"),
            expires=_number(entry["expires"], "expires"),
            roms=_list(entry["roms"], "roms", lambda value: _digest(value, "a ROM")),
            images=_list(entry["images"], "images", _image),
            configurations=_list(entry["configurations"], "configurations", _facts),
            pipelines=_list(entry["pipelines"], "pipelines", _pipeline),
            devices=_list(entry["devices"], "devices", _device),
        )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _take(value: Any, what: str, keys: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(value, dict) or value.keys() != set(keys):
        raise MalformedReferenceError(f"{what} is not an object of exactly {', '.join(keys)}")
    return value


def _list(value: Any, what: str, read: Callable[[Any], _T]) -> tuple[_T, ...]:
    if not isinstance(value, list) or len(value) > MAX_ENTRIES:
        raise MalformedReferenceError(f"{what} is no list of at most {MAX_ENTRIES}")
    return tuple(read(entry) for entry in value)


def _number(value: Any, what: str) -> int:
    if type(value) is not int or not 0 <= value <= MAX_NUMBER:
        raise MalformedReferenceError(f"{what} is no number from 0 to {MAX_NUMBER}")
    return value


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT or not (value.isascii() and value.isprintable()):
        raise MalformedReferenceError(f"{what} is no printable ASCII of at most {MAX_TEXT}")
    return value


def _digest(value: Any, what: str) -> bytes:
    try:
        raw = bytes.fromhex(value)
    except (ValueError, TypeError):
        raw = b""
    if len(raw) != DIGEST_SIZE or raw.hex() != value:
        raise MalformedReferenceError(f"{what} is not {2 * DIGEST_SIZE} small hex digits")
    return raw


def _image(value: Any) -> ReferenceImage:
    entry = _take(value, "an image", ("digest", "version", "security_counter"))
    counter = _number(entry["security_counter"], "security_counter")
    return ReferenceImage(_digest(entry["digest"], "an image"), _text(entry["version"], "version"), counter)


def _facts(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or len(value) > MAX_TEXT:
        raise MalformedReferenceError("a configuration is no object of texts")
    return {_text(key, "a fact"): _text(fact, "a fact") for key, fact in value.items()}


def _pipeline(value: Any) -> ReferencePipeline:
    entry = _take(value, "a pipeline", ("name", "digest", "model"))
    package, model = _digest(entry["digest"], "a package"), _digest(entry["model"], "a model")
    return ReferencePipeline(_text(entry["name"], "name"), package, model)


def _device(value: Any) -> ReferenceDevice:
    entry = _take(value, "a device", ("device", "key"))
    return ReferenceDevice(_text(entry["device"], "device"), _digest(entry["key"], "a key"))
