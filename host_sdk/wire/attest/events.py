"""Events of the measurement log, and the register that each of them extends."""

import hashlib
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from host_sdk.wire.attest.errors import MalformedEvidenceError

DIGEST_SIZE = 32
EMPTY = bytes(DIGEST_SIZE)  # the register at the start of a log
MAX_EVENTS = 1024  # of one log
MAX_TEXT = 2048  # bytes of an event's facts

_HEAD = struct.Struct(f">BBH{DIGEST_SIZE}s")  # kind, 0, bytes of the facts, digest
MAX_EVENT = _HEAD.size + MAX_TEXT
_FACT = re.compile(r"([a-z][a-z0-9._-]{0,63})=([\x20-\x7e]{0,255})")


class EventKind(IntEnum):
    """What an event measures."""

    ROM = 1  # the code of the boot ROM
    IMAGE = 2  # the firmware image that the ROM has chosen
    CONFIGURATION = 3  # how the board is set up; the digest is that of the event's facts
    PIPELINE = 4  # the package of a pipeline that is served from here on
    MODEL = 5  # the model file of the pipeline just before
    PIPELINE_REMOVED = 6  # the package of a pipeline that is served no longer
    RESTARTED = 7  # the log before was full; the digest is the register's value at its end


@dataclass(frozen=True, slots=True)
class Event:
    """One event.

    Attributes:
        kind: What was measured.
        digest: Its SHA-256, 32 bytes.
        facts: More about it: key to value, printable ASCII.
    """

    kind: EventKind
    digest: bytes
    facts: Mapping[str, str] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Return the event's canonical bytes.

        Raises:
            MalformedEvidenceError: Digest or facts are of a form that no event has.
        """
        text = encode_facts(self.facts)
        if len(self.digest) != DIGEST_SIZE:
            raise MalformedEvidenceError(f"a digest of {len(self.digest)} bytes; one has {DIGEST_SIZE}")
        return _HEAD.pack(self.kind, 0, len(text), self.digest) + text

    @classmethod
    def decode(cls, data: bytes) -> "Event":
        """Read an event's bytes; what is taken is canonical.

        Raises:
            MalformedEvidenceError: They are no event.
        """
        if not _HEAD.size <= len(data) <= MAX_EVENT:
            raise MalformedEvidenceError(f"an event of {len(data)} bytes; one has {_HEAD.size} to {MAX_EVENT}")
        kind, zero, length, digest = _HEAD.unpack_from(data)
        if kind not in tuple(EventKind) or zero or length != len(data) - _HEAD.size:
            raise MalformedEvidenceError(f"an event of kind {kind} with {length} bytes of facts is none that is known")
        return cls(EventKind(kind), digest, decode_facts(data[_HEAD.size :]))


def encode_facts(facts: Mapping[str, str]) -> bytes:
    """Return facts as lines of ``key=value``, keys ascending.

    Raises:
        MalformedEvidenceError: A key or value is of a form that none has, or there are too many.
    """
    text = "".join(f"{key}={facts[key]}\n" for key in sorted(facts)).encode("utf-8", "surrogatepass")
    if decode_facts(text) != facts:
        raise MalformedEvidenceError("a fact whose key or value contains what ends it")
    return text


def decode_facts(text: bytes) -> dict[str, str]:
    """Read lines of ``key=value``, keys ascending and each once.

    Raises:
        MalformedEvidenceError: They are something else.
    """
    facts: dict[str, str] = {}
    lines = text.decode("ascii", "replace").split("\n")
    last = ""
    if len(text) > MAX_TEXT or lines.pop():
        raise MalformedEvidenceError(f"{len(text)} bytes of facts are too many, or the last has no end of line")
    for line in lines:
        match = _FACT.fullmatch(line)
        if not match or match[1] <= last:
            raise MalformedEvidenceError("a fact is not of the form key=value, with keys ascending")
        last = match[1]
        facts[last] = match[2]
    return facts


def extended(value: bytes, event: bytes) -> bytes:
    """Return what a register of a value becomes by an event, given as its canonical bytes."""
    return hashlib.sha256(value + hashlib.sha256(event).digest()).digest()


def replay(events: Iterable[bytes]) -> bytes:
    """Return the register's value after a log, given as its events' canonical bytes."""
    value = EMPTY
    for event in events:
        value = extended(value, event)
    return value
