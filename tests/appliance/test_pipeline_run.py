"""A compiled pipeline from bodies to answers, against the library and Pillow called directly."""

import struct

import numpy as np
import pytest

from appliance.clock import VirtualClock
from appliance.dla.backends import load_backend
from appliance.pipelines.compile import compile_pipeline
from appliance.pipelines.pipeline import Pipeline
from appliance.profile import load_profile
from host_sdk.wire.schema import Status
from tests.rig import tiny_models
from tests.rig.packages import LABELS, digits_model, held_out, image_package, tensor_package


def compiled(package: bytes) -> Pipeline:
    return compile_pipeline(package, 257, load_backend("litert"), load_profile("napu-s"))


def test_image_answers_are_class_score_and_label() -> None:
    label, jpeg = held_out()[0]
    outcome = compiled(image_package()).run([jpeg], VirtualClock())
    answer = outcome.answers[0].tobytes()
    classes, scores = struct.unpack("<3H", answer[:6]), struct.unpack("<3f", answer[6:18])
    labels = [answer[at : at + 5].rstrip(b"\0").decode() for at in (18, 23, 28)]
    assert len(answer) == 33
    assert labels == [LABELS[index] for index in classes]
    assert labels[0] == label
    assert list(scores) == sorted(scores, reverse=True)
    assert 0.99 < sum(scores) <= 1.0001


def test_tensor_answers_are_the_models_own_bytes() -> None:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=digits_model(), num_threads=1)
    interpreter.allocate_tensors()
    inputs = np.random.default_rng(1).integers(-128, 128, (5, 16, 16, 1), dtype=np.int8)
    outcome = compiled(tensor_package("raw")).run(inputs.view(np.uint8).reshape(5, 256), VirtualClock())
    for one, answer in zip(inputs, outcome.answers, strict=True):
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], one[None])
        interpreter.invoke()
        expected = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
        assert answer.tobytes() == expected.tobytes()


def test_a_batch_is_what_its_parts_are_alone() -> None:
    pipeline = compiled(image_package())
    bodies = [jpeg for _, jpeg in held_out()[:16]]
    together = pipeline.run(bodies, VirtualClock()).answers
    for body, answer in zip(bodies, together, strict=True):
        np.testing.assert_array_equal(pipeline.run([body], VirtualClock()).answers[0], answer)


@pytest.mark.parametrize("bad", [[0], [1], [2], [0, 2], [0, 1, 2]])
def test_only_bad_media_fail(bad: list[int]) -> None:
    pipeline = compiled(image_package())
    bodies = [b"junk" if index in bad else held_out()[index][1] for index in range(3)]
    outcome = pipeline.run(bodies, VirtualClock())
    assert sorted(outcome.details) == bad
    for index, body in enumerate(bodies):
        if index in bad:
            assert outcome.statuses[index] == Status.UNDECODABLE
            assert not outcome.answers[index].any()
        else:
            assert outcome.statuses[index] == Status.OK
            np.testing.assert_array_equal(outcome.answers[index], pipeline.run([body], VirtualClock()).answers[0])


@pytest.mark.parametrize("bad", [[], [0], [3], [1, 2], [0, 1, 2, 3]])
def test_an_input_that_the_model_fails_on_costs_no_other_its_answer(bad: list[int]) -> None:
    table = np.arange(20.0).reshape(10, 2)
    pipeline = compiled(tensor_package("rows", tiny_models.embedding(table), batch=4))
    rows = [10**6 if index in bad else index + 2 for index in range(4)]
    outcome = pipeline.run(np.array(rows, "<i4")[:, None].view(np.uint8), VirtualClock())
    assert sorted(outcome.details) == bad
    for index, row in enumerate(rows):
        if index in bad:
            assert outcome.statuses[index] == Status.INTERNAL
            assert "out of bounds" in outcome.details[index]
        else:
            assert outcome.statuses[index] == Status.OK
            assert outcome.answers[index].view("<f4").tolist() == table[row].tolist()


def test_the_largest_batch_is_the_manifests_as_far_as_the_model_takes_it() -> None:
    assert compiled(tensor_package("one", batch=1)).max_batch == 1
    assert compiled(tensor_package("eight", batch=12)).max_batch == 8  # interpreters come in powers of two


def test_measured_times_are_the_clocks() -> None:
    class Ticking:
        def __init__(self) -> None:
            self.now = 0

        def now_ns(self) -> int:
            self.now += 10
            return self.now

    outcome = compiled(image_package()).run([held_out()[0][1]], Ticking())
    assert outcome.measured_ns == (10, 10, 10)
