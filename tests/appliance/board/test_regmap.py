import subprocess
import sys

import pytest

from appliance.board.regmap import MAP, Access, Register, RegisterMap, Window


def register(name: str, address: int) -> Register:
    return Register(name, address, Access.READ_WRITE, "For a test.")


def window(name: str, address: int, size: int) -> Window:
    return Window(name, address, size, Access.READ_WRITE, "For a test.")


def test_neighbours_do_not_overlap() -> None:
    RegisterMap((register("A", 0), register("B", 4)), (window("C", 8, 100),))


@pytest.mark.parametrize(
    ("registers", "windows", "complaint"),
    [
        ((register("A", 0), register("B", 0)), (), "B at 0x00000000 overlaps A"),
        ((register("A", 8),), (window("W", 4, 5),), "A at 0x00000008 overlaps W"),
        ((), (window("V", 0, 16), window("W", 12, 4)), "W at 0x0000000c overlaps V"),
        ((register("A", 2),), (), "A cannot be at 0x00000002"),
        ((), (window("W", 0xFFFF_FFFC, 8),), "W cannot be at 0xfffffffc"),
        ((), (window("W", 0, 0),), "W cannot be at"),
        ((register("A", 0), register("A", 4)), (), "two parts named A"),
        ((register("A", -4),), (), "A at -0x0000004 overlaps the start"),
    ],
)
def test_impossible_maps_are_refused(
    registers: tuple[Register, ...], windows: tuple[Window, ...], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        RegisterMap(registers, windows)


def test_every_part_says_what_it_means() -> None:
    for part in (*MAP.registers, *MAP.windows):
        assert part.meaning.endswith("."), part.name


def test_the_map_needs_the_standard_library_alone() -> None:
    script = "import sys, appliance.board.regmap; sys.exit('msgpack' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
