"""Fuses: what is blown stays blown, and what was torn is completed or known to be incomplete."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.board.fuses import MAX_REVOKED, MAX_SECURITY_COUNTER, WORDS, Fuses, Lifecycle
from appliance.board.power import Cut, Moment, Operation, PowerSupply
from host_sdk.wire.errors import DeviceError, PowerCutError
from tests.wire.crc import crc32c

DIGEST = bytes(range(32))
OTHER = bytes(range(1, 33))
EVERY = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


class CutAt(PowerSupply):
    """Power that is cut at the blow of this number, once."""

    def __init__(self, number: int, moment: Moment, seed: int) -> None:
        super().__init__()
        self.left, self.moment, self.tearing = number, moment, random.Random(seed)

    def cut(self, operation: Operation) -> Cut | None:
        if operation is not Operation.BLOW:
            return None
        self.left -= 1
        return Cut(self.moment, self.tearing) if self.left == -1 else None


@pytest.fixture
def fuses(tmp_path: Path) -> Fuses:
    return Fuses(tmp_path / "fuses")


def over_every_cut(path: Path, action: Callable[[Fuses], None], blows: int, seed: int) -> list[Fuses]:
    """Return fuses on which an action was cut at each of its blows, at each moment, power back on."""
    found = []
    for number in range(blows):
        for moment in Moment:
            path.unlink(missing_ok=True)
            power = CutAt(number, moment, seed)
            fuses = Fuses(path, power)
            with pytest.raises(PowerCutError):
                action(fuses)
            power.power_on()
            found.append(fuses)
    return found


def test_new_fuses_are_a_board_in_development(fuses: Fuses) -> None:
    assert fuses.lifecycle is Lifecycle.DEVELOPMENT
    assert fuses.root_key_hash is None
    assert fuses.revoked == frozenset()
    assert fuses.security_counter == 0


def test_the_file_is_as_described(tmp_path: Path, fuses: Fuses) -> None:
    fuses.release()
    fuses.blow_root_key_hash(DIGEST)
    fuses.revoke(7)
    fuses.raise_security_counter(34)
    words = b"\xff" * 4 + DIGEST + crc32c(DIGEST).to_bytes(4) + bytes.fromhex("00000007 fffffff8") + bytes(4 * 30)
    words += bytes.fromhex("ffffffff 00000003") + bytes(4 * 6)
    assert (tmp_path / "fuses").read_bytes() == words.ljust(4 * 64, b"\0")


def test_they_outlive_the_power(tmp_path: Path, fuses: Fuses) -> None:
    fuses.release()
    fuses.blow_root_key_hash(DIGEST)
    fuses.revoke(0)
    fuses.revoke(0xFFFFFFFF)
    fuses.raise_security_counter(3)
    fuses.close()
    fuses.close()
    again = Fuses(tmp_path / "fuses")
    assert (again.lifecycle, again.root_key_hash) == (Lifecycle.RELEASE, DIGEST)
    assert (again.revoked, again.security_counter) == ({0, 0xFFFFFFFF}, 3)


@given(st.lists(st.tuples(st.integers(0, WORDS - 1), st.integers(0, 0xFFFFFFFF)), max_size=20))
@EVERY
def test_bits_only_turn_from_0_to_1(tmp_path: Path, blows: list[tuple[int, int]]) -> None:
    (tmp_path / "fuses").unlink(missing_ok=True)
    fuses, model = Fuses(tmp_path / "fuses"), [0] * WORDS
    for word, bits in blows:
        fuses.blow(word, bits)
        model[word] |= bits
    assert [fuses.read(word) for word in range(WORDS)] == model
    fuses.close()


@pytest.mark.parametrize(("word", "bits"), [(-1, 1), (WORDS, 1), (0, -1), (0, 1 << 32)])
def test_what_is_no_word_is_refused(fuses: Fuses, word: int, bits: int) -> None:
    with pytest.raises(DeviceError):
        fuses.blow(word, bits)
    assert fuses.lifecycle is Lifecycle.DEVELOPMENT


def test_the_root_key_is_blown_once(fuses: Fuses) -> None:
    fuses.blow_root_key_hash(DIGEST)
    fuses.blow_root_key_hash(DIGEST)
    with pytest.raises(DeviceError, match="another root key"):
        fuses.blow_root_key_hash(OTHER)
    with pytest.raises(DeviceError, match="31 bytes are no SHA-256"):
        fuses.blow_root_key_hash(DIGEST[1:])
    assert fuses.root_key_hash == DIGEST


@pytest.mark.parametrize("seed", range(5))
def test_a_torn_root_key_is_never_taken_for_one_and_can_be_completed(tmp_path: Path, seed: int) -> None:
    for fuses in over_every_cut(tmp_path / "fuses", lambda fuses: fuses.blow_root_key_hash(DIGEST), 9, seed):
        try:
            assert fuses.root_key_hash in (None, DIGEST)
        except DeviceError as error:
            assert "blow the same again" in str(error)
        fuses.blow_root_key_hash(DIGEST)
        assert fuses.root_key_hash == DIGEST
        fuses.close()


@pytest.mark.parametrize("seed", range(5))
def test_a_torn_revocation_revokes_nobody_else(tmp_path: Path, seed: int) -> None:
    serial, other = 0x1234_5678, 0x0BAD_CAFE
    for fuses in over_every_cut(tmp_path / "fuses", lambda fuses: fuses.revoke(serial), 2, seed):
        assert fuses.revoked <= {serial}
        fuses.revoke(other)
        fuses.revoke(serial)
        assert fuses.revoked == {serial, other}
        fuses.close()


def test_revoking_again_takes_no_room_and_there_is_an_end(fuses: Fuses) -> None:
    for serial in [*range(MAX_REVOKED), *range(MAX_REVOKED)]:
        fuses.revoke(serial)
    with pytest.raises(DeviceError, match="no room"):
        fuses.revoke(MAX_REVOKED)
    for serial in (-1, 1 << 32):
        with pytest.raises(DeviceError, match="no serial number"):
            fuses.revoke(serial)
    assert fuses.revoked == frozenset(range(MAX_REVOKED))


def test_a_torn_release_is_none_or_a_release(tmp_path: Path) -> None:
    for fuses in over_every_cut(tmp_path / "fuses", Fuses.release, 1, 0):
        assert fuses.lifecycle is (Lifecycle.RELEASE if fuses.read(0) else Lifecycle.DEVELOPMENT)
        fuses.release()
        assert fuses.read(0) == 0xFFFFFFFF
        fuses.close()


@given(st.lists(st.integers(-5, MAX_SECURITY_COUNTER), max_size=6))
@EVERY
def test_the_counter_never_falls(tmp_path: Path, values: list[int]) -> None:
    (tmp_path / "fuses").unlink(missing_ok=True)
    fuses, highest = Fuses(tmp_path / "fuses"), 0
    for value in values:
        fuses.raise_security_counter(value)
        highest = max(highest, value)
        assert fuses.security_counter == highest
    fuses.close()


def test_the_counter_has_an_end(fuses: Fuses) -> None:
    fuses.raise_security_counter(MAX_SECURITY_COUNTER)
    assert fuses.security_counter == 256
    with pytest.raises(DeviceError, match="count to 256, not to 257"):
        fuses.raise_security_counter(257)


@pytest.mark.parametrize("seed", range(5))
def test_a_torn_counter_is_between_and_can_be_completed(tmp_path: Path, seed: int) -> None:
    for fuses in over_every_cut(tmp_path / "fuses", lambda fuses: fuses.raise_security_counter(40), 2, seed):
        assert 0 <= fuses.security_counter <= 40
        fuses.raise_security_counter(40)
        assert fuses.security_counter == 40
        fuses.raise_security_counter(41)
        assert fuses.security_counter == 41
        fuses.close()


@pytest.mark.parametrize("content", [b"", bytes(255), bytes(257)])
def test_a_file_that_holds_no_fuses_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "fuses").write_bytes(content)
    with pytest.raises(DeviceError, match="bytes instead of 256"):
        Fuses(tmp_path / "fuses")


def test_a_file_that_vanishes_or_cannot_be_made_is_an_error(tmp_path: Path, fuses: Fuses) -> None:
    (tmp_path / "fuses").write_bytes(b"")
    with pytest.raises(DeviceError, match="cut short"):
        fuses.read(0)
    with pytest.raises(DeviceError, match="cannot be used"):
        Fuses(tmp_path / "nowhere" / "fuses")
