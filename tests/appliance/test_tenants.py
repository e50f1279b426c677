import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.dataplane.ranks import ranks
from appliance.dataplane.tenants import TAG_BITS, TAG_START, UNIT, FairTags, TenantTable


def test_names_have_an_index_and_a_weight() -> None:
    table = TenantTable({"research": 3, "büro": 7})
    assert len(table) == 3
    assert table.weights[table.index("research")] == 3
    assert table.weights[table.index("büro".encode())] == 7
    assert len({table.index("research"), table.index("büro"), table.index("default")}) == 3


@pytest.mark.parametrize("name", ["", b"", "stranger", b"\xff\xfe", "research ", "\ud800", "default"])
def test_all_other_names_fall_under_the_default_of_weight_1(name: str | bytes) -> None:
    table = TenantTable({"research": 3})
    assert table.index(name) == 0
    assert table.weights[0] == 1


def test_the_default_may_have_a_weight_of_its_own() -> None:
    table = TenantTable({"research": 3, "default": 5})
    assert table.weights.tolist() == [5, 3]
    assert table.index("nobody") == table.index("default") == 0


@given(st.lists(st.integers(0, 65535) | st.sampled_from([0, 1, 2]), max_size=40))
def test_ranks_count_the_equals_before(groups: list[int]) -> None:
    expected = [groups[:index].count(group) for index, group in enumerate(groups)]
    assert ranks(np.array(groups, np.uint16)).tolist() == expected


def test_tags_run_on_for_ever() -> None:
    """A queue that is never empty moves its tags back now and then, and the turns stay as they are."""
    tags = FairTags(np.array([1.0, 4.0]))
    tenants = np.array([0, 1, 1, 1, 1], np.uint16)
    waiting = tags.take(tenants)
    for _ in range(1000):
        tags.serve(tenants, waiting)
        following = tags.take(tenants)
        moved = tags.rebase(following)
        assert np.diff(moved).tolist() == np.diff(following).tolist()
        assert 0 <= moved.min() <= moved.max() <= TAG_START + 3 * UNIT < 1 << TAG_BITS
        waiting = moved
    assert (waiting - waiting.min()).tolist() == [0, 0, UNIT // 4, UNIT // 2, 3 * UNIT // 4]
