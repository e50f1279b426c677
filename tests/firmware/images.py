"""Keys, policies and images for tests, put together field by field from docs/firmware-image.md."""

import hashlib
import re
import struct
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from firmware.image.policy import Policy

DOC = Path(__file__).parents[2] / "docs" / "firmware-image.md"
NEVER = 2**64 - 1


def golden() -> bytes:
    """Return the whole image of section 6."""
    (block,) = re.findall(r"^```hex\n(.*?)^```", DOC.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    rows = [re.match(r" *(\d+)  ([0-9a-f ]{1,33})(?: |$)", line) for line in block.splitlines()]
    image = b""
    for row in rows:
        assert row
        assert int(row[1]) == len(image)
        image += bytes.fromhex(row[2])
    return image


def key(number: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)


def public(of: Ed25519PrivateKey) -> bytes:
    return of.public_key().public_bytes_raw()


ROOT, SIGNING, OTHER_ROOT, OTHER_SIGNING = map(key, range(1, 5))
POLICY = Policy(hashlib.sha256(public(ROOT)).digest(), "board-7", now=1000)


def certificate(
    root: Ed25519PrivateKey = ROOT,
    of: Ed25519PrivateKey = SIGNING,
    kind: int = 2,
    serial: int = 7,
    not_after: int = 2000,
) -> bytes:
    fields = b"NAPUCERT" + struct.pack(">HBBIQ", 1, kind, 0, serial, not_after)
    fields += hashlib.sha256(public(of)).digest()[:8] + public(of) + public(root)
    return fields + root.sign(fields)


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack(">HH", kind, len(value)) + value


@dataclass
class Parts:
    """An image before it is put together; what is None is what it should be."""

    payload: bytes = b"payload"
    version: bytes = b"1.2"
    hardware: bytes = b"board-7"
    counter: int = 5
    name: bytes = b"napu"
    entry: bytes = b"a:b"
    build: bytes = b"files=1\n"
    issued: bytes = (500).to_bytes(8, "big")
    expires: bytes = (3000).to_bytes(8, "big")
    digest: bytes | None = None
    protected: bytes | None = None
    chain: bytes | None = None
    key_id: bytes | None = None
    signer: Ed25519PrivateKey = SIGNING

    def image(self) -> bytes:
        chain = certificate() if self.chain is None else self.chain
        named = chain[24:32] if self.key_id is None else self.key_id
        size = len(self._protected(self.digest or bytes(32)))
        header = b"NAPUFW\0\0" + struct.pack(">HHIIIII", 1, 96, 0, len(self.payload), size, 244, self.counter)
        header += self.version.ljust(32, b"\0") + self.hardware.ljust(32, b"\0")
        digest = hashlib.sha256(header + self.payload).digest() if self.digest is None else self.digest
        signed = header + self.payload + self._protected(digest) + tlv(0x101, named) + tlv(0x102, chain)
        return signed + tlv(0x103, self.signer.sign(signed))

    def _protected(self, digest: bytes) -> bytes:
        if self.protected is not None:
            return self.protected
        values = (self.name, self.entry, self.build, digest, self.issued, self.expires)
        return b"".join(tlv(kind, value) for kind, value in enumerate(values, 1))


GOOD = Parts().image()
