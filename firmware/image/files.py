"""Files of the tooling: read with a bound, written as a whole, and private ones for their owner's eyes alone."""

import os
import secrets
from pathlib import Path

from host_sdk.wire.errors import ConfigError

_PRIVATE = 0o600


def read_bounded(path: Path, most: int) -> bytes:
    """Return a file's bytes, or its first ``most + 1`` where it is longer, so that its reader sees that it is.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        return file.read(most + 1)


def write_file(path: Path, data: bytes) -> None:
    """Write a file that anybody may read, as a whole or not at all.

    Raises:
        OSError: It cannot be written.
    """
    temporary = path.with_name(path.name + "~")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def write_private(path: Path, data: bytes, *, force: bool) -> None:
    """Write a file that its owner alone may read; it never was anything else, not even while it was written.

    Args:
        path: Where to.
        data: What.
        force: Replace a file that is there; the old one stays whole until the new one is.

    Raises:
        ConfigError: There is one, and ``force`` is not set.
        OSError: It cannot be written.
    """
    # Not to be guessed, so that nobody can have a file or link of that name waiting in a shared directory.
    target = path.with_name(f"{path.name}.{secrets.token_hex(8)}~") if force else path
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _PRIVATE)
    except FileExistsError:
        raise ConfigError(f"{path} is there already; --force replaces it, and the key in it is lost") from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        target.replace(path)
    except OSError:
        target.unlink(missing_ok=True)
        raise
