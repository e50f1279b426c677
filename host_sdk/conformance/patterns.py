"""What a case expects of a frame: fields with values, masks and don't-cares, and bytes with a mask."""

from collections.abc import Container
from dataclasses import dataclass, fields

from host_sdk.conformance.frames import Reply, opcode_name
from host_sdk.wire.schema import Status


@dataclass(frozen=True, slots=True)
class Mask:
    """The bits of a number that count."""

    value: int
    bits: int


@dataclass(frozen=True, slots=True)
class MaskedBytes:
    """Bytes that a payload begins with; those whose mask is 0 do not count, nor does what follows."""

    value: bytes
    mask: bytes

    def matches(self, payload: bytes) -> bool:
        """Return whether a payload begins so."""
        if len(payload) < len(self.value):
            return False
        return all((one ^ two) & bits == 0 for one, two, bits in zip(payload, self.value, self.mask, strict=False))


Wanted = int | Mask | Container[int] | None


@dataclass(frozen=True, slots=True)
class Pattern:
    """Frames that are meant: None is don't-care, a number one value, a :class:`Mask` some bits, else one of several."""

    opcode: Wanted = None
    request: Wanted = None
    status: Wanted = None
    session: Wanted = None
    flags: Wanted = None
    priority: Wanted = None
    pipeline: Wanted = None
    credits: Wanted = None
    length: Wanted = None
    fragment: Wanted = None
    retry_after: Wanted = None
    payload: MaskedBytes | None = None

    def matches(self, reply: Reply) -> bool:
        """Return whether a frame is one of those."""
        for field in fields(self):
            wanted = getattr(self, field.name)
            if field.name == "payload":
                if wanted is not None and not wanted.matches(reply.payload):
                    return False
            elif not _meets(getattr(reply, field.name), wanted):
                return False
        return True

    def __str__(self) -> str:
        parts = []
        for field in fields(self):
            wanted = getattr(self, field.name)
            if wanted is not None:
                parts.append(f"{field.name} {_said(field.name, wanted)}")
        return ", ".join(parts) or "any frame"


def _meets(value: int, wanted: Wanted) -> bool:
    if wanted is None:
        return True
    if isinstance(wanted, Mask):
        return value & wanted.bits == wanted.value & wanted.bits
    if isinstance(wanted, int):
        return value == wanted
    return value in wanted


def _said(name: str, wanted: object) -> str:
    if isinstance(wanted, Mask):
        return f"{wanted.value:#x} under mask {wanted.bits:#x}"
    if isinstance(wanted, MaskedBytes):
        return f"{wanted.value.hex()} under mask {wanted.mask.hex()}"
    if isinstance(wanted, int):
        return _number(name, wanted)
    if isinstance(wanted, tuple | frozenset | set):
        return " or ".join(_number(name, entry) for entry in sorted(wanted))
    return str(wanted)


def _number(name: str, value: int) -> str:
    if name == "opcode":
        return opcode_name(value)
    if name == "status":
        return status_name(value)
    return f"{value:#x}" if name in ("request", "session", "flags") else str(value)


def status_name(status: int) -> str:
    """Return a status' name, or its number."""
    return next((known.name for known in Status if known == status), str(status))


def described(reply: Reply) -> str:
    """Return a frame in words, for people."""
    if reply.version < 0:
        return f"{len(reply.data)} bytes, less than a header"
    return (
        f"{opcode_name(reply.opcode)} request {reply.request:#x} session {reply.session:#x} "
        f"status {status_name(reply.status)} flags {reply.flags:#06x} length {reply.length} "
        f"fragment {reply.fragment}/{reply.fragments}"
    )
