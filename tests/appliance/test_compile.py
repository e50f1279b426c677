"""Pipelines against the real tensors of their models: what does not fit is refused, and the refusal says where."""

import hashlib

import numpy as np
import pytest

from appliance.dla.backends import load_backend
from appliance.pipelines.compile import compile_pipeline
from appliance.pipelines.pipeline import Pipeline
from appliance.profile import load_profile
from host_sdk.wire.errors import ConfigError
from tests.rig import tiny_models
from tests.rig.packages import (
    digits_labels,
    digits_model,
    image_manifest,
    image_package,
    pack,
    tensor_manifest,
    tensor_package,
)


def compiled(package: bytes) -> Pipeline:
    return compile_pipeline(package, 257, load_backend("litert"), load_profile("napu-s"))


def changed(old: str, new: str) -> bytes:
    """Return the digits' image package with its manifest edited."""
    manifest = image_manifest(digits_model())
    assert old in manifest
    return pack(manifest.replace(old, new, 1), {"model.tflite": digits_model(), "labels.txt": digits_labels()})


def test_description_of_an_image_pipeline() -> None:
    package = image_package()
    description = compiled(package).description()
    assert description["digest"] == hashlib.sha256(package).hexdigest()
    assert description["model_sha256"] == hashlib.sha256(digits_model()).hexdigest()
    assert description["handle"] == 257
    assert description["max_batch"] == 16
    assert description["input"] == {
        "kind": "image",
        "formats": ["jpeg", "png"],
        "max_bytes": 262144,
        "max_pixels": 4194304,
    }
    assert description["outputs"] == [
        {"name": "class", "dtype": "uint16", "shape": [3]},
        {"name": "score", "dtype": "float32", "shape": [3]},
        {"name": "label", "dtype": "S5", "shape": [3]},
    ]
    assert str(description["backend"]).startswith("litert 2.")


def test_description_of_a_tensor_pipeline() -> None:
    description = compiled(tensor_package("raw")).description()
    assert description["input"] == {"kind": "tensor", "dtype": "int8", "shape": [16, 16, 1], "max_bytes": 256}
    assert [(output["dtype"], output["shape"]) for output in description["outputs"]] == [("int8", [10])]


def test_stages_before_the_model_may_change_the_type() -> None:
    stages = '[[pre]]\nstage = "normalise"\nmean = [0.0]\nscale = [255.0]\n[[pre]]\nstage = "quantise"\n'
    pipeline = compiled(tensor_package("raw", dtype="uint8", stages=stages))
    assert pipeline.input.dtype == "uint8"
    assert pipeline.table is not None
    # scale 1/255 and zero point -128, so q = pixel - 128
    np.testing.assert_array_equal(pipeline.table, np.arange(-128, 128, dtype=np.int8)[None, :])


def test_an_elementwise_stage_over_a_long_vector_needs_one_table_only() -> None:
    model = tiny_models.doubler((1, 100_000))
    stages = '[[pre]]\nstage = "normalise"\nmean = [3.0]\nscale = [2.0]\n'
    pipeline = compiled(tensor_package("long", model, dtype="uint8", batch=1, stages=stages))
    assert pipeline.table is not None
    assert pipeline.table.shape == (1, 256)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('stage = "decode"', 'stage = "colour"\nmode = "L"', "first pre stage must be decode"),
        ('stage = "colour"\nmode = "L"\n[[pre]]\n', "", "needs the stages colour and resize"),
        ('mode = "L"', 'mode = "CMYK"', "colour mode 'CMYK'; there are: L, RGB"),
        ('mode = "L"', 'mode = "RGB"', r"end in int8 \[16, 16, 3\], and the model takes int8 \[16, 16, 1\]"),
        ('mode = "L"', 'mode = "L"\nalpha = 1', r"pre stage 2 \(colour\): unknown: alpha"),
        ("width = 16", "width = 0", r"pre stage 3 \(resize\): width must be a whole number from 1 to 4096, not 0"),
        ("width = 16", "width = 32", r"end in int8 \[16, 32, 1\], and the model takes int8 \[16, 16, 1\]"),
        ('"bilinear"', '"magic"', "resize filter 'magic'; there are: nearest, box, bilinear, bicubic, lanczos"),
        ('stage = "normalise"', 'stage = "mfcc"', "no stage 'mfcc' can stand here; there are: normalise, quantise"),
        ("mean = [0.0]", "mean = []", r"pre stage 4 \(normalise\): mean must be a list of numbers"),
        ("mean = [0.0]", "mean = [true]", r"mean must be a list of numbers"),
        ("mean = [0.0]", "mean = [1e300]", r"mean must be a list of numbers"),
        ("mean = [0.0]", f"mean = [{10**400}]", r"mean must be a list of numbers"),
        ("mean = [0.0]", "mean = [nan]", r"mean must be a list of numbers"),
        ("mean = [0.0]", "mean = [0.0, 1.0]", "mean and scale need 1 or 1 numbers"),
        ("scale = [255.0]", "scale = [0.0]", "scale not 0"),
        ('stage = "quantise"', 'stage = "quantise"\nbits = 8', r"pre stage 5 \(quantise\): unknown: bits"),
        (
            'stage = "normalise"\nmean = [0.0]\nscale = [255.0]\n[[pre]]\n',
            "",
            "quantise: needs float32, and uint8 arrives; put normalise before it",
        ),
        ('[[pre]]\nstage = "quantise"\n', "", r"end in float32 \[16, 16, 1\], and the model takes int8"),
        ('[[post]]\nstage = "dequantise"\n', "", "softmax: needs float32, and int8 arrives; put dequantise before it"),
        ('stage = "softmax"', 'stage = "dequantise"', "dequantise: not quantised: "),
        ('stage = "softmax"', 'stage = "argmax"', "no stage 'argmax' .*: dequantise, labels, softmax, top_k"),
        ("k = 3", "k = 11", r"post stage 3 \(top_k\): k must be a whole number from 1 to 10, not 11"),
        ('stage = "top_k"\nk = 3\n[[post]]\n', "", "labels: needs classes; put top_k before it"),
        ('file = "labels.txt"', 'file = "names.txt"', "no file 'names.txt'"),
        ('file = "labels.txt"', 'file = "model.tflite"', "labels: model.tflite is no UTF-8 text"),
        ('stage = "labels"', 'stage = "softmax"', "softmax: needs exactly one tensor, and class, score arrive"),
    ],
)
def test_each_misfit_is_named(old: str, new: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compiled(changed(old, new))


@pytest.mark.parametrize(
    "labels",
    [b"", b"zero\none\n", b"\n" * 10, b"x" * 65 + b"\n" + b"y\n" * 9, b"a\n" * 11],
    ids=["none", "too few", "empty", "too long", "too many"],
)
def test_labels_must_be_as_many_as_classes(labels: bytes) -> None:
    package = pack(image_manifest(digits_model()), {"model.tflite": digits_model(), "labels.txt": labels})
    with pytest.raises(ConfigError, match="needs 10 lines of 1 to 64 bytes"):
        compiled(package)


@pytest.mark.parametrize(
    ("dtype", "message"),
    [
        ("float32", r"end in float32 \[16, 16, 1\], and the model takes int8"),
        ("complex64", "dtype 'complex64'; there are: int8, uint8"),
        ("S5", "dtype 'S5'; there are"),
        ("object", "dtype 'object'; there are"),
    ],
)
def test_input_types_of_tensor_pipelines(dtype: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compiled(tensor_package("raw", dtype=dtype))


def test_quantise_before_a_model_that_is_not_quantised() -> None:
    stages = '[[pre]]\nstage = "quantise"\n'
    with pytest.raises(ConfigError, match="the model's input is not quantised; leave the stage out"):
        compiled(tensor_package("raw", tiny_models.doubler((1, 4)), stages=stages))


def test_another_digest_than_the_manifest_says() -> None:
    manifest = tensor_manifest(digits_model(), "raw")
    with pytest.raises(ConfigError, match=r"model\.tflite has SHA-256 [0-9a-f]{64}, the manifest says 3d10"):
        compiled(pack(manifest, {"model.tflite": digits_model() + b"\0"}))


@pytest.mark.parametrize("model", [b"", b"TFL3", bytes(1000), b"\x1c\0\0\0TFL3" + bytes(64)])
def test_a_file_that_is_no_model(model: bytes) -> None:
    with pytest.raises(ConfigError, match=r"no TensorFlow Lite file|graph cannot be read|does not load"):
        compiled(tensor_package("raw", model))


def test_an_output_type_that_answers_cannot_carry_is_refused() -> None:
    with pytest.raises(ConfigError, match="output 'less' is bool; answers carry int8"):
        compiled(tensor_package("raw", tiny_models.comparison(5)))


def test_an_output_whose_name_no_client_would_read_is_refused() -> None:
    with pytest.raises(ConfigError, match="its name or its shape is too long"):
        compiled(tensor_package("raw", tiny_models.doubler((1, 4), name="n" * 5000)))


def test_an_answer_that_no_message_holds_is_refused() -> None:
    with pytest.raises(ConfigError, match="an answer carries at most"):
        compiled(tensor_package("raw", tiny_models.doubler((1, 1 << 22)), batch=1))


@pytest.mark.parametrize("shape", [(), (2, 4)], ids=["none", "fixed at 2"])
def test_a_model_without_a_batch_dimension_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="batch"):
        compiled(tensor_package("raw", tiny_models.doubler(shape)))
