"""The development keys: PUBLISHED HERE WITH THEIR PRIVATE HALVES, so that anybody can sign with them.

They are what makes a build of one's own boot on an emulated board without any ceremony, and they protect nothing. A
board that shall be safe has another root key in its fuses (``napu-fw keygen``); private release keys are never stored
in this repository.
"""

import hashlib

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from firmware.image.keys import NEVER, KeyKind, Signer, certify
from firmware.image.policy import Policy

# Private keys, made from a sentence each so that nobody takes them for secrets.
DEVELOPMENT_ROOT = hashlib.sha256(b"napu development root key").digest()
DEVELOPMENT_KEY = hashlib.sha256(b"napu development signing key").digest()
DEVELOPMENT_SERIAL = 1
DEVELOPMENT_ROOT_HASH = bytes.fromhex("3f38528ebd5319485ae255a43e19b2957f56c8c9e20341b2245bb919412963a0")
DEVELOPMENT_POLICY = Policy(DEVELOPMENT_ROOT_HASH)  # of an emulated board: all kinds of keys, no clock


def development_signer() -> Signer:
    """Return the development key with its certificate, which never expires."""
    root = Ed25519PrivateKey.from_private_bytes(DEVELOPMENT_ROOT)
    key = Ed25519PrivateKey.from_private_bytes(DEVELOPMENT_KEY)
    public = key.public_key().public_bytes_raw()
    return Signer(key, certify(root, public, KeyKind.DEVELOPMENT, DEVELOPMENT_SERIAL, NEVER))
