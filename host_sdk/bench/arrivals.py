"""When the requests of an open loop are due."""

import numpy as np
from numpy.typing import NDArray


def poisson_arrivals(rate_per_s: float, seconds: float, seed: int) -> NDArray[np.int64]:
    """Return the times of a Poisson process in ns from its beginning, ascending, int64 [n].

    Args:
        rate_per_s: Mean arrivals in a second.
        seconds: How long it goes on.
        seed: Of its times.
    """
    generator = np.random.default_rng(seed)
    # Given how many there are, the arrivals of a Poisson process are independent and uniform.
    count = generator.poisson(rate_per_s * seconds)
    return np.sort(generator.uniform(0, seconds * 1e9, count)).astype(np.int64)
