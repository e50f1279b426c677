"""The boot state's bytes, written by hand from docs/firmware-boot.md, and its two copies on the chip."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware.boot.layout import Slot, layout_of
from firmware.boot.state import BootState, SlotRecord, SlotState, decode_state, encode_state
from firmware.boot.store import StateStore
from host_sdk.wire.errors import DeviceError
from tests.firmware.boot.rig import Rig
from tests.wire.crc import crc32c

BODY = (
    b"NAPUBOOT"
    + bytes.fromhex("0001 01 00 00000009 00000002 00000000")
    + bytes.fromhex("04 00 0000 00001234 00000001")
    + b"\xaa" * 32
    + bytes.fromhex("01 02 0000 00002000 00000000")
    + b"\xbb" * 32
    + bytes(12)
)
GOLDEN = BODY + crc32c(BODY).to_bytes(4)
STATE = BootState(
    active=Slot.B,
    slots=(
        SlotRecord(SlotState.CONFIRMED, 0, 0x1234, 1, b"\xaa" * 32),
        SlotRecord(SlotState.WRITING, 2, 0x2000, 0, b"\xbb" * 32),
    ),
    progress=2,
    sequence=9,
)
U32 = st.integers(0, 2**32 - 1)
RECORDS = st.builds(
    SlotRecord, st.sampled_from(SlotState), st.integers(0, 255), U32, U32, st.binary(min_size=32, max_size=32)
)
STATES = st.builds(BootState, st.sampled_from([Slot.A, Slot.B]), st.tuples(RECORDS, RECORDS), U32, U32)


def sealed(body: bytes) -> bytes:
    return body + crc32c(body).to_bytes(4)


def test_golden_state() -> None:
    assert len(GOLDEN) == 128
    assert encode_state(STATE) == GOLDEN
    assert decode_state(GOLDEN) == STATE


@given(STATES)
def test_what_is_encoded_is_decoded(state: BootState) -> None:
    assert decode_state(encode_state(state)) == state


@given(
    st.binary(max_size=200)
    | st.binary(min_size=124, max_size=124).map(sealed)
    | st.binary(min_size=116, max_size=116).map(lambda rest: sealed(b"NAPUBOOT" + rest))
    | st.binary(min_size=114, max_size=114).map(lambda rest: sealed(b"NAPUBOOT\0\1" + rest))
)
def test_any_bytes_are_a_state_with_this_encoding_or_one_error(raw: bytes) -> None:
    try:
        state = decode_state(raw)
    except DeviceError:
        return
    assert encode_state(state) == raw


@given(st.integers(0, 128 * 8 - 1))
def test_no_bit_can_be_turned(bit: int) -> None:
    raw = bytearray(GOLDEN)
    raw[bit // 8] ^= 1 << bit % 8
    with pytest.raises(DeviceError):
        decode_state(bytes(raw))


@pytest.mark.parametrize(
    ("offset", "value", "complaint"),
    [
        (0, 0x4D, "no boot state"),
        (9, 2, "another format"),
        (10, 2, "slot 2 is active"),
        (11, 1, "zeros must be"),
        (20, 1, "zeros must be"),
        (24, 6, "in a state that is none"),
        (26, 1, "zeros must be"),
        (68, 9, "in a state that is none"),
        (112, 1, "zeros must be"),
        (123, 1, "zeros must be"),
    ],
)
def test_what_a_right_crc_does_not_excuse(offset: int, value: int, complaint: str) -> None:
    body = bytearray(BODY)
    body[offset] = value
    with pytest.raises(DeviceError, match=complaint):
        decode_state(sealed(bytes(body)))


@pytest.mark.parametrize(("newer", "older"), [(1, 0), (0, 2**32 - 1), (2**31 - 1, 0), (5, 2**32 - 5)])
def test_sequences_go_round(newer: int, older: int) -> None:
    first, second = BootState(sequence=newer), BootState(sequence=older)
    assert first.newer_than(second)
    assert not second.newer_than(first)
    assert not first.newer_than(first)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def test_a_blank_chip_has_no_state(rig: Rig) -> None:
    store = StateStore(rig.chip, rig.layout)
    assert store.lost
    assert store.state == BootState()
    store.settle()
    assert rig.chip.wear(0) == rig.chip.wear(1) == 0


def test_the_older_copy_is_replaced(rig: Rig) -> None:
    store = StateStore(rig.chip, rig.layout)
    for tries in range(1, 6):
        store.save(store.state.marked(Slot.A, SlotState.TRYING, tries))
        again = StateStore(rig.chip, rig.layout)
        assert not again.lost
        assert again.state == store.state
        assert again.state.slot(Slot.A).tries == again.state.sequence == tries
    assert [rig.chip.wear(0), rig.chip.wear(1)] == [3, 2]
    assert decode_state(rig.chip.read(4096, 128)).sequence == 4


@pytest.mark.parametrize("newest", [0, 1])
def test_a_damaged_copy_is_survived_and_then_removed(rig: Rig, newest: int) -> None:
    store = StateStore(rig.chip, rig.layout)
    for _ in range(3 - newest):
        store.save(store.state)
    before = StateStore(rig.chip, rig.layout).state
    rig.chip.program(newest * 4096, bytes(16))
    store = StateStore(rig.chip, rig.layout)
    assert store.state.sequence == before.sequence - 1
    store.settle()
    assert rig.chip.read(newest * 4096, 4096) == b"\xff" * 4096
    store.save(store.state)
    assert StateStore(rig.chip, rig.layout).state.sequence == before.sequence


def test_marks_are_progress_that_the_next_save_keeps(rig: Rig) -> None:
    store = StateStore(rig.chip, rig.layout)
    store.save(replace(BootState(), progress=5))
    for _ in range(18):  # more than one unit of the journal
        store.mark()
    assert rig.chip.read(128, 20) == bytes(18) + b"\xff\xff"
    again = StateStore(rig.chip, rig.layout)
    assert again.state.progress == store.state.progress == 23
    again.mark()
    again.save(again.state)
    last = StateStore(rig.chip, rig.layout)
    assert last.state.progress == 24
    assert rig.chip.read(4096 + 128, 16) == b"\xff" * 16


class Sized:
    block_size, unit = 4096, 16

    def __init__(self, blocks: int) -> None:
        self.size = blocks * 4096


@pytest.mark.parametrize("blocks", [0, 1, 4, 2 + 3 * 3969])
def test_a_chip_of_a_wrong_size_is_refused(blocks: int) -> None:
    with pytest.raises(DeviceError, match="they have 1 to 3968"):
        layout_of(Sized(blocks))  # type: ignore[arg-type]


def test_the_layout_is_as_described() -> None:
    layout = layout_of(Sized(2 + 3 * 5 + 2))  # type: ignore[arg-type]
    assert layout.states == (0, 0x1000)
    assert layout.slots == (0x2000, 0x7000, 0xC000)
    assert layout.slot_size == 0x5000
