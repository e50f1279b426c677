"""The vector engine against the same arithmetic written differently, in float64 or by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from appliance.engines import vector

FLOATS = st.floats(-1e4, 1e4, width=32)


@pytest.mark.parametrize(
    ("real", "expected"),
    [(0.0, 3), (0.5, 4), (0.24, 3), (0.25, 3), (0.75, 5), (-0.25, 3), (-0.26, 2), (100.0, 127), (-100.0, -128)],
)
def test_quantise_by_hand(real: float, expected: int) -> None:
    # Scale 1/2 and zero point 3: 0.25 is half a step, and ties go to the even step.
    assert vector.quantise(np.array([real], np.float32), 0.5, 3, "int8").tolist() == [expected]


@pytest.mark.parametrize(("dtype", "low", "high"), [("int8", -128, 127), ("uint8", 0, 255), ("int16", -32768, 32767)])
@given(real=hnp.arrays(np.float32, 7, elements=FLOATS), step=st.integers(-8, 8), zero=st.integers(0, 100))
def test_quantise_against_python(
    dtype: str, low: int, high: int, real: NDArray[np.float32], step: int, zero: int
) -> None:
    scale = 2.0**step  # so that dividing is exact, and round() is all that rounds
    expected = [min(max(round(float(value) / scale) + zero, low), high) for value in real]
    answer = vector.quantise(real, scale, zero, dtype)
    assert answer.dtype == dtype
    assert answer.tolist() == expected


@given(hnp.arrays(np.int8, (3, 5)), st.floats(1e-3, 10), st.integers(-128, 127))
def test_dequantise_against_float64(quantised: NDArray[np.int8], scale: float, zero: int) -> None:
    answer = vector.dequantise(quantised, scale, zero)
    assert answer.dtype == np.float32
    expected = [[(int(value) - zero) * scale for value in row] for row in quantised]
    np.testing.assert_allclose(answer, expected, rtol=1e-6)


def test_quantise_undoes_dequantise() -> None:
    every = np.arange(-128, 128, dtype=np.int8)
    np.testing.assert_array_equal(vector.quantise(vector.dequantise(every, 0.0123, -7), 0.0123, -7, "int8"), every)


@given(hnp.arrays(np.uint8, (2, 4, 3)), st.lists(FLOATS, min_size=3, max_size=3))
def test_normalise_against_loops(pixels: NDArray[np.uint8], means: list[float]) -> None:
    scales = [255.0, 127.5, 1.0]
    answer = vector.normalise(pixels, np.array(means, np.float32), np.array(scales, np.float32))
    for (row, column, channel), value in np.ndenumerate(pixels):
        expected = (float(value) - means[channel]) / scales[channel]
        assert answer[row, column, channel] == pytest.approx(expected, rel=1e-5, abs=1e-5)


@given(hnp.arrays(np.uint8, (2, 5, 3)))
def test_lookup_is_the_table_of_the_channel(pixels: NDArray[np.uint8]) -> None:
    table = np.stack([np.arange(256), np.arange(256)[::-1], np.full(256, 7)]).astype(np.int16)
    expected = np.stack([pixels[..., 0], 255 - pixels[..., 1].astype(int), np.full((2, 5), 7)], axis=-1)
    np.testing.assert_array_equal(vector.lookup(pixels, table), expected)
    np.testing.assert_array_equal(vector.lookup(pixels, table[:1]), pixels)


@given(hnp.arrays(np.float32, (3, 6), elements=FLOATS))
def test_softmax_against_math_exp(logits: NDArray[np.float32]) -> None:
    answer = vector.softmax(logits)
    assert answer.dtype == np.float32
    for row, found in zip(logits.tolist(), answer.tolist(), strict=True):
        total = math.fsum(math.exp(value - max(row)) for value in row)
        for value, share in zip(row, found, strict=True):
            assert share == pytest.approx(math.exp(value - max(row)) / total, rel=1e-4, abs=1e-7)


def test_softmax_does_not_overflow() -> None:
    assert vector.softmax(np.array([[1e30, 0.0, -1e30]], np.float32)).tolist() == [[1.0, 0.0, 0.0]]


@given(hnp.arrays(np.int8, (4, 6)), st.integers(1, 6))
def test_top_k_against_sorted(scores: NDArray[np.int8], k: int) -> None:
    classes, values = vector.top_k(scores, k)
    assert (classes.dtype.name, values.dtype.name) == ("uint16", "int8")
    for row, found, value in zip(scores.tolist(), classes.tolist(), values.tolist(), strict=True):
        ranked = sorted(range(len(row)), key=lambda index: (-row[index], index))[:k]
        assert found == ranked
        assert value == [row[index] for index in ranked]
