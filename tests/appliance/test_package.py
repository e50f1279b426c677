import contextlib
import random
from pathlib import Path

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.pipelines.package import Package, pack_directory, unpack
from host_sdk.wire.errors import ConfigError
from host_sdk.wire.schema import MAX_PACKAGE
from tests.rig.packages import DIGITS, digits_labels, digits_model, image_package

SHIPPED = (DIGITS / "pipeline.toml").read_text()


def test_a_directory_becomes_a_package_of_what_the_manifest_names() -> None:
    package = unpack(pack_directory(DIGITS))
    assert package.manifest.name == "digits"
    assert package.files == {"model.tflite": digits_model(), "labels.txt": digits_labels()}


def test_packing_twice_gives_the_same_bytes() -> None:
    assert pack_directory(DIGITS) == pack_directory(DIGITS)


def test_a_file_that_the_manifest_names_and_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "pipeline.toml").write_text(SHIPPED)
    with pytest.raises(ConfigError, match=r"cannot be read: .*labels\.txt"):
        pack_directory(tmp_path)


def test_a_directory_without_manifest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read: .*pipeline\.toml"):
        pack_directory(tmp_path)


def test_a_package_that_is_too_large_is_refused_on_both_sides(tmp_path: Path) -> None:
    (tmp_path / "pipeline.toml").write_text(SHIPPED)
    (tmp_path / "labels.txt").write_bytes(b"")
    (tmp_path / "model.tflite").write_bytes(bytes(MAX_PACKAGE))
    with pytest.raises(ConfigError, match=f"at most {MAX_PACKAGE}"):
        pack_directory(tmp_path)
    with pytest.raises(ConfigError, match=f"at most {MAX_PACKAGE}"):
        unpack(bytes(MAX_PACKAGE + 1))


def test_a_missing_file_is_named() -> None:
    package = unpack(msgpack.packb({"manifest": SHIPPED, "files": {}}))
    with pytest.raises(ConfigError, match=r"no file 'labels\.txt'"):
        package.file("labels.txt")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a pipeline package"),
        (b"\xc1", "not a pipeline package"),
        (b"\xdf\xff\xff\xff\xff", "not a pipeline package"),
        (b"\xc6\xff\xff\xff\xff", "not a pipeline package"),
        (b"\x81" * 5000, "not a pipeline package"),
        (msgpack.packb(1), "no map"),
        (msgpack.packb([]), "no map"),
        (msgpack.packb({}), "needs a manifest"),
        (msgpack.packb({"manifest": b"x", "files": {}}), "needs a manifest"),
        (msgpack.packb({"manifest": "", "files": {"a": "text"}}), "names to bytes"),
        (msgpack.packb({"manifest": "", "files": {b"a": b""}}), "names to bytes"),
        (msgpack.packb({"manifest": "", "files": {}}), r"\[model\] must be a table"),
        (msgpack.packb({"manifest": SHIPPED, "files": {}}) + b"\x00", "not a pipeline package"),
        (msgpack.packb({"manifest": SHIPPED, "files": {str(n): b"" for n in range(65)}}), "not a pipeline package"),
    ],
)
def test_each_mistake_is_named(data: bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        unpack(data)


@given(st.binary(max_size=400))
def test_any_bytes_are_a_package_or_a_config_error(data: bytes) -> None:
    with pytest.raises(ConfigError):
        unpack(data)


@given(st.randoms(use_true_random=False), st.integers(1, 6))
def test_a_damaged_package_is_a_package_or_a_config_error(chance: random.Random, wounds: int) -> None:
    data = bytearray(image_package())
    end = len(data) if chance.random() < 0.3 else 1200  # where manifest and structure are
    for _ in range(wounds):
        data[chance.randrange(end)] = chance.randrange(256)
    with contextlib.suppress(ConfigError):
        assert isinstance(unpack(bytes(data)), Package)
