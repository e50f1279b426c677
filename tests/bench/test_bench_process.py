"""Processes of the benchmark, and what it finds out about them."""

import sys
import time
from pathlib import Path

import pytest

from host_sdk.bench.environment import cache_directory, need_program, peer_environment
from host_sdk.bench.models import KNOWN, OWN, find_models, make_inputs
from host_sdk.bench.process import Child, process_tree, usage
from host_sdk.wire.errors import ConfigError, DeviceError, NapuTimeoutError

CORE = 0
ECHO = """
import json, os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
for line in sys.stdin:
    asked = json.loads(line)
    if "burn" in asked:
        import time
        end = time.process_time() + asked["burn"]
        while time.process_time() < end: pass
    if "end" in asked:
        sys.exit("the last words")
    print(json.dumps({"core": sorted(os.sched_getaffinity(0)), "child": child.pid, **asked}), flush=True)
"""


@pytest.fixture
def child():
    started = Child("the child", [sys.executable, "-c", ECHO], CORE)
    yield started
    started.stop()


def test_a_child_answers_on_its_core_and_ends_with_all_below_it(child: Child) -> None:
    answer = child.ask({"a": 1}, 20)
    assert (answer["a"], answer["core"]) == (1, [CORE])
    assert process_tree(child.pid) == [child.pid, answer["child"]]
    child.stop()
    child.stop()
    for pid in (child.pid, answer["child"]):
        assert not _alive(pid)


def _alive(pid: int) -> bool:
    for _ in range(100):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return False
        except OSError:
            return False
        time.sleep(0.02)
    return True


def test_usage_has_processor_time_and_memory_of_the_whole_tree(child: Child) -> None:
    child.ask({}, 20)
    before = usage(child.pid)
    child.ask({"burn": 0.3}, 20)
    after = usage(child.pid)
    assert after.cpu_s - before.cpu_s >= 0.25
    assert after.rss_mb > 10  # two interpreters


def test_a_child_that_ends_leaves_its_last_words(child: Child) -> None:
    with pytest.raises(DeviceError, match="the child ended with exit status 1; its log ends:\nthe last words"):
        child.ask({"end": 1}, 20)
    with pytest.raises(DeviceError, match="the last words"):
        child.ask({}, 20)  # though the process below it still holds the pipe


def test_a_child_that_says_nothing_is_not_waited_for(child: Child) -> None:
    with pytest.raises(NapuTimeoutError, match="the child did not answer within 0 s"):
        child.receive(0.01)


def test_an_error_that_a_child_tells_is_raised(child: Child) -> None:
    with pytest.raises(DeviceError, match="the child: it hurts"):
        child.ask({"error": "it hurts"}, 20)


def test_a_missing_program_is_an_error_that_names_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        ConfigError, match="h2load is missing; on Debian or Ubuntu: sudo apt-get install nghttp2-client"
    ):
        need_program("h2load", "nghttp2-client", lambda _: None)


def test_a_peer_that_cannot_be_installed_is_an_error_that_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    said: list[str] = []
    with pytest.raises(ConfigError, match="(?s)grpc cannot be had, as this failed: .*pip install.*ai-edge-litert"):
        peer_environment("grpc", ("protocol",), said.append)
    assert said[0].startswith("grpc: installing it into " + str(tmp_path))
    assert not list(tmp_path.glob("napu/bench/grpc-*/complete"))


def test_the_cache_is_where_the_user_says() -> None:
    assert cache_directory({"XDG_CACHE_HOME": "/x"}) == Path("/x/napu/bench")
    assert cache_directory({"HOME": "/home/a"}) == Path("/home/a/.cache/napu/bench")


def test_the_projects_own_model_is_there_and_others_are_asked_for(tmp_path: Path) -> None:
    assert [model.name for model in find_models(None)] == [OWN]
    with pytest.raises(ConfigError, match="no model is called 'yolo'; there are kws"):
        find_models(None, ["yolo"])
    with pytest.raises(ConfigError, match=f"model kws is not in {tmp_path}; name its directory by --model-dir"):
        find_models(tmp_path, ["kws"])
    (tmp_path / "kws_dscnn_int8.tflite").write_bytes(b"")
    assert [model.name for model in find_models(tmp_path, ["digits", "kws"])] == ["kws", OWN]
    assert set(KNOWN) > {"kws", OWN}


def test_inputs_are_seeded() -> None:
    (model,) = find_models(None)
    tensor = {"shape": [16, 16, 1], "dtype": "int8", "quantisation": [1.0, 0]}
    first, again, other = (make_inputs(model, tensor, seed) for seed in (1, 1, 2))
    assert first.shape == (32, 16, 16, 1)
    assert (first == again).all()
    assert (first != other).any()
    assert {int(first.min()), int(first.max())} == {-128, 127}
