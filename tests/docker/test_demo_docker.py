"""``napu demo --docker``: one appliance of three is killed, and no image is lost."""

import json
import os
import subprocess
import sys

import pytest

from tests.rig.engine import docker, needs_engine


def demo(*options: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "host_sdk.cli.main", "demo", "--docker", *options]
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=100, check=False
    )


@needs_engine
def test_no_image_is_lost_when_an_appliance_is_killed(napu_image: str) -> None:
    done = demo("--images", "300", "--json", NAPU_IMAGE=napu_image)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["sent"], report["answered"], report["lost"]) == (300, 300, 0)
    assert sum(report["answered_by"].values()) == 300
    assert report["killed"] == "napu3"
    assert 100 <= report["killed_after"] < 300
    assert report["accuracy"] > 0.97
    if os.geteuid() == 0:  # else it is killed through the engine, which does not start it again
        assert list(report["conditions"].values()) == ["up"] * 3
    lab = next(word for word in done.stderr.split() if word.startswith("demo-")).rstrip(":")
    label = f"label=io.napu.lab={lab}"
    kinds = (("ps", "--all", "--quiet"), ("network", "ls", "--quiet"), ("volume", "ls", "--quiet"))
    assert [docker(*kind, "--filter", label).stdout for kind in kinds] == ["", "", ""]


@pytest.mark.parametrize(("option", "told"), [(["--nodes", "1"], "two or more"), (["--pcap", "x"], "makes no files")])
def test_what_it_cannot_do_it_says(option: list[str], told: str) -> None:
    done = demo(*option)
    assert done.returncode == 2
    assert told in done.stderr


def test_without_an_engine_it_says_where_it_looked() -> None:
    done = demo(DOCKER_HOST="unix:///nonexistent/docker.sock")
    assert done.returncode == 1
    assert "/nonexistent/docker.sock" in done.stderr
