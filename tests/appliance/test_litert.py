"""The LiteRT backend against ai_edge_litert called directly: the same bytes, in every batch."""

from typing import Any

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from appliance.dla.backends import load_backend
from host_sdk.wire.errors import ConfigError, DeviceError
from tests.rig import tiny_models
from tests.rig.nodes import MODELS, NO_MODELS
from tests.rig.packages import digits_model, reference_model

LARGEST = 16
REFERENCES = [
    "kws_dscnn_int8.tflite",
    "vww_mobilenet_int8.tflite",
    "resnet8_cifar10_int8.tflite",
    "ad_autoencoder_int8.tflite",
    "wakeword_stream_int8.tflite",
]


def reference(model: bytes, batch: NDArray[Any]) -> list[NDArray[Any]]:
    """Run inputs one by one, by the library alone."""
    interpreter = Interpreter(model_content=model, num_threads=1)
    interpreter.allocate_tensors()
    source, targets = interpreter.get_input_details()[0], interpreter.get_output_details()
    answers = []
    for one in batch:
        interpreter.set_tensor(source["index"], one[None])
        interpreter.invoke()
        answers.append([interpreter.get_tensor(target["index"]) for target in targets])
    return [np.concatenate(outputs) for outputs in zip(*answers, strict=True)]


def random_inputs(model: bytes, count: int) -> NDArray[Any]:
    details = Interpreter(model_content=model).get_input_details()[0]
    raw = np.random.default_rng(7).integers(0, 256, (count, *details["shape"][1:]), dtype=np.uint8)
    return raw.view(details["dtype"])


@pytest.mark.parametrize("name", ["digits", *REFERENCES])
def test_every_batch_is_bit_equal_to_the_library(name: str) -> None:
    model = digits_model() if name == "digits" else reference_model(name)
    if model is None:
        pytest.skip(NO_MODELS)
    accelerator = load_backend("litert")(model, LARGEST)
    inputs = random_inputs(model, LARGEST)
    expected = reference(model, inputs)
    for count in range(1, LARGEST + 1):
        outputs = accelerator.invoke(inputs[:count])
        assert len(outputs) == len(expected)
        for found, wanted in zip(outputs, expected, strict=True):
            assert found.dtype == wanted.dtype
            np.testing.assert_array_equal(found, wanted[:count])


def test_digits_run_in_whole_batches() -> None:
    accelerator = load_backend("litert")(digits_model(), LARGEST)
    assert accelerator.max_batch == LARGEST
    assert (accelerator.input.dtype, accelerator.input.shape, accelerator.input.size) == ("int8", (16, 16, 1), 256)
    assert accelerator.input.scale == pytest.approx(1 / 255)
    assert accelerator.input.zero_point == -128
    assert [(spec.dtype, spec.shape) for spec in accelerator.outputs] == [("int8", (10,))]


def test_the_largest_batch_is_a_power_of_two() -> None:
    assert load_backend("litert")(digits_model(), 12).max_batch == 8
    assert load_backend("litert")(digits_model(), 1).max_batch == 1


def test_a_real_utterance_is_recognised() -> None:
    model = reference_model("kws_dscnn_int8.tflite")
    if model is None:
        pytest.skip(NO_MODELS)
    mfcc = np.load(MODELS / "kws_mfcc_on.npy")
    (scores,) = load_backend("litert")(model, 1).invoke(mfcc[None])
    assert scores.tolist() == [[-128] * 5 + [127] + [-128] * 6]  # index 5 is On


def test_dense_layer_against_numpy() -> None:
    chance = np.random.default_rng(3)
    weights, bias, x = (chance.standard_normal(shape) for shape in ((3, 4), (3,), (5, 4)))
    accelerator = load_backend("litert")(tiny_models.dense(weights, bias), 8)
    (answer,) = accelerator.invoke(x.astype(np.float32))
    np.testing.assert_allclose(answer.astype(np.float64), x @ weights.T + bias, rtol=1e-4, atol=1e-5)


def test_an_input_that_the_model_fails_on_is_one_exception_and_the_next_runs() -> None:
    table = np.arange(20.0).reshape(10, 2)
    accelerator = load_backend("litert")(tiny_models.embedding(table), 4)
    with pytest.raises(DeviceError, match=r"failed on this input: .*gather index out of bounds"):
        accelerator.invoke(np.array([[10]], np.int32))
    (row,) = accelerator.invoke(np.array([[9]], np.int32))
    assert row.tolist() == [[[18.0, 19.0]]]


def test_a_model_of_two_inputs_is_refused() -> None:
    tensors = [tiny_models.TensorEntry(name, (1, 4)) for name in "abc"]
    add = tiny_models.OperatorEntry(0, (0, 1), (2,))
    with pytest.raises(ConfigError, match=r"2 inputs; an appliance feeds exactly one|does not load"):
        load_backend("litert")(tiny_models.build(tensors, [add], [0, 1], [2]), 1)


def test_an_unknown_backend_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="no DLA backend is called gpu; there are: litert, tflite-runtime"):
        load_backend("gpu")
