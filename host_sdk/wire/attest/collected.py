"""Evidence as bytes; apart from what checks it, so that one can be fetched without a cryptographic library."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from host_sdk.wire.attest.errors import MalformedEvidenceError
from host_sdk.wire.attest.quote import KEY_SIZE, SIGNATURE_SIZE

_SIZES = {"key": KEY_SIZE, "signature": SIGNATURE_SIZE}


@dataclass(frozen=True, slots=True)
class Evidence:
    """What an appliance answers a nonce with; nothing of it is checked yet.

    Attributes:
        quote: The quote's bytes.
        signature: The device key's, 64 bytes.
        key: The device key, 32 bytes.
        boots: The history of boots.
        events: The log: the canonical bytes of each event.
    """

    quote: bytes
    signature: bytes
    key: bytes
    boots: bytes
    events: tuple[bytes, ...] = ()

    @classmethod
    def parse(cls, answer: Mapping[str, Any]) -> "Evidence":
        """Read the answer to the operation ``attest``, which has no events yet.

        Raises:
            MalformedEvidenceError: A part is missing or of another size.
        """
        quote, signature, key, boots = (_part(answer, name) for name in ("quote", "signature", "key", "boots"))
        return cls(quote, signature, key, boots)


def _part(answer: Mapping[str, Any], name: str) -> bytes:
    part = answer.get(name)
    if not isinstance(part, bytes) or len(part) != _SIZES.get(name, len(part)):
        raise MalformedEvidenceError(f"the answer has no {name}, or one of another size")
    return part
