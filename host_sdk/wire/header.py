"""The fixed header: one PDU at a time with struct, a batch of them as one numpy view."""

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from host_sdk.wire.errors import FrameError, LocalProtocolError
from host_sdk.wire.links.base import FrameBatch
from host_sdk.wire.schema import (
    HEADER_SIZE,
    MAX_FRAGMENT_SIZE,
    MAX_MESSAGE,
    REPLY_BIT,
    REPLY_HEADER,
    REQUEST_HEADER,
    TRAILER,
    VERSION,
    DropReason,
    Layout,
    Status,
)

_REQUEST = struct.Struct(REQUEST_HEADER.struct_format)
_REPLY = struct.Struct(REPLY_HEADER.struct_format)


def layout_dtype(*layouts: Layout) -> np.dtype[np.void]:
    """Return the numpy dtype of one or more layouts of equal size that share their memory."""
    fields: dict[str, tuple[str, int]] = {}
    for layout in layouts:
        for field, offset in layout.placed():
            shape = f"({field.count},)" if field.count > 1 else ""
            fields[field.name] = (f"{shape}>u{field.width}", offset)
    return np.dtype(
        {
            "names": list(fields),
            "formats": [form for form, _ in fields.values()],
            "offsets": [offset for _, offset in fields.values()],
            "itemsize": layouts[0].size,
        }
    )


HEADER_DTYPE = layout_dtype(REQUEST_HEADER, REPLY_HEADER)
TRAILER_DTYPE = layout_dtype(TRAILER)
_SHARED_FIELDS = tuple(field.name for field in REPLY_HEADER.fields[1:-2])  # without version and what differs
_HEADER_BYTES = np.arange(HEADER_SIZE, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Header:
    """The header of one PDU. ``deadline`` counts in requests, ``status`` and ``retry_after`` in replies.

    Attributes:
        deadline: µs after arrival; 0 is never.
        retry_after: In units of 100 µs.
        fragment_size: Bytes of the message in every fragment but the last.
    """

    opcode: int
    request: int
    flags: int = 0
    session: int = 0
    length: int = 0
    pipeline: int = 0
    priority: int = 0
    credits: int = 0
    fragment: int = 0
    fragment_size: int = MAX_FRAGMENT_SIZE
    deadline: int = 0
    status: int = 0
    retry_after: int = 0

    @property
    def is_reply(self) -> bool:
        """Whether the PDU answers another."""
        return bool(self.opcode & REPLY_BIT)

    @property
    def fragments(self) -> int:
        """Number of fragments of the message; 1 for an empty one."""
        return max(1, -(-self.length // self.fragment_size))

    @property
    def offset(self) -> int:
        """Where in the message this fragment begins, in bytes."""
        return self.fragment * self.fragment_size

    @property
    def payload_size(self) -> int:
        """Bytes of the message in this fragment."""
        return min(self.fragment_size, self.length - self.offset)

    def encode(self) -> bytes:
        """Return the 32 bytes of the header.

        Raises:
            LocalProtocolError: A value does not fit its field.
        """
        common = (
            VERSION,
            self.opcode,
            self.flags,
            self.session,
            self.request,
            self.length,
            self.pipeline,
            self.priority,
            self.credits,
            self.fragment,
            self.fragment_size,
        )
        try:
            if self.is_reply:
                return _REPLY.pack(*common, self.status, self.retry_after)
            return _REQUEST.pack(*common, self.deadline)
        except struct.error as error:
            raise LocalProtocolError(f"header value out of range: {error}") from None


def decode_header(data: bytes | memoryview, smallest: int = 0) -> Header:
    """Decode and check the header of one PDU.

    Args:
        data: The PDU: header, then its fragment of the message, then perhaps Ethernet's padding.
        smallest: Bytes up to which the link pads its frames.

    Raises:
        FrameError: The PDU is not one; the reason is the counter that it falls under.
    """
    if len(data) < HEADER_SIZE:
        raise FrameError(DropReason.TRUNCATED, f"{len(data)} bytes are no header of {HEADER_SIZE}")
    values = _REQUEST.unpack_from(data)
    if values[0] != VERSION:
        raise FrameError(DropReason.BAD_VERSION, f"version {values[0]}, this is {VERSION}")
    opcode = values[1]
    tail = {"deadline": values[11]}
    if opcode & REPLY_BIT:
        tail = {"status": values[11] >> 16, "retry_after": values[11] & 0xFFFF}
    header = Header(**dict(zip(_SHARED_FIELDS, values[1:-1], strict=True)), **tail)
    _check_fragment(header, len(data), smallest)
    return header


def _check_fragment(header: Header, size: int, smallest: int) -> None:
    if header.fragment_size == 0 or header.fragment >= header.fragments:
        raise FrameError(
            DropReason.BAD_FRAGMENT,
            f"fragment {header.fragment} of {header.fragment_size} bytes in a message of {header.length}",
        )
    expected = HEADER_SIZE + header.payload_size
    if size < expected:
        raise FrameError(DropReason.TRUNCATED, f"{size} bytes, the header announces {expected}")
    if size > expected and size > smallest:
        raise FrameError(DropReason.TRAILING_BYTES, f"{size} bytes, the header announces {expected}")


def gather_headers(batch: FrameBatch) -> NDArray[np.void]:
    """Return the headers of a batch as HEADER_DTYPE [n]: a copy, made by one gather.

    PDUs shorter than a header are read beyond their end, within the link's memory; :func:`classify_headers` says
    so of them.
    """
    where = np.minimum(batch.starts, len(batch.memory) - HEADER_SIZE)
    raw = batch.memory[where[:, None] + _HEADER_BYTES]
    view: NDArray[np.void] = raw.view(HEADER_DTYPE)[:, 0]
    return view


def scalar_header(header: np.void) -> Header:
    """Return one element of a HEADER_DTYPE array as a Header."""
    tail = ("status", "retry_after") if int(header["opcode"]) & REPLY_BIT else ("deadline",)
    return Header(**{name: int(header[name]) for name in (*_SHARED_FIELDS, *tail)})


def vector_header(header: Header) -> NDArray[np.void]:
    """Return a Header as HEADER_DTYPE [1]."""
    return np.frombuffer(header.encode(), HEADER_DTYPE)


def classify_headers(headers: NDArray[np.void], lengths: NDArray[np.int64], smallest: int) -> NDArray[np.uint8]:
    """Say of each PDU of a batch whether it can be one.

    The same checks as :func:`decode_header`, vectorised.

    Args:
        headers: HEADER_DTYPE [n].
        lengths: int64 [n], bytes of each PDU.
        smallest: Bytes up to which the link pads its frames.

    Returns:
        DropReason values, uint8 [n]; 0 is a good PDU.
    """
    total = headers["length"].astype(np.int64)
    size = headers["fragment_size"].astype(np.int64)
    begin = headers["fragment"].astype(np.int64) * size
    expected = HEADER_SIZE + np.minimum(size, total - begin)
    impossible = (size == 0) | ((begin >= total) & (begin > 0)) | ((total == 0) & (headers["fragment"] > 0))
    reasons = np.zeros(len(headers), np.uint8)
    # In order of increasing precedence: a later line overrides an earlier one.
    reasons[(lengths > expected) & (lengths > smallest)] = DropReason.TRAILING_BYTES
    reasons[lengths < expected] = DropReason.TRUNCATED
    reasons[impossible] = DropReason.BAD_FRAGMENT
    reasons[headers["version"] != VERSION] = DropReason.BAD_VERSION
    reasons[lengths < HEADER_SIZE] = DropReason.TRUNCATED
    return reasons


def check_length(length: int, limit: int = MAX_MESSAGE) -> None:
    """Refuse a message that is too long.

    Raises:
        FrameError: With status TOO_LARGE.
    """
    if length > limit:
        raise FrameError(Status.TOO_LARGE, f"{length} bytes; at most {limit} are taken")
