"""The device key: made once, kept for its owner's eyes alone, and never made anew unasked."""

import os
import stat
from pathlib import Path

import pytest

from appliance.board.device_key import KEY_FILE, KEY_OBJECT, open_device_key
from appliance.board.flash import Flash, check_name
from host_sdk.wire.errors import DeviceError
from tests.firmware import ed25519_reference


@pytest.fixture
def flash(tmp_path: Path) -> Flash:
    return Flash(tmp_path, 1 << 20)


def test_a_key_is_made_once(flash: Flash, tmp_path: Path) -> None:
    key = open_device_key(flash)
    path = tmp_path / KEY_FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    data = path.read_bytes()
    assert (len(data), data[:8]) == (56, b"NAPUDKEY")
    assert ed25519_reference.public_key(data[8:40]) == key.public
    assert flash.read(KEY_OBJECT).decode() == key.public.hex()
    assert open_device_key(Flash(tmp_path, 1 << 20)).public == key.public
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [KEY_FILE, "board"]


def test_no_object_can_be_named_like_its_file(flash: Flash) -> None:
    open_device_key(flash)
    assert flash.list().keys() == {KEY_OBJECT}
    for name in (KEY_FILE, f"board/../{KEY_FILE}", f"./{KEY_FILE}", KEY_FILE.lower() + "/../" + KEY_FILE):
        with pytest.raises(DeviceError):
            check_name(name)


@pytest.mark.parametrize("damage", ["cut", "empty", "bit", "longer", "other"])
def test_a_damaged_key_is_an_error_and_left_alone(flash: Flash, tmp_path: Path, damage: str) -> None:
    open_device_key(flash)
    path = tmp_path / KEY_FILE
    good = path.read_bytes()
    flipped = bytes([good[20] ^ 1])
    bad = {
        "cut": good[:30],
        "empty": b"",
        "bit": good[:20] + flipped + good[21:],
        "longer": good + b"x",
        "other": os.urandom(56),
    }[damage]
    path.write_bytes(bad)
    for _ in range(2):
        with pytest.raises(DeviceError, match="is damaged; a device without its key has lost its identity"):
            open_device_key(Flash(tmp_path, 1 << 20))
    assert path.read_bytes() == bad
    path.write_bytes(good)
    open_device_key(Flash(tmp_path, 1 << 20))


def test_a_key_that_is_gone_is_not_made_anew(flash: Flash, tmp_path: Path) -> None:
    open_device_key(flash)
    (tmp_path / KEY_FILE).unlink()
    with pytest.raises(DeviceError, match="is gone"):
        open_device_key(flash)
    assert not (tmp_path / KEY_FILE).exists()


def test_another_devices_key_is_refused(flash: Flash, tmp_path: Path) -> None:
    open_device_key(flash)
    open_device_key(Flash(tmp_path / "other", 1 << 20))
    (tmp_path / "other" / KEY_FILE).replace(tmp_path / KEY_FILE)
    with pytest.raises(DeviceError, match="not the one that this device has had"):
        open_device_key(flash)


def test_a_key_that_others_may_read_is_refused(flash: Flash, tmp_path: Path) -> None:
    open_device_key(flash)
    (tmp_path / KEY_FILE).chmod(0o640)
    with pytest.raises(DeviceError, match="others may read"):
        open_device_key(flash)


def test_a_node_that_was_ended_while_it_made_its_key_makes_one(tmp_path: Path) -> None:
    (tmp_path / "DEVICE-KEY.unfinished~").write_bytes(b"NAPUDKEY")
    open_device_key(Flash(tmp_path, 1 << 20))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [KEY_FILE, "board"]


def test_a_key_whose_public_half_was_not_written_yet_is_kept(flash: Flash, tmp_path: Path) -> None:
    key = open_device_key(flash)
    flash.delete(KEY_OBJECT)
    assert open_device_key(Flash(tmp_path, 1 << 20)).public == key.public
    assert flash.directory.joinpath(KEY_OBJECT).read_text() == key.public.hex()
