"""A quote: what the board says of its measurement register, over a nonce; signed with its device key."""

import re
import struct
from dataclasses import dataclass

from host_sdk.wire.attest.errors import MalformedEvidenceError
from host_sdk.wire.attest.events import DIGEST_SIZE, MAX_EVENTS

NONCE_SIZE = 32
KEY_SIZE = 32
SIGNATURE_SIZE = 64
CONTEXT = b"NAPU attestation quote 1\0"  # stands before a quote where it is signed

_MAGIC = b"NAPUQUOT"
_FORMAT = 1
_QUOTE = struct.Struct(f">8sHHIIIQ{NONCE_SIZE}s{DIGEST_SIZE}s{DIGEST_SIZE}s64s")
QUOTE_SIZE = _QUOTE.size
_DEVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,63}")


@dataclass(frozen=True, slots=True)
class Quote:
    """What is signed.

    Attributes:
        device: Identity of the device, as in ``device`` of its ANNOUNCE.
        nonce: The verifier's, NONCE_SIZE bytes.
        epoch: Boots of the firmware, modulo 65536.
        log: Number of the log since power-on, from 1; each boot begins one, and so does a log that is full.
        events: Events in the log.
        value: The register after them, 32 bytes.
        boots: SHA-256 of the history of boots, 32 bytes.
        boots_size: Bytes of that history.
        uptime_ms: ms since power-on.
    """

    device: str
    nonce: bytes
    epoch: int
    log: int
    events: int
    value: bytes
    boots: bytes
    boots_size: int
    uptime_ms: int

    def encode(self) -> bytes:
        """Return the quote's canonical bytes, QUOTE_SIZE.

        Raises:
            MalformedEvidenceError: A field is not of its form.
        """
        try:
            data = _QUOTE.pack(
                *(_MAGIC, _FORMAT, self.epoch, self.log, self.events, self.boots_size, self.uptime_ms),
                *(self.nonce, self.value, self.boots, self.device.encode()),
            )
        except struct.error as error:
            raise MalformedEvidenceError(f"no quote can say this: {error}") from None
        if Quote.decode(data) != self:
            raise MalformedEvidenceError("a field of the quote does not fit")
        return data

    @classmethod
    def decode(cls, data: bytes) -> "Quote":
        """Read a quote's bytes; what is taken is canonical. No signature is looked at.

        Raises:
            MalformedEvidenceError: They are no quote of format 1.
        """
        if len(data) != QUOTE_SIZE:
            raise MalformedEvidenceError(f"a quote of {len(data)} bytes; one has {QUOTE_SIZE}")
        magic, form, epoch, log, events, boots_size, uptime_ms, nonce, value, boots, raw = _QUOTE.unpack(data)
        device = raw.rstrip(b"\0").decode("ascii", "replace")
        if magic != _MAGIC or form != _FORMAT or not _DEVICE.fullmatch(device) or not 0 < events <= MAX_EVENTS:
            raise MalformedEvidenceError("the quote is none of format 1")
        return cls(device, nonce, epoch, log, events, value, boots, boots_size, uptime_ms)


def signed_bytes(quote: bytes) -> bytes:
    """Return what is signed of a quote: the context, then the quote."""
    return CONTEXT + quote
