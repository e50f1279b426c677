"""Capture files: pcapng as draft-ietf-opsawg-pcapng describes it, written exactly and read with bounds.

A writer makes sections in little-endian order with timestamps in ns. A reader takes either order, any resolution and
any order of blocks, passes over blocks and options that it does not know, and raises nothing but CaptureError.
"""

import json
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, Final

from host_sdk.capture.packet import CapturedPacket, Direction, Interface, InterfaceStatistics
from host_sdk.wire.errors import CaptureError

SECTION: Final = 0x0A0D0D0A  # the same in either byte order
INTERFACE: Final = 1
SIMPLE_PACKET: Final = 3
STATISTICS: Final = 5
PACKET: Final = 6
CUSTOM: Final = 0xBAD  # one that may be copied into other files
BYTE_ORDER: Final = 0x1A2B3C4D
ENTERPRISE: Final = 32473  # "example" of RFC 5612: this project has no number of its own
METADATA_MAGIC: Final = b"napu-capture/1\n"  # tells our custom blocks from others of that number

OPTION_END, OPTION_COMMENT = 0, 1
SECTION_APPLICATION = 4
INTERFACE_NAME, INTERFACE_DESCRIPTION, INTERFACE_RESOLUTION, INTERFACE_OFFSET = 2, 3, 9, 14
PACKET_FLAGS, PACKET_LOST, PACKET_ID, PACKET_VERDICT = 2, 4, 5, 7
STATISTICS_START, STATISTICS_END, STATISTICS_RECEIVED, STATISTICS_DROPPED, STATISTICS_FILTERED = 2, 3, 4, 5, 6
VERDICT_HARDWARE: Final = 0

MAX_BLOCK: Final = 16 * 1024 * 1024  # bytes
MAX_INTERFACES: Final = 1024
MAX_METADATA: Final = 1024 * 1024  # bytes of JSON
MAX_OPTIONS: Final = 256  # in one block
_NANO: Final = 9
_DIRECTION: Final = 0b11  # of the flags
_SMALLEST: Final = 12


# ---- writing ---------------------------------------------------------------------------------------------------------


def option(code: int, value: bytes) -> bytes:
    """Return one option: code, length, value, zeros up to a multiple of 4."""
    return struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4)


def options(*made: bytes) -> bytes:
    """Return options with the end that closes them; nothing where there are none."""
    joined = b"".join(made)
    return joined + bytes(4) if joined else b""


def block(kind: int, body: bytes) -> bytes:
    """Return one block; ``body`` is a multiple of 4 bytes."""
    total = struct.pack("<I", _SMALLEST + len(body))
    return struct.pack("<I", kind) + total + body + total


def text_option(code: int, text: str) -> bytes:
    """Return an option of UTF-8 text, cut off at 65535 bytes; nothing for an empty one."""
    return option(code, text.encode()[:0xFFFF]) if text else b""


def section_block(application: str = "napu") -> bytes:
    """Return a Section Header Block of a section whose length is not said."""
    return block(
        SECTION,
        struct.pack("<IHHq", BYTE_ORDER, 1, 0, -1) + options(text_option(SECTION_APPLICATION, application)),
    )


def interface_block(interface: Interface) -> bytes:
    """Return an Interface Description Block with timestamps in ns."""
    named = text_option(INTERFACE_NAME, interface.name), text_option(INTERFACE_DESCRIPTION, interface.description)
    resolution = option(INTERFACE_RESOLUTION, bytes([_NANO]))
    return block(INTERFACE, struct.pack("<HHI", interface.link_type, 0, interface.snap) + options(*named, resolution))


def metadata_block(metadata: Mapping[str, Any]) -> bytes:
    """Return our Custom Block: the magic, then a JSON object, then zeros.

    Raises:
        CaptureError: It is longer than MAX_METADATA, or no JSON.
    """
    try:
        text = json.dumps(metadata, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise CaptureError(f"metadata cannot be written as JSON: {error}") from None
    if len(text) > MAX_METADATA:
        raise CaptureError(f"metadata of {len(text)} bytes; at most {MAX_METADATA} are kept")
    data = METADATA_MAGIC + text
    return block(CUSTOM, struct.pack("<I", ENTERPRISE) + data + bytes(-len(data) % 4))


def packet_options(packet: CapturedPacket) -> bytes:
    """Return the options of an Enhanced Packet Block, without their end."""
    made = [option(PACKET_FLAGS, struct.pack("<I", packet.direction))] if packet.direction else []
    if packet.lost:
        made.append(option(PACKET_LOST, struct.pack("<Q", packet.lost)))
    if packet.packet_id is not None:
        made.append(option(PACKET_ID, struct.pack("<Q", packet.packet_id)))
    made += [option(PACKET_VERDICT, bytes([kind]) + value) for kind, value in packet.verdicts.items()]
    made += [text_option(OPTION_COMMENT, comment) for comment in packet.comments]
    return b"".join(made)


def packet_block(packet: CapturedPacket) -> bytes:
    """Return an Enhanced Packet Block."""
    high, low = packet.time_ns >> 32, packet.time_ns & 0xFFFF_FFFF
    head = struct.pack("<5I", packet.interface, high, low, len(packet.data), packet.length)
    return block(PACKET, head + packet.data + bytes(-len(packet.data) % 4) + options(packet_options(packet)))


def statistics_block(interface: int, time_ns: int, started_ns: int, statistics: InterfaceStatistics) -> bytes:
    """Return an Interface Statistics Block."""
    counts = (
        (STATISTICS_RECEIVED, statistics.received),
        (STATISTICS_DROPPED, statistics.dropped),
        (STATISTICS_FILTERED, statistics.filtered),
    )
    made = [
        option(code, struct.pack("<II", moment >> 32, moment & 0xFFFF_FFFF))
        for code, moment in ((STATISTICS_START, started_ns), (STATISTICS_END, time_ns))
    ]
    made += [option(code, struct.pack("<Q", count)) for code, count in counts if count is not None]
    head = struct.pack("<3I", interface, time_ns >> 32, time_ns & 0xFFFF_FFFF)
    return block(STATISTICS, head + options(*made))


def file_head(interfaces: Sequence[Interface]) -> bytes:
    """Return what a file begins with: section and interfaces."""
    return b"".join((section_block(), *(interface_block(interface) for interface in interfaces)))


# ---- reading ---------------------------------------------------------------------------------------------------------


class PcapngReader:
    """Reads packets, one at a time, from a file that may hold anything; memory does not grow with the file.

    Args:
        file: Opened for reading bytes, at its beginning.
        packets: Whether packets are read; else they are passed over, which takes a file that can be sought in.

    Attributes:
        interfaces: Those described so far.
        metadata: What our Custom Blocks said so far; later ones add to it.
        statistics: Interface to the last of its statistics so far.
    """

    def __init__(self, file: BinaryIO, *, packets: bool = True) -> None:
        self._file = file
        self._skipped = () if packets else (PACKET, SIMPLE_PACKET)
        self._order = "<"
        self._first = 0  # interface of this section
        self._ticks: list[tuple[int, int, int]] = []  # by interface: numerator, denominator, offset in ns
        self.interfaces: list[Interface] = []
        self.metadata: dict[str, Any] = {}
        self.statistics: dict[int, InterfaceStatistics] = {}

    def __iter__(self) -> Iterator[CapturedPacket]:
        """Yield the packets in the order of the file.

        Raises:
            CaptureError: The file is damaged, cut off, or over a bound; what came before was yielded.
        """
        head = self._file.read(8)
        if head[:4] != struct.pack("<I", SECTION):
            raise CaptureError("the file does not begin as pcapng does")
        while head:
            kind, body = self._next(head)
            try:
                packet = self._take(kind, body)
            except (struct.error, IndexError) as error:
                raise CaptureError(f"a block of type {kind:#x} does not hold what it should: {error}") from None
            if packet is not None:
                yield packet
            head = self._file.read(8)

    def _next(self, head: bytes) -> tuple[int, bytes]:
        """Return type and body of the block that begins so."""
        if len(head) < 8:
            raise CaptureError("the file ends within the head of a block")
        magic = b""
        if head[:4] == struct.pack("<I", SECTION):
            magic = self._file.read(4)
            self._order = {b"\x4d\x3c\x2b\x1a": "<", b"\x1a\x2b\x3c\x4d": ">"}.get(magic, "")
            if not self._order:
                raise CaptureError("a section has no byte order")
        kind, total = struct.unpack(self._order + "II", head)
        if total < _SMALLEST + len(magic) or total > MAX_BLOCK or total % 4:
            raise CaptureError(
                f"a block of {total} bytes; from {_SMALLEST} to {MAX_BLOCK} and a multiple of 4 is taken"
            )
        if kind in self._skipped:
            self._file.seek(total - 8, os.SEEK_CUR)
            return kind, b""
        rest = self._file.read(total - 8 - len(magic))
        if len(rest) < total - 8 - len(magic):
            raise CaptureError("the file ends within a block")
        if struct.unpack(self._order + "I", rest[-4:])[0] != total:
            raise CaptureError("the two lengths of a block differ")
        return kind, magic + rest[:-4]

    def _take(self, kind: int, body: bytes) -> CapturedPacket | None:
        if kind in self._skipped:
            return None
        if kind == PACKET:
            return self._packet(body)
        if kind == SIMPLE_PACKET:
            return self._simple(body)
        if kind == SECTION:
            major = struct.unpack_from(self._order + "H", body, 4)[0]
            if major != 1:
                raise CaptureError(f"pcapng of version {major}; this reads 1")
            self._first = len(self.interfaces)
        elif kind == INTERFACE:
            self._interface(body)
        elif kind == STATISTICS:
            self._statistics(body)
        elif kind == CUSTOM:
            self._custom(body)
        return None

    def _options(self, body: bytes, at: int) -> Iterator[tuple[int, bytes]]:
        for _ in range(MAX_OPTIONS):
            if at >= len(body):
                return
            code, size = struct.unpack_from(self._order + "HH", body, at)
            if code == OPTION_END:
                return
            value = body[at + 4 : at + 4 + size]
            if len(value) < size:
                raise CaptureError("an option is longer than its block")
            yield code, value
            at += 4 + size + -size % 4
        raise CaptureError(f"more than {MAX_OPTIONS} options in one block")

    def _interface(self, body: bytes) -> None:
        if len(self.interfaces) >= MAX_INTERFACES:
            raise CaptureError(f"more than {MAX_INTERFACES} interfaces")
        link_type, _, snap = struct.unpack_from(self._order + "HHI", body)
        name = description = ""
        numerator, denominator, offset = 1_000_000_000, 1_000_000, 0
        for code, value in self._options(body, 8):
            if code == INTERFACE_NAME:
                name = value.decode(errors="replace").rstrip("\0")
            elif code == INTERFACE_DESCRIPTION:
                description = value.decode(errors="replace").rstrip("\0")
            elif code == INTERFACE_RESOLUTION:
                denominator = (2 if value[0] & 0x80 else 10) ** (value[0] & 0x7F)
            elif code == INTERFACE_OFFSET:
                offset = struct.unpack(self._order + "q", value)[0] * 1_000_000_000
        self.interfaces.append(Interface(name, link_type, snap, description))
        self._ticks.append((numerator, denominator, offset))

    def _time(self, interface: int, high: int, low: int) -> int:
        numerator, denominator, offset = self._ticks[interface]
        return int((high << 32 | low) * numerator // denominator + offset)

    def _known(self, interface: int) -> int:
        index = self._first + interface
        if index >= len(self.interfaces):
            raise CaptureError(f"interface {interface} was not described in its section")
        return index

    def _packet(self, body: bytes) -> CapturedPacket:
        number, high, low, captured, length = struct.unpack_from(self._order + "5I", body)
        interface, end = self._known(number), 20 + captured
        if end > len(body):
            raise CaptureError("a packet is longer than its block")
        direction, identity, lost = Direction.UNKNOWN, None, 0
        verdicts: dict[int, bytes] = {}
        comments: list[str] = []
        for code, value in self._options(body, end + -captured % 4):
            if code == PACKET_FLAGS:
                bits = struct.unpack(self._order + "I", value)[0] & _DIRECTION
                direction = Direction(bits) if bits < len(Direction) else Direction.UNKNOWN
            elif code == PACKET_ID:
                identity = struct.unpack(self._order + "Q", value)[0]
            elif code == PACKET_LOST:
                lost = struct.unpack(self._order + "Q", value)[0]
            elif code == PACKET_VERDICT:
                verdicts[value[0]] = value[1:]
            elif code == OPTION_COMMENT:
                comments.append(value.decode(errors="replace"))
        when = self._time(interface, high, low)
        data = body[20:end]
        return CapturedPacket(interface, when, data, length, direction, identity, lost, verdicts, tuple(comments))

    def _simple(self, body: bytes) -> CapturedPacket:
        """A packet of the section's first interface, without a time."""
        length = struct.unpack_from(self._order + "I", body)[0]
        interface = self._known(0)
        size = min(length, self.interfaces[interface].snap or length)
        if 4 + size > len(body):
            raise CaptureError("a packet is longer than its block")
        return CapturedPacket(interface, 0, body[4 : 4 + size], length)

    def _statistics(self, body: bytes) -> None:
        interface = self._known(struct.unpack_from(self._order + "I", body)[0])
        struct.unpack_from(self._order + "II", body, 4)
        found = {
            code: struct.unpack(self._order + "Q", value)[0]
            for code, value in self._options(body, 12)
            if code in (STATISTICS_RECEIVED, STATISTICS_DROPPED, STATISTICS_FILTERED)
        }
        self.statistics[interface] = InterfaceStatistics(
            found.get(STATISTICS_RECEIVED), found.get(STATISTICS_DROPPED), found.get(STATISTICS_FILTERED)
        )

    def _custom(self, body: bytes) -> None:
        number = struct.unpack_from(self._order + "I", body)[0]
        if number != ENTERPRISE or not body.startswith(METADATA_MAGIC, 4):
            return
        text = body[4 + len(METADATA_MAGIC) :].rstrip(b"\0")
        if len(text) > MAX_METADATA:
            raise CaptureError(f"metadata of {len(text)} bytes; at most {MAX_METADATA} are taken")
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise CaptureError(f"the metadata is no JSON: {error}") from None
        if not isinstance(value, dict):
            raise CaptureError("the metadata is no JSON object")
        self.metadata.update(value)
        if len(self.metadata) > MAX_OPTIONS:
            raise CaptureError(f"more than {MAX_OPTIONS} keys of metadata")
