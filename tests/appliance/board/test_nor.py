"""The NOR chip, held against the description of its file and against what a torn operation may leave."""

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.board.nor import BLOCK_SIZE, MAX_BLOCKS, UNIT, Nor
from appliance.board.power import Cut, Moment, Operation, PowerSupply
from host_sdk.wire.errors import DeviceError, PowerCutError
from tests.wire.crc import crc32c

BLANK = b"\xff" * BLOCK_SIZE
EVERY = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


class OneCut(PowerSupply):
    """Power that is cut at the next change, once a moment is set."""

    def __init__(self) -> None:
        super().__init__()
        self.moment: Moment | None = None
        self.tearing = random.Random(0)

    def cut(self, operation: Operation) -> Cut | None:
        if self.moment is None or operation is Operation.READ:
            return None
        cut, self.moment = Cut(self.moment, self.tearing), None
        return cut


@pytest.fixture
def chip(tmp_path: Path) -> Nor:
    return Nor(tmp_path / "nor", 4)


def cut_chip(path: Path, moment: Moment, seed: int) -> tuple[Nor, OneCut]:
    path.unlink(missing_ok=True)
    power = OneCut()
    chip = Nor(path, 2, power)
    chip.program(0, b"\x0f" * BLOCK_SIZE)
    power.moment, power.tearing = moment, random.Random(seed)
    return chip, power


def test_a_new_chip_is_erased(chip: Nor) -> None:
    assert chip.size == 4 * 4096
    assert chip.read(0, chip.size) == BLANK * 4


def test_the_file_is_as_described(tmp_path: Path, chip: Nor) -> None:
    chip.erase(BLOCK_SIZE)
    chip.erase(BLOCK_SIZE)
    chip.program(2 * BLOCK_SIZE, bytes(range(16)))
    head = b"NAPUNOR\0" + bytes.fromhex("00001000 00000010 00000004")
    wear = bytes.fromhex("00000000 00000002 00000000 00000000")
    start = (head + crc32c(head).to_bytes(4) + wear).ljust(4096, b"\0")
    content = BLANK * 2 + bytes(range(16)) + BLANK[16:] + BLANK
    assert (tmp_path / "nor").read_bytes() == start + content


def test_programming_only_clears_bits(chip: Nor) -> None:
    chip.program(32, b"\x0f" * 16)
    chip.program(32, b"\x03" * 16)
    assert chip.read(31, 18) == b"\xff" + b"\x03" * 16 + b"\xff"
    with pytest.raises(DeviceError, match="from 0 to 1"):
        chip.program(32, b"\x03" * 15 + b"\x07")
    assert chip.read(32, 16) == b"\x03" * 16


def test_erasing_sets_all_bits_of_one_block(chip: Nor) -> None:
    for block in range(3):
        chip.program(block * BLOCK_SIZE, bytes(BLOCK_SIZE))
    chip.erase(BLOCK_SIZE)
    assert chip.read(0, 3 * BLOCK_SIZE) == bytes(BLOCK_SIZE) + BLANK + bytes(BLOCK_SIZE)
    assert [chip.wear(block) for block in range(4)] == [0, 1, 0, 0]


@pytest.mark.parametrize(
    ("address", "length"),
    [(-1, 1), (0, 4 * 4096 + 1), (4 * 4096, 1), (0, -1), (1 << 70, 16), (0, 1 << 70)],
)
def test_what_is_not_on_the_chip_cannot_be_read(chip: Nor, address: int, length: int) -> None:
    with pytest.raises(DeviceError, match="not all on"):
        chip.read(address, length)


def test_programs_and_erases_are_aligned_and_on_the_chip(chip: Nor) -> None:
    for address, data in ((8, bytes(16)), (0, bytes(15)), (-16, bytes(16)), (4 * 4096, bytes(16))):
        with pytest.raises(DeviceError):
            chip.program(address, data)
    for address in (16, -4096, 4 * 4096):
        with pytest.raises(DeviceError):
            chip.erase(address)
    for block in (-1, 4):
        with pytest.raises(DeviceError):
            chip.wear(block)
    assert chip.read(0, chip.size) == BLANK * 4
    assert [chip.wear(block) for block in range(4)] == [0] * 4


def test_operations_are_counted(chip: Nor) -> None:
    chip.erase(0)
    chip.program(0, bytes(16))
    chip.read(0, 1)
    assert chip.operations == 3


def test_it_outlives_a_killed_process(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from appliance.board.nor import Nor\n"
        "chip = Nor(Path(sys.argv[1]), 4); chip.erase(4096); chip.program(4096, bytes(32))\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, tmp_path / "nor"], check=False).returncode == -9
    chip = Nor(tmp_path / "nor", 4)
    assert chip.read(4096, 48) == bytes(32) + b"\xff" * 16
    assert chip.wear(1) == 1


def test_a_file_in_use_is_refused(tmp_path: Path) -> None:
    first = Nor(tmp_path / "nor", 4)
    with pytest.raises(DeviceError, match="another process"):
        Nor(tmp_path / "nor", 4)
    first.close()
    first.close()
    Nor(tmp_path / "nor", 4).close()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda raw: raw[:0], "no NOR flash of 4"),
        (lambda raw: b"X" + raw[1:], "no NOR flash of 4"),
        (lambda raw: raw[:19] + b"\x05" + raw[20:], "no NOR flash of 4"),
        (lambda raw: raw[:20] + bytes(4) + raw[24:], "no NOR flash of 4"),
        (lambda raw: raw[:-1], "bytes instead of"),
        (lambda raw: raw + b"\0", "bytes instead of"),
    ],
)
def test_a_file_that_is_no_chip_is_refused(tmp_path: Path, change: Callable[[bytes], bytes], complaint: str) -> None:
    path = tmp_path / "nor"
    Nor(path, 4).close()
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DeviceError, match=complaint):
        Nor(path, 4)


def test_a_chip_cannot_be_made_anywhere_or_of_any_size(tmp_path: Path) -> None:
    for blocks in (0, -1, MAX_BLOCKS + 1):
        with pytest.raises(DeviceError, match="cannot be made"):
            Nor(tmp_path / "nor", blocks)
    with pytest.raises(DeviceError, match="cannot be used"):
        Nor(tmp_path / "nowhere" / "nor", 4)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_cut_short_meanwhile_is_an_error(tmp_path: Path, chip: Nor) -> None:
    (tmp_path / "nor").write_bytes(b"")
    with pytest.raises(DeviceError, match="cut short"):
        chip.read(0, 16)


@pytest.mark.parametrize(("moment", "done"), [(Moment.BEFORE, False), (Moment.AFTER, True)])
def test_a_cut_before_or_after_an_operation(tmp_path: Path, moment: Moment, done: bool) -> None:
    chip, power = cut_chip(tmp_path / "nor", moment, 0)
    with pytest.raises(PowerCutError):
        chip.program(0, bytes(32))
    for dead in (lambda: chip.read(0, 1), lambda: chip.program(0, bytes(16)), lambda: chip.erase(0)):
        with pytest.raises(PowerCutError, match="no power"):
            dead()
    power.power_on()
    assert chip.read(0, 48) == (bytes(32) if done else b"\x0f" * 32) + b"\x0f" * 16
    power.moment = moment
    with pytest.raises(PowerCutError):
        chip.erase(0)
    power.power_on()
    assert (chip.read(0, BLOCK_SIZE) == BLANK) is done


@EVERY
@given(seed=st.integers(0, 1 << 32), units=st.integers(1, 20))
def test_a_torn_program_leaves_whole_units_one_torn_and_the_rest_as_it_was(
    tmp_path: Path, seed: int, units: int
) -> None:
    chip, power = cut_chip(tmp_path / "nor", Moment.INSIDE, seed)
    wanted = random.Random(seed).randbytes(16 * units).translate(bytes(byte & 0x0F for byte in range(256)))
    with pytest.raises(PowerCutError):
        chip.program(256, wanted)
    power.power_on()
    before, found, after = chip.read(0, 256), chip.read(256, 16 * units), chip.read(256 + 16 * units, 256)
    chip.close()
    assert before == after == b"\x0f" * 256
    states = []
    for start in range(0, 16 * units, UNIT):
        want, got = wanted[start : start + UNIT], found[start : start + UNIT]
        assert all(w & g == w and g & 0x0F == g for w, g in zip(want, got, strict=True)), (
            "a bit that nothing could turn"
        )
        states.append("new" if got == want else "old" if got == b"\x0f" * 16 else "torn")
    done = next((number for number, state in enumerate(states) if state != "new"), units)
    assert set(states[done + 1 :]) <= {"old"}


def outcomes(tmp_path: Path, operation: str, reads: int) -> list[list[bytes]]:
    """Return what is read, several times each, after a hundred torn operations."""
    found = []
    for seed in range(100):
        chip, power = cut_chip(tmp_path / "nor", Moment.INSIDE, seed)
        with pytest.raises(PowerCutError):
            chip.program(0, bytes(64)) if operation == "program" else chip.erase(0)
        power.power_on()
        found.append([chip.read(0, BLOCK_SIZE) for _ in range(reads)])
        assert chip.read(BLOCK_SIZE, BLOCK_SIZE) == BLANK
        chip.close()
    return found


def test_torn_programs_take_every_shape(tmp_path: Path) -> None:
    found = outcomes(tmp_path, "program", 5)
    first = [reads[0][:64] for reads in found]
    assert any(data == b"\x0f" * 64 for data in first), "nothing done"
    assert any(data == bytes(64) for data in first), "everything done"
    assert any(set(data) - {0, 0x0F} for data in first), "some bits of a unit"
    assert any(len(set(reads)) > 1 for reads in found), "bits that read differently from one time to the next"
    assert any(len(set(reads)) == 1 for reads in found)


def test_torn_erases_take_every_shape(tmp_path: Path) -> None:
    found = outcomes(tmp_path, "erase", 3)
    whole = [reads[0] for reads in found]
    assert any(data == b"\x0f" * BLOCK_SIZE for data in whole) or any(b"\x0f" * 500 in data for data in whole)
    assert any(b"\xff" * 500 in data for data in whole)
    assert any(len(set(data)) == 256 for data in whole), "random bytes"
    assert any(len(set(reads)) > 1 for reads in found), "bits that read differently from one time to the next"


@pytest.mark.parametrize("mend", ["program", "erase"])
def test_what_is_unstable_is_mended_by_programming_or_erasing_it(tmp_path: Path, mend: str) -> None:
    mended = 0
    for seed in range(60):
        chip, power = cut_chip(tmp_path / "nor", Moment.INSIDE, seed)
        with pytest.raises(PowerCutError):
            chip.program(0, bytes(64))
        power.power_on()
        mended += len({chip.read(0, 64) for _ in range(5)}) > 1
        chip.program(0, bytes(64)) if mend == "program" else chip.erase(0)
        wanted = bytes(64) if mend == "program" else b"\xff" * 64
        assert {chip.read(0, 64) for _ in range(5)} == {wanted}
        chip.close()
    assert mended > 5
