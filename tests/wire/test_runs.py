"""Runs of fragments, held against a set."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from host_sdk.wire.exchange.runs import Runs


@given(st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=30), max_size=8))
def test_runs_are_a_set(batches: list[list[int]]) -> None:
    runs, known = Runs(), set[int]()
    for batch in batches:
        for at, first, count in runs.stretches(np.array(batch)):
            stretch = range(first, first + count)
            assert batch[at : at + count] == list(stretch)
            assert known.isdisjoint(stretch)
            runs.add(first, count)
            known |= set(stretch)
        assert known >= set(batch)
        assert runs.count == len(known)
        assert runs.base == min(set(range(42)) - known)
        assert [index in runs for index in range(42)] == [index in known for index in range(42)]
        assert runs.between(3, 30).tolist() == [index in known for index in range(3, 30)]


def test_what_comes_in_order_is_one_stretch() -> None:
    runs = Runs()
    for begin in range(0, 65536, 256):
        assert list(runs.stretches(np.arange(begin, begin + 256))) == [(0, begin, 256)]
        runs.add(begin, 256)
    assert (runs.count, runs.base) == (65536, 65536)
    assert list(runs.stretches(np.array([0, 65535, 77]))) == []
