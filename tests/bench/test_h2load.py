"""h2load: its command line, and what becomes of what it writes."""

from pathlib import Path

import numpy as np
import pytest

from host_sdk.bench.h2load import H2Load, read_sample
from host_sdk.bench.system import Load
from host_sdk.wire.errors import DeviceError

REPLY = 44  # bytes of a good reply
OUTPUT = """starting benchmark...
Application protocol: h2c

finished in 305.73ms, 2580.00 req/s, 261.83KB/s
requests: 774 total, 778 started, 774 done, 774 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 774 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 78.55KB (80434) total, 2.56KB (2622) headers (space savings 95.82%), 33.26KB (34056) data
                     min         max         mean         sd        +/- sd
time for request:      219us     13.56ms      1.54ms      1.75ms    84.63%
"""
LATENCIES_US = np.random.default_rng(0).integers(200, 14_000, 774)
LOG = "".join(f"{1795412733441006 + 300 * index}\t200\t{us}\n" for index, us in enumerate(LATENCIES_US))


def load(concurrency: int = 4, batch: int = 1) -> Load:
    return Load("closed", concurrency, 0, batch, flags=0, warmup_s=0.1, seconds=0.3, seed=0)


def test_rate_and_latencies_are_read() -> None:
    sample = read_sample(OUTPUT, LOG, load(), REPLY)
    assert sample.inferences_per_s == pytest.approx(774 / 0.3)
    assert (sample.requests, sample.lost) == (774, 0)
    exact = np.percentile(LATENCIES_US, (50, 99), method="inverted_cdf")
    assert (sample.quantiles.p50_us, sample.quantiles.p99_us) == pytest.approx(exact, rel=2e-3)


def test_inferences_are_counted_not_requests() -> None:
    assert read_sample(OUTPUT, LOG, load(batch=32), REPLY).inferences_per_s == pytest.approx(32 * 774 / 0.3)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "774 succeeded, 0 failed",
            "770 succeeded, 4 failed",
            "of 774 requests h2load counts 770 as answered and 4 as failed",
        ),
        ("774 succeeded, 0 failed", "0 succeeded, 0 failed", "of 774 requests h2load counts 0 as answered"),
        ("(34056) data", "(33000) data", "774 replies have 33000 bytes of data, but a good one has 44"),
        ("(34056) data", "(99000) data", "774 replies have 99000 bytes"),
        ("requests:", "Segmentation fault", "h2load told nothing of its requests"),
    ],
)
def test_what_went_wrong_is_an_error(old: str, new: str, message: str) -> None:
    with pytest.raises(DeviceError, match=message.replace("(", r"\(")):
        read_sample(OUTPUT.replace(old, new), LOG, load(), REPLY)


def test_a_log_of_another_run_is_noticed() -> None:
    with pytest.raises(DeviceError, match="logged 1548 requests, but counted 774"):
        read_sample(OUTPUT, LOG + LOG, load(), REPLY)


@pytest.mark.parametrize(("concurrency", "clients", "streams"), [(1, "1", "1"), (16, "4", "4"), (64, "4", "16")])
def test_the_concurrency_is_spread_over_connections(concurrency: int, clients: str, streams: str) -> None:
    command = H2Load(8001, Path("body"), Path("log"), load(concurrency)).command("h2load", 1.5)
    assert command[command.index("--clients") + 1] == clients
    assert command[command.index("--max-concurrent-streams") + 1] == streams
    assert command[command.index("--duration") + 1] == "1500ms"
    assert command[-1] == "http://127.0.0.1:8001/inference.GRPCInferenceService/ModelInfer"
