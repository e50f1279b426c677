"""The files for Docker Swarm on two machines, each an engine of its own, of which one loses its power.

One test, as it takes a Swarm to look at anything and that is brought up once.
"""

import json
import subprocess
import sys
from functools import partial
from typing import Any

import pytest

from host_sdk.wire.schema import UDP_PORT
from tests.rig.engine import needs_engine
from tests.rig.labs import eventually
from tests.rig.nodes import ROOT
from tests.rig.swarm import Machine, Swarm, left_behind, needs_swarm

FILES = ROOT / "docker" / "swarm"
PLAIN, RAW, PUBLISHED = (FILES / f"{name}.yaml" for name in ("stack", "raw", "published"))
STACKS = {"napu": (PLAIN,), "raw": (PLAIN, RAW), "out": (PLAIN, PUBLISHED)}
READY_S = 60.0
OVERLAY_MTU = 1450  # of an underlay of 1500: 50 bytes are VXLAN's
SILENT = 3  # exit status of napu where nobody answered

# Runs on a host, over the loss of a machine: what came of every request of an image of a two, and who is a member.
LOAD = """
import collections, json, time
from host_sdk.cluster.client import NapuCluster
from host_sdk.operations import Timeout
from host_sdk.wire.errors import NapuError

with open("digits/0007-two.jpg", "rb") as file:
    jpeg = file.read()
outcomes = collections.Counter()
with NapuCluster("udp", "tasks.appliance", timeout=Timeout(request=20)) as napu:
    up = lambda: sorted(member.address for member in napu.members() if member.state == "up")
    before, after, end = up(), [], time.monotonic() + 60
    while not set(after) - set(before) and time.monotonic() < end:
        for answer in napu.infer_many("digits", [jpeg] * 200, return_errors=True):
            failed = isinstance(answer, NapuError)
            outcomes[type(answer).__name__ if failed else "right" if answer.label == "two" else "wrong"] += 1
        print(json.dumps(outcomes), flush=True)
        after = up()
print(json.dumps([before, after]))
"""
TWO = "digits/0007-two.jpg"  # in the image


@needs_engine
@needs_swarm
@pytest.mark.timeout(300)  # for a busy machine; half a minute is enough for an idle one
def test_a_swarm_of_two_machines(napu_image: str) -> None:
    with Swarm() as swarm:
        swarm.load(napu_image)
        for name, files in STACKS.items():
            swarm.deploy(name, files, NAPU_IMAGE=napu_image, NAPU_HEALTH_INTERVAL="3s", NAPU_HEALTH_RETRIES="20")
        for name in STACKS:
            assert eventually(partial(all_run, swarm, name), READY_S), name
        for name in STACKS:
            assert [len(machine.containers(f"{name}_appliance")) for machine in swarm.machines] == [1, 1]
        manager, worker = swarm.machines
        appliances_are_shut_in(worker)
        requests_cross_by_name(manager, worker)
        raw_frames_cross_and_broadcasts_do_not(manager, worker)
        a_published_port_is_reached_from_outside(swarm)
        a_machine_loses_its_power(swarm)
    assert list(left_behind(swarm.directory)) == []


def all_run(swarm: Swarm, stack: str) -> bool:
    return swarm.replicas(f"{stack}_appliance") == "2/2"


def host(machine: Machine, stack: str) -> str:
    (found,) = machine.containers(f"{stack}_host")
    return found


def napu(machine: Machine, stack: str, *arguments: str, accept: tuple[int, ...] = (0,)) -> Any:
    """Run a command on a stack's host; return its JSON."""
    return json.loads(machine.docker("exec", host(machine, stack), "napu", *arguments, "--json", accept=accept))


def label(answers: dict[str, Any]) -> list[tuple[str, str]]:
    return [(entry["outputs"]["label"][0], entry["appliance"]) for entry in answers["answers"]]


def appliances_are_shut_in(worker: Machine) -> None:
    (appliance,) = worker.containers("napu_appliance")
    (facts,) = json.loads(worker.docker("inspect", appliance))
    assert facts["HostConfig"]["ReadonlyRootfs"]
    assert facts["HostConfig"]["CapDrop"] == ["ALL"]
    assert facts["HostConfig"]["Memory"] == 768 << 20
    assert facts["HostConfig"]["PidsLimit"] == 64
    status = worker.docker("exec", appliance, "cat", "/proc/1/status")
    assert "CapBnd:\t0000000000000000\n" in status
    assert "Uid:\t10001\t" in status


def requests_cross_by_name(manager: Machine, worker: Machine) -> None:
    found: list[dict[str, Any]] = []

    def both_answer() -> bool:  # machines tell one another of names after a while
        asked = ("discover", "--link", "udp", "--target", "tasks.appliance")
        found[:] = napu(manager, "napu", *asked, accept=(0, SILENT))["appliances"]
        return sorted(entry["name"] for entry in found) == ["appliance-1", "appliance-2"]

    assert eventually(both_answer), found
    (appliance,) = worker.containers("napu_appliance")
    there = f"{worker.address(appliance, 'napu_switch')}:{UDP_PORT}"
    assert there in {entry["address"] for entry in found}
    asked = napu(manager, "napu", "infer", "digits", TWO, "--link", "udp", "--target", there)
    assert label(asked) == [("two", there)]
    large_datagrams_cross_in_fragments(manager, there)


def large_datagrams_cross_in_fragments(manager: Machine, there: str) -> None:
    """PDUs over UDP have 1472 bytes, as Ethernet takes them; the overlay takes less."""
    inside = ("exec", host(manager, "napu"))
    manager.docker(*inside, "sh", "-c", f"cat {TWO} /dev/zero | head -c 30000 > /tmp/large.jpg")
    asked = napu(manager, "napu", "infer", "digits", "/tmp/large.jpg", "--link", "udp", "--target", there)
    assert label(asked) == [("two", there)]
    names, values = (
        line.split()[1:]
        for line in manager.docker(*inside, "cat", "/proc/net/snmp").splitlines()
        if line.startswith("Ip: ")
    )
    assert int(dict(zip(names, values, strict=True))["FragCreates"]) >= 2 * (30000 // 1472)


def raw_frames_cross_and_broadcasts_do_not(manager: Machine, worker: Machine) -> None:
    (appliance,) = worker.containers("raw_appliance")
    mac = worker.docker("exec", appliance, "cat", "/sys/class/net/eth0/address")
    link = ("--link", "packet:eth0")
    asked = napu(manager, "raw", "infer", "digits", TWO, *link, "--target", mac)
    assert label(asked) == [("two", mac)]
    assert manager.docker("exec", host(manager, "raw"), "cat", "/sys/class/net/eth0/mtu") == str(OVERLAY_MTU)
    (here,) = manager.containers("raw_appliance")
    nearby = manager.docker("exec", here, "cat", "/sys/class/net/eth0/address")
    heard = [entry["address"] for entry in napu(manager, "raw", "discover", *link, accept=(0, SILENT))["appliances"]]
    assert mac not in heard  # on the other machine; on this one the bridge of the overlay floods
    assert heard == [nearby]


def a_published_port_is_reached_from_outside(swarm: Swarm) -> None:
    """From the first machine, and no container, to the port of the other."""
    target = f"{swarm.ip(1)}:{UDP_PORT}"
    command = [sys.executable, "-m", "host_sdk.cli.main", "discover", "--json", "--link", "udp", "--target", target]
    with swarm.machines[0].network.entered():
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert [entry["address"] for entry in json.loads(done.stdout)["appliances"]] == [target]


def a_machine_loses_its_power(swarm: Swarm) -> None:
    manager, worker = swarm.machines
    command = ["docker", "--host", manager.host, "exec", host(manager, "napu"), "python", "-c", LOAD]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as load:
        assert load.stdout
        try:
            assert set(json.loads(load.stdout.readline())) == {"right"}
            worker.cut_power()
            lines = [json.loads(line) for line in load.stdout]
        finally:
            load.kill()
    *counted, (before, after) = lines
    assert len(before) == 2
    assert set(counted[-1]) == {"right"}  # what the dead appliance had ended right on the survivor
    assert len(set(before) & set(after)) == 1  # the survivor, and one that Swarm started in the dead one's place
    assert len(after) == 2
    assert swarm.state(worker) == "Down"
    assert len(manager.containers("napu_appliance")) == 2
    waiting = manager.docker("service", "ps", "--no-trunc", "--filter", "desired-state=running", "out_appliance")
    assert "host-mode port already in use" in waiting  # its port is taken by the one that is there
    assert len(manager.containers("out_appliance")) == 1
