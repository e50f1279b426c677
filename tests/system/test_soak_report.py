"""What a soak calls wrong, and that it does."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.rig.engine import ROOT
from tests.rig.usage import Usage, family, growth, usage
from tests.system.soak_report import Befallen, Report

FIRST = Usage(at_s=0.0, memory_kb=40_000, pss_kb=60_000, own_kb=50_000, descriptors=30, threads=6)


def account(**changes: Any) -> dict[str, Any]:
    phase = {"sent": 10, "right": 10, "wrong": 0, "errors": {}, "by": {}, "longest_ms": 3.0}
    whole = {"sent": 10, "right": 10, "wrong": 0, "errors": {}, "lost": 0, "examples": [], "broken": []}
    return whole | {"phases": {"kill": phase}} | changes


def report(**changes: Any) -> Report:
    return Report(1, 3, 100.0, 10.0, [Befallen(0.0, "kill", "napu2", 1.0)], account(**changes))


def test_a_run_in_which_all_was_well_has_no_problem() -> None:
    assert report().problems() == []
    assert "nothing lost" in report().text()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"lost": 1}, "1 requests: lost"),
        ({"wrong": 2}, "2 requests: answered wrongly"),
        ({"errors": {"NapuTimeoutError": 3}}, "3 requests: NapuTimeoutError"),
        ({"sent": 0}, "nothing was sent"),
        ({"broken": ["invalid state"]}, "client: invalid state"),
    ],
)
def test_what_becomes_of_requests_is_held_against_it(changes: dict[str, Any], sentence: str) -> None:
    assert report(**changes).problems() == [sentence]
    assert sentence in report(**changes).text()


def test_what_is_left_and_what_did_not_come_back_is_held_against_it() -> None:
    found = report()
    found.left, found.broken = ["napu-soak-1"], ["not within 60 s: napu2 is healthy"]
    assert found.problems() == ["not within 60 s: napu2 is healthy", "left in the engine: napu-soak-1"]
    assert Report(1, 3, 100.0).problems() == ["there is no account of the requests"]


@pytest.mark.parametrize(
    ("kind", "per_sample", "over"),
    [
        ("memory_kb", 50, ["memory_kb"]),  # 5 MB over the run
        ("memory_kb", 10, []),
        ("descriptors", 0.05, ["descriptors"]),
        ("threads", 0.02, ["threads"]),
        ("threads", 0, []),
    ],
)
def test_growth_is_told_by_the_slope(kind: str, per_sample: float, over: list[str]) -> None:
    start = getattr(FIRST, kind)
    noise = (0, 1, -1) if kind == "memory_kb" else (0,)
    samples = [
        replace(FIRST, at_s=2.0 * index, **{kind: start + round(per_sample * index) + noise[index % len(noise)]})
        for index in range(100)
    ]
    found = report()
    found.growth = {"appliance": growth(samples)}
    assert found.growth["appliance"].over == over
    assert len(found.problems()) == len(over)


def test_one_reading_that_stands_out_is_no_growth() -> None:
    samples = [replace(FIRST, at_s=2.0 * index) for index in range(100)]
    samples[50] = replace(samples[50], memory_kb=60_000)
    assert growth(samples).over == []


def hold_memory() -> Callable[[], None]:
    held = bytearray(os.urandom(1 << 20) * 20)
    return held.clear


def hold_descriptors() -> Callable[[], None]:
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(20)]

    def release() -> None:
        for one in held:
            os.close(one)

    return release


def hold_threads() -> Callable[[], None]:
    ended = threading.Event()
    held = [threading.Thread(target=ended.wait) for _ in range(20)]
    for thread in held:
        thread.start()

    def release() -> None:
        ended.set()
        for thread in held:
            thread.join()

    return release


@pytest.mark.parametrize(
    ("hold", "kind", "least"),
    [(hold_memory, "memory_kb", 19_000), (hold_descriptors, "descriptors", 20), (hold_threads, "threads", 20)],
)
def test_what_a_process_holds_is_seen(hold: Callable[[], Callable[[], None]], kind: str, least: int) -> None:
    before = getattr(usage([os.getpid()], 0.0), kind)
    release = hold()
    try:
        assert getattr(usage([os.getpid()], 0.0), kind) - before >= least
    finally:
        release()


def test_processes_that_a_process_has_started_belong_to_it() -> None:
    with subprocess.Popen(["sleep", "30"]) as child:
        try:
            assert {os.getpid(), child.pid} <= set(family(os.getpid()))
        finally:
            child.kill()


def test_arguments_that_make_no_sense_are_refused() -> None:
    command = [sys.executable, "-m", "tests.system.soak", "--every", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
    assert done.returncode == 2
    assert "give at least 4 s with --every" in done.stderr
