from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware.packing import NESTED, MapReader

SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary()
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10)


def read(data: bytes) -> dict[str, Any]:
    reader = MapReader(data)
    found = {key: reader.value() for key in reader.map_keys()}
    reader.end()
    return found


@given(st.dictionaries(st.text(), VALUES, max_size=64))
def test_scalars_come_as_msgpack_says_and_the_rest_as_nested(content: dict[str, Any]) -> None:
    expected = {key: NESTED if isinstance(value, list | dict) else value for key, value in content.items()}
    assert read(msgpack.packb(content)) == expected


def test_extensions_are_not_unpacked() -> None:
    assert read(msgpack.packb({"a": msgpack.ExtType(5, b"x"), "b": msgpack.Timestamp(1)})) == {"a": NESTED, "b": NESTED}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "ends early"),
        (b"\x81", "ends early"),
        (b"\x81\xa1a", "ends early"),
        (b"\x81\xa1a\xc0\xc0", "1 bytes follow"),
        (b"\x81\x01\xc0", "no text"),
        (b"\x81\x90\xc0", "no text"),
        (b"\x81\xc4\x01a\xc0", "no text"),
        (b"\xdf\xff\xff\xff\xff", "4294967295 keys"),
        (b"\xde\x00\x41" + b"\xa0\xc0" * 65, "65 keys"),
        (b"\x81\xa1a\xdd\xff\xff\xff\xff", "ends early"),
        (b"\x81\xa1a\xdb\xff\xff\xff\xff", "ends early"),
        (b"\x81\xa1a\xc6\xff\xff\xff\xff", "ends early"),
        (b"\x81\xa1a\xc1", "no msgpack"),
        (b"\x81\xa1\xff\xc0", "utf-8"),
        (b"\x81\xa1a" + b"\x91" * 5000, "nested too deeply"),
        (b"\x93\x01\x02\x03", "Unexpected type|Expected map"),
    ],
)
def test_every_way_of_being_wrong_is_a_value_error(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read(data)


@given(st.binary(max_size=100))
def test_any_bytes_are_a_map_or_a_value_error(raw: bytes) -> None:
    for data in (raw, b"\x81\xa1a" + raw, b"\x82\xa1a" + raw):
        try:
            read(data)
        except ValueError:
            continue
