"""Type, length, value: an area of an image. Each type stands exactly once, in ascending order."""

import struct
from collections.abc import Mapping, Sequence

from firmware.image.errors import TamperedError

HEAD = struct.Struct(">HH")
MAX_VALUE = 0xFFFF


def encode_tlvs(values: Mapping[int, bytes]) -> bytes:
    """Return the bytes of an area; values have at most MAX_VALUE bytes."""
    return b"".join(HEAD.pack(kind, len(values[kind])) + values[kind] for kind in sorted(values))


def read_tlvs(area: bytes, kinds: Sequence[int], where: str) -> list[bytes]:
    """Return the values of an area that holds exactly these types, in this order.

    Args:
        area: The bytes.
        kinds: The types, ascending.
        where: What the area is called in the error.

    Raises:
        TamperedError: Another type stands there, one is missing, or a length goes beyond the area.
    """
    values, at = [], 0
    for kind in kinds:
        if at + HEAD.size > len(area):
            raise TamperedError(f"the {where} TLVs end before type {kind:#06x}")
        found, length = HEAD.unpack_from(area, at)
        if found != kind:
            raise TamperedError(f"type {found:#06x} among the {where} TLVs where {kind:#06x} must stand")
        at += HEAD.size
        if at + length > len(area):
            raise TamperedError(
                f"type {kind:#06x} among the {where} TLVs has {length} bytes, {len(area) - at} are there"
            )
        values.append(area[at : at + length])
        at += length
    if at != len(area):
        raise TamperedError(f"{len(area) - at} bytes follow the {where} TLVs")
    return values
