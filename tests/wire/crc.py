"""CRC-32C, one bit at a time: slow, and independent of the library that the codec uses."""

POLYNOMIAL = 0x82F63B78  # 0x1EDC6F41, reflected


def crc32c(data: bytes) -> int:
    """Return the CRC-32C of these bytes."""
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (POLYNOMIAL if register & 1 else 0)
    return register ^ 0xFFFFFFFF
