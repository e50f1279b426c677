"""The responder under the suite, the links to it, and what it can be asked to infer."""

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from host_sdk.results import Pipeline
from host_sdk.wire.links.base import Link
from host_sdk.wire.sealed.keys import SealKey

_SIDE = 32  # pixels of the picture that a pipeline of images is asked about


@dataclass(frozen=True, slots=True)
class Work:
    """A request that a pipeline takes, and its answer.

    Attributes:
        handle: Of the pipeline.
        body: A body that it takes.
        pipeline: Its description; None where nobody may ask for it.
        answer: What it answers to the body, from the first time that it was asked.
    """

    handle: int
    body: bytes
    pipeline: Pipeline | None = None
    answer: bytes = b""

    @property
    def media(self) -> bool:
        """Whether the pipeline takes encoded media."""
        return self.pipeline is not None and self.pipeline.input is None


@dataclass
class Target:
    """A responder.

    Attributes:
        link: Whom it is asked through.
        peer: Its peer key there.
        now: Monotonic ns; with a virtual clock, of that.
        second: A link with another address, where there can be one.
        forge: Sends a PDU with a source address of one's choice, where the link can: the address, and the PDU.
        announced: The map of its ANNOUNCE.
        work: What it can infer; None: nothing that the suite may ask for.
        no_work: Why not.
        handles: Of all its pipelines.
        key: What frames can be sealed with; None where it has granted none.
        lossless: Whether frames that are sent together arrive together, all of them.
    """

    link: Link
    peer: int
    now: Callable[[], int]
    second: Link | None = None
    forge: Callable[[int, bytes], None] | None = None
    announced: dict[str, Any] = field(default_factory=dict)
    work: Work | None = None
    no_work: str = "it serves no pipeline"
    handles: frozenset[int] = frozenset()
    key: SealKey | None = None
    lossless: bool = False

    @property
    def open_access(self) -> bool:
        """Whether anybody may control it."""
        return self.announced.get("access") == "open"

    @property
    def mtu(self) -> int:
        """Bytes of the largest PDU that both ends' links carry."""
        told = self.announced.get("mtu")
        return min(self.link.mtu, told) if isinstance(told, int) and told >= 576 else self.link.mtu


def sample(pipeline: Pipeline) -> bytes:
    """Return a body that a pipeline takes: zeros, or a grey picture."""
    return bytes(pipeline.input.size) if pipeline.input else grey_png()


def grey_png() -> bytes:
    """Return a picture of one colour as PNG."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress((b"\0" + b"\x80" * _SIDE) * _SIDE)
    head = struct.pack(">IIBBBBB", _SIDE, _SIDE, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
