"""What is particular to labs of containers: how they are made, and what is said where they cannot be."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import docker
import pytest

from host_sdk.lab.docker.lab import DockerLab
from host_sdk.lab.labs import all_labs, up_lab
from host_sdk.lab.topology import Appliance, Host, Topology, default_mac
from host_sdk.wire.errors import ClosedError, ConfigError, EngineUnavailableError, ImageMissingError
from tests.rig.driven import NAPU, left_behind
from tests.rig.engine import needs_engine
from tests.rig.labs import eventually, lab_name


def plain(count: int = 1) -> Topology:
    appliances = tuple(Appliance(f"n{index}", default_mac(index)) for index in range(1, count + 1))
    return Topology(lab_name(), appliances)


def test_without_an_engine_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(EngineUnavailableError, match=r"no Docker engine answers at unix://.*--driver netns"):
        up_lab(plain(), "docker")
    assert not [lab for lab in all_labs().values() if lab.driver == "docker"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cabling": "direct"}, "joined by a switch"),
        ({"link": "xdp"}, "XDP needs capabilities"),
        ({"hosts": (Host(mtu=1400),)}, "all cables have the same mtu; leave that of host out"),
        (
            {"appliances": (Appliance("n1", default_mac(1), command=("x", "{ready_fd}")),)},
            "leave the command of n1 out",
        ),
    ],
)
def test_what_containers_cannot_have_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        up_lab(replace(plain(), **change), "docker")  # type: ignore[arg-type]


@needs_engine
def test_an_image_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAPU_IMAGE", "napu:no-such")
    topology = plain()
    with pytest.raises(ImageMissingError, match=r"has no image napu:no-such; build it with 'docker/build'"):
        up_lab(topology, "docker")
    assert left_behind(topology.name, "docker") == []


@needs_engine
def test_a_file_that_is_not_there_is_named(napu_image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAPU_IMAGE", napu_image)
    topology = plain()
    named = replace(topology, appliances=(replace(topology.appliances[0], firmware="/no/such.img"),))
    with pytest.raises(ConfigError, match=r"/no/such.img cannot be read: No such file"):
        up_lab(named, "docker")
    assert left_behind(topology.name, "docker") == []


@needs_engine
def test_a_name_that_another_container_has_is_refused(napu_image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAPU_IMAGE", napu_image)
    topology, client = plain(), docker.from_env()
    other = client.containers.create(napu_image, name=f"napu-{topology.name}-host")
    try:
        with pytest.raises(ConfigError, match="a name is taken"):
            up_lab(topology, "docker")
        assert left_behind(topology.name, "docker") == [f"napu-{topology.name}-host"]
    finally:
        other.remove(v=True)
        client.close()


@needs_engine
def test_containers_may_no_more_than_they_need_and_an_interrupt_leaves_none(
    napu_image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAPU_IMAGE", napu_image)
    name, client = lab_name(), docker.from_env()
    command = [*NAPU, "lab", "up", "--driver", "docker", "--name", name, "--nodes", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as started:
        try:
            mark = {"label": [f"io.napu.lab={name}", "io.napu.role=appliance"]}
            assert eventually(lambda: bool(client.containers.list(filters=mark)))
            (appliance,) = client.containers.list(filters=mark)
            settings = appliance.attrs["HostConfig"]
            assert (settings["CapDrop"], settings["CapAdd"]) == (["ALL"], ["NET_RAW"])
            assert settings["ReadonlyRootfs"]
            assert not settings["Privileged"]
            assert [mount["Destination"] for mount in appliance.attrs["Mounts"]] == ["/flash"]
            (network,) = client.networks.list(filters={"label": f"io.napu.lab={name}"})
            assert network.attrs["Internal"]
            started.send_signal(signal.SIGINT)
            assert started.wait(timeout=60) == 130
        finally:
            started.kill()
            DockerLab(name).down()
    assert left_behind(name, "docker") == []
    client.close()


@needs_engine
def test_a_container_that_is_not_entered_is_executed_in(napu_image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with an engine on another machine, or without root: the host's commands run in its container."""
    monkeypatch.setenv("NAPU_IMAGE", napu_image)
    topology = plain()
    lab = up_lab(topology, "docker")
    try:
        monkeypatch.setattr(os, "geteuid", lambda: 65534)
        command = lab.inside("host", [*NAPU, "discover", "--json"])
        monkeypatch.undo()
        assert "host_sdk.lab.docker.execute" in command
        environment = {**os.environ, "NAPU_INSIDE_LAB": topology.name}
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env=environment)
        assert [entry["name"] for entry in json.loads(done.stdout)["appliances"]] == ["n1"]
        gone = subprocess.run(
            [sys.executable, "-m", "host_sdk.lab.docker.execute", "no-such-container", "--", "true"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert gone.returncode == 125
        assert "No such container" in gone.stderr
    finally:
        lab.down()
    with pytest.raises(ClosedError, match="not up"):
        lab.status()
    lab.down()  # a second time is no error
