"""Who is asked: shares, weights, and the better of two held against the least loaded in virtual time."""

import heapq
import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from host_sdk.cluster.balance import Candidate, Latency, share
from host_sdk.cluster.budget import Budget

CANDIDATES = st.lists(
    st.builds(
        Candidate,
        st.integers(0, 500),
        st.integers(1, 255),
        st.none() | st.floats(0, 1e10),
        st.floats(0.01, 10),
    ),
    min_size=1,
    max_size=12,
)
Choose = Callable[[list[Candidate], random.Random], int]


@given(CANDIDATES, st.integers(0, 200), st.integers(0, 1 << 32))
def test_every_request_goes_to_one_candidate_and_the_same_draws_give_the_same(
    candidates: list[Candidate], count: int, seed: int
) -> None:
    shares = share(candidates, count, random.Random(seed))
    assert len(shares) == len(candidates)
    assert sum(shares) == count
    assert min(shares) >= 0
    assert share(candidates, count, random.Random(seed)) == shares


@pytest.mark.parametrize("number", [2, 4, 8])
@pytest.mark.parametrize("each", [7, 100])
def test_equals_get_more_nearly_the_same_than_by_chance(number: int, each: int) -> None:
    """How far the most and the fewest are apart, in the mean of 100 seeds; chance alone grows with the root of each."""
    two, chance = 0, 0
    for seed in range(100):
        shares = share([Candidate(0, 255, 1e6)] * number, number * each, random.Random(seed))
        two += max(shares) - min(shares)
        generator, drawn = random.Random(seed), [0] * number
        for _ in range(number * each):
            drawn[generator.randrange(number)] += 1
        chance += max(drawn) - min(drawn)
    assert two < 0.4 * chance


def test_a_candidate_with_more_credits_gets_more_and_an_unknown_one_is_tried() -> None:
    small, large = share([Candidate(0, 16, 1e6), Candidate(0, 64, 1e6)], 75, random.Random(1))
    assert small == pytest.approx(15, abs=5)
    assert large == 75 - small
    new, _ = share([Candidate(0, 64), Candidate(0, 64, 1e6)], 100, random.Random(1))
    assert new == pytest.approx(50, abs=7)


@pytest.mark.parametrize("weight", [0.1, 0.5])
def test_a_lower_weight_gets_less_though_all_are_idle(weight: float) -> None:
    generator, counts = random.Random(3), [0, 0, 0]
    for _ in range(4000):
        one = share([Candidate(0, 64, 1e6, weight), Candidate(0, 64, 1e6), Candidate(0, 64, 1e6)], 1, generator)
        counts = [sum(pair) for pair in zip(counts, one, strict=True)]
    assert counts[0] / counts[1] == pytest.approx(weight, rel=0.25)


def test_a_latency_rises_at_once_and_is_forgotten_slowly() -> None:
    latency = Latency()
    latency.observe(1e6, 0)
    latency.observe(50e6, 10_000_000)
    assert latency.value(10_000_000) == 50e6
    latency.observe(1e6, 20_000_000)
    assert 45e6 < latency.value(20_000_000) < 50e6
    assert latency.value(20_000_000_000) < 1e5


# ---- the experiment --------------------------------------------------------------------------------------------------


def least_loaded(candidates: list[Candidate], generator: random.Random) -> int:
    """What NapuClient does: the lowest load; among equals in turn, or any."""
    lowest = min(each.load for each in candidates)
    return generator.choice([index for index, each in enumerate(candidates) if each.load == lowest])


def better_of_two(candidates: list[Candidate], generator: random.Random) -> int:
    return share(candidates, 1, generator).index(1)


def simulate(
    choose: Choose, rate: float, service_ms: list[float], seed: int
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return the latencies in ms of 8,000 requests that come at random, for appliances that serve one at a time."""
    generator = random.Random(seed)
    free_at, loads = [0.0] * len(service_ms), [0] * len(service_ms)
    latencies = [Latency() for _ in service_ms]
    under_way: list[tuple[float, int, float]] = []
    now, taken = 0.0, []
    for _ in range(8000):
        now += generator.expovariate(rate) * 1000
        while under_way and under_way[0][0] <= now:
            done, index, began = heapq.heappop(under_way)
            loads[index] -= 1
            latencies[index].observe((done - began) * 1e6, int(done * 1e6))
        candidates = [
            Candidate(load, 64, latency.value(int(now * 1e6)) if latency.known else None)
            for load, latency in zip(loads, latencies, strict=True)
        ]
        index = choose(candidates, generator)
        loads[index] += 1
        free_at[index] = max(now, free_at[index]) + generator.expovariate(1 / service_ms[index])
        heapq.heappush(under_way, (free_at[index], index, now))
        taken.append(free_at[index] - now)
    return np.array(taken)


@pytest.mark.parametrize("rate", [300.0, 900.0])
def test_with_one_slow_appliance_among_four_the_better_of_two_has_the_shorter_tail(rate: float) -> None:
    """The least loaded is the slow one whenever it has nothing to do, and whoever goes there waits long."""
    service_ms = [2.0, 2.0, 2.0, 20.0]
    for seed in range(3):
        two, least = (simulate(choose, rate, service_ms, seed) for choose in (better_of_two, least_loaded))
        assert np.quantile(two, 0.99) < 0.5 * np.quantile(least, 0.99)
        assert two.mean() < least.mean()


# ---- budgets ---------------------------------------------------------------------------------------------------------


@given(
    st.floats(0.01, 1),
    st.integers(1, 50),
    st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 30), st.integers(0, 30)), max_size=40),
)
def test_what_is_spent_is_never_more_than_was_saved_earned_and_given(
    part: float, most: int, steps: list[tuple[int, int, int]]
) -> None:
    budget, now, earned, spent = Budget(part, most, 0), 0, 0, 0
    for passed, requests, wanted in steps:
        now += passed
        budget.earn(requests)
        earned += requests
        granted = [budget.spend(now) for _ in range(wanted)]
        spent += sum(granted)
        assert granted == sorted(granted, reverse=True)
        assert spent <= most + part * earned + 10 * now / 1e9 + 1e-6


def test_a_budget_of_nothing_gives_nothing() -> None:
    budget = Budget(0.0, 0.0, 0)
    budget.earn(1000)
    assert not budget.spend(10**12)
