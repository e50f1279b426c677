"""What pipelines know of an engine that decodes media, before the first of them needs one and its library is loaded."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

FORMATS = {"jpeg": "JPEG", "png": "PNG"}  # to what Pillow calls them
MODES = {"L": 1, "RGB": 3}  # to their channels

Step = Callable[[Any], Any]  # decoded medium to decoded medium, of the engine's own kind


class MediaEngine(Protocol):
    """Decodes media."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of every result."""

    def decode_batch(self, bodies: list[bytes]) -> tuple[NDArray[np.uint8], NDArray[np.int64], dict[int, str]]:
        """Return the pixels of each body, how many were decoded for it, and a sentence for each that is no medium."""
