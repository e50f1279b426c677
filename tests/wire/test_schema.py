"""The schema: sizes, alignment, uniqueness, and that a misplaced field cannot be stated."""

import struct
from enum import IntEnum
from typing import Any

import pytest

from host_sdk.wire import schema
from host_sdk.wire.header import HEADER_DTYPE, TRAILER_DTYPE
from host_sdk.wire.schema import Field, Flag, Layout, Opcode

LAYOUTS = [
    (schema.REQUEST_HEADER, 32),
    (schema.REPLY_HEADER, 32),
    (schema.TRAILER, 64),
    (schema.EXTENSION, 4),
    (schema.EXTENSION_BLOCK, 4),
]
each = pytest.mark.parametrize(("layout", "size"), LAYOUTS, ids=lambda value: getattr(value, "name", str(value)))


@each
def test_size(layout: Layout, size: int) -> None:
    assert layout.size == size
    assert struct.calcsize(layout.struct_format) == size
    assert struct.calcsize(layout.struct_format.replace(">", "@")) == size  # no gap where C would leave none


@each
def test_fields_are_naturally_aligned_and_follow_one_another(layout: Layout, size: int) -> None:
    end = 0
    for field, offset in layout.placed():
        assert offset == end
        assert offset % field.width == 0
        end = offset + field.size
    assert end == size


@pytest.mark.parametrize("layout", [layout for layout, _ in LAYOUTS], ids=lambda layout: layout.name)
def test_names_are_unique_and_explained(layout: Layout) -> None:
    names = [field.name for field in layout.fields]
    assert len(set(names)) == len(names)
    assert all(field.name.isidentifier() and field.meaning.endswith(".") for field in layout.fields)


def test_request_and_reply_differ_in_the_last_four_bytes_only() -> None:
    request, reply = schema.REQUEST_HEADER.placed(), schema.REPLY_HEADER.placed()
    assert request[:-1] == reply[:-2]
    assert request[-1][1] == reply[-2][1] == 28
    assert schema.HEADER_SIZE == 32


def test_numpy_types_have_the_fields_at_the_same_places() -> None:
    for dtype, layouts in ((HEADER_DTYPE, LAYOUTS[:2]), (TRAILER_DTYPE, LAYOUTS[2:3])):
        placed = {field.name: (field, offset) for layout, _ in layouts for field, offset in layout.placed()}
        assert dtype.itemsize == layouts[0][1]
        assert set(dtype.names or ()) == set(placed)
        for name, (field, offset) in placed.items():
            assert dtype.fields is not None
            assert (dtype[name].str, dtype.fields[name][1]) == (np_name(field), offset)


def np_name(field: Field) -> str:
    return f"|u{field.width}" if field.width == 1 else f">u{field.width}"


def test_an_array_is_one_field_of_several_elements() -> None:
    layout = Layout("arrays", (Field("first", 4, "."), Field("many", 2, ".", count=6)))
    assert layout.size == 16
    assert layout.struct_format == ">I6H"
    assert [offset for _, offset in layout.placed()] == [0, 4]


@pytest.mark.parametrize(
    "fields",
    [
        (Field("a", 1, "."), Field("b", 2, ".")),  # not aligned
        (Field("a", 4, "."), Field("b", 8, ".")),
        (Field("a", 3, "."),),  # no such width
        (Field("a", 16, "."),),
        (Field("a", 2, "."), Field("a", 2, ".")),  # twice the same name
    ],
)
def test_a_misplaced_field_cannot_be_stated(fields: tuple[Field, ...]) -> None:
    with pytest.raises(ValueError, match=f"layout broken: field {fields[-1].name} at .* is misplaced"):
        Layout("broken", fields)


@pytest.mark.parametrize(
    ("codes", "meanings"),
    [
        (schema.Opcode, schema.OPCODE_MEANING),
        (schema.Flag, schema.FLAG_MEANING),
        (schema.Status, schema.STATUS_MEANING),
        (schema.DropReason, schema.DROP_MEANING),
    ],
)
def test_every_code_has_one_meaning(codes: Any, meanings: dict[IntEnum, str]) -> None:
    assert list(meanings) == list(codes)
    assert len(set(meanings.values())) == len(meanings)
    assert len(codes.__members__) == len(list(codes))  # no number has two names
    assert all(meaning.endswith((".", "?")) for meaning in meanings.values())


def test_every_request_has_a_reply_and_every_reply_a_request() -> None:
    requests = {opcode for opcode in Opcode if not opcode & schema.REPLY_BIT}
    assert {opcode | schema.REPLY_BIT for opcode in requests} == set(Opcode) - requests
    assert all(0 < opcode < 256 for opcode in Opcode)


def test_flags_are_single_bits_and_unknown_ones_are_refused() -> None:
    assert all(int(flag).bit_count() == 1 for flag in Flag)
    assert sum(Flag) == schema.KNOWN_FLAGS | Flag.SEALED  # which no message has
    assert not schema.KNOWN_FLAGS & Flag.SEALED
    with pytest.raises(ValueError, match="invalid value"):
        Flag(sum(Flag) + 1)


def test_a_refusal_fits_every_link() -> None:
    assert schema.HEADER_SIZE + schema.MAX_DETAIL + schema.CRC_SIZE <= schema.MIN_MTU


def test_numbers_that_are_assigned_outside() -> None:
    assert schema.ETHERTYPE == 0x88B5  # IEEE 802: local experimental EtherType 1
    assert schema.UDP_PORT == 34997
