"""The scapy layer of NIP, derived from the schema: importing it binds it to Ethernet and to UDP."""

from typing import Any

from scapy.fields import (
    ByteEnumField,
    ByteField,
    ConditionalField,
    FlagsField,
    IntField,
    LongField,
    ShortEnumField,
    ShortField,
)
from scapy.fields import (
    Field as ScapyField,
)
from scapy.layers.inet import UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, bind_layers

from host_sdk.wire.schema import (
    ETHERTYPE,
    MAX_FRAGMENT_SIZE,
    REPLY_BIT,
    REPLY_HEADER,
    REQUEST_HEADER,
    SEAL,
    SEAL_TAG_SIZE,
    UDP_PORT,
    VERSION,
    Field,
    Flag,
    Opcode,
    Status,
)

_WIDTHS: dict[int, type[Any]] = {1: ByteField, 2: ShortField, 4: IntField, 8: LongField}
_FLAG_BITS = 16
SCAPY_NAMES = {"fragment": "fragment_index"}  # Packet.fragment is a method of scapy's own
_SHARED = [field.name for field in REQUEST_HEADER.fields if field in REPLY_HEADER.fields]


def _scapy_field(field: Field) -> ScapyField[Any, Any]:
    """Return the scapy field for a field of the schema."""
    if field.name == "opcode":
        return ByteEnumField(field.name, int(Opcode.INFER), {int(code): code.name for code in Opcode})
    if field.name == "status":
        return ShortEnumField(field.name, 0, {int(status): status.name for status in Status})
    if field.name == "flags":
        names = [str(flag.name) for flag in Flag]
        names += [f"reserved{bit}" for bit in range(len(names), _FLAG_BITS)]
        return FlagsField(field.name, 0, _FLAG_BITS, names)
    default = {"version": VERSION, "fragment_size": MAX_FRAGMENT_SIZE}.get(field.name, 0)
    made: ScapyField[Any, Any] = _WIDTHS[field.width](SCAPY_NAMES.get(field.name, field.name), default)
    return made


def _is_reply(packet: Packet) -> bool:
    return bool(packet.opcode & REPLY_BIT)


def _is_sealed(packet: Packet) -> bool:
    return bool(int(packet.flags) & Flag.SEALED)


class NIP(Packet):
    """One PDU: its header, its seal if it has one; the payload is the fragment, sealed: its ciphertext and tag."""

    name = "NIP"
    fields_desc = [  # noqa: RUF012 - scapy's way of declaring
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

    def extract_padding(self, remainder: bytes) -> tuple[bytes, bytes]:
        """Cut the fragment off Ethernet's padding."""
        left = self.length - self.fragment_index * self.fragment_size
        size = max(0, min(self.fragment_size, left)) + (SEAL_TAG_SIZE if _is_sealed(self) else 0)
        return remainder[:size], remainder[size:]

    def answers(self, other: Packet) -> bool:
        """Return whether this PDU is of the reply to the other's request."""
        return bool(
            isinstance(other, NIP)
            and self.opcode == other.opcode | REPLY_BIT
            and self.request == other.request
            and (self.session == other.session or other.session == 0)
        )


bind_layers(Ether, NIP, type=ETHERTYPE)
bind_layers(UDP, NIP, dport=UDP_PORT)
bind_layers(UDP, NIP, sport=UDP_PORT)
