"""What GRANT and RESEND say: bytes by hand from the text, both ways, and whatever else may come."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from host_sdk.wire.errors import FrameError, LocalProtocolError
from host_sdk.wire.exchange.arrived import Arrived
from host_sdk.wire.schema import DropReason

LONGEST = 128  # bytes of a bitmap
GOLDEN = [
    # INFER; fragments 0 and 1, then 3 and 5 have arrived; up to 8 from 2 on may be under way.
    ("10 00 0008 00000002  50", Arrived(0x10, 2, 8, b"\x50"), [1, 1, 0, 1, 0, 1, 0]),
    # RESULT; nothing but fragment 8, of 9: bit 7 - 8 mod 8 of byte 1.
    ("90 00 0001 00000000  00 80", Arrived(0x90, 0, 1, b"\x00\x80"), [0, 0, 0, 0, 0, 0, 0, 0, 1]),
    # CONTROL; all three, nothing to be said behind them.
    ("04 00 ffff 00000003", Arrived(0x04, 3, 0xFFFF), [1, 1, 1]),
    # CONTROLLED; nothing at all.
    ("84 00 0020 00000000", Arrived(0x84, 0, 32), [0, 0, 0, 0]),
]


@pytest.mark.parametrize(("text", "arrived", "have"), GOLDEN)
def test_golden_bytes(text: str, arrived: Arrived, have: list[int]) -> None:
    body = bytes.fromhex(text)
    assert arrived.encode() == body
    assert Arrived.decode(body) == arrived
    assert arrived.have(len(have)).tolist() == [bool(one) for one in have]
    assert Arrived.of(arrived.opcode, np.array(have, np.bool_), arrived.window) == arrived


def test_the_reserved_byte_is_ignored() -> None:
    assert Arrived.decode(bytes.fromhex("10 7f 0008 00000002 50")) == Arrived(0x10, 2, 8, b"\x50")


@given(
    opcode=st.sampled_from([0x04, 0x10, 0x84, 0x90]),
    have=st.lists(st.booleans(), min_size=1, max_size=1500),
    window=st.integers(0, 0xFFFF),
)
def test_what_is_said_comes_back(opcode: int, have: list[bool], window: int) -> None:
    there = np.array(have, np.bool_)
    said = Arrived.decode(Arrived.of(opcode, there, window).encode())
    assert (said.opcode, said.window) == (opcode, max(1, window))
    assert said.base == (have.index(False) if False in have else len(have))
    back = said.have(len(have)).tolist()
    reach = said.base + 8 * LONGEST
    assert back[:reach] == have[:reach]
    assert not any(back[reach:])  # of those nothing is said
    assert len(said.bitmap) <= LONGEST
    assert said.bitmap == b"" or said.bitmap[-1]  # it ends with the last fragment that is there


@given(st.binary(max_size=150))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    try:
        said = Arrived.decode(body)
    except FrameError as error:
        assert error.reason == DropReason.NOT_KNOWN
        assert not 8 <= len(body) <= 8 + LONGEST or body[2:4] == b"\x00\x00"
        return
    assert said.encode() == bytes([body[0], 0]) + body[2:]
    assert len(said.have(40)) == 40


@given(base=st.integers(0, 0xFFFF_FFFF), bitmap=st.binary(max_size=LONGEST), fragments=st.integers(1, 65536))
def test_a_message_is_never_said_to_have_more_fragments_than_it_has(base: int, bitmap: bytes, fragments: int) -> None:
    have = Arrived(0x10, base, 1, bitmap).have(fragments)
    assert len(have) == fragments
    assert have[:base].all()
    for index in range(base, min(fragments, base + 8 * len(bitmap))):
        at = index - base
        assert have[index] == bool(bitmap[at // 8] >> (7 - at % 8) & 1)
    assert not have[base + 8 * len(bitmap) :].any()


def test_the_bitmap_has_at_most_128_bytes() -> None:
    have = np.ones(3000, np.bool_)
    have[0] = False
    said = Arrived.of(0x10, have, 4)
    assert (said.base, len(said.bitmap)) == (0, LONGEST)
    assert Arrived.decode(said.encode() + b"").bitmap == b"\x7f" + b"\xff" * (LONGEST - 1)
    with pytest.raises(FrameError):
        Arrived.decode(said.encode() + b"\x00")


def test_a_value_that_does_not_fit_is_refused() -> None:
    for arrived in (Arrived(256, 0, 1), Arrived(0, 1 << 32, 1), Arrived(0, 0, 1 << 16), Arrived(0, -1, 1)):
        with pytest.raises(LocalProtocolError):
            arrived.encode()


def test_a_window_reaches_over_what_has_arrived_as_far_as_the_bitmap_tells() -> None:
    def window(there: str, most: int) -> int:
        said = Arrived.reaching(0x10, 7, np.array([digit == "1" for digit in there], np.bool_), most)
        assert said.base == 7
        assert said.among(np.arange(7, 7 + len(there))).tolist() == [digit == "1" for digit in there]
        return said.window

    assert window("", 4) == 4
    assert window("0000", 2) == 2
    assert window("0111", 1) == 1
    assert window("0111", 2) == 5  # the first, and one behind those that are there
    assert window("01011", 3) == 6
    assert window("0" + "1" * 1023, 2) == 1024  # of what lies behind, the bitmap cannot tell
    assert window("0" + "1" * 1023, 2000) == 2000
