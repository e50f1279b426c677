"""The device key: what an appliance signs quotes with, made once in its life, and never anywhere but in its file."""

import hashlib
import os
import stat
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from appliance.board.flash import Flash
from host_sdk.wire.attest.quote import signed_bytes
from host_sdk.wire.errors import DeviceError

KEY_FILE = "DEVICE-KEY"  # in the flash's directory; no object can be named so
KEY_OBJECT = "board/device-key"  # the public half in hex: says that there was a key, and which

_UNFINISHED = "DEVICE-KEY.unfinished~"  # removed where it is found, as every object that was not written to its end
_MAGIC = b"NAPUDKEY"
_SEED_SIZE = 32
_CHECK_SIZE = 16  # first bytes of the SHA-256 of magic and seed
_FILE_SIZE = len(_MAGIC) + _SEED_SIZE + _CHECK_SIZE
_LOST = "a device without its key has lost its identity: bring the file back from a copy of the flash"


class DeviceKey:
    """The device key of one board.

    Args:
        seed: The private key, 32 bytes.

    Attributes:
        public: The public key, 32 bytes.
    """

    def __init__(self, seed: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = self._key.public_key().public_bytes_raw()

    def sign(self, quote: bytes) -> bytes:
        """Return the signature, 64 bytes, of a quote; the key signs nothing else."""
        return self._key.sign(signed_bytes(quote))


def open_device_key(flash: Flash) -> DeviceKey:
    """Return the key of a device; one that never had any is given one.

    Raises:
        DeviceError: The file is damaged, gone, another device's, open to others, or cannot be used. It is left as it
            is, as a new key would be a new identity.
    """
    path = flash.directory / KEY_FILE
    known = flash.read(KEY_OBJECT).decode("ascii", "replace") if KEY_OBJECT in flash.list() else ""
    try:
        if not path.exists():
            if known:
                raise DeviceError(f"device key {path} is gone; {_LOST}")
            _write(flash.directory, os.urandom(_SEED_SIZE))
        key = DeviceKey(_read(path))
    except OSError as error:
        raise DeviceError(f"device key {path} cannot be used: {error.strerror or error}") from None
    if not known:
        flash.write(KEY_OBJECT, key.public.hex().encode())
    elif known != key.public.hex():
        raise DeviceError(f"device key {path} is not the one that this device has had; {_LOST}")
    return key


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
            raise DeviceError(f"others may read the device key {path}; chmod 600 it, if they have not")
        data = file.read(_FILE_SIZE + 1)
    seed = data[len(_MAGIC) : len(_MAGIC) + _SEED_SIZE]
    if data != _encoded(seed):
        raise DeviceError(f"device key {path} is damaged; {_LOST}")
    return seed


def _write(directory: Path, seed: bytes) -> None:
    unfinished = directory / _UNFINISHED
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(_encoded(seed))
        file.flush()
        os.fsync(descriptor)
    unfinished.replace(directory / KEY_FILE)
    folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _encoded(seed: bytes) -> bytes:
    return _MAGIC + seed + hashlib.sha256(_MAGIC + seed).digest()[:_CHECK_SIZE]
