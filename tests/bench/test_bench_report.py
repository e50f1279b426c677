"""Results: medians, ratios, JSON that keeps its keys, cells, and a picture."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from PIL import Image

from host_sdk.bench.machine import describe_machine
from host_sdk.bench.plan import Point
from host_sdk.bench.plot import draw
from host_sdk.bench.report import COLUMNS, Repeat, Report, Row, cells
from host_sdk.bench.system import Quantiles, Sample

ROW_KEYS = {
    *("system", "model", "mode", "concurrency", "inferences_per_request", "inferences_per_s", "ratio_to_inprocess"),
    *("ratio_to_inprocess_batch32", "p50_us", "p99_us", "p999_us", "server_cpu_us_per_inference", "rss_mb", "lost"),
    *("server_core_share", "repeats"),
}
REPEAT_KEYS = {
    *("inferences_per_s", "p50_us", "p99_us", "p999_us", "server_cpu_us_per_inference", "rss_mb", "requests", "lost"),
    *(
        "sent_again",
        "server_restarts",
        "server_core_share",
        "offered_per_s",
        "inprocess_per_s",
        "inprocess_batch32_per_s",
    ),
}
MACHINE_KEYS = {
    *("cpu", "cores", "load_core", "server_core", "memory_mb", "kernel", "python", "versions", "load_average", "date"),
}


def sample(rate: float, p50: float = 100.0) -> Sample:
    return Sample(
        rate, Quantiles(p50, 2 * p50, 3 * p50), requests=int(rate), lost=1, server_cpu_us=12.351, rss_mb=99.96
    )


def row(system: str, rates: list[float], point: Point | None = None, model: str = "kws") -> Row:
    repeats = [
        Repeat(sample(rate), limit, 2 * limit) for rate, limit in zip(rates, (10_000, 20_000, 5_000), strict=True)
    ]
    return Row(system, model, point or Point("closed", 64), repeats)


def report(*rows: Row) -> Report:
    machine = describe_machine((0, 1), datetime(2030, 1, 2, tzinfo=UTC))
    return Report(machine, {"repeats": 3}, list(rows), {"kws": {"napu-xdp": 32}}, {"triton": "cannot be had"}, {})


def test_a_row_has_the_median_of_its_repeats_and_the_median_of_their_ratios() -> None:
    found = row("napu-xdp", [8_000, 10_000, 4_500]).to_mapping()
    assert found["inferences_per_s"] == 8_000
    assert found["ratio_to_inprocess"] == 0.8  # of 0.8, 0.5, 0.9: each with the limit measured beside it
    assert found["ratio_to_inprocess_batch32"] == 0.4
    assert found["lost"] == 3
    assert [each["inprocess_per_s"] for each in found["repeats"]] == [10_000, 20_000, 5_000]
    assert (found["server_cpu_us_per_inference"], found["rss_mb"]) == (12.35, 100.0)


def test_the_json_has_its_keys() -> None:
    found = json.loads(report(row("napu-xdp", [1, 2, 3])).to_json())
    assert set(found) == {"machine", "parameters", "verified_inputs", "left_out", "failed", "rows"}
    assert set(found["machine"]) == MACHINE_KEYS
    assert found["machine"]["date"] == "2030-01-02T00:00:00+00:00"
    assert set(found["rows"][0]) == ROW_KEYS
    assert set(found["rows"][0]["repeats"][0]) == REPEAT_KEYS


def test_cells_stand_under_their_columns() -> None:
    found = report(row("napu-xdp", [8_000, 10_000, 4_500]), row("grpc", [1, 1, 1], Point("open", fraction=0.8)))
    first, second = cells(found.to_mapping()["rows"])
    assert len(first) == len(second) == len(COLUMNS)
    shown = dict(zip(COLUMNS, first, strict=True))
    assert (shown["INF/S"], shown["OF LIMIT"], shown["AT"], shown["CPU µs"]) == ("8,000", "80%", "64", "12.3")
    assert dict(zip(COLUMNS, second, strict=True))["AT"] == ""


@pytest.mark.parametrize("models", [["kws"], ["kws", "vww", "digits"]])
def test_a_picture_is_drawn(tmp_path: Path, models: list[str]) -> None:
    rows = [
        row(system, [8_000, 10_000, 4_500], Point("closed", concurrency), model)
        for model in models
        for system in ("inprocess", "napu-xdp", "triton")
        for concurrency in (1, 64)
    ]
    draw(report(*rows).to_mapping(), tmp_path / "bench.png")
    with Image.open(tmp_path / "bench.png") as picture:
        assert picture.format == "PNG"
        assert picture.width == 1500
        assert len(picture.convert("L").getcolors() or []) > 10


def test_a_picture_needs_no_system_but_the_limit(tmp_path: Path) -> None:
    limit = row("inprocess", [1, 2, 3], Point("closed", 1))
    draw(replace(report(limit)).to_mapping(), tmp_path / "bench.png")
    assert (tmp_path / "bench.png").stat().st_size > 1000
