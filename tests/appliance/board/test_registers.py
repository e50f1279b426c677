import pytest

from appliance.board.registers import BusFaultError, RegisterFile
from appliance.board.regmap import MAX_BLOCK, Access, BusStatus, Register, RegisterMap, Window

PLAIN = Register("PLAIN", 0x00, Access.READ_WRITE, "Plain.", 7)
CONSTANT = Register("CONSTANT", 0x04, Access.READ_ONLY, "Constant.", 0xCAFE)
BELL = Register("BELL", 0x08, Access.WRITE_ONLY, "Doorbell.")
BITS = Register("BITS", 0x0C, Access.WRITE_1_TO_CLEAR, "Bits.", 0xF0)
MEMORY = Window("MEMORY", 0x1_0000, 2 * MAX_BLOCK + 8, Access.READ_WRITE, "Memory.")
ROM = Window("ROM", 0x8_0000, 16, Access.READ_ONLY, "ROM.")


@pytest.fixture
def reported() -> list[str]:
    return []


@pytest.fixture
def registers(reported: list[str]) -> RegisterFile:
    return RegisterFile(RegisterMap((PLAIN, CONSTANT, BELL, BITS), (MEMORY, ROM)), reported.append)


def test_a_register_keeps_what_is_written_until_reset(registers: RegisterFile) -> None:
    assert registers.read(0x00) == 7
    registers.write(0x00, 0xFFFF_FFFF)
    assert registers.read(0x00) == 0xFFFF_FFFF
    registers.reset()
    assert registers.read(0x00) == 7


def test_hooks_see_writes_and_make_reads(registers: RegisterFile) -> None:
    rung: list[int] = []
    registers.on_write(BELL, rung.append)
    registers.on_read(CONSTANT, lambda: 0x1_0000_0001)
    registers.write(0x08, 5)
    assert rung == [5]
    assert registers.read(0x04) == 1


def test_w1c_stores_nothing_of_its_own(registers: RegisterFile) -> None:
    registers.write(0x0C, 0x0F)
    assert registers.read(0x0C) == 0xF0


@pytest.mark.parametrize(
    ("address", "status"),
    [
        (0x10, BusStatus.UNDEFINED),
        (0x02, BusStatus.UNDEFINED),
        (0x1_0000, BusStatus.UNDEFINED),
        (0x08, BusStatus.DENIED),
    ],
)
def test_bad_reads_fault(registers: RegisterFile, reported: list[str], address: int, status: BusStatus) -> None:
    with pytest.raises(BusFaultError) as caught:
        registers.read(address)
    assert caught.value.status is status
    assert registers.faults == 1
    assert reported == [str(caught.value)]


def test_a_read_only_register_cannot_be_written(registers: RegisterFile) -> None:
    with pytest.raises(BusFaultError, match="CONSTANT cannot be written"):
        registers.write(0x04, 1)
    assert registers.read(0x04) == 0xCAFE


def test_blocks_lie_where_they_were_written(registers: RegisterFile) -> None:
    registers.write_block(0x1_0003, b"napu")
    assert registers.read_block(0x1_0000, 8) == b"\0\0\0napu\0"
    registers.reset()
    assert registers.read_block(0x1_0000, 8) == bytes(8)


def test_the_last_bytes_of_a_window_can_be_reached(registers: RegisterFile) -> None:
    end = MEMORY.address + MEMORY.size
    registers.write_block(end - 4, b"last")
    assert registers.read_block(end - 4, 4) == b"last"


@pytest.mark.parametrize(
    ("address", "length", "status"),
    [
        (0x0_FFFF, 1, BusStatus.UNDEFINED),
        (MEMORY.address + MEMORY.size, 1, BusStatus.UNDEFINED),
        (MEMORY.address + MEMORY.size - 1, 2, BusStatus.OUT_OF_RANGE),
        (MEMORY.address, MAX_BLOCK + 1, BusStatus.OUT_OF_RANGE),
        (MEMORY.address, 0, BusStatus.OUT_OF_RANGE),
        (0xFFFF_FFFF, 0xFFFF_FFFF, BusStatus.UNDEFINED),
    ],
)
def test_blocks_outside_of_windows_fault(registers: RegisterFile, address: int, length: int, status: BusStatus) -> None:
    with pytest.raises(BusFaultError) as caught:
        registers.read_block(address, length)
    assert caught.value.status is status


def test_a_read_only_window_cannot_be_written(registers: RegisterFile) -> None:
    with pytest.raises(BusFaultError, match="ROM cannot be written"):
        registers.write_block(ROM.address, b"x")
