"""Multiply-accumulates counted by hand, and time and energy calculated by hand from the profile's numbers."""

import numpy as np
import pytest

from appliance.clock import VirtualClock
from appliance.dataplane.energy import HardwareModel
from appliance.dla.backends import load_backend
from appliance.dla.cost import count_macs
from appliance.pipelines.compile import compile_pipeline
from appliance.pipelines.pipeline import Pipeline, Work
from appliance.profile import load_profile
from host_sdk.wire.errors import ConfigError
from tests.rig import tiny_models
from tests.rig.nodes import NO_MODELS
from tests.rig.packages import digits_model, held_out, image_package, reference_model, tensor_package


def test_digits_by_hand() -> None:
    convolutions = 8 * 8 * 12 * 9 + 4 * 4 * 24 * 9 * 12 + 4 * 4 * 32 * 9 * 24
    dense = 512 * 10
    reshaped = 512  # an operator without arithmetic counts what it writes
    assert convolutions + dense == 164_096  # what the model's card says
    assert count_macs(digits_model()) == convolutions + dense + reshaped


def test_tiny_graph_by_hand() -> None:
    assert count_macs(tiny_models.convolution_relu()) == 4 * 6 * 5 * (3 * 3 * 2) + 4 * 6 * 5
    assert count_macs(tiny_models.dense(np.ones((3, 4)), np.ones(3))) == 12
    assert count_macs(tiny_models.doubler((1, 7, 3))) == 21


# Multiply-accumulates of the networks of MLPerf Tiny as their papers and reference code define them.
PUBLISHED = {
    # Four blocks of depthwise 3x3 and pointwise 64x64 over 25x5 behind a 10x4 convolution of stride 2, dense 64x12.
    "kws_dscnn_int8.tflite": 25 * 5 * 64 * 40 + 4 * (25 * 5 * 64 * 9 + 25 * 5 * 64 * 64) + 64 * 12,
    # Three stacks of two 3x3 convolutions; the second and third halve the picture and have a 1x1 shortcut.
    "resnet8_cifar10_int8.tflite": (
        32 * 32 * 16 * 27
        + 2 * 32 * 32 * 16 * 144
        + 16 * 16 * 32 * (144 + 288 + 16)
        + 8 * 8 * 64 * (288 + 576 + 32)
        + 64 * 10
    ),
    # Dense 640-128-128-128-128-8-128-128-128-128-640.
    "ad_autoencoder_int8.tflite": 2 * (640 * 128 + 3 * 128 * 128 + 128 * 8),
    # MobileNetV1 with a quarter of its width on 96x96: published as 7.5 million.
    "vww_mobilenet_int8.tflite": 7_489_664,
}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_mlperf_tiny_models_against_their_definitions(name: str) -> None:
    model = reference_model(name)
    if model is None:
        pytest.skip(NO_MODELS)
    # Pooling, softmax, additions and reshapes count one for each element written: under 4 % of any of these.
    assert PUBLISHED[name] <= count_macs(model) <= 1.04 * PUBLISHED[name]


def test_a_graph_that_lies_about_sizes_is_refused() -> None:
    """LiteRT computes sizes for itself, so that lies in the file do not keep it from loading."""
    tensors = [
        tiny_models.TensorEntry("x", (1, 4)),
        tiny_models.TensorEntry("y", (2**31 - 1,) * 3),
        tiny_models.TensorEntry("z", (1, 4)),
    ]
    operators = [tiny_models.OperatorEntry(19, (0,), (1,)), tiny_models.OperatorEntry(19, (1,), (2,))]  # ReLU
    with pytest.raises(ConfigError, match="multiply-accumulates"):
        count_macs(tiny_models.build(tensors, operators, [0], [2]))


@pytest.mark.parametrize("shape", [(1, -4), (1,) * 9])
def test_a_graph_with_absurd_tensors_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="the model's graph cannot be read: it has a tensor of"):
        count_macs(tiny_models.doubler(shape))


def test_a_graph_of_very_many_parts_is_refused_before_it_is_walked() -> None:
    tensors = [tiny_models.TensorEntry("x", (1, 1))] * 16385
    with pytest.raises(ConfigError, match="16385 tensors and 0 operators"):
        count_macs(tiny_models.build(tensors, [], [0], [0]))
    many = tiny_models.OperatorEntry(0, (0,) * 300, (0,))
    with pytest.raises(ConfigError, match="an operator with 301 operands"):
        count_macs(tiny_models.build(tensors[:1], [many], [0], [0]))


# ---- modelled time and energy on napu-s: 10 Gb/s, 500 MP/s, 16 Gel/s, 2 cores of 400 GMAC/s, 4 µs launch ------------


def compiled(package: bytes) -> Pipeline:
    return compile_pipeline(package, 257, load_backend("litert"), load_profile("napu-s"))


def test_work_by_hand() -> None:
    work = Work.of(load_profile("napu-s"), 400_000)
    assert work.pixel_ns == pytest.approx(2.0)
    assert work.element_ns == pytest.approx(0.0625)
    assert work.launch_ns == pytest.approx(4000.0)
    assert work.inference_ns == pytest.approx(1000.0)


def test_modelled_times_of_a_batch_by_hand() -> None:
    bodies = [jpeg for _, jpeg in held_out()[:2]]
    outcome = compiled(image_package()).run([bodies[0], b"junk", bodies[1]], VirtualClock())
    pre = int(16 * 16 / 16 + 64 * 64 * 2.0)  # elements of the input, and pixels of 64x64
    dla = int(4000 + 2 * 164_608 / 400)  # two of the three ran
    post = int(4 * 10 / 16)  # four stages over ten scores
    assert outcome.modelled_ns.tolist() == [[pre, dla, post], [16, 0, 0], [pre, dla, post]]


def test_wire_time_by_hand() -> None:
    # 8 preamble, 14 header, 4 FCS and 12 gap around the PDU; 0.8 ns a byte.
    times = HardwareModel(load_profile("napu-s")).wire_ns(np.array([62, 1462]))
    assert times.tolist() == [80, 1200]


def test_energy_by_hand() -> None:
    modelled = {
        stage: np.array([value], np.int64)
        for stage, value in {"rx": 1000, "tx": 200, "pre": 8000, "dla": 5000, "post": 100}.items()
    }
    model = HardwareModel(load_profile("napu-s"))
    share = 5000 / 4
    idle = (1200 + 8000 + share + 100) * 1.5
    image = 1200 * 1.0 + 8000 * 0.8 + share * 2.0 + 100 * 0.6 + idle
    vector = 1200 * 1.0 + 8000 * 0.6 + share * 2.0 + 100 * 0.6 + idle
    assert model.energy_nj(modelled, 4, media=True).tolist() == [pytest.approx(image)]
    assert model.energy_nj(modelled, 4, media=False).tolist() == [pytest.approx(vector)]


def test_modelled_queue_of_two_cores_by_hand() -> None:
    model = HardwareModel(load_profile("napu-s"))
    at = np.array([100], np.int64)
    # Ready at 110, for 50 each: two start at once, the third and fourth when the first two end, at 160.
    assert [int(model.queue_ns(at, 10, 50)[0]) for _ in range(5)] == [0, 0, 50, 50, 100]
    # Of a batch, who came first waited for who came last.
    later = np.array([1000, 1030], np.int64)
    assert model.queue_ns(later, 10, 50).tolist() == [30, 0]


def test_tensor_pipelines_are_charged_for_their_elements() -> None:
    outcome = compiled(tensor_package("raw")).run(np.zeros((3, 256), np.uint8), VirtualClock())
    assert outcome.modelled_ns[:, 0].tolist() == [16, 16, 16]
    assert outcome.modelled_ns[:, 1].tolist() == [int(4000 + 3 * 164_608 / 400)] * 3
