"""A runtime for MLServer: what its ``model-settings.json`` names as implementation."""

import numpy as np
from batched_model import BatchedModel
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

MAX_BATCH = 32


class LiteRtRuntime(MLModel):  # type: ignore[misc]  # the library has no types
    """Runs the model at ``parameters.uri``."""

    async def load(self) -> bool:
        """Load the model."""
        self._model = BatchedModel(self.settings.parameters.uri, MAX_BATCH)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Run the model on the request's one tensor."""
        inputs = NumpyCodec.decode_input(payload.inputs[0]).astype(self._model.input["dtype"], copy=False)
        outputs = self._model.invoke(np.ascontiguousarray(inputs))
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("output", outputs)])
