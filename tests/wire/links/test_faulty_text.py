"""Faults as values and as text."""

import dataclasses
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host_sdk.wire.errors import ConfigError
from host_sdk.wire.links.faults import Faults, parse_faults


def test_a_line_of_text_has_all_faults() -> None:
    text = "loss=5%,duplicate=2%,reorder=5%,delay=1ms,jitter=100us,flip=0.1%,truncate=0.1%,rate=10Mbit,nth=3"
    assert parse_faults(text) == Faults(
        loss=0.05,
        duplicate=0.02,
        reorder=0.05,
        delay_ns=1_000_000,
        jitter_ns=100_000,
        flip=0.001,
        truncate=0.001,
        rate=10_000_000,
        nth=frozenset({3}),
    )
    text = " burst-enter = 1%, burst-leave=.3,burst-loss=90%,nth=1+7+7,"
    text += "fragment=0+3,fragment-times=0,reorder-frames=9,reorder-time=1.5s,blackhole=0s-2ms,"
    assert parse_faults(text) == Faults(
        burst_enter=0.01,
        burst_leave=0.3,
        burst_loss=0.9,
        nth=frozenset({1, 7}),
        fragment=frozenset({0, 3}),
        fragment_times=0,
        reorder_frames=9,
        reorder_ns=1_500_000_000,
        blackhole=(0, 2_000_000),
    )
    assert parse_faults("") == Faults()
    assert not Faults(loss=1).holds
    assert Faults(jitter_ns=1).holds


@pytest.mark.parametrize(
    ("text", "value"),
    [("0ns", 0), ("7ns", 7), ("2us", 2_000), ("2µs", 2_000), ("0.0005ms", 500), ("1.000000001s", 1_000_000_001)],
)
def test_times(text: str, value: int) -> None:
    assert parse_faults(f"delay={text}").delay_ns == value


@pytest.mark.parametrize(
    ("text", "value"), [("9bit", 9), ("1.5kbit", 1500), ("10mbit", 10**7), ("1GBIT", 10**9), ("2.5Gbit", 2_500_000_000)]
)
def test_rates(text: str, value: int) -> None:
    assert parse_faults(f"rate={text}").rate == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("los=5%", r"'los' is no fault; did you mean loss\? There are loss, .*blackhole"),
        ("5%", "'5%' is no fault; There are"),
        ("=5%", "'' is no fault"),
        ("loss", "loss has no value; write it as in loss=5%"),
        ("loss=", "loss: '' is not a chance; write it as 5% or 0.05"),
        ("loss=5 %", "loss: '5 %' is not a chance"),
        ("loss=-1%", "loss: '-1%' is not a chance"),
        ("loss=nan", "loss: 'nan' is not a chance"),
        ("loss=101%", "loss is a chance from 0 to 1 .*, not 1.01"),
        ("loss=5", "loss is a chance from 0 to 1"),
        ("loss=1%,loss=1%", "loss is there twice"),
        ("delay=3", "delay: '3' is not a time; write it as 100us, 1.5ms or 2s"),
        ("delay=2h", "'2h' is not a time"),
        ("delay=3601s", "delay_ns is from 0 to 3600000000000"),
        ("rate=10", "rate: '10' is not a rate; write it as 10Mbit"),
        ("nth=0", "nth counts frames from 1, so it has no 0"),
        ("nth=1+", "nth: '' is not a number of frames"),
        ("nth=x", "nth: 'x' is not a number of frames"),
        ("fragment=1+65536", "fragment is an index from 0 to 65535, not 65536"),
        ("fragment=-1", "fragment: '-1' is not a number of frames"),
        ("reorder-frames=0", "reorder_frames is 1 or more, not 0"),
        ("blackhole=1s", "'1s' is not a period; write it as 2s-3.5s"),
        ("blackhole=2s-1s", "begins at 0 or later and ends after that"),
        ("blackhole=1s-1s", "begins at 0 or later and ends after that"),
        ("burst-enter=90%", "burst_enter 0.9 and burst_leave 0.25 are more than 1 together"),
    ],
)
def test_what_is_wrong_is_said(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_faults(text)


@pytest.mark.parametrize(
    "values",
    [
        {"loss": math.nan},
        {"flip": -0.1},
        {"truncate": 1.1},
        {"delay_ns": -1},
        {"jitter_ns": 1 << 60},
        {"rate": -1},
        {"nth": frozenset({5, -2})},
        {"fragment": frozenset({-1})},
        {"fragment_times": -1},
        {"blackhole": (-1, 5)},
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        Faults(**values)


def test_faults_do_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Faults().loss = 1.0  # type: ignore[misc]


@given(
    st.text()
    | st.lists(st.sampled_from(["loss=", "nth=", "delay=", "rate=", "5", "%", "ms", ",", "-", "bit"])).map("".join)
)
def test_any_text_gives_faults_or_a_config_error(text: str) -> None:
    try:
        parse_faults(text)
    except ConfigError as error:
        assert str(error).startswith("faults: ")
