"""Latencies: the histogram against exact percentiles."""

import numpy as np
import pytest

from host_sdk.bench.histogram import LONGEST_NS, LatencyHistogram


@pytest.mark.parametrize("seed", range(3))
def test_percentiles_are_exact_to_three_digits(seed: int) -> None:
    latencies = np.random.default_rng(seed).lognormal(12, 2, 50_000).astype(np.int64)
    histogram = LatencyHistogram()
    for part in np.array_split(latencies, 7):
        histogram.add(part)
    # Of 50,000 values in order, the ones at these ranks; np.percentile's own ranks are off by one for 99.9 %.
    exact = np.sort(latencies)[np.array([25_000, 49_500, 49_950]) - 1] / 1000
    found = histogram.quantiles()
    assert len(histogram) == len(latencies)
    np.testing.assert_allclose((found.p50_us, found.p99_us, found.p999_us), exact, rtol=2e-3, atol=0.2)


def test_what_is_longer_than_a_minute_counts_as_a_minute() -> None:
    histogram = LatencyHistogram()
    histogram.add(np.array([2 * LONGEST_NS]))
    assert histogram.quantiles().p50_us == pytest.approx(LONGEST_NS / 1000, rel=1e-3)


def test_of_nothing_all_is_zero() -> None:
    histogram = LatencyHistogram()
    histogram.add(np.empty(0, np.int64))
    assert histogram.quantiles().p999_us == 0
