"""What LiteRT and tflite-runtime have in common: the interpreter API that one inherited from the other."""

import math
import random
import time
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
_TRIALS = 8  # of each batch at most when the best one is looked for
_TRIALS_NS = 200_000_000  # after which no other is begun
_AS_GOOD = 1.03
_ERRORS = (ValueError, RuntimeError)  # what the libraries raise for a model that they do not like


def _spec(details: dict[str, Any], model_part: str) -> TensorSpec:
    shape = tuple(int(size) for size in details["shape"])
    if not shape or any(size < 1 for size in shape):
        raise ConfigError(f"the model's {model_part} has shape {shape}; it needs a batch dimension first")
    scale, zero_point = details["quantization"]
    name = str(details["name"])
    return TensorSpec(name, np.dtype(details["dtype"]).name, shape[1:], float(scale), int(zero_point))


class InterpreterAccelerator:
    """A model behind an interpreter for each power of two, so that none is ever resized.

    Requests that run together run in as many invocations as serve them best: where larger ones are no faster for each
    input, they only drive the rest of the appliance out of the processor's cache, and are not kept.

    Args:
        factory: Makes an interpreter of the model's bytes.
        backend: Name and version for people.
        model: The .tflite file.
        max_batch: Largest batch wanted; a model that cannot take it, or answers otherwise in a batch than alone,
            runs one by one.
        now: Measures invocations, in ns.

    Raises:
        ConfigError: The model is none, or has not one input with a leading batch dimension of 1.
    """

    def __init__(
        self,
        factory: Factory,
        backend: str,
        model: bytes,
        max_batch: int,
        now: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
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
        probe = self._probe(max_batch)
        self._grow(max_batch, probe)
        self._largest = self._fastest(probe, now)
        self._interpreters = {size: self._interpreters[size] for size in self._interpreters if size <= self._largest}

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

    def _grow(self, max_batch: int, probe: NDArray[np.generic]) -> None:
        """Build the interpreters for larger batches while they answer exactly as one by one does."""
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

    def _fastest(self, probe: NDArray[np.generic], now: Callable[[], int]) -> int:
        """Return the smallest batch that takes about as little time for each input as any does."""
        best, end = dict.fromkeys(self._interpreters, math.inf), now() + _TRIALS_NS
        for trial in range(_TRIALS):  # in turns, so that what disturbs the machine disturbs all alike
            if trial and now() > end:
                break
            for size, interpreter in self._interpreters.items():
                began = now()
                self._run(interpreter, probe[:size])
                best[size] = min(best[size], (now() - began) / size)
        limit = min(best.values()) * _AS_GOOD
        return min(size for size in best if best[size] <= limit)

    def _probe(self, count: int) -> NDArray[np.generic]:
        """Return inputs that any model of this kind must take, [count, *input.shape]."""
        shape, dtype = (count, *self.input.shape), np.dtype(self.input.dtype)
        # Not numpy's generators, whose import takes megabytes of every node.
        noise = np.frombuffer(random.Random(0).randbytes(math.prod(shape)), np.uint8).reshape(shape)  # noqa: S311
        if dtype.kind == "f":
            return ((noise.astype(np.float64) - 128) / 64).astype(dtype)
        if dtype.itemsize == 1 and dtype.kind in "iu":
            return noise.view(dtype)
        # Wider integers are indices more often than not, and every table has at least these two rows.
        return (noise & 1).astype(dtype)

    def _run(self, interpreter: _Interpreter, batch: NDArray[np.generic]) -> list[NDArray[np.generic]]:
        outputs = self._outputs(len(batch))
        self._run_into(interpreter, batch, outputs)
        return outputs

    def _outputs(self, count: int) -> list[NDArray[np.generic]]:
        return [np.empty((count, *spec.shape), spec.dtype) for spec in self.outputs]

    def _run_into(
        self, interpreter: _Interpreter, batch: NDArray[np.generic], outputs: list[NDArray[np.generic]]
    ) -> None:
        # The view is dropped before invoke: the interpreter refuses to run while one is alive.
        interpreter.tensor(self._input_index)()[...] = batch
        try:
            interpreter.invoke()
        except _ERRORS as error:
            raise DeviceError(f"the model failed on this input: {error}") from None
        for index, output in zip(self._output_indices, outputs, strict=True):
            output[...] = interpreter.tensor(index)()

    def invoke(self, batch: NDArray[np.generic]) -> list[NDArray[np.generic]]:
        """Run the model on [n, *input.shape], cut into powers of two; return [n, *shape] for each output.

        Raises:
            DeviceError: The model failed on an input, such as an index outside its table.
        """
        total, begin = len(batch), 0
        outputs = self._outputs(total)
        while begin < total:
            size = min(1 << ((total - begin).bit_length() - 1), self._largest)
            chosen = slice(begin, begin + size)
            self._run_into(self._interpreters[size], batch[chosen], [output[chosen] for output in outputs])
            begin += size
        return outputs

    def copy(self) -> "InterpreterAccelerator":
        """Return another one of the same model and batches, whose answers were compared already."""
        other = object.__new__(InterpreterAccelerator)
        other.__dict__.update(self.__dict__)
        other._interpreters = {batch: other._build(batch) for batch in self._interpreters}
        return other
