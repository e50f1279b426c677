"""The replay window against a set of everything that was ever taken."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from host_sdk.wire.schema import SEAL_FRAMES, SEAL_WINDOW
from host_sdk.wire.sealed.window import ReplayWindow

MUST_KNOW = 1024  # N-132
near = st.integers(1, 3 * SEAL_WINDOW)
anywhere = st.integers(1, SEAL_FRAMES)
batches = st.lists(st.lists(near | anywhere, min_size=1, max_size=8, unique=True), max_size=40)


@given(batches)
def test_nothing_is_taken_twice_and_nothing_near_is_refused(batches: list[list[int]]) -> None:
    window, taken, highest = ReplayWindow(), set[int](), 0
    for batch in batches:
        sequences = np.array(batch, np.int64)
        fresh = window.fresh(sequences)
        assert [window.is_fresh(sequence) for sequence in batch] == fresh.tolist()
        for sequence, new in zip(batch, fresh.tolist(), strict=True):
            assert not (new and sequence in taken)
            if sequence not in taken and sequence > highest - MUST_KNOW:
                assert new
        if fresh.any():
            if len(batch) == 1:
                window.take_one(batch[0])
            else:
                window.take(sequences[fresh])
            taken.update(sequences[fresh].tolist())
            highest = max(taken)
        assert window.highest == highest


def test_looking_takes_nothing() -> None:
    window = ReplayWindow()
    for _ in range(2):
        assert window.fresh(np.array([1, 2])).all()
    window.take(np.array([2]))
    assert window.fresh(np.array([1, 2, 3])).tolist() == [True, False, True]


def test_a_jump_over_the_whole_window_forgets_nothing_that_counts() -> None:
    window = ReplayWindow()
    window.take(np.array([5]))
    window.take(np.array([5 + 10 * SEAL_WINDOW]))
    same_place = 5 + 9 * SEAL_WINDOW + 1, 5 + 10 * SEAL_WINDOW, 5
    assert window.fresh(np.array(same_place)).tolist() == [True, False, False]
