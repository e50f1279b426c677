"""The vector engine: arithmetic on batches, each function one pass over [n, ...]."""

import numpy as np
from numpy.typing import NDArray


def quantise(real: NDArray[np.floating], scale: float, zero_point: int, dtype: str) -> NDArray[np.generic]:
    """Return round(real / scale) + zero_point in ``dtype``, clipped to its range; ties go to even.

    Source: the TensorFlow Lite 8-bit quantisation specification, real = (quantised - zero_point) * scale.
    """
    info = np.iinfo(dtype)
    steps = np.rint(real / np.float32(scale)) + zero_point
    quantised: NDArray[np.generic] = np.clip(steps, info.min, info.max).astype(dtype)
    return quantised


def dequantise(quantised: NDArray[np.generic], scale: float, zero_point: int) -> NDArray[np.float32]:
    """Return (quantised - zero_point) * scale as float32."""
    return (quantised.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)


def normalise(
    pixels: NDArray[np.generic], mean: NDArray[np.float32], scale: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return (pixel - mean) / scale for each channel; ``mean`` and ``scale`` are float32 [channels]."""
    return (pixels.astype(np.float32) - mean) / scale


def lookup(pixels: NDArray[np.uint8], table: NDArray[np.generic]) -> NDArray[np.generic]:
    """Map every uint8 through the table of its channel: pixels [..., c], table [c, 256]."""
    if len(table) == 1:
        return np.take(table[0], pixels)
    return table[np.arange(len(table)), pixels]


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the softmax over the last axis, float32, shifted by the maximum so that it cannot overflow."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    normalised: NDArray[np.float32] = powers / powers.sum(axis=-1, keepdims=True)
    return normalised


def top_k(scores: NDArray[np.generic], k: int) -> tuple[NDArray[np.uint16], NDArray[np.generic]]:
    """Return the indices uint16 [n, k] and the values [n, k] of the k largest of [n, classes], largest first.

    Among equals the lower index comes first.
    """
    order = np.argsort(-scores.astype(np.float64), axis=-1, kind="stable")[:, :k]
    return order.astype(np.uint16), np.take_along_axis(scores, order, axis=-1)
