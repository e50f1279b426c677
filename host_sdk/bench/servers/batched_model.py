"""A LiteRT model behind one interpreter for each power of two, so that no batch is padded and none is resized."""

from collections.abc import Callable
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

Tensor = NDArray[np.generic]


class BatchedModel:
    """A model with one input and one output, both with the batch first; every interpreter has one thread.

    Args:
        path: The .tflite file.
        max_batch: Largest batch, a power of two. A model whose graph fixes its batch runs one by one.
    """

    def __init__(self, path: str, max_batch: int) -> None:
        self._interpreters: dict[int, tuple[Interpreter, Callable[[], Tensor], Callable[[], Tensor]]] = {}
        self.input, self.output = self._add(path, 1)
        self.max_batch = 1
        while self.max_batch < max_batch:
            try:
                self._add(path, 2 * self.max_batch)
            except (RuntimeError, ValueError):  # what the library raises where the graph fixes its batch
                break
            self.max_batch *= 2

    def _add(self, path: str, batch: int) -> tuple[dict[str, Any], dict[str, Any]]:
        interpreter = Interpreter(model_path=path, num_threads=1)
        before, after = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
        if batch > 1:
            interpreter.resize_tensor_input(before["index"], [batch, *before["shape"][1:]])
        interpreter.allocate_tensors()
        interpreter.invoke()
        self._interpreters[batch] = (
            interpreter,
            interpreter.tensor(before["index"]),
            interpreter.tensor(after["index"]),
        )
        return before, after

    def invoke(self, inputs: Tensor) -> Tensor:
        """Run the model on [n, *shape] and return its output, [n, *shape]."""
        exact = self._interpreters.get(len(inputs))
        if exact is not None:
            interpreter, before, after = exact
            before()[...] = inputs
            interpreter.invoke()
            return after().copy()
        parts, begin = [], 0
        while begin < len(inputs):
            size = min(1 << ((len(inputs) - begin).bit_length() - 1), self.max_batch)
            parts.append(self.invoke(inputs[begin : begin + size]))
            begin += size
        return np.concatenate(parts)
