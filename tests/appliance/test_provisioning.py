"""What a node's flash chip and fuses are given when they are new, and that they are left alone afterwards."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from appliance.board.flash import Flash
from appliance.board.fuses import Fuses
from appliance.cli import FUSES_FILE, NOR_BLOCKS, NOR_FILE, NOR_UNFINISHED, fused_policy, open_chip, open_fuses
from firmware.boot.layout import Slot, layout_of
from firmware.boot.resident import verifier
from firmware.boot.slots import BootRom, read_recovery
from firmware.image import IMAGE_OBJECT, build_image, read_image
from firmware.image.development import DEVELOPMENT_ROOT_HASH
from firmware.image.keys import KeyKind
from host_sdk.wire.errors import DeviceError


@pytest.fixture
def flash(tmp_path: Path) -> Flash:
    return Flash(tmp_path, 64 << 20)


@pytest.fixture
def fuses(tmp_path: Path) -> Iterator[Fuses]:
    with closing(open_fuses(tmp_path)) as opened:
        yield opened


def booted(flash: Flash, fuses: Fuses) -> tuple[Slot, str, str]:
    """Return what a boot chooses: slot, version, and the version of the recovery image."""
    policy = fused_policy(fuses)
    with closing(open_chip(flash, fuses, policy)) as chip:
        decision = BootRom(chip, fuses, verifier(policy)).boot(0)
        recovery = read_recovery(chip, layout_of(chip))
    return decision.slot, read_image(decision.image).version, read_image(recovery).version


def test_a_new_node_gets_the_installations_image(flash: Flash, fuses: Fuses) -> None:
    version = read_image(build_image()).version
    assert booted(flash, fuses) == (Slot.A, version, version)
    assert flash.list() == {}  # neither of the two files is an object
    assert sorted(path.name for path in flash.directory.iterdir()) == ["FUSES", "NOR"]


def test_new_fuses_take_what_the_development_root_has_signed(fuses: Fuses) -> None:
    policy = fused_policy(fuses)
    assert (policy.root_hash, policy.lowest_counter, policy.now) == (DEVELOPMENT_ROOT_HASH, 0, None)
    assert policy.kinds == {KeyKind.DEVELOPMENT, KeyKind.RELEASE}
    fuses.revoke(7)
    fuses.release()
    policy = fused_policy(fuses)
    assert (policy.revoked, policy.kinds) == ({7}, {KeyKind.RELEASE})


def test_fuses_that_were_blown_by_half_are_completed(tmp_path: Path) -> None:
    with closing(Fuses(tmp_path / FUSES_FILE)) as torn:
        torn.blow(1, int.from_bytes(DEVELOPMENT_ROOT_HASH[:4]))
    with closing(open_fuses(tmp_path)) as fuses:
        assert fuses.root_key_hash == DEVELOPMENT_ROOT_HASH


def test_fuses_of_another_root_stay_and_refuse_the_development_image(tmp_path: Path, flash: Flash) -> None:
    with closing(Fuses(tmp_path / FUSES_FILE)) as other:
        other.blow_root_key_hash(bytes(range(32)))
    with closing(open_fuses(tmp_path)) as fuses:
        assert fuses.root_key_hash == bytes(range(32))
        with pytest.raises(DeviceError, match="root key"):
            open_chip(flash, fuses, fused_policy(fuses))
    assert not (tmp_path / NOR_FILE).exists()


def test_a_chip_that_is_there_is_left_alone(flash: Flash, fuses: Fuses) -> None:
    booted(flash, fuses)
    before = (flash.directory / NOR_FILE).read_bytes()
    flash.write(IMAGE_OBJECT, build_image("9.9"))
    assert booted(flash, fuses)[1] != "9.9"
    assert (flash.directory / NOR_FILE).read_bytes() == before
    assert IMAGE_OBJECT in flash.list()


def test_the_image_of_a_node_without_slots_is_taken_over(flash: Flash, fuses: Fuses) -> None:
    flash.write(IMAGE_OBJECT, build_image("9.9"))
    assert booted(flash, fuses) == (Slot.A, "9.9", read_image(build_image()).version)
    assert flash.list() == {}


@pytest.mark.parametrize("old", [b"", b"NAPUFW0 of an older format", build_image() + b"\0"])
def test_an_old_image_that_is_refused_gives_way_to_the_installations(flash: Flash, fuses: Fuses, old: bytes) -> None:
    flash.write(IMAGE_OBJECT, old)
    assert booted(flash, fuses)[1] == read_image(build_image()).version
    assert flash.list() == {}


def test_a_node_that_was_ended_while_it_filled_its_chip_begins_again(tmp_path: Path) -> None:
    (tmp_path / NOR_UNFINISHED).write_bytes(b"half a chip")
    again = Flash(tmp_path, 64 << 20)
    with closing(open_fuses(tmp_path)) as fuses:
        assert booted(again, fuses)[0] is Slot.A
    assert not (tmp_path / NOR_UNFINISHED).exists()


def test_a_chip_is_small_and_whole(flash: Flash, fuses: Fuses) -> None:
    with closing(open_chip(flash, fuses, fused_policy(fuses))) as chip:
        assert chip.size == NOR_BLOCKS * 4096
        assert layout_of(chip).slot_size == 1 << 20
