"""What LiteRT and tflite-runtime have in common: the interpreter API that one inherited from the other."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from appliance.dla.base import TensorSpec
from host_sdk.wire.errors import ConfigError, DeviceError


class _Interpreter(Protocol):
    """The part of the interpreter API that is used here."""

    def allocate_tensors(self) -> None: ...
    def invoke(self) -> None: ...
    def get_input_details(self) -> list[dict[str, Any]]: ...
    def get_output_details(self) -> list[dict[str, Any]]: ...
    def resize_tensor_input(self, index: int, shape: list[int]) -> None: ...
    def tensor(self, index: int) -> Callable[[], NDArray[np.generic]]: ...


Factory = Callable[[bytes], _Interpreter]  # model to interpreter, one thread
_ERRORS = (ValueError, RuntimeError)  # what the libraries raise for a model that they do not like


def _spec(details: dict[str, Any], model_part: str) -> TensorSpec:
    shape = tuple(int(size) for size in details["shape"])
    if not shape or any(size < 1 for size in shape):
        raise ConfigError(f"the model's {model_part} has shape {shape}; it needs a batch dimension first")
    scale, zero_point = details["quantization"]
    name = str(details["name"])
    return TensorSpec(name, np.dtype(details["dtype"]).name, shape[1:], float(scale), int(zero_point))


class InterpreterAccelerator:
    """A model behind one interpreter for each power of two up to the largest batch, so that none is ever resized.

    Args:
        factory: Makes an interpreter of the model's bytes.
        backend: Name and version for people.
        model: The .tflite file.
        max_batch: Largest batch wanted; a model that cannot take it, or answers otherwise in a batch than alone,
            runs one by one.

    Raises:
        ConfigError: The model is none, or has not one input with a leading batch dimension of 1.
    """

    def __init__(self, factory: Factory, backend: str, model: bytes, max_batch: int) -> None:
        self._factory, self._model, self.backend = factory, model, backend
        self._interpreters = {1: self._build(1)}
        inputs = self._interpreters[1].get_input_details()
        if len(inputs) != 1:
            raise ConfigError(f"the model has {len(inputs)} inputs; an appliance feeds exactly one")
        outputs = self._interpreters[1].get_output_details()
        if any(list(entry["shape"][:1]) != [1] for entry in (*inputs, *outputs)):
            raise ConfigError("the first dimension of the model's input and outputs must be a batch of 1")
        self.input = _spec(inputs[0], "input")
        self.outputs = tuple(_spec(entry, "output") for entry in outputs)
        self._input_index = int(inputs[0]["index"])
        self._output_indices = [int(entry["index"]) for entry in outputs]
        self.max_batch = 1
        self._grow(max_batch)

    def _build(self, batch: int) -> _Interpreter:
        try:
            interpreter = self._factory(self._model)
            if batch > 1:
                shape = [batch, *self.input.shape]
                interpreter.resize_tensor_input(self._input_index, shape)
            interpreter.allocate_tensors()
        except _ERRORS as error:
            raise ConfigError(f"the model does not load: {error}") from None
        return interpreter

    def _grow(self, max_batch: int) -> None:
        """Build the interpreters for larger batches while they answer exactly as one by one does."""
        probe = self._probe(max_batch)
        try:
            alone = [self._run(self._interpreters[1], probe[index : index + 1]) for index in range(max_batch)]
        except DeviceError as error:
            raise ConfigError(
                f"a first run of the model, on an input of zeros and ones or noise, failed: {error}"
            ) from None
        batch = 2
        while batch <= max_batch:
            try:
                self._interpreters[batch] = self._build(batch)
                together = self._run(self._interpreters[batch], probe[:batch])
            except (ConfigError, DeviceError, *_ERRORS):
                break  # the graph fixes its batch dimension somewhere inside; one by one is right for it
            expected = [np.concatenate(parts) for parts in zip(*alone[:batch], strict=True)]
            same = (a.shape == b.shape and np.array_equal(a, b) for a, b in zip(together, expected, strict=True))
            if not all(same):
                break
            self.max_batch = batch
            batch *= 2
        self._interpreters = {size: self._interpreters[size] for size in self._interpreters if size <= self.max_batch}

    def _probe(self, count: int) -> NDArray[np.generic]:
        """Return inputs that any model of this kind must take, [count, *input.shape]."""
        generator, shape, dtype = np.random.default_rng(0), (count, *self.input.shape), np.dtype(self.input.dtype)
        if dtype.kind == "f":
            return generator.standard_normal(shape).astype(dtype)
        if dtype.itemsize == 1 and dtype.kind in "iu":
            return generator.integers(0, 256, shape, dtype=np.uint8).view(dtype)
        # Wider integers are indices more often than not, and every table has at least these two rows.
        return generator.integers(0, 2, shape).astype(dtype)

    def _run(self, interpreter: _Interpreter, batch: NDArray[np.generic]) -> list[NDArray[np.generic]]:
        # The view is dropped before invoke: the interpreter refuses to run while one is alive.
        interpreter.tensor(self._input_index)()[...] = batch
        try:
            interpreter.invoke()
        except _ERRORS as error:
            raise DeviceError(f"the model failed on this input: {error}") from None
        return [interpreter.tensor(index)().copy() for index in self._output_indices]

    def invoke(self, batch: NDArray[np.generic]) -> list[NDArray[np.generic]]:
        """Run the model on [n, *input.shape], cut into powers of two; return [n, *shape] for each output.

        Raises:
            DeviceError: The model failed on an input, such as an index outside its table.
        """
        total = len(batch)
        exact = self._interpreters.get(total)
        if exact is not None:
            return self._run(exact, batch)
        parts, begin = [], 0
        while begin < total:
            size = min(1 << ((total - begin).bit_length() - 1), self.max_batch)
            parts.append(self._run(self._interpreters[size], batch[begin : begin + size]))
            begin += size
        return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]

    def copy(self) -> "InterpreterAccelerator":
        """Return another one of the same model and batches, whose answers were compared already."""
        other = object.__new__(InterpreterAccelerator)
        other.__dict__.update(self.__dict__)
        other._interpreters = {batch: other._build(batch) for batch in self._interpreters}
        return other
