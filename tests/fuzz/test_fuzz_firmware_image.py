"""Any bytes at all: an image, a certificate, a policy, a payload. One documented error, in bounded memory."""

import struct
import tracemalloc

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from firmware.image import read_image, verify_image
from firmware.image.build import build_image
from firmware.image.compare import payload_files
from firmware.image.errors import ImageError
from firmware.image.keys import read_certificate, read_private_pem, read_public_pem
from firmware.image.policy import Policy, parse_policy
from firmware.image.tlv import read_tlvs
from host_sdk.wire.errors import ConfigError
from tests.firmware.images import GOOD, POLICY, Parts, certificate

SPARE = 256 * 1024  # bytes that a refusal may take beside copies of what it was given
SIZES = st.one_of(st.sampled_from((0, 7, 87, 244, 0xFFFF, 8 << 20, 0xFFFF_FFFF)), st.integers(0, 0xFFFF_FFFF))


def refused(image: bytes) -> None:
    tracemalloc.start()
    try:
        verify_image(image, POLICY)
    except ImageError as error:
        assert type(error) is not ImageError
    else:
        raise AssertionError("it was taken")
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak <= SPARE + 8 * len(image)


@given(st.binary(max_size=600))
@example(b"")
@example(b"NAPUFW\0\0")
def test_any_bytes(raw: bytes) -> None:
    refused(raw)
    refused(GOOD[:96] + raw)
    refused(GOOD[: 96 + 7] + raw)
    refused(GOOD[:8] + raw)


@given(SIZES, SIZES, SIZES, st.binary(max_size=400))
@example(0xFFFF_FFFF, 0xFFFF_FFFF, 0xFFFF_FFFF, b"")
def test_any_sizes(payload: int, protected: int, signatures: int, rest: bytes) -> None:
    header = b"NAPUFW\0\0" + struct.pack(">HHIIIII", 1, 96, 0, payload, protected, signatures, 5)
    refused(header + GOOD[32:96] + rest)


@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(1, 255)), min_size=1, max_size=8))
def test_any_changes(changes: list[tuple[int, int]]) -> None:
    image = bytearray(GOOD)
    for at, mask in changes:
        image[at] ^= mask
    if image != GOOD:
        refused(bytes(image))


@given(st.integers(0, len(GOOD)), st.integers(0, len(GOOD)), st.binary(max_size=200))
def test_anything_cut_out_and_put_in(begin: int, end: int, between: bytes) -> None:
    image = GOOD[:begin] + between + GOOD[end:]
    if image != GOOD:
        refused(image)


@given(st.binary(max_size=200))
def test_any_protected_tlvs_even_when_they_are_signed(area: bytes) -> None:
    """Whoever holds a signing key may still be wrong, or hostile to the parser."""
    try:
        verify_image(Parts(protected=area).image(), POLICY)
    except ImageError:
        return
    raise AssertionError("the digest cannot have matched")


@given(st.binary(max_size=80), st.lists(st.integers(0, 5), max_size=4))
def test_tlvs_that_are_taken_are_the_whole_area(area: bytes, kinds: list[int]) -> None:
    try:
        values = read_tlvs(area, kinds, "test")
    except ImageError:
        return
    assert area == b"".join(
        struct.pack(">HH", kind, len(value)) + value for kind, value in zip(kinds, values, strict=True)
    )


@given(st.binary(min_size=150, max_size=170), st.integers(0, 159), st.integers(1, 255))
def test_any_certificate(raw: bytes, at: int, mask: int) -> None:
    good = bytearray(certificate())
    good[at] ^= mask
    for data in (raw, bytes(good)):
        try:
            found = read_certificate(data)
        except ImageError:
            continue
        assert not found.root_signed()


@given(st.binary(max_size=300))
def test_any_key_files(raw: bytes) -> None:
    for data in (
        raw,
        b"-----BEGIN PRIVATE KEY-----\n" + raw + b"\n-----END PRIVATE KEY-----\n",
        b"-----BEGIN PUBLIC KEY-----\n" + raw + b"\n-----END PUBLIC KEY-----\n",
    ):
        with pytest.raises(ConfigError):
            read_private_pem(data)
        with pytest.raises(ConfigError):
            read_public_pem(data)


@given(st.text(max_size=200))
@example("root_hash = " + "9" * 5000)
@example("root_hash = " + "[" * 5000)
@example("root_hash = 2026-01-01")
def test_any_policy(text: str) -> None:
    for policy in (text, f"root_hash = '{'00' * 32}'\n{text}"):
        try:
            assert isinstance(parse_policy(policy), Policy)
        except ConfigError:
            continue


VALUES = st.recursive(
    st.one_of(st.booleans(), st.integers(-(2**70), 2**70), st.text("abdelopmnvrs", max_size=12)),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=6,
)


def toml(value: object) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return str(value).lower() if isinstance(value, bool) else f"'{value}'" if isinstance(value, str) else str(value)


@given(st.dictionaries(st.sampled_from(("root_hash", "hardware", "lowest_counter", "revoked", "kinds", "now")), VALUES))
def test_any_values_in_a_policy(values: dict[str, object]) -> None:
    text = "".join(f"{key} = {toml(value)}\n" for key, value in ({"root_hash": "00" * 32} | values).items())
    try:
        policy = parse_policy(text)
    except ConfigError:
        return
    assert isinstance(policy.lowest_counter, int)
    assert not isinstance(policy.lowest_counter, bool)
    assert all(isinstance(serial, int) for serial in policy.revoked)


PAYLOAD = read_image(build_image()).payload
DIRECTORY = len(PAYLOAD) - 3000  # where the zip says what it holds, more or less


@given(st.binary(max_size=200), st.one_of(st.integers(0, len(PAYLOAD)), st.integers(DIRECTORY, len(PAYLOAD))))
def test_any_payload(raw: bytes, at: int) -> None:
    for payload in (raw, PAYLOAD[:at] + raw + PAYLOAD[at + len(raw) :]):
        try:
            files = payload_files(payload)
        except ImageError:
            continue
        assert all(len(digest) == 64 for digest in files.values())
