"""``napu bench`` as a user runs it: short real runs, errors, and what is left behind: nothing."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from host_sdk.bench.environment import cache_directory
from host_sdk.lab.capability import capability
from tests.rig.labs import MARK, eventually, marked
from tests.rig.nodes import MODELS, NO_MODELS

BENCH = [sys.executable, "-m", "host_sdk.cli.main", "bench"]
SHORT = ("--repeats", "1", "--seconds", "0.2")
needs_namespaces = pytest.mark.skipif(
    capability().kind == "none", reason="only where network namespaces are allowed: " + capability().reason
)


def environment(tmp_path: Path, **more: str) -> dict[str, str]:
    """Return an environment with a mark, a directory for temporary files and a place without reference models."""
    for name in ("tmp", "models"):
        (tmp_path / name).mkdir(exist_ok=True)
    own = {MARK: tmp_path.name, "TMPDIR": str(tmp_path / "tmp"), "NAPU_MODELS": str(tmp_path / "models")}
    return {**os.environ, **own, **more}


def bench(tmp_path: Path, *arguments: str, **more: str) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        [*BENCH, *arguments],
        env=environment(tmp_path, **more),
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert eventually(lambda: not marked(tmp_path.name))
    assert not list((tmp_path / "tmp").iterdir())
    return done


def test_help_lists_the_options(tmp_path: Path) -> None:
    done = bench(tmp_path, "--help", COLUMNS="200")
    assert done.returncode == 0
    options = ("systems", "models", "json", "plot", "quick", "repeats", "seconds", "model-dir", "seed")
    assert [option for option in options if f"--{option}" not in done.stdout] == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--systems", "torchserve"), "no system is called 'torchserve'; there are inprocess, napu-xdp"),
        (("--models", "yolo"), "no model is called 'yolo'; there are kws"),
        (("--models", "kws"), "model kws is not in"),
        (("--model-dir", "/nowhere"), "/nowhere is no directory"),
        (("--plot", "/nowhere/a.png"), "/nowhere/a.png cannot be written"),
        (("--json", "/nowhere/a.json"), "/nowhere/a.json cannot be written"),
    ],
)
def test_a_wrong_argument_is_a_sentence(tmp_path: Path, arguments: tuple[str, ...], sentence: str) -> None:
    done = bench(tmp_path, *arguments)
    assert done.returncode == 2
    assert sentence in done.stderr


def test_a_missing_h2load_is_a_sentence_that_names_the_package(tmp_path: Path) -> None:
    done = bench(tmp_path, "--systems", "grpc", PATH="/nowhere")
    assert done.returncode == 2
    assert "h2load is missing; on Debian or Ubuntu: sudo apt-get install nghttp2-client" in done.stderr


def test_a_short_run_over_udp_has_its_rows_and_its_outputs_were_compared(tmp_path: Path) -> None:
    files = ("--json", str(tmp_path / "bench.json"), "--plot", str(tmp_path / "bench.png"))
    done = bench(tmp_path, "--systems", "inprocess,napu-udp", *SHORT, *files)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "bench.json").read_text())
    rows = [(row["system"], row["model"], row["mode"], row["concurrency"]) for row in found["rows"]]
    closed = [("napu-udp", "digits", "closed", concurrency) for concurrency in (1, 16, 64)]
    opened = [("napu-udp", "digits", f"open at {part}%", 0) for part in (50, 80)]
    limits = [("inprocess", "digits", mode, 1) for mode in ("closed", "closed, 32 in a request")]
    varied = [("napu-udp", "digits", f"closed, {how}", 64) for how in ("datagrams", "with CRC and trailer")]
    assert rows == limits + closed + varied + opened
    assert found["verified_inputs"] == {"digits": {"napu-udp": 32}}
    for row in found["rows"]:
        (repeat,) = row["repeats"]
        assert row["inferences_per_s"] > 0
        assert 0 < row["p50_us"] <= row["p99_us"] <= row["p999_us"]
        assert row["rss_mb"] > 20
        assert repeat["inprocess_per_s"] > 0
    assert found["machine"]["cores"] == os.cpu_count()
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")
    assert "digits  napu-udp" in done.stdout


@needs_namespaces
def test_a_quick_run_in_a_lab_takes_the_fastest_appliance(tmp_path: Path) -> None:
    done = bench(tmp_path, "--quick", "--seconds", "0.2", "--json", "-")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)  # nothing else is on standard output
    system = "napu-xdp" if capability().kind == "root" else "napu-packet"
    assert [row["system"] for row in found["rows"]] == ["inprocess"] * 2 + [system] * 2
    assert found["verified_inputs"] == {"digits": {system: 32}}


@needs_namespaces
@pytest.mark.skipif(not (MODELS / "vww_mobilenet_int8.tflite").exists(), reason=NO_MODELS)
def test_requests_of_many_fragments_are_answered_rightly(tmp_path: Path) -> None:
    options = ("--systems", "napu-packet", "--models", "vww", "--model-dir", str(MODELS), "--json", "-")
    done = bench(tmp_path, "--quick", "--seconds", "0.3", *options)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["verified_inputs"] == {"vww": {"napu-packet": 32}}
    assert all(row["inferences_per_s"] > 0 for row in found["rows"])


@pytest.mark.parametrize("peer", ["grpc", "triton", "mlserver"])
def test_a_peer_answers_as_the_model_does_in_process(tmp_path: Path, peer: str) -> None:
    installed = list(cache_directory(os.environ).glob(f"{peer}-*/complete"))
    if not installed or not shutil.which("h2load"):
        pytest.skip(f"only where the peer is installed already: napu bench --quick --systems {peer}")
    done = bench(tmp_path, "--quick", "--seconds", "0.4", "--systems", peer, "--json", "-")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["verified_inputs"] == {"digits": {peer: 32}}
    assert [row["concurrency"] for row in found["rows"]] == [1, 64]
    assert all(row["inferences_per_s"] > 0 for row in found["rows"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    command = [*BENCH, "--systems", "inprocess,napu-udp", "--seconds", "2"]
    with subprocess.Popen(command, env=environment(tmp_path), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        while "napu-udp, closed" not in (line := process.stderr.readline()):
            assert line
        assert len(marked(tmp_path.name)) >= 3  # itself, the interpreter, the appliance
        process.send_signal(number)
        rest = process.stderr.read()
        assert process.wait(20) == 130
    assert "Traceback" not in rest
    assert eventually(lambda: not marked(tmp_path.name))
    assert not list((tmp_path / "tmp").iterdir())
