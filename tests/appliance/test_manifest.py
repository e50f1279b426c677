import contextlib
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.pipelines.manifest import Manifest, parse_manifest
from host_sdk.wire.errors import ConfigError
from tests.rig.packages import DIGITS

SHIPPED = (DIGITS / "pipeline.toml").read_text()
TENSOR = f"""
name = "t"
[model]
file = "m.tflite"
sha256 = "{"0" * 64}"
[input]
kind = "tensor"
"""


def test_shipped_manifest() -> None:
    manifest = parse_manifest(SHIPPED)
    assert (manifest.name, manifest.input_kind, manifest.max_batch) == ("digits", "image", 16)
    assert manifest.formats == ("jpeg", "png")
    assert [stage.kind for stage in manifest.pre] == ["decode", "colour", "resize", "normalise", "quantise"]
    assert [stage.kind for stage in manifest.post] == ["dequantise", "softmax", "top_k", "labels"]
    assert manifest.file_names() == {"model.tflite", "labels.txt"}


def test_defaults_of_a_tensor_pipeline() -> None:
    manifest = parse_manifest(TENSOR)
    assert (manifest.max_batch, manifest.max_delay_us, manifest.description) == (1, 0, "")
    assert (manifest.input_dtype, manifest.pre, manifest.post) == (None, (), ())
    assert manifest.sealed is None


@pytest.mark.parametrize(("answer", "sealed"), [("true", True), ("false", False)])
def test_whether_requests_have_to_come_sealed(answer: str, sealed: bool) -> None:
    assert parse_manifest(f"sealed = {answer}{TENSOR}").sealed is sealed


def replaced(old: str, new: str) -> str:
    assert old in SHIPPED
    return SHIPPED.replace(old, new, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "no TOML"),
        (f"n = {'9' * 5000}", "no TOML"),
        ("[" * 5000, "no TOML"),
        ("", r"\[model\] must be a table"),
        (replaced('name = "digits"', "name = 7"), "name must be a text"),
        (replaced('name = "digits"', 'name = "Digits!"'), r"name must be a text of the form"),
        (replaced('name = "digits"', ""), "name must be a text"),
        (replaced('description = "', 'description = "' + "x" * 501), "description must be a text"),
        (replaced('name = "digits"', 'name = "digits"\ncolour = 1'), "manifest: unknown: colour"),
        (replaced('file = "model.tflite"', 'file = "../model.tflite"'), r"\[model\]: file must be a text of the form"),
        (replaced('sha256 = "3d10', 'sha256 = "XY10'), r"\[model\]: sha256 must be a text of the form"),
        (replaced("[model]", "[model]\nsize = 1"), r"\[model\]: unknown: size"),
        (replaced('kind = "image"', 'kind = "audio"'), r"\[input\]: kind must be a text of the form image\|tensor"),
        (replaced('["jpeg", "png"]', "[]"), r"\[input\]: formats must be a list of jpeg, png"),
        (replaced('["jpeg", "png"]', '["gif"]'), r"\[input\]: formats must be a list of jpeg, png, not \['gif'\]"),
        (replaced('["jpeg", "png"]', '[["jpeg"]]'), r"\[input\]: formats must be a list"),
        (replaced('["jpeg", "png"]', "[{}]"), r"\[input\]: formats must be a list"),
        (replaced('["jpeg", "png"]', '"jpeg"'), r"\[input\]: formats must be a list"),
        (replaced("max_bytes = 262144", "max_bytes = 0"), r"\[input\]: max_bytes must be a whole number from 1 to"),
        (replaced("max_bytes = 262144", f"max_bytes = {1 << 24 | 1}"), r"max_bytes must be a whole number"),
        (replaced("max_bytes = 262144", "max_bytes = 1.5"), r"max_bytes must be a whole number"),
        (replaced("max_bytes = 262144", f"max_bytes = 0x{'f' * 9000}"), r"max_bytes must be a whole number"),
        (replaced("max_pixels = 4194304", ""), r"max_pixels must be a whole number .*, not None"),
        (replaced("max = 16", "max = 65"), r"\[batch\]: max must be a whole number from 1 to 64, not 65"),
        (replaced("max = 16", "max = true"), r"\[batch\]: max must be a whole number"),
        (f"sealed = 1\n{SHIPPED}", "sealed must be true or false, not 1"),
        (replaced("max_delay_us = 0", "max_delay_us = -1"), r"\[batch\]: max_delay_us must be a whole number from 0"),
        (replaced("max_delay_us = 0", "max_delay_us = 0\nmin = 1"), r"\[batch\]: unknown: min"),
        (replaced('file = "labels.txt"', 'file = "/etc/passwd"'), r"post stage 4: file must be a text of the form"),
        (replaced('stage = "decode"', 'kind = "decode"'), r"pre stage 1: stage must be a text, not None"),
        ("pre = 3\n" + TENSOR, "pre must be a list of at most 16 stages"),
        (TENSOR + '[[post]]\nstage = "softmax"\n' * 17, "post must be a list of at most 16 stages"),
        ("pre = [3]\n" + TENSOR, "pre stage 1 must be a table"),
        (TENSOR + "dtype = 3", r"\[input\]: dtype must be a text"),
        (TENSOR + 'formats = ["jpeg"]', r"\[input\]: unknown: formats"),
    ],
)
def test_each_mistake_is_named(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse_manifest(text)
    assert len(str(caught.value)) < 500


@given(st.text(max_size=300) | st.text(alphabet='[]{}="\n.,abn0x9_#', max_size=300))
def test_any_text_is_a_manifest_or_a_config_error(text: str) -> None:
    try:
        parse_manifest(text)
    except ConfigError:
        return
    tomllib.loads(text)  # what was taken is TOML


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def toml_value(value: Any) -> str:
    """Return a value as TOML, of which None is a key left out."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(letter):08x}" for letter in value if not 0xD800 <= ord(letter) < 0xE000) + '"'
    if isinstance(value, list):
        return "[" + ", ".join(toml_value(entry) for entry in value if entry is not None) + "]"
    if isinstance(value, dict):
        pairs = {toml_value(key): toml_value(entry) for key, entry in value.items() if entry is not None}
        return "{" + ", ".join(f"{key} = {entry}" for key, entry in pairs.items()) + "}"
    return repr(value)


@given(
    st.sampled_from(
        [
            "name",
            "description",
            "model.file",
            "model.sha256",
            "input.kind",
            "input.formats",
            "input.max_bytes",
            "input.max_pixels",
            "batch.max",
            "batch.max_delay_us",
            "input.dtype",
            "extra",
            "pre",
            "post",
        ]
    ),
    VALUES,
)
def test_any_value_anywhere_is_taken_or_a_config_error(path: str, value: Any) -> None:
    data = tomllib.loads(SHIPPED)
    table, _, key = path.rpartition(".")
    (data[table] if table else data)[key] = value
    if value is None:
        del (data[table] if table else data)[key]
    text = "\n".join(f"{name} = {toml_value(entry)}" for name, entry in data.items())
    with contextlib.suppress(ConfigError):
        assert isinstance(parse_manifest(text), Manifest)
