from typing import cast

import msgpack
import pytest

from firmware.hal import Hal
from firmware.services.pipelines import Pipelines, check_package
from host_sdk.wire.errors import BadPipelineError, NoSpaceError
from host_sdk.wire.schema import MAX_PACKAGE
from tests.appliance.board.fake_hardware import package
from tests.firmware.fake_hal import FakeHal


def make(hal: FakeHal) -> Pipelines:
    return Pipelines(cast("Hal", hal))


def test_everything_in_flash_is_loaded_at_boot() -> None:
    hal = FakeHal()
    hal.flash.objects = {"pipelines/a": package("a"), "pipelines/b": package("b"), "other/c": package("c")}
    make(hal).restore()
    assert hal.hardware.loads == ["a", "b"]


def test_what_the_hardware_serves_already_is_not_loaded_again() -> None:
    hal = FakeHal()
    make(hal).install(package("a"))
    make(hal).install(package("b"))
    make(hal).restore()
    assert hal.hardware.loads == ["a", "b"]


def test_a_package_that_no_longer_loads_is_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    hal = FakeHal()
    hal.flash.objects = {"pipelines/a": package("refused"), "pipelines/b": package("b")}
    make(hal).restore()
    assert hal.hardware.loads == ["b"]
    assert "pipeline a stays out" in caplog.text
    assert "pipelines/a" in hal.flash.objects


def test_what_the_hardware_refuses_is_not_stored() -> None:
    hal = FakeHal()
    with pytest.raises(BadPipelineError, match="no such operator; use another"):
        make(hal).install(package("refused"))
    assert hal.flash.objects == {}


def test_what_cannot_be_stored_is_not_served() -> None:
    hal = FakeHal(capacity=10)
    with pytest.raises(NoSpaceError):
        make(hal).install(package("a"))
    assert hal.hardware.served == {}


def test_a_replacement_that_cannot_be_stored_leaves_the_old_one() -> None:
    hal = FakeHal(capacity=200)
    old = make(hal).install(package("a"))
    with pytest.raises(NoSpaceError):
        make(hal).install(package("a", 1000))
    (served,) = hal.hardware.served.values()
    assert served["digest"] == old["digest"]
    assert hal.flash.objects == {"pipelines/a": package("a")}


@pytest.mark.parametrize("name", ["../board/epoch", "A", "", "a/b"])
def test_names_are_not_paths(name: str) -> None:
    hal = FakeHal()
    with pytest.raises(BadPipelineError, match="cannot be named"):
        make(hal).install(package(name))
    assert hal.hardware.served == {}
    assert hal.flash.objects == {}


@pytest.mark.parametrize(
    "content",
    [
        None,
        [],
        {},
        {"manifest": "x"},
        {"files": {}},
        {"manifest": b"x", "files": {}},
        {"manifest": "x", "files": []},
        {"manifest": "x", "files": {"a": "text"}},
        {"manifest": "x", "files": {1: b""}},
        {"manifest": "x", "files": {"a": [b""]}},
        {"manifest": "x", "files": {}, "more": 1},
    ],
)
def test_packages_of_another_shape_are_refused(content: object) -> None:
    with pytest.raises(BadPipelineError, match="this is no pipeline package"):
        check_package(msgpack.packb(content))


def test_packages_have_a_largest_size() -> None:
    overhead = len(package("a", 1 << 20)) - (1 << 20)
    check_package(package("a", MAX_PACKAGE - overhead))
    with pytest.raises(BadPipelineError, match="at most 15728640"):
        check_package(package("a", MAX_PACKAGE - overhead + 1))


def test_bytes_behind_a_package_are_refused() -> None:
    with pytest.raises(BadPipelineError, match="1 bytes follow"):
        check_package(package("a") + b"\0")
