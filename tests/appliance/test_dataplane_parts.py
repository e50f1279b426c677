"""The small parts of the dataplane: pipeline table, counters, token bucket."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from appliance.dataplane.counters import Counters
from appliance.dataplane.messages import TokenBucket
from appliance.dataplane.queue import JobQueue
from appliance.dataplane.table import Loaded, PipelineTable
from appliance.dla.backends import load_backend
from appliance.pipelines.compile import compile_pipeline
from appliance.pipelines.pipeline import Pipeline
from appliance.profile import load_profile
from host_sdk.wire.errors import ConfigError
from host_sdk.wire.schema import DropReason, Status
from tests.rig.packages import tensor_package

SECOND = 1_000_000_000


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return compile_pipeline(tensor_package("one", batch=1), 1, load_backend("litert"), load_profile("napu-s"))


def loaded(pipeline: Pipeline, handle: int, name: str = "one") -> Loaded:
    manifest = replace(pipeline.manifest, name=name)
    return Loaded(replace(pipeline, handle=handle, manifest=manifest), JobQueue(1, 256))


def test_a_handle_names_one_load_only(pipeline: Pipeline) -> None:
    table = PipelineTable(2)
    current: Loaded | None = None
    handles: list[int] = []
    for _ in range(200):  # replacements, each in the slot that is free
        new = loaded(pipeline, table.next_handle())
        table.insert(new)
        if current:
            table.remove(current)
        current = new
        assert all(table.get(handle) is None for handle in handles)
        assert table.get(new.pipeline.handle) is new
        handles.append(new.pipeline.handle)
    assert len(set(handles)) == 200
    assert all(0 < handle < 1 << 16 for handle in handles)


def test_names_and_slots(pipeline: Pipeline) -> None:
    table = PipelineTable(2)
    for name in ("a", "b"):
        table.insert(loaded(pipeline, table.next_handle(), name))
    assert len(table) == 2
    assert [entry.pipeline.manifest.name for entry in table] == ["a", "b"]
    assert table.named("c") is None
    with pytest.raises(ConfigError, match="all 2 pipeline slots are taken; remove a pipeline first"):
        table.next_handle()
    gone = table.named("a")
    assert gone is not None
    in_its_place = table.next_handle(gone)  # a full table can still replace
    assert in_its_place % 256 == gone.pipeline.handle % 256
    assert in_its_place != gone.pipeline.handle
    table.remove(gone)
    table.remove(gone)
    assert table.named("a") is None
    assert table.next_handle() != gone.pipeline.handle


@given(st.integers(0, 0xFFFF))
def test_no_handle_is_known_to_an_empty_table(handle: int) -> None:
    assert PipelineTable(3).get(handle) is None


def test_pace_follows_what_batches_take(pipeline: Pipeline) -> None:
    entry = loaded(pipeline, 257)
    for _ in range(200):
        entry.served(4, 4_000_000)
    assert entry.pace_ns == pytest.approx(1_000_000)


def test_one_batch_that_took_very_long_does_not_make_the_pipeline_look_slow(pipeline: Pipeline) -> None:
    entry = loaded(pipeline, 257)
    entry.pace_ns = 100_000.0
    entry.served(1, 1_000_000_000)
    assert entry.pace_ns < 150_000


@given(st.lists(hnp.arrays(np.uint8, st.integers(1, 20), elements=st.integers(0, max(DropReason))), max_size=8))
def test_frames_are_conserved(batches: list[NDArray[np.uint8]]) -> None:
    counters = Counters()
    for reasons in batches:
        counters.frames(reasons)
        accepted = int((reasons == DropReason.ACCEPTED).sum())
        for reason in list(DropReason)[1 : 1 + accepted]:
            counters.move(reason)
    shown = counters.snapshot()
    assert shown["rx_frames"] == sum(map(len, batches))
    assert shown["rx_frames"] == sum(shown[f"frames_{reason.name.lower()}"] for reason in DropReason)
    assert all(value >= 0 for value in shown.values())


@given(st.lists(st.sampled_from(list(Status)), max_size=30), st.lists(st.sampled_from(list(Status)), max_size=30))
def test_answers_are_counted_by_status(together: list[Status], alone: list[Status]) -> None:
    counters = Counters()
    counters.answers(np.array(together, np.uint16))
    for status in alone:
        counters.answer(status)
    shown = counters.snapshot()
    for status in Status:
        assert shown[f"answers_{status.name.lower()}"] == [*together, *alone].count(status)


def test_a_status_that_is_none_counts_as_internal() -> None:
    counters = Counters()
    counters.answer(9999)
    assert counters.snapshot()["answers_internal"] == 1


def test_bucket_starts_full_and_fills_at_its_rate() -> None:
    bucket = TokenBucket(3)
    assert [bucket.take(0) for _ in range(4)] == [True, True, True, False]
    assert not bucket.take(SECOND // 3 - 1)
    assert bucket.take(SECOND // 3 + 1)
    assert not bucket.take(SECOND // 3 + 2)
    assert [bucket.take(100 * SECOND) for _ in range(4)] == [True, True, True, False]


@given(st.integers(1, 50), st.lists(st.integers(0, SECOND // 5), max_size=80))
def test_bucket_lets_through_no_more_than_its_rate(rate: int, gaps: list[int]) -> None:
    bucket, now, taken = TokenBucket(rate), 0, 0
    for gap in gaps:
        now += gap
        taken += bucket.take(now)
    assert taken <= rate + now * rate / SECOND + 1e-6
