"""Building an image from the firmware's sources: the same sources give the same bytes, anywhere."""

import io
import zipfile
from pathlib import Path

from firmware.image.development import development_signer
from firmware.image.format import Content, Terms, encode_image
from firmware.image.keys import Signer
from firmware.version import VERSION
from host_sdk.wire.errors import ConfigError, DeviceError

SOURCES = Path(__file__).parents[1]
NAME = "napu"
ENTRY = "firmware.main:main"
_PACKAGE = "firmware"
_VERSION_FILE = "version.py"
_VERSION_TEXT = '"""The version of this firmware."""\n\nVERSION = "{}"\n'
_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can say
_UNIX = 3
_MODE = 0o100644
_TERMS = Terms()


def build_image(
    version: str = VERSION, source: Path = SOURCES, terms: Terms = _TERMS, signer: Signer | None = None
) -> bytes:
    """Build a signed image.

    Args:
        version: What the firmware shall say that it is.
        source: Directory of the ``firmware`` package.
        terms: Where and for how long it may be booted.
        signer: Key to sign with; the published development key if None.

    Raises:
        DeviceError: The sources cannot be read.
        ConfigError: The version, the terms or the sources' size is not one that an image can have.
    """
    files = _read_sources(source)
    files[_VERSION_FILE] = _VERSION_TEXT.format(version).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(f"{_PACKAGE}/{name}", _DATE)
            entry.create_system = _UNIX
            entry.external_attr = _MODE << 16
            archive.writestr(entry, files[name])
    content = Content(NAME, version, ENTRY, {"files": str(len(files))}, buffer.getvalue())
    return encode_image(content, terms, signer or development_signer())


def _read_sources(source: Path) -> dict[str, bytes]:
    try:
        files = {path.relative_to(source).as_posix(): path.read_bytes() for path in source.rglob("*.py")}
    except OSError as error:
        raise DeviceError(f"the firmware's sources in {source} cannot be read: {error}") from None
    if "main.py" not in files:
        raise ConfigError(f"{source} has no main.py; give the directory of the firmware package")
    return files
