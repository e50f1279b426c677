"""Models that break their runtime: the process that tries them is lost, and no other."""

import contextlib
import random

import numpy as np
import pytest

from appliance.dla.cost import count_macs
from appliance.dla.trial import try_model
from host_sdk.wire.errors import ConfigError
from tests.rig import tiny_models
from tests.rig.packages import digits_model


def test_a_good_model_passes() -> None:
    assert try_model(digits_model(), "litert", 16) == count_macs(digits_model())


def test_a_model_that_fails_on_some_inputs_passes() -> None:
    try_model(tiny_models.embedding(np.ones((2, 3))), "litert", 4)


@pytest.mark.parametrize("model", [b"", b"no model", digits_model()[:5000]], ids=["empty", "text", "half"])
def test_what_is_no_model_is_refused(model: bytes) -> None:
    with pytest.raises(ConfigError, match=r"does not load|crashes|no TensorFlow Lite file|graph cannot be read"):
        try_model(model, "litert")


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(ConfigError, match="no DLA backend is called abacus; there are: litert, tflite-runtime"):
        try_model(digits_model(), "abacus")


@pytest.mark.parametrize("seed", range(16))
def test_damaged_models_are_refused_or_run_and_this_process_goes_on(seed: int) -> None:
    chance = random.Random(seed)
    model = bytearray(digits_model())
    if seed % 4 == 0:
        del model[chance.randrange(len(model)) :]
    graph = len(model) * 9 // 10  # tables are at the end of the file, weights before them
    for _ in range(chance.choice((1, 4, 40))):
        where = chance.randrange(graph, len(model)) if chance.random() < 0.8 else chance.randrange(len(model))
        model[where] = chance.randrange(256)
    with contextlib.suppress(ConfigError):
        try_model(bytes(model), "litert", 2)
    with contextlib.suppress(ConfigError):
        assert 0 <= count_macs(bytes(model)) < 1 << 62
