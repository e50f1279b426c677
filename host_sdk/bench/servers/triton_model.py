"""The model of a Triton repository (``model.py``): what its Python backend loads and calls.

``config.pbtxt`` names the .tflite file in its parameters.
"""

import json
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from batched_model import BatchedModel

MAX_BATCH = 32


class TritonPythonModel:
    """Runs the requests that Triton hands over at once as one batch."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model."""
        parameters = json.loads(args["model_config"])["parameters"]
        self._model = BatchedModel(parameters["model"]["string_value"], MAX_BATCH)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer requests, each with a batch of its own."""
        inputs = [pb_utils.get_input_tensor_by_name(request, "input").as_numpy() for request in requests]
        outputs = self._model.invoke(inputs[0] if len(inputs) == 1 else np.concatenate(inputs))
        replies, begin = [], 0
        for each in inputs:
            part = outputs[begin : begin + len(each)]
            replies.append(pb_utils.InferenceResponse([pb_utils.Tensor("output", part)]))
            begin += len(each)
        return replies
