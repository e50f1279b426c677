"""``docker/compose.yaml`` and the files that are added to it: what they say, and that they come up."""

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from host_sdk.capture.reader import read_capture
from tests.rig.engine import ROOT, docker, inspect, needs_compose, needs_engine, unique, wait_for

pytestmark = [needs_engine, needs_compose]

SCALE = 3
TIMEOUT_S = 100


@dataclass(frozen=True)
class Project:
    """A project of Compose, by the files that it is made of."""

    name: str
    files: tuple[str, ...]
    environment: dict[str, str]

    def __call__(self, *arguments: str) -> str:
        """Run a command of Compose to its end and return what it printed."""
        files = [word for file in self.files for word in ("--file", str(ROOT / "docker" / file))]
        done = subprocess.run(
            ["docker", "compose", "--project-name", self.name, *files, *arguments],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def config(self) -> dict[str, Any]:
        """Return what Compose makes of the files."""
        whole: dict[str, Any] = json.loads(self("config", "--format", "json"))
        return whole


@pytest.fixture(scope="module")
def captures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("captures")


@pytest.fixture(scope="module")
def project(napu_image: str, captures: Path) -> Iterator[Project]:
    environment = {
        "NAPU_IMAGE": napu_image,
        "NAPU_HEALTH_INTERVAL": "2s",
        "NAPU_BRIDGE": f"napu-t{os.getpid()}",
        "NAPU_CAPTURES": str(captures),
        "NAPU_USER": f"{os.getuid()}:{os.getgid()}",
    }
    up = Project(unique("compose"), ("compose.yaml", "compose.capture.yaml"), environment)
    try:
        up("up", "--detach", "--no-build", "--scale", f"appliance={SCALE}", "--wait")
        yield up
    finally:
        up("down", "--volumes", "--remove-orphans")


def test_all_come_up_healthy_and_a_host_infers(project: Project) -> None:
    containers = project("ps", "--quiet", "appliance").split()
    assert [inspect(name)["State"]["Health"]["Status"] for name in containers] == ["healthy"] * SCALE
    found = json.loads(project("run", "--rm", "host", "napu", "discover", "--json"))["appliances"]
    assert len(found) == SCALE
    images = [f"digits/{name}" for name in ("0000-zero.jpg", "0001-one.jpg", "0007-two.jpg")]
    answers = json.loads(project("run", "--rm", "host", "napu", "infer", "digits", *images, "--json"))["answers"]
    assert [answer["outputs"]["label"][0] for answer in answers] == ["zero", "one", "two"]


def test_an_appliance_that_is_killed_comes_back_as_the_one_that_it_was(project: Project, napu_image: str) -> None:
    name = project("ps", "--quiet", "appliance").split()[0]
    device = docker("exec", name, "sha256sum", "/flash/FUSES").stdout
    killed = inspect(name)["State"]["Pid"]
    # As a crash, from outside: the engine does not restart what it was itself told to kill.
    rights = ["--pid=host", "--user=0", "--cap-drop=ALL", "--cap-add=KILL", "--network=none", "--no-healthcheck"]
    docker("run", "--rm", *rights, napu_image, "sh", "-c", f"kill -9 {killed}")
    wait_for(lambda: inspect(name)["State"]["Pid"] not in (0, killed), "it was started again")
    assert docker("exec", name, "sha256sum", "/flash/FUSES").stdout == device


def test_the_tap_at_the_switch_has_what_passed(project: Project, captures: Path) -> None:
    project("run", "--rm", "host", "napu", "infer", "digits", "digits/0007-two.jpg")
    project("stop", "tap")
    frames = list(read_capture(captures / "switch.pcapng"))
    assert len(frames) >= 4  # a session opened, a request, their answers


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's own engine lets containers load XDP programs")
def test_over_xdp_an_appliance_serves_with_its_firmware_shut_in(napu_image: str) -> None:
    environment = {"NAPU_IMAGE": napu_image, "NAPU_HEALTH_INTERVAL": "2s"}
    xdp = Project(unique("xdp"), ("compose.yaml", "compose.xdp.yaml"), environment)
    try:
        xdp("up", "--detach", "--no-build", "--wait")
        (found,) = json.loads(xdp("run", "--rm", "host", "napu", "discover", "--json"))["appliances"]
        assert (found["link"], found["mtu"]) == ("xdp", 3400)
        answers = json.loads(xdp("run", "--rm", "host", "napu", "infer", "digits", "digits/0007-two.jpg", "--json"))
        assert answers["answers"][0]["outputs"]["label"][0] == "two"
        (container,) = xdp("ps", "--quiet", "appliance").split()
        read = f"grep -hE '^(Uid|CapEff|NoNewPrivs)' /proc/{found['firmware']['pid']}/status"
        firmware = dict(line.split(":\t") for line in docker("exec", container, "sh", "-c", read).stdout.splitlines())
        assert firmware["Uid"].split() == ["65534"] * 4
        assert (int(firmware["CapEff"], 16), firmware["NoNewPrivs"]) == (0, "1")
    finally:
        xdp("down", "--volumes", "--remove-orphans")


def test_down_leaves_nothing(project: Project) -> None:
    project("down", "--volumes", "--remove-orphans")
    label = f"label=com.docker.compose.project={project.name}"
    kinds = (("ps", "--all", "--quiet"), ("network", "ls", "--quiet"), ("volume", "ls", "--quiet"))
    assert [docker(*kind, "--filter", label).stdout for kind in kinds] == ["", "", ""]


@pytest.mark.parametrize("override", ["", "compose.faults.yaml", "compose.capture.yaml", "compose.xdp.yaml"])
def test_no_file_but_the_one_for_xdp_asks_for_more_than_raw_frames(override: str) -> None:
    files = ("compose.yaml", override) if override else ("compose.yaml",)
    services = Project("napu-config", files, {"COMPOSE_PROFILES": "*"}).config()["services"]
    assert {"appliance", "host"} <= set(services)
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"]
        assert service["read_only"]
        asked = set(service["cap_add"])
        if (name, override) == ("appliance", "compose.xdp.yaml"):
            assert {"SYS_ADMIN", "NET_ADMIN", "NET_RAW"} < asked
        else:
            assert asked == {"NET_RAW"}


def test_faults_come_from_the_environment() -> None:
    project = Project("napu-config", ("compose.yaml", "compose.faults.yaml"), {"NAPU_FAULTS_IN": "loss=10%"})
    command = project.config()["services"]["appliance"]["command"]
    assert "--faults-in=loss=10%" in command
    assert "--faults-out=loss=5%,duplicate=2%,reorder=5%" in command
