"""PDUs as dpkt packets, derived from the schema: small and quick, for captures of any size."""

from typing import Any, ClassVar

import dpkt

from host_sdk.wire.schema import (
    HEADER_SIZE,
    REPLY_BIT,
    REPLY_HEADER,
    REQUEST_HEADER,
    SEAL,
    SEAL_TAG_SIZE,
    VERSION,
    Flag,
    Layout,
)

_CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}
_SEALED_FROM = HEADER_SIZE + SEAL.size + SEAL_TAG_SIZE


def _hdr(layout: Layout) -> tuple[tuple[str, str, int], ...]:
    first = {"version": VERSION}
    return tuple((field.name, _CODES[field.width], first.get(field.name, 0)) for field in layout.fields)


class Seal(dpkt.Packet):  # type: ignore[misc]  # dpkt has no types
    """The seal of a sealed frame; ``data`` is the ciphertext and the tag."""

    __hdr__: ClassVar[Any] = _hdr(SEAL)


class _Nip(dpkt.Packet):  # type: ignore[misc]
    """What requests and replies share: ``data`` is the fragment without padding, or the Seal of a sealed frame."""

    data: bytes | Seal

    def unpack(self, buf: bytes) -> None:
        """Take a PDU apart.

        Raises:
            dpkt.NeedData: It is shorter than a header, or sealed and shorter than that takes.
        """
        super().unpack(buf)
        left = self.length - self.fragment * self.fragment_size
        size = max(0, min(self.fragment_size, left))
        if self.flags & Flag.SEALED:
            if len(buf) < _SEALED_FROM:
                raise dpkt.NeedData(f"{len(buf)} bytes are no sealed frame")
            self.data = Seal(buf[HEADER_SIZE : _SEALED_FROM + size])
        else:
            self.data = buf[HEADER_SIZE : HEADER_SIZE + size]


class NipRequest(_Nip):
    """A PDU of a request or of a requester's notice."""

    __hdr__: ClassVar[Any] = _hdr(REQUEST_HEADER)


class NipReply(_Nip):
    """A PDU of a reply or of a responder's notice."""

    __hdr__: ClassVar[Any] = _hdr(REPLY_HEADER)


def nip_packet(pdu: bytes) -> NipRequest | NipReply:
    """Return a PDU as a packet of dpkt; whether it keeps to the protocol is not looked at.

    Args:
        pdu: Its bytes, with Ethernet's padding or without.

    Raises:
        dpkt.NeedData: It is shorter than a header, or sealed and shorter than that takes.
    """
    return NipReply(pdu) if len(pdu) > 1 and pdu[1] & REPLY_BIT else NipRequest(pdu)
