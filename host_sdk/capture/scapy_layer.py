"""The scapy layers of NIP, derived from the schema: importing them binds them to Ethernet and to UDP.

``NIP`` is one PDU. Where that holds a whole message in the clear, its payload is a ``NIPMessage`` with its parts; else
it is Raw. What is left out when a packet is built (length, fragment size, CRC, sizes) is filled in.
"""

from collections.abc import Callable
from typing import Any, ClassVar

from scapy.fields import (
    ByteEnumField,
    ByteField,
    ConditionalField,
    FieldLenField,
    FlagsField,
    IntField,
    LongField,
    PacketField,
    PacketListField,
    ShortEnumField,
    ShortField,
    StrLenField,
    XIntField,
)
from scapy.fields import (
    Field as ScapyField,
)
from scapy.layers.inet import UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw, bind_layers
from scapy.volatile import RandNum

from host_sdk.wire.message import crc_of
from host_sdk.wire.schema import (
    CRC_SIZE,
    ETHERTYPE,
    EXTENSION,
    EXTENSION_BLOCK,
    HEADER_SIZE,
    KNOWN_FLAGS,
    MAX_EXTENSION_BLOCK,
    MAX_FRAGMENT_SIZE,
    REPLY_BIT,
    REPLY_HEADER,
    REQUEST_HEADER,
    SEAL,
    SEAL_TAG_SIZE,
    TRAILER,
    UDP_PORT,
    VERSION,
    Field,
    Flag,
    Layout,
    Opcode,
    Status,
)

_WIDTHS: dict[int, type[Any]] = {1: ByteField, 2: ShortField, 4: IntField, 8: LongField}
_FLAG_BITS = 16
SCAPY_NAMES = {"fragment": "fragment_index"}  # Packet.fragment is a method of scapy's own
_SHARED = [field.name for field in REQUEST_HEADER.fields if field in REPLY_HEADER.fields]
_FIRST = {"version": VERSION, "length": None, "fragment_size": None}  # None: filled in when the packet is built
_PLACES = {field.name: (offset, offset + field.size) for field, offset in REQUEST_HEADER.placed()}
_HINTS = frozenset({Opcode.WORKING, Opcode.UNKNOWN, Opcode.GRANT})  # notices that a responder sends when asked
_HINTED = frozenset({Opcode.INFER, Opcode.CONTROL, Opcode.RESEND})


class _Kept(ShortField):
    """A field that fuzz() leaves alone: PDUs with another value are no PDUs."""

    def randval(self) -> Any:
        return None


class _KeptByte(ByteField):
    """The same, of one byte."""

    def randval(self) -> Any:
        return None


class _RandomFlags(RandNum):
    """Flags that version 1 knows, one time in four others too; never SEALED, as there would be no seal behind it."""

    def __init__(self) -> None:
        super().__init__(0, (1 << _FLAG_BITS + 2) - 1)

    def _fix(self) -> int:
        drawn = int(super()._fix())
        known = KNOWN_FLAGS if drawn >> _FLAG_BITS else (1 << _FLAG_BITS) - 1 & ~int(Flag.SEALED)
        return drawn & known


class _Flags(FlagsField):
    def randval(self) -> Any:
        return _RandomFlags()


class _Extensions(PacketListField):
    """Extensions, which fuzz() does not make up."""

    def randval(self) -> Any:
        return None


def _scapy_field(field: Field) -> ScapyField[Any, Any]:
    """Return the scapy field for a field of the schema."""
    if field.name == "opcode":
        return ByteEnumField(field.name, int(Opcode.INFER), {int(code): code.name for code in Opcode})
    if field.name == "status":
        return ShortEnumField(field.name, 0, {int(status): status.name for status in Status})
    if field.name == "flags":
        names = [str(flag.name) for flag in Flag]
        names += [f"reserved{bit}" for bit in range(len(names), _FLAG_BITS)]
        return _Flags(field.name, 0, _FLAG_BITS, names)
    kept: dict[str, Any] = {"version": _KeptByte, "fragment": _Kept}
    kind: Any = kept.get(field.name, _WIDTHS[field.width])
    made: ScapyField[Any, Any] = kind(SCAPY_NAMES.get(field.name, field.name), _FIRST.get(field.name, 0))
    return made


def _fields(layout: Layout) -> list[Any]:
    return [_scapy_field(field) for field in layout.fields]


def _is_reply(packet: Packet) -> bool:
    return bool(packet.opcode & REPLY_BIT)


def _is_sealed(packet: Packet) -> bool:
    return bool(int(packet.flags) & Flag.SEALED)


def _announced(packet: Packet, flag: Flag) -> bool:
    """Return whether the PDU that a message stands in says that it has an optional part."""
    pdu = packet.underlayer
    if not isinstance(pdu, NIP) or not int(pdu.flags) & flag:
        return False
    return flag != Flag.TRAILER or _is_reply(pdu)


def _has(flag: Flag) -> Callable[[Packet], bool]:
    return lambda packet: _announced(packet, flag)


class _Part(Packet):
    """A part of a message: what follows it belongs to the next one."""

    def extract_padding(self, remainder: bytes) -> tuple[bytes, bytes]:
        return b"", remainder


class NIPExtension(_Part):
    """One extension; ``size`` and the padding behind ``value`` are filled in."""

    name = "NIP extension"
    fields_desc: ClassVar[list[Any]] = [
        *(
            FieldLenField(field.name, None, length_of="value", fmt="H") if field.name == "size" else _scapy_field(field)
            for field in EXTENSION.fields
        ),
        StrLenField("value", b"", length_from=lambda packet: packet.size),
        StrLenField("padding", b"", length_from=lambda packet: -packet.size % 4),
    ]

    def post_build(self, packet: bytes, payload: bytes) -> bytes:
        """Fill the extension up to a multiple of 4 bytes."""
        return packet + bytes(-len(packet) % 4) + payload


class NIPTrailer(_Part):
    """How an answer was made."""

    name = "NIP trailer"
    fields_desc: ClassVar[list[Any]] = _fields(TRAILER)


class NIPMessage(Packet):
    """A whole message: which parts it has follows from the flags of the NIP below it."""

    name = "NIP message"
    fields_desc: ClassVar[list[Any]] = [
        *(ConditionalField(IntField(field.name, None), _has(Flag.EXTENSION)) for field in EXTENSION_BLOCK.fields),
        ConditionalField(
            _Extensions(
                "extensions", [], NIPExtension, length_from=lambda packet: packet.block_size - EXTENSION_BLOCK.size
            ),
            _has(Flag.EXTENSION),
        ),
        StrLenField("body", b"", length_from=lambda packet: packet.body_size()),
        ConditionalField(PacketField("trailer", NIPTrailer(), NIPTrailer), _has(Flag.TRAILER)),
        ConditionalField(XIntField("crc", None), _has(Flag.CRC)),
    ]

    def body_size(self) -> int:
        """Return the bytes of the body of a message that is being dissected: what the other parts leave."""
        pdu: Any = self.underlayer
        size = int(pdu.length)
        size -= self.block_size if _announced(self, Flag.EXTENSION) else 0
        size -= TRAILER.size if _announced(self, Flag.TRAILER) else 0
        return size - (CRC_SIZE if _announced(self, Flag.CRC) else 0)

    def post_build(self, packet: bytes, payload: bytes) -> bytes:
        """Fill in the size of the extension block."""
        if _announced(self, Flag.EXTENSION) and self.block_size is None:
            size = EXTENSION_BLOCK.size + sum(len(bytes(extension)) for extension in self.extensions)
            packet = size.to_bytes(EXTENSION_BLOCK.size, "big") + packet[EXTENSION_BLOCK.size :]
        return packet + payload


def _extensions_fit(block: bytes) -> bool:
    """Return whether the extension block that begins here is well made."""
    size = int.from_bytes(block[: EXTENSION_BLOCK.size], "big")
    if len(block) < EXTENSION_BLOCK.size or size % 4:
        return False
    if not EXTENSION_BLOCK.size <= size <= min(len(block), MAX_EXTENSION_BLOCK):
        return False
    at = EXTENSION_BLOCK.size
    while at < size:
        value = int.from_bytes(block[at + EXTENSION.size - 2 : at + EXTENSION.size], "big")
        at += EXTENSION.size + value + -value % 4
    return at == size


class NIP(Packet):
    """One PDU: its header, its seal if it has one; the payload is the fragment, sealed: its ciphertext and tag."""

    name = "NIP"
    fields_desc: ClassVar[list[Any]] = [
        *(_scapy_field(field) for field in REQUEST_HEADER.fields if field.name in _SHARED),
        *(
            ConditionalField(_scapy_field(field), lambda packet: not _is_reply(packet))
            for field in REQUEST_HEADER.fields
            if field.name not in _SHARED
        ),
        *(
            ConditionalField(_scapy_field(field), _is_reply)
            for field in REPLY_HEADER.fields
            if field.name not in _SHARED
        ),
        *(ConditionalField(_scapy_field(field), _is_sealed) for field in SEAL.fields),
    ]

    def post_build(self, packet: bytes, payload: bytes) -> bytes:
        """Fill in length and fragment size, and the CRC of the message where it has one without a value."""
        header = bytearray(packet)
        if self.length is None:
            _put(header, "length", max(0, len(payload) - (SEAL_TAG_SIZE if _is_sealed(self) else 0)))
        if self.fragment_size is None:
            _put(header, "fragment_size", MAX_FRAGMENT_SIZE)
        message = self.payload
        if isinstance(message, NIPMessage) and _announced(message, Flag.CRC) and message.crc is None:
            covered = header[:HEADER_SIZE]
            _put(covered, "fragment", 0)
            _put(covered, "credits", 0)
            payload = payload[:-CRC_SIZE] + crc_of(payload[:-CRC_SIZE], bytes(covered)).to_bytes(CRC_SIZE, "big")
        return bytes(header) + payload

    def extract_padding(self, remainder: bytes) -> tuple[bytes, bytes]:
        """Cut the fragment off Ethernet's padding."""
        left = self.length - self.fragment_index * self.fragment_size
        size = max(0, min(self.fragment_size, left)) + (SEAL_TAG_SIZE if _is_sealed(self) else 0)
        return remainder[:size], remainder[size:]

    def guess_payload_class(self, payload: bytes) -> type[Packet]:
        """Return NIPMessage for a whole message whose parts are there, else Raw."""
        whole = self.fragment_index == 0 and 0 < self.length == len(payload) and not _is_sealed(self)
        if not whole or self.length > self.fragment_size:
            return Raw
        flags = int(self.flags)
        end = len(payload) - (CRC_SIZE if flags & Flag.CRC else 0)
        end -= TRAILER.size if flags & Flag.TRAILER and _is_reply(self) else 0
        fits = end >= 0 and (not flags & Flag.EXTENSION or _extensions_fit(payload[:end]))
        return NIPMessage if fits else Raw

    def hashret(self) -> bytes:
        """Return what a request and all that answers it have in common: its id."""
        return int(self.request).to_bytes(8, "big")

    def answers(self, other: Packet) -> bool:
        """Return whether this PDU is of the reply to the other's request, or what its responder has to say of that."""
        if not isinstance(other, NIP) or self.request != other.request:
            return False
        if self.session != other.session and other.session != 0:
            return False
        if self.opcode in _HINTS:
            return other.opcode in _HINTED
        asked = Opcode.INFER if other.opcode in (Opcode.RESEND, Opcode.CANCEL) else other.opcode
        return bool(self.opcode == asked | REPLY_BIT and self.opcode != other.opcode)


def _put(header: bytearray, name: str, value: int) -> None:
    begin, end = _PLACES[name]
    header[begin:end] = (value & ((1 << 8 * (end - begin)) - 1)).to_bytes(end - begin, "big")


bind_layers(Ether, NIP, type=ETHERTYPE)
bind_layers(UDP, NIP, dport=UDP_PORT)
bind_layers(UDP, NIP, sport=UDP_PORT)
