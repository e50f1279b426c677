"""What the boot ROM is made of, measured: the code that verifies, boots and measures, as this installation has it."""

import hashlib
from pathlib import Path

from host_sdk.wire.errors import DeviceError

# Below the directory that the packages are in. The board's code is the hardware that measures; the cable's is the
# library that the firmware uses.
PARTS = ("appliance/board", "firmware/boot", "firmware/image", "host_sdk/wire")
_ROOT = Path(__file__).parents[2]


def rom_digest(root: Path = _ROOT) -> bytes:
    """Return the SHA-256 of the ROM's listing: a line as of ``sha256sum`` for each source file, by path ascending.

    Args:
        root: Directory that the packages are in.

    Raises:
        DeviceError: The sources cannot be read, or are not there.
    """
    try:
        files = {
            path.relative_to(root).as_posix(): path.read_bytes()
            for part in PARTS
            for path in (root / part).rglob("*.py")
        }
    except OSError as error:
        raise DeviceError(f"the boot ROM's code in {root} cannot be read: {error}") from None
    if not all(any(name.startswith(f"{part}/") for name in files) for part in PARTS):
        raise DeviceError(f"{root} does not hold the boot ROM's code as source files")
    lines = (f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files))
    return hashlib.sha256("".join(lines).encode()).digest()
