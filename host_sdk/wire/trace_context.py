"""Which trace a request belongs to, carried by an extension: W3C Trace Context in binary."""

import struct
from dataclasses import dataclass

from host_sdk.wire.errors import LocalProtocolError
from host_sdk.wire.message import Extension
from host_sdk.wire.schema import TRACE_CONTEXT, TRACE_CONTEXT_LAYOUT

_VALUE = struct.Struct(">16s8sB")
TRACE_ID_SIZE, SPAN_ID_SIZE = 16, 8
_RECORDED = 1


@dataclass(frozen=True, slots=True)
class TraceContext:
    """The trace and the span that a request is a child of.

    Attributes:
        trace: 16 bytes, not all zeros.
        span: 8 bytes, not all zeros.
        recorded: Whether the trace is recorded.

    Raises:
        LocalProtocolError: An id has another size, or is all zeros.
    """

    trace: bytes
    span: bytes
    recorded: bool = True

    def __post_init__(self) -> None:
        for name, value, size in (("trace", self.trace, TRACE_ID_SIZE), ("span", self.span, SPAN_ID_SIZE)):
            if len(value) != size or not any(value):
                raise LocalProtocolError(f"{name} id {value.hex()!r}; it has {size} bytes that are not all zeros")

    def extension(self) -> Extension:
        """Return the extension that carries it."""
        return Extension(TRACE_CONTEXT, _VALUE.pack(self.trace, self.span, _RECORDED * self.recorded))

    @classmethod
    def of(cls, extensions: tuple[Extension, ...]) -> "TraceContext | None":
        """Return what a message's extensions carry; None where that is none, or makes no sense."""
        for extension in extensions:
            if extension.type == TRACE_CONTEXT and len(extension.value) == TRACE_CONTEXT_LAYOUT.size:
                trace, span, flags = _VALUE.unpack(extension.value)
                if any(trace) and any(span):
                    return cls(trace, span, bool(flags & _RECORDED))
        return None
