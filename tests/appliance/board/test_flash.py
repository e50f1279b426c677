from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.board.flash import Flash, check_name
from host_sdk.wire.errors import DeviceError, NoSpaceError

BAD_NAMES = [
    "",
    "/etc/passwd",
    "..",
    "a/../b",
    "a//b",
    "a/",
    "./a",
    "A",
    "a b",
    "a~",
    "a\n",
    "ä",
    "a\0",
    "x" * 121,
]


@pytest.fixture
def flash(tmp_path: Path) -> Flash:
    return Flash(tmp_path / "flash", 1000)


def test_what_is_written_can_be_read_in_parts(flash: Flash) -> None:
    flash.write("pipelines/digits", b"0123456789")
    assert flash.read("pipelines/digits") == b"0123456789"
    assert flash.read("pipelines/digits", 3, 4) == b"3456"
    assert flash.read("pipelines/digits", 8, 100) == b"89"
    assert flash.read("pipelines/digits", 100, 1) == b""


def test_objects_outlive_the_power(tmp_path: Path) -> None:
    Flash(tmp_path, 1000).write("b/c", b"xyz")
    again = Flash(tmp_path, 1000)
    assert again.list() == {"b/c": 3}
    assert again.free_bytes == 997


def test_capacity_counts_what_is_replaced(flash: Flash) -> None:
    flash.write("a", bytes(600))
    with pytest.raises(NoSpaceError, match="500 bytes do not fit into flash, where 400 are free"):
        flash.write("b", bytes(500))
    flash.write("a", bytes(1000))
    assert flash.free_bytes == 0
    assert flash.delete("a")
    assert flash.free_bytes == 1000


def test_what_does_not_fit_leaves_the_old_object(flash: Flash) -> None:
    flash.write("a", b"old")
    with pytest.raises(NoSpaceError):
        flash.write("a", bytes(1001))
    assert flash.read("a") == b"old"


def test_a_torn_write_is_removed_and_the_old_object_stays(tmp_path: Path) -> None:
    Flash(tmp_path, 1000).write("board/epoch", b"41")
    (tmp_path / "board" / "epoch~").write_bytes(b"4")
    again = Flash(tmp_path, 1000)
    assert again.list() == {"board/epoch": 2}
    assert again.read("board/epoch") == b"41"
    assert not (tmp_path / "board" / "epoch~").exists()


def test_foreign_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("hands off")
    flash = Flash(tmp_path, 1000)
    assert flash.list() == {}
    assert (tmp_path / "README.md").exists()


def test_deleting_clears_the_way_for_a_shorter_name(flash: Flash) -> None:
    flash.write("a/b/c", b"1")
    with pytest.raises(DeviceError, match="'a' cannot be written"):
        flash.write("a", b"2")
    assert flash.delete("a/b/c")
    flash.write("a", b"2")
    with pytest.raises(DeviceError, match="cannot be written"):
        flash.write("a/b", b"3")
    assert flash.list() == {"a": 1}


def test_deleting_nothing_says_so(flash: Flash) -> None:
    assert not flash.delete("a")


def test_reading_nothing_is_an_error(flash: Flash) -> None:
    with pytest.raises(DeviceError, match="no object 'a'"):
        flash.read("a")


def test_a_file_that_vanished_is_an_error(flash: Flash) -> None:
    flash.write("a", b"1")
    (flash.directory / "a").unlink()
    with pytest.raises(DeviceError, match="cannot be read"):
        flash.read("a")


def test_a_directory_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DeviceError, match="cannot be used"):
        Flash(tmp_path / "file" / "flash", 1000)


@pytest.mark.parametrize("name", BAD_NAMES)
def test_bad_names_are_refused(flash: Flash, name: str) -> None:
    for action in (flash.read, flash.delete, lambda name: flash.write(name, b"")):
        with pytest.raises(DeviceError, match="is no name for a flash object"):
            action(name)
    assert list(flash.directory.iterdir()) == []


@given(st.text(alphabet="ab./-_~A\\\0 ", max_size=20) | st.text(max_size=130))
def test_an_allowed_name_stays_in_the_directory(name: str) -> None:
    try:
        check_name(name)
    except DeviceError:
        return
    inside = Path("/flash") / name
    assert inside.is_relative_to("/flash")
    assert inside.as_posix() == f"/flash/{name}"
    assert ".." not in inside.parts
