"""The protocol of an accelerator."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of one inference, the batch dimension left out.

    Attributes:
        name: As the model calls it.
        dtype: numpy's name of the element type.
        shape: Without the batch dimension.
        scale: Real value of one step of a quantised tensor; 0 where it is not quantised.
        zero_point: Quantised value that stands for 0.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    scale: float = 0.0
    zero_point: int = 0

    @property
    def size(self) -> int:
        """Bytes of the tensor."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


class Accelerator(Protocol):
    """A model loaded into a DLA. Used from one thread at a time; invoke releases the GIL."""

    @property
    def backend(self) -> str:
        """Name and version of what executes the model."""

    @property
    def input(self) -> TensorSpec:
        """The model's only input."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The model's outputs, in its order."""

    @property
    def max_batch(self) -> int:
        """Largest batch that one invocation takes; 1 for a model with a fixed batch dimension."""

    def invoke(self, batch: NDArray[np.generic]) -> list[NDArray[np.generic]]:
        """Run the model on [n, *input.shape] and return [n, *shape] for each output; n is at most max_batch.

        Raises:
            DeviceError: The model failed on an input, such as an index outside its table.
        """

    def copy(self) -> "Accelerator":
        """Return another one of the same model, that runs at the same time."""


Loader = Callable[[bytes, int], Accelerator]
