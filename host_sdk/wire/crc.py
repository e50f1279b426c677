"""CRC-32C of plain bytes, for what is kept rather than sent; messages have ``host_sdk.wire.message.message_crc``."""

import google_crc32c


def crc32c(data: bytes) -> int:
    """Return the CRC-32C of these bytes, 0 to 2³² - 1."""
    crc: int = google_crc32c.value(data)
    return crc
