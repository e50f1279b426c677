"""Keys of Ed25519, and the certificates by which a root key delegates to a signing key."""

import hashlib
import struct
from dataclasses import dataclass
from enum import IntEnum

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from firmware.image.errors import TamperedError, WrongKeyError
from host_sdk.wire.errors import ConfigError

KEY_SIZE = 32
SIGNATURE_SIZE = 64
KEY_ID_SIZE = 8
MAX_SERIAL = 2**32 - 1
NEVER = 2**64 - 1  # the latest time that an image or a certificate can name

_MAGIC = b"NAPUCERT"
_FORMAT = 1
_FIELDS = struct.Struct(f">8sHBxIQ{KEY_ID_SIZE}s{KEY_SIZE}s{KEY_SIZE}s")
CERTIFICATE_SIZE = _FIELDS.size + SIGNATURE_SIZE


class KeyKind(IntEnum):
    """What a signing key is for. A board that left the factory takes RELEASE alone."""

    DEVELOPMENT = 1
    RELEASE = 2


@dataclass(frozen=True, slots=True)
class Certificate:
    """A root key's word that a key may sign images.

    Attributes:
        kind: What the key is for.
        serial: Number by which it can be revoked, 0 to MAX_SERIAL; a root key gives each once.
        not_after: Last second in which it holds, since 1970 in UTC.
        key: The signing key, 32 bytes.
        root: The root key, 32 bytes.
        data: The whole certificate, CERTIFICATE_SIZE bytes.
    """

    kind: KeyKind
    serial: int
    not_after: int
    key: bytes
    root: bytes
    data: bytes

    def root_signed(self) -> bool:
        """Return whether the root key that it names has signed it; whose key that is remains to be asked."""
        return verified(self.root, self.data[: _FIELDS.size], self.data[_FIELDS.size :])


@dataclass(frozen=True, slots=True)
class Signer:
    """A signing key with the certificate that allows it to sign.

    Raises:
        ConfigError: The certificate is another key's, or no root key signed it.
    """

    key: Ed25519PrivateKey
    certificate: Certificate

    def __post_init__(self) -> None:
        if public_bytes(self.key) != self.certificate.key:
            raise ConfigError(
                f"the certificate is of key {key_id(self.certificate.key).hex()}, "
                f"the key given is {key_id(public_bytes(self.key)).hex()}; give those that belong together"
            )
        if not self.certificate.root_signed():
            raise ConfigError(
                "the certificate was not signed by the root key that it names; make it with napu-fw certify"
            )


def key_id(public: bytes) -> bytes:
    """Return the short name of a public key, KEY_ID_SIZE bytes."""
    return hashlib.sha256(public).digest()[:KEY_ID_SIZE]


def root_hash(public: bytes) -> bytes:
    """Return what a board's fuses hold of a root key: its SHA-256, 32 bytes."""
    return hashlib.sha256(public).digest()


def generate_key() -> Ed25519PrivateKey:
    """Return a new private key, from the operating system's randomness: the one thing that no seed may decide."""
    return Ed25519PrivateKey.generate()


def public_bytes(key: Ed25519PrivateKey) -> bytes:
    """Return the public key of a private one, 32 bytes."""
    return key.public_key().public_bytes_raw()


def verified(public: bytes, message: bytes, signature: bytes) -> bool:
    """Return whether a signature of 64 bytes is a key's, of 32 bytes, over a message."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def certify(root: Ed25519PrivateKey, key: bytes, kind: KeyKind, serial: int, not_after: int) -> Certificate:
    """Let a root key delegate to a signing key.

    Args:
        root: The root key.
        key: The public signing key, 32 bytes.
        kind: What it is for.
        serial: Number by which it can be revoked.
        not_after: Last second in which the certificate holds, since 1970 in UTC; NEVER for no end.

    Raises:
        ConfigError: A number is out of range, or the key is the root key, which signs certificates alone.
    """
    if not 0 <= serial <= MAX_SERIAL or not 0 <= not_after <= NEVER:
        raise ConfigError(f"serial number {serial} must be 0 to {MAX_SERIAL}, and the time in seconds since 1970")
    if len(key) != KEY_SIZE or key == public_bytes(root):
        raise ConfigError("a root key signs certificates and nothing else; make a signing key of its own")
    fields = _FIELDS.pack(_MAGIC, _FORMAT, kind, serial, not_after, key_id(key), key, public_bytes(root))
    return read_certificate(fields + root.sign(fields))


def read_certificate(data: bytes) -> Certificate:
    """Take a certificate apart; no signature is looked at.

    Raises:
        TamperedError: It is none of format 1.
        WrongKeyError: The id in it is another key's.
    """
    if len(data) != CERTIFICATE_SIZE:
        raise TamperedError(f"a certificate of {len(data)} bytes; one has {CERTIFICATE_SIZE}")
    magic, form, kind, serial, not_after, name, key, root = _FIELDS.unpack_from(data)
    if magic != _MAGIC or form != _FORMAT or data[11] or kind not in tuple(KeyKind):
        raise TamperedError("the certificate is none of format 1")
    if name != key_id(key):
        raise WrongKeyError(f"the certificate names key {name.hex()} and holds {key_id(key).hex()}")
    return Certificate(KeyKind(kind), serial, not_after, key, root, data)


def private_pem(key: Ed25519PrivateKey) -> bytes:
    """Return a private key as PEM, not encrypted."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public_pem(key: Ed25519PrivateKey) -> bytes:
    """Return the public key of a private one as PEM."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def read_private_pem(data: bytes) -> Ed25519PrivateKey:
    """Return the private key in a PEM file.

    Raises:
        ConfigError: There is none of Ed25519, or it is encrypted.
    """
    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"no private key in PEM: {error}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError("the private key is none of Ed25519; make one with napu-fw keygen")
    return key


def read_public_pem(data: bytes) -> bytes:
    """Return the public key in a PEM file, 32 bytes.

    Raises:
        ConfigError: There is none of Ed25519.
    """
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"no public key in PEM: {error}") from None
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError("the public key is none of Ed25519; give the .pub file of napu-fw keygen")
    return key.public_bytes_raw()
