"""Latencies in a high dynamic range histogram: bounded memory, percentiles to three digits."""

import numpy as np
from hdrh.histogram import HdrHistogram
from numpy.typing import NDArray

from host_sdk.bench.system import Quantiles

LONGEST_NS = 60_000_000_000
_SHORTEST_NS = 100
_DIGITS = 3


class LatencyHistogram:
    """Counts latencies from 0.1 µs to a minute; what is longer counts as a minute."""

    def __init__(self) -> None:
        self._histogram = HdrHistogram(_SHORTEST_NS, LONGEST_NS, _DIGITS)

    def __len__(self) -> int:
        return int(self._histogram.get_total_count())

    def add(self, latencies_ns: NDArray[np.int64]) -> None:
        """Count latencies in ns, int64 [n]."""
        # Rounded to the resolution that the histogram has at all, so that equal ones are recorded together.
        clipped = np.clip(latencies_ns, _SHORTEST_NS, LONGEST_NS) // _SHORTEST_NS * _SHORTEST_NS
        values, counts = np.unique(clipped, return_counts=True)
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            self._histogram.record_value(value, count)

    def quantiles(self) -> Quantiles:
        """Return median and tails; zeros where nothing was counted."""
        if not len(self):
            return Quantiles(0, 0, 0)
        found = self._histogram.get_percentile_to_value_dict([50.0, 99.0, 99.9])
        return Quantiles(*(found[level] / 1000 for level in (50.0, 99.0, 99.9)))
