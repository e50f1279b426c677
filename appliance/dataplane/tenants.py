"""Tenants: on whose behalf requests are made, and how the waiting ones of several tenants take turns."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from appliance.dataplane.ranks import ranks

DEFAULT_TENANT = "default"
UNIT = 1 << 20  # what a request of a tenant of weight 1 moves its tag on by
TAG_BITS = 55
TAG_START = 1 << (TAG_BITS - 1)
_SAME = np.array(TAG_START)


class TenantTable:
    """The tenants of a profile.

    Index 0 is the tenant ``default``, under which fall all that the profile does not name. Names are what a requester
    says of itself: version 1 of the protocol authenticates nobody, so weights are for labs whose members are honest.

    Args:
        weights: Name to weight; ``default`` has weight 1 unless it is named.

    Attributes:
        weights: By index, float64 [n].
    """

    def __init__(self, weights: Mapping[str, int]) -> None:
        shares = {DEFAULT_TENANT: 1, **weights}
        self._indices = {name.encode(): index for index, name in enumerate(shares)}
        self.weights = np.array(list(shares.values()), np.float64)

    def __len__(self) -> int:
        return len(self._indices)

    def index(self, name: bytes | str) -> int:
        """Return the index of the tenant that a name, in UTF-8 where it is bytes, falls under."""
        raw = name.encode("utf-8", "surrogatepass") if isinstance(name, str) else bytes(name)
        return self._indices.get(raw, 0)


class FairTags:
    """Turns of tenants by weight: start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996).

    Every request gets a tag when it is queued: where its tenant's one before ended, or where service is now if that is
    later. It ends 1 / weight behind. Service in the order of tags shares it by weight among those who have something
    waiting, whatever they had before. Tags are int64 from 0 to 2^55 in units of 1 / UNIT.

    Args:
        weights: Of each tenant, float64 [n].

    Attributes:
        costs: What a request of each tenant takes, int64 [n].
    """

    def __init__(self, weights: NDArray[np.float64]) -> None:
        self.costs: NDArray[np.int64] = np.rint(UNIT / weights).astype(np.int64)
        self._alone = len(weights) == 1  # without anybody to share with, all tags are the same
        self._now = TAG_START
        self._ends = np.full(len(self.costs), TAG_START)
        self._served = self._ends.copy()

    def reset(self) -> None:
        """Begin anew: nothing waits, so nobody is owed anything."""
        self._now = TAG_START
        self._ends.fill(TAG_START)
        self._served.fill(TAG_START)

    def take(self, tenants: NDArray[np.uint16]) -> NDArray[np.int64]:
        """Return the tags of requests that are queued now, by the tenant of each, uint16 [n].

        Returns:
            int64 [n], or [] where all are the same.
        """
        if self._alone:
            return _SAME
        starts = np.maximum(self._ends, self._now)
        tags: NDArray[np.int64] = starts[tenants] + ranks(tenants) * self.costs[tenants]
        self._ends = starts + np.bincount(tenants, minlength=len(starts)) * self.costs
        return tags

    def serve(self, tenants: NDArray[np.uint16], tags: NDArray[np.int64]) -> None:
        """Note that requests are served now."""
        if not self._alone:
            self._now = max(self._now, int(tags.max()))
            np.maximum.at(self._served, tenants, tags + self.costs[tenants])

    def withdraw(self, tenants: NDArray[np.uint16], tags: NDArray[np.int64]) -> None:
        """Take back what tenants were charged for requests that were not served, and no longer wait.

        Args:
            tenants: Of the requests that still wait, uint16 [n].
            tags: Of the requests that still wait, int64 [n].
        """
        if not self._alone:
            self._ends = self._served.copy()
            np.maximum.at(self._ends, tenants, tags + self.costs[tenants])

    def rebase(self, tags: NDArray[np.int64]) -> NDArray[np.int64]:
        """Move all tags back by as much as service has come on, so that they never run out; return the waiting ones."""
        moved = self._now - TAG_START
        self._now = TAG_START
        self._ends -= moved
        self._served -= moved
        return np.maximum(tags - moved, 0)
