"""The command line as a user types it: outputs, exit statuses, and never a traceback."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from host_sdk.capture.file import CaptureFile
from host_sdk.cli.demo_images import held_out
from host_sdk.lab.capability import capability
from tests.rig.labs import lab_name

NAPU = [sys.executable, "-m", "host_sdk.cli.main"]
LAB = lab_name()
needs_namespaces = pytest.mark.skipif(
    capability().kind == "none", reason="only where network namespaces are allowed: " + capability().reason
)


def napu(*arguments: str, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run([*NAPU, *arguments], capture_output=True, text=True, timeout=60, check=False, cwd=cwd)
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def lab():
    up = napu("lab", "up", "--name", LAB, "--nodes", "2", "--json")
    assert up.returncode == 0, up.stderr
    assert [node["name"] for node in json.loads(up.stdout)["appliances"]] == ["napu1", "napu2"]
    yield LAB
    assert napu("lab", "down", "--name", LAB).returncode == 0
    assert LAB not in json.loads(napu("lab", "status", "--json").stdout)["labs"]


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    items = held_out(3)
    for item in items:
        (tmp_path / item.name).write_bytes(item.jpeg)
    return [tmp_path / item.name for item in items]


@needs_namespaces
def test_discover_finds_both_appliances(lab: str) -> None:
    found = json.loads(napu("discover", "--lab", lab, "--json").stdout)["appliances"]
    assert [entry["name"] for entry in found] == ["napu1", "napu2"]
    assert all("digits" in entry["pipelines"] for entry in found)
    text = napu("discover", "--lab", lab)
    assert text.returncode == 0
    assert found[0]["address"] in text.stdout


@needs_namespaces
def test_infer_prints_the_labels_in_the_order_of_the_files(lab: str, images: list[Path]) -> None:
    names = [str(path) for path in images]
    answers = json.loads(napu("infer", "digits", *names, "--lab", lab, "--json").stdout)["answers"]
    assert [Path(answer["file"]).name for answer in answers] == [path.name for path in images]
    assert [answer["outputs"]["label"][0] for answer in answers] == [item.label for item in held_out(3)]
    text = napu("infer", "digits", *names, "--lab", lab)
    assert text.returncode == 0
    assert held_out(1)[0].label in text.stdout.splitlines()[1]


@needs_namespaces
def test_infer_of_a_file_that_is_no_image_is_a_sentence_and_status_1(
    lab: str, images: list[Path], tmp_path: Path
) -> None:
    bad = tmp_path / "not.jpg"
    bad.write_bytes(b"GIF89a, or so it says")
    done = napu("infer", "digits", str(images[0]), str(bad), "--lab", lab, "--json")
    assert done.returncode == 1
    good, failed = json.loads(done.stdout)["answers"]
    assert good["outputs"]["label"][0] == held_out(1)[0].label
    assert failed["error"] == "UndecodableError"


@needs_namespaces
def test_unknown_pipeline_names_those_that_there_are(lab: str, images: list[Path]) -> None:
    done = napu("infer", "no-such", str(images[0]), "--lab", lab)
    assert done.returncode == 1
    assert "digits" in done.stderr


@needs_namespaces
def test_pipelines_can_be_listed_installed_and_removed(lab: str, tmp_path: Path) -> None:
    digits = Path(sys.modules["host_sdk"].__file__ or "").parents[1] / "appliance/models/digits"
    text = (digits / "pipeline.toml").read_text().replace('name = "digits"', 'name = "digits-raw"', 1)
    head, _, tail = text.partition("[input]")
    tail = tail[tail.index("[batch]") : tail.index("[[pre]]")] + tail[tail.index("[[post]]") :]
    (tmp_path / "pipeline.toml").write_text(head + '[input]\nkind = "tensor"\n' + tail)
    for name in ("model.tflite", "labels.txt"):
        (tmp_path / name).write_bytes((digits / name).read_bytes())
    assert napu("pipelines", "install", str(tmp_path), "--lab", lab).returncode == 0
    listed = json.loads(napu("pipelines", "--lab", lab, "--json").stdout)["appliances"]
    for pipelines in listed.values():
        added = next(entry for entry in pipelines if entry["name"] == "digits-raw")
        assert added["input"] == {"name": "input", "dtype": "int8", "shape": [16, 16, 1]}
    np.save(tmp_path / "blank.npy", np.full((16, 16, 1), -128, np.int8))
    done = napu("infer", "digits-raw", str(tmp_path / "blank.npy"), "--lab", lab, "--json")
    assert len(json.loads(done.stdout)["answers"][0]["outputs"]["label"]) == 3
    np.save(tmp_path / "wrong.npy", np.zeros((3, 3), np.int8))
    assert napu("infer", "digits-raw", str(tmp_path / "wrong.npy"), "--lab", lab).returncode == 2
    assert napu("pipelines", "remove", "digits-raw", "--lab", lab).returncode == 0
    assert napu("pipelines", "remove", "digits-raw", "--lab", lab).returncode == 1
    assert "digits-raw" not in napu("pipelines", "--lab", lab).stdout


@needs_namespaces
def test_a_package_whose_model_is_none_is_refused_by_name(lab: str, tmp_path: Path) -> None:
    digits = Path(sys.modules["host_sdk"].__file__ or "").parents[1] / "appliance/models/digits"
    for name in ("pipeline.toml", "labels.txt"):
        (tmp_path / name).write_bytes((digits / name).read_bytes())
    (tmp_path / "model.tflite").write_bytes(b"\x1c\0\0\0TFL3" + bytes(2000))
    done = napu("pipelines", "install", str(tmp_path), "--lab", lab)
    assert done.returncode == 1
    assert "BAD_PIPELINE" in done.stderr
    assert "SHA-256" in done.stderr


@needs_namespaces
def test_stats_count_frames_by_reason(lab: str) -> None:
    stats = json.loads(napu("stats", "--lab", lab, "--json").stdout)["appliances"]
    assert len(stats) == 2
    for parts in stats.values():
        hardware = parts["hardware"]
        reasons = sum(value for name, value in hardware.items() if name.startswith("frames_"))
        assert hardware["rx_frames"] == reasons > 0
    assert "rx_frames" in napu("stats", "--lab", lab).stdout


@needs_namespaces
def test_lab_status_and_a_second_lab_of_the_same_name(lab: str) -> None:
    assert "napu2" in napu("lab", "status").stdout
    again = napu("lab", "up", "--name", lab)
    assert again.returncode == 2
    assert "napu lab down" in again.stderr


@needs_namespaces
def test_faults_of_one_appliance_come_and_go_while_it_serves(lab: str) -> None:
    def show() -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = json.loads(napu("lab", "status", "--json").stdout)["labs"][lab]["faults"]
        return found

    clean = {"in": "", "out": ""}
    assert show() == {"napu1": clean, "napu2": clean}
    hole = napu("lab", "fault", "napu1", "--in", "blackhole=0s-3600s", "--lab", lab, "--json")
    assert json.loads(hole.stdout) == {"node": "napu1", "faults_in": "blackhole=0s-3600s", "faults_out": ""}
    assert show() == {"napu1": {"in": "blackhole=0s-3600s", "out": ""}, "napu2": clean}
    assert "blackhole=0s-3600s" in napu("lab", "status").stdout
    found = json.loads(napu("discover", "--lab", lab, "--json").stdout)["appliances"]
    assert [entry["name"] for entry in found] == ["napu2"]
    for wrong, word in ((("napu1", "--out", "los=5%"), "did you mean loss"), (("napu3",), "napu1, napu2")):
        refused = napu("lab", "fault", *wrong, "--lab", lab)
        assert (refused.returncode, word in refused.stderr) == (2, True)
    assert napu("lab", "fault", "napu1", "--clear", "--lab", lab).stdout == "napu1: in no faults; out no faults\n"
    found = json.loads(napu("discover", "--lab", lab, "--json").stdout)["appliances"]
    assert [entry["name"] for entry in found] == ["napu1", "napu2"]


@needs_namespaces
def test_link_says_what_works(lab: str) -> None:
    links = json.loads(napu("link", "--lab", lab, "--json").stdout)
    assert links["interface"] == "eth0"
    assert [entry["kind"] for entry in links["links"]] == ["xdp", "packet", "udp"]
    assert links["links"][1]["usable"]


@pytest.mark.parametrize(
    ("arguments", "status", "word"),
    [
        (("discover", "--link", "carrier-pigeon"), 2, "packet:IFACE"),
        (("discover", "--link", "packet:nope0"), 1, "nope0"),
        (("discover", "--link", "udp", "--target", "no.such.host.invalid"), 2, "no.such.host.invalid"),
        (("discover", "--lab", "no-such-lab"), 2, "napu lab status"),
        (("lab", "down", "--name", "no-such-lab"), 2, "no-such-lab"),
        (("lab", "up", "--mtu", "17"), 2, "mtu"),
        (("lab", "up", "--nodes", "0"), 2, "nodes"),
        (("infer", "digits", "/no/such/file"), 2, "/no/such/file"),
        (("frobnicate",), 2, "frobnicate"),
    ],
)
def test_a_users_mistake_is_a_sentence(arguments: tuple[str, ...], status: int, word: str) -> None:
    done = napu(*arguments)
    assert done.returncode == status, done.stderr
    assert word in done.stderr


def test_silence_is_status_3() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as nobody:
        nobody.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{nobody.getsockname()[1]}"
        done = napu("discover", "--link", "udp", "--target", target, "--json")
        assert done.returncode == 3
        assert json.loads(done.stdout)["appliances"] == []
        asked = napu("infer", "digits", __file__, "--link", "udp", "--target", target, "--timeout", "0.5")
        assert asked.returncode == 3
        assert "no answer" in asked.stderr


@pytest.mark.parametrize("command", [(), ("demo",), ("infer",), ("pipelines", "install"), ("lab", "up"), ("link",)])
def test_every_command_explains_itself(command: tuple[str, ...]) -> None:
    done = napu(*command, "--help")
    assert done.returncode == 0
    assert "Usage: napu" in done.stdout


@needs_namespaces
def test_a_capture_names_what_the_lab_ran_and_explains_it(lab: str, images: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "lab.pcapng"
    command = [*NAPU, "capture", str(path), "--lab", lab, "--filter", "opcode=INFER,RESULT"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "capturing at" in process.stderr.readline()
        assert napu("infer", "digits", *map(str, images), "--lab", lab).returncode == 0
        process.terminate()
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "0 lost" in output
    with CaptureFile(path) as capture:
        said = capture.metadata()
    assert {entry["name"] for entry in said["appliances"]} == {"napu1", "napu2"}
    assert all(len(entry["firmware"]["digest"]) == 64 for entry in said["appliances"])
    assert [len(served[0]["digest"]) for served in said["pipelines"].values()] == [64, 64]
    found = json.loads(napu("explain", str(path), "--json", "--all").stdout)
    assert found["totals"]["opcodes"] == {"INFER": len(images)}
    assert found["totals"]["outcomes"]["answered"] == len(images)
