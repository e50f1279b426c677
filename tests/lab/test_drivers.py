"""The same on labs of namespaces and of containers: what a user does with a lab from up to down."""

import contextlib
import copy
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from firmware.image import build_image
from host_sdk.capture.file import CaptureFile
from host_sdk.capture.frames import CapturedFrames, find_pdus
from host_sdk.capture.packet import LINKTYPE_ETHERNET
from host_sdk.cli.demo_images import held_out
from host_sdk.cli.lab import with_node_commands
from host_sdk.lab.labs import DOCKER, all_labs, find_lab, up_lab
from host_sdk.lab.topology import Topology, default_mac
from host_sdk.wire.errors import ConfigError, DeviceError
from host_sdk.wire.schema import Opcode
from tests.rig.driven import FIRST, NAPU, DrivenLab, driven_lab, left_behind
from tests.rig.engine import needs_engine
from tests.rig.labs import eventually, lab_name, needs_lab

DESCRIPTION: dict[str, Any] = {
    "name": "driven",
    "mtu": 1600,
    "link": "packet",  # at XDP's a capture at a node's cable sees nothing
    "hosts": [{"name": "host"}, {"name": "second"}],
    "appliances": [{"name": "napu", "count": 2, "pipelines": ["appliance/models/digits"]}],
    "links": [{"nodes": ["napu2"], "faults": "delay=1ms"}],
}
ROOT = Path(__file__).parents[2]


@pytest.fixture(
    scope="module", params=[pytest.param("netns", marks=needs_lab), pytest.param("docker", marks=needs_engine)]
)
def driven(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DrivenLab]:
    driver: str = request.param
    image = tmp_path_factory.mktemp("image") / "new.img"
    image.write_bytes(build_image(version="9.8.7"))
    described = copy.deepcopy(DESCRIPTION)
    described["appliances"][0]["firmware"] = str(image)
    with pytest.MonkeyPatch.context() as patch:
        if driver == "docker":
            patch.setenv("NAPU_IMAGE", request.getfixturevalue("napu_image"))
        with driven_lab(Topology.from_mapping(described, str(ROOT / "lab.yaml")), driver) as lab:
            yield lab


BOTH = {"napu1": [FIRST, 1600], "napu2": ["02:6e:61:70:75:02", 1600]}
(DIGIT,) = held_out(1)
# Frames of others are there as well: appliances in containers check their own health, and a bridge floods the answers.
HOST = bytes.fromhex(default_mac(0).replace(":", ""))


def test_a_lab_is_up_found_and_described(driven: DrivenLab) -> None:
    state = driven.lab.status()
    assert (state.phase, state.driver, state.mtu) == ("up", driven.driver, 1600)
    assert [(node.name, node.condition) for node in state.nodes] == [
        ("host", "up"),
        ("second", "up"),
        ("napu1", "up"),
        ("napu2", "up"),
    ]
    assert [(node.announcement or {}).get("address") for node in state.appliances] == [
        "02:6e:61:70:75:01",
        "02:6e:61:70:75:02",
    ]
    assert find_lab(driven.lab.name).driver == driven.driver
    assert driven.lab.name in all_labs()
    assert driven.lab.topology().appliances[1].faults_in == "delay=1ms"
    shown = json.loads(driven_status())["labs"][driven.lab.name]
    assert shown["faults"] == {"napu1": {"in": "", "out": ""}, "napu2": {"in": "delay=1ms", "out": "delay=1ms"}}
    assert "napu2" in driven.napu("lab", "graph")


def driven_status() -> str:
    return subprocess.run([*NAPU, "lab", "status", "--json"], capture_output=True, text=True, check=True).stdout


def test_a_second_lab_of_the_name_is_refused(driven: DrivenLab) -> None:
    done = subprocess.run(
        [*NAPU, "lab", "up", "--driver", driven.driver, "--name", driven.lab.name],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "up already" in done.stderr
    assert driven.lab.status().phase == "up"


def test_discover_and_infer_as_any_host(driven: DrivenLab, tmp_path: Path) -> None:
    (tmp_path / "digit.jpg").write_bytes(DIGIT.jpeg)
    answers = json.loads(driven.napu("infer", "digits", str(tmp_path / "digit.jpg"), "--json"))["answers"]
    assert answers[0]["outputs"]["label"][0] == DIGIT.label
    assert driven.appliances() == BOTH
    command = [*NAPU, "discover", "--lab", f"{driven.lab.name}/second", "--json"]
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    appliances = json.loads(found.stdout)["appliances"]
    assert [entry["name"] for entry in appliances] == ["napu1", "napu2"]
    assert [list(entry["pipelines"]) for entry in appliances] == [["digits"], ["digits"]]
    assert [entry["firmware"]["version"] for entry in appliances] == ["9.8.7", "9.8.7"]


def test_faults_are_changed_while_it_runs(driven: DrivenLab) -> None:
    assert driven.lab.faults("napu1") == ("", "")
    driven.napu("lab", "fault", "napu1", "--in", "loss=100%")
    assert set(driven.appliances()) == {"napu2"}
    driven.napu("lab", "fault", "napu1", "--clear")
    assert driven.appliances() == BOTH
    with pytest.raises(ConfigError, match="did you mean loss"):
        driven.lab.faults("napu1", "los=1%")
    with pytest.raises(ConfigError, match="host"):
        driven.lab.faults("host")


def test_logs_are_those_of_the_node(driven: DrivenLab) -> None:
    lines = list(driven.lab.logs("napu2"))
    assert any("frames are damaged on purpose: in delay=1ms" in line for line in lines)
    assert driven.napu("lab", "logs", "napu2").splitlines()[: len(lines)] == lines
    follower = subprocess.Popen(
        [*NAPU, "lab", "logs", "napu2", "--follow", "--lab", driven.lab.name], stdout=subprocess.PIPE, text=True
    )
    try:
        assert follower.stdout
        assert follower.stdout.readline().rstrip("\n") == lines[0]
        assert follower.poll() is None  # it waits for more
    finally:
        follower.kill()
        follower.communicate()


def test_a_command_in_a_node_has_its_network_and_ends_as_it_does(driven: DrivenLab) -> None:
    script = "import socket, sys; print(socket.if_nameindex()[-1][1], sys.stdin.read()); sys.exit(7)"
    python = sys.executable if driven.driver == "netns" else "python"
    command = driven.lab.exec_command("napu1", [python, "-c", script])
    done = subprocess.run(command, input="typed", capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (7, "eth0 typed\n")
    command = [*NAPU, "lab", "exec", "--lab", driven.lab.name, "host", "--", "sh", "-c", "echo $0 $1", "a", "--json"]
    assert subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout == "a --json\n"
    with pytest.raises(ConfigError, match="has no node napu9; it has"):
        driven.lab.exec_command("napu9", ["true"])


def test_a_capture_at_the_switch_has_every_frame(driven: DrivenLab, tmp_path: Path) -> None:
    file = tmp_path / "lab.pcapng"
    command = [*NAPU, "capture", str(file), "--lab", driven.lab.name, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as capture:
        try:
            assert capture.stderr
            assert "capturing at" in capture.stderr.readline()
            assert driven.infer(DIGIT.jpeg, 3) == [DIGIT.label] * 3
            capture.send_signal(signal.SIGINT)
            assert json.loads(capture.communicate(timeout=60)[0])["dropped"] == 0
        finally:
            capture.kill()
    with CaptureFile(file) as captured:
        packets, metadata = list(captured), captured.metadata()
    assert metadata["lab"]["name"] == driven.lab.name
    assert [entry["name"] for entry in metadata["appliances"]] == ["napu1", "napu2"]
    ours = [packet for packet in packets if HOST in (packet.data[:6], packet.data[6:12])]
    assert inferences(find_pdus(CapturedFrames.of(ours), LINKTYPE_ETHERNET).headers["opcode"].tolist()) == (3, 3)


def inferences(opcodes: list[int]) -> tuple[int, int]:
    return opcodes.count(Opcode.INFER), opcodes.count(Opcode.RESULT)


def test_a_capture_at_a_containers_cable_knows_which_way_frames_went(driven: DrivenLab) -> None:
    ring = driven.lab.ring("napu1")
    if ring is None:  # frames of namespaces are taken inside of them: tests/lab/test_lab_capture.py
        assert driven.driver == "netns"
        return
    with contextlib.closing(ring):
        driven.infer(DIGIT.jpeg, 3)
        ring.stop()
        found = []
        for memory, entries in ring.entries():
            found += [(entry.outgoing, bytes(memory[entry.start : entry.start + 16])) for entry in entries]
        assert ring.taken() == len(found)
        assert ring.dropped == 0
    assert inferences([head[15] for outgoing, head in found if not outgoing and head[6:12] == HOST]) == (3, 0)
    assert inferences([head[15] for outgoing, head in found if outgoing and head[:6] == HOST]) == (0, 3)


def test_counters_tell_what_went_over_a_cable(driven: DrivenLab) -> None:
    before = driven.lab.counters()
    driven.infer(DIGIT.jpeg, 20)
    after = driven.lab.counters()
    assert set(after) == {"host", "second", "napu1", "napu2"}
    assert after["napu1"].frames_in - before["napu1"].frames_in >= 20
    assert after["napu1"].frames_out - before["napu1"].frames_out >= 20
    assert after["host"].frames_out - before["host"].frames_out >= 20
    assert after["napu2"].frames_out - before["napu2"].frames_out < 20  # but what its own health check sends
    lines = driven.napu("lab", "graph", "--live", "--seconds", "0.2", "--interval", "0.2").splitlines()
    assert "bit/s" in lines[-1]


def test_a_paused_node_is_silent_until_it_goes_on(driven: DrivenLab) -> None:
    driven.lab.pause("napu2")
    state = driven.lab.status().find("napu2")
    assert (state.condition, state.exit_code) == ("paused", None)
    assert set(driven.appliances()) == {"napu1"}
    driven.lab.resume("napu2")
    assert driven.lab.status().find("napu2").condition != "paused"
    assert driven.appliances() == BOTH


def test_an_unplugged_node_comes_back_with_its_cable(driven: DrivenLab) -> None:
    driven.lab.unplug("napu2")
    assert driven.lab.status().find("napu2").condition == "unplugged"
    assert set(driven.appliances()) == {"napu1"}
    driven.lab.plug("napu2")
    assert eventually(lambda: driven.appliances() == BOTH)


def test_a_node_that_was_killed_is_in_the_status(driven: DrivenLab) -> None:
    driven.napu("lab", "kill", "napu2")
    assert eventually(lambda: driven.lab.status().find("napu2").exit_code is not None)
    ended = driven.lab.status().find("napu2")
    assert (ended.condition, ended.exit_code) == ("ended", -signal.SIGKILL)
    assert "access: open" in ended.log_tail
    assert driven.lab.status().find("napu1").condition == "up"
    assert set(driven.appliances()) == {"napu1"}
    with pytest.raises(ConfigError, match="napu2 of lab .* has ended, with -9"):
        driven.lab.pause("napu2")
    shown = subprocess.run([*NAPU, "lab", "status"], capture_output=True, text=True, check=True)
    assert "ended with -9" in shown.stdout


@needs_lab
def test_an_appliance_that_dies_at_start_leaves_nothing() -> None:
    check_dying("netns")


@needs_engine
def test_a_container_that_dies_at_start_leaves_nothing(napu_image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAPU_IMAGE", napu_image)
    check_dying("docker")


def check_dying(driver: str) -> None:
    appliances = [{"name": "good"}, {"name": "bad", "arguments": ["--profile", "no-such"]}]
    topology = Topology.from_mapping({"name": lab_name(), "appliances": appliances})
    wanted = topology if driver == DOCKER else with_node_commands(topology)
    with pytest.raises(DeviceError, match=r"bad ended with exit code 2 before it served[^$]*no-such"):
        up_lab(wanted, driver, timeout_s=60)
    assert left_behind(topology.name, driver) == []
