"""Who comes first among equals: places within groups, for a whole batch at once."""

import numpy as np
from numpy.typing import NDArray


def ranks(groups: NDArray[np.uint16]) -> NDArray[np.int64]:
    """Return how many entries before each are of the same group, int64 [n].

    Args:
        groups: uint16 [n]; of 16 bits, for which a stable sort is one by radix.
    """
    places = np.arange(len(groups))
    if len(groups) < 2 or (groups == groups[0]).all():  # nearly always
        return places
    order = groups.argsort(kind="stable")
    grouped = groups[order]
    firsts = np.zeros(len(groups), np.int64)
    firsts[1:] = np.where(grouped[1:] != grouped[:-1], places[1:], 0)
    found = np.empty(len(groups), np.int64)
    found[order] = places - np.maximum.accumulate(firsts)
    return found
