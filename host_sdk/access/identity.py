"""An identity as a directory: certificate, key, the authority's certificate, its list of revoked certificates."""

import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from host_sdk.wire.errors import ConfigError

AUTHORITY_FILE = "authority.pem"
CERTIFICATE_FILE = "certificate.pem"
KEY_FILE = "key.pem"
REVOKED_FILE = "revoked.pem"
DEVICES_FILE = "devices"
MAX_FILE = 1 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a client or a device is. Its parts are bytes, so that one can be held without a cryptographic library.

    Attributes:
        authority: Certificate of the authority that is trusted, PEM.
        certificate: The identity's own, PEM.
        key: Its private key, PEM.
        revoked: The authority's list of revoked certificates, PEM; perhaps empty.
        devices: Which device is expected at which address; elsewhere any of the authority's may answer.
    """

    authority: bytes
    certificate: bytes
    key: bytes = field(repr=False)
    revoked: bytes = b""
    devices: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, directory: str | Path) -> "Identity":
        """Read an identity as ``napu ca`` has made it.

        Raises:
            ConfigError: A file is missing, too long or not what it should be, or others may read the key.
        """
        path = Path(directory)
        key = path / KEY_FILE
        try:
            if stat.S_IMODE(key.stat().st_mode) & 0o077:
                raise ConfigError(f"others may read the key {key}; chmod 600 it, or have a new one made")
        except OSError as error:
            raise ConfigError(f"{path} holds no identity: {error.strerror}; 'napu ca user' makes one") from None
        return cls(
            authority=_read(path / AUTHORITY_FILE),
            certificate=_read(path / CERTIFICATE_FILE),
            key=_read(key),
            revoked=_optional(path / REVOKED_FILE),
            devices=_devices(path / DEVICES_FILE),
        )


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE + 1)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    if len(content) > MAX_FILE:
        raise ConfigError(f"{path} has more than {MAX_FILE} bytes")
    return content


def _optional(path: Path) -> bytes:
    return _read(path) if path.exists() else b""


def _devices(path: Path) -> dict[str, str]:
    """Read lines of address and device; what follows a # is a comment."""
    found = {}
    for number, line in enumerate(_optional(path).decode("utf-8", "replace").splitlines(), 1):
        words = line.partition("#")[0].split()
        if words and len(words) != 2:
            raise ConfigError(f"{path}:{number}: a line is an address and a device, with a space between")
        if words:
            found[words[0]] = words[1]
    return found
