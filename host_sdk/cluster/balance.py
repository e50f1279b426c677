"""Which of several appliances is asked: the better of two that are drawn, by load for each credit and latency."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

_DECAY_NS = 2_000_000_000.0  # in which a latency that was seen loses 63 % of its say
_OVER = 8  # times that a request counts beyond an appliance's credits
_DRAWS = 8  # of one that takes part, before anybody does


class Latency:
    """A latency that is believed at once when it rises, and forgotten slowly (peak EWMA, as in Finagle's balancer)."""

    def __init__(self) -> None:
        self._value, self._at = 0.0, 0
        self.known = False

    def observe(self, sample_ns: float, now: int) -> None:
        """Take in a latency that was seen."""
        before = self.value(now)
        if not self.known or sample_ns > before:
            self._value = sample_ns
        else:
            share = math.exp((self._at - now) / _DECAY_NS)
            self._value = self._value * share + sample_ns * (1 - share)
        self._at, self.known = now, True

    def value(self, now: int) -> float:
        """Return it in ns, as far as it still counts: one that was not seen for long comes to nothing, and is tried."""
        return self._value * math.exp((self._at - now) / _DECAY_NS)


@dataclass(slots=True)
class Candidate:
    """An appliance that may be asked.

    Attributes:
        load: Requests that it has.
        credits: Requests that it lets a client have outstanding.
        latency_ns: What is thought of its latency; None before the first answer.
        weight: How often it takes part, in proportion to the others.
    """

    load: int
    credits: int
    latency_ns: float | None = None
    weight: float = 1.0


def share(candidates: Sequence[Candidate], count: int, generator: random.Random) -> list[int]:
    """Return how many of so many requests go to which candidate.

    For each request two are drawn, and the one with the lower cost gets it: (load + 1) / credits * latency. An
    appliance of which nothing is known yet counts as quick as the quickest.

    Args:
        candidates: At least one.
        count: Requests.
        generator: What they are drawn with.
    """
    number = len(candidates)
    if number == 1:
        return [count]
    known = [each.latency_ns for each in candidates if each.latency_ns is not None]
    unknown = min(known, default=1.0)
    # Not less than 1 ns, so that load still counts where latencies were forgotten.
    slopes = [max(1.0, unknown if each.latency_ns is None else each.latency_ns) / each.credits for each in candidates]
    costs = [(each.load + 1) * slope for each, slope in zip(candidates, slopes, strict=True)]
    room = [each.credits - each.load for each in candidates]
    highest = max(each.weight for each in candidates)
    weights = None if all(each.weight == highest for each in candidates) else [each.weight for each in candidates]
    shares, draw = [0] * number, generator.random
    for _ in range(count):
        if weights is None:
            first, second = int(draw() * number), int(draw() * (number - 1))
            second += second >= first
        else:
            first, second = _draw_by_weight(weights, highest, generator), _draw_by_weight(weights, highest, generator)
        chosen = second if costs[second] < costs[first] else first
        room[chosen] -= 1
        # What is over its credits is not sent before something else is answered.
        costs[chosen] += slopes[chosen] if room[chosen] > 0 else _OVER * slopes[chosen]
        shares[chosen] += 1
    return shares


def _draw_by_weight(weights: list[float], highest: float, generator: random.Random) -> int:
    for _ in range(_DRAWS):
        drawn = int(generator.random() * len(weights))
        if generator.random() * highest < weights[drawn]:
            return drawn
    return weights.index(highest)
