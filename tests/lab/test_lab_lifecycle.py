import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from host_sdk.lab.capability import capability
from host_sdk.lab.enter import REFUSED
from host_sdk.lab.lab import Lab
from host_sdk.lab.topology import Appliance, Host, Topology, default_mac
from host_sdk.wire.errors import ClosedError, ConfigError, DeviceError, NapuTimeoutError
from tests.rig.labs import (
    echo_command,
    echo_topology,
    eventually,
    exchange,
    lab_name,
    mac_bytes,
    needs_lab,
    networks,
    networks_in_use,
    on_node,
    owner,
    state_of,
)

pytestmark = needs_lab

# Name, MTU, address and whether it is up, of every interface of the namespace that it runs in.
INTERFACES = """
import fcntl, json, socket, struct
found = {}
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
    for _, name in socket.if_nameindex():
        def ask(request):
            return fcntl.ioctl(control, request, struct.pack("16s24x", name.encode()))[16:]
        mtu, = struct.unpack("i20x", ask(0x8921))
        flags, = struct.unpack("H22x", ask(0x8913))
        found[name] = [mtu, ask(0x8927)[2:8].hex(":"), bool(flags & 1)]
print(json.dumps(found))
"""


def failure(topology: Topology, kind: type[Exception], timeout_s: float = 30.0) -> str:
    """Return the message of the error that a lab does not come up with; nothing of it may be left."""
    with pytest.raises(kind) as caught, Lab.up(topology, timeout_s=timeout_s):
        pass
    assert topology.name not in Lab.names()
    return str(caught.value)


def test_up_status_down() -> None:
    topology = echo_topology(mtu=3400)
    with Lab.up(topology) as lab:
        state = lab.status()
        assert (state.name, state.phase, state.mtu, state.link) == (topology.name, "up", 3400, "auto")
        assert [node.name for node in state.appliances] == ["n1", "n2"]
        assert [node.announcement for node in state.appliances] == [
            {"mac": default_mac(1)},
            {"mac": default_mac(2)},
        ]
        assert all(node.exit_code is None for node in state.nodes)
        used = networks(state)
        assert len(used) == 4
        assert topology.name in Lab.names()
        directory = Path(state.host.log).parent
        assert directory.stat().st_mode & 0o777 == 0o700
    assert not directory.exists()
    assert eventually(lambda: not used & networks_in_use())
    assert topology.name not in Lab.names()
    with pytest.raises(ClosedError, match="not up"):
        lab.status()
    lab.down()  # a second time is no error


def test_interfaces_are_as_the_topology_says() -> None:
    with Lab.up(replace(echo_topology(count=1), mtu=9000)) as lab:
        host = json.loads(on_node(lab, "host", INTERFACES))
        node = json.loads(on_node(lab, "n1", INTERFACES))
        switch = json.loads(on_node(lab, "switch", INTERFACES))
    assert sorted(host) == sorted(node) == ["eth0", "lo"]
    assert host["eth0"] == [9000, default_mac(0), True]
    assert node["eth0"] == [9000, default_mac(1), True]
    assert host["lo"][2]
    assert sorted(switch) == ["br0", "lo", "port0", "port1"]
    assert switch["br0"][0] == switch["port0"][0] == switch["port1"][0] == 9000


def test_every_node_has_flash_of_its_own() -> None:
    with Lab.up(echo_topology("--flash", "{flash}")) as lab:
        flash = [Path(node.flash) for node in lab.status().appliances]
        assert len(set(flash)) == 2
        assert [(each / "slot0").stat().st_size for each in flash] == [4096, 4096]


def test_two_labs_at_once() -> None:
    first, second = echo_topology(), echo_topology()
    with Lab.up(first) as one, Lab.up(second) as other:
        assert {first.name, second.name} <= set(Lab.names())
        assert not networks(one.status()) & networks(other.status())
        one.down()
        assert other.status().phase == "up"


def test_the_same_name_twice_is_refused_and_changes_nothing() -> None:
    topology = echo_topology(count=1)
    with Lab.up(topology) as lab:
        before = lab.status()
        with pytest.raises(ConfigError, match=f"napu lab down --name {topology.name}"):
            Lab.up(topology)
        assert lab.status() == before


def test_a_second_up_at_once() -> None:
    topology = echo_topology(count=1)
    for _ in range(3):
        with Lab.up(topology) as lab:
            assert lab.status().phase == "up"


def test_a_node_that_dies_at_start_is_reported_with_its_log() -> None:
    good = Appliance("good", default_mac(1), command=echo_command())
    bad = Appliance("bad", default_mac(2), command=echo_command("--die", "3"))
    message = failure(Topology(lab_name(), (good, bad)), DeviceError)
    assert "bad ended with exit code 3" in message
    assert "the fuse box is empty" in message


def test_a_command_that_cannot_be_run_is_reported() -> None:
    nothing = Appliance("n1", default_mac(1), command=("/nonexistent/node", "{ready_fd}"))
    assert "cannot run /nonexistent/node" in failure(Topology(lab_name(), (nothing,)), DeviceError)


def test_a_node_that_never_serves_is_reported() -> None:
    message = failure(echo_topology("--mute", count=1), NapuTimeoutError, timeout_s=0.5)
    assert "n1: no announcement within 0.5 s" in message


@pytest.mark.parametrize("announcement", ["serving", "[1, 2]", "{"])
def test_an_announcement_must_be_a_json_object(announcement: str) -> None:
    message = failure(echo_topology("--announce", announcement, count=1), DeviceError)
    assert "must write one JSON object in one line" in message


def test_a_topology_without_commands_is_refused() -> None:
    topology = Topology(lab_name(), (Appliance("n1", default_mac(1)),))
    assert "with_commands" in failure(topology, ConfigError)


def test_a_node_that_ends_later_is_in_the_status() -> None:
    with Lab.up(echo_topology()) as lab:
        first, _ = lab.status().appliances
        os.kill(first.pid, signal.SIGKILL)
        assert eventually(lambda: lab.status().appliances[0].exit_code is not None)
        first, second = lab.status().appliances
        assert first.exit_code == -signal.SIGKILL
        assert first.log_tail == "(the log is empty)"
        assert second.exit_code is None


def test_nodes_deaf_to_sigterm_end_all_the_same() -> None:
    lab = Lab.up(echo_topology("--deaf", "--deaf-child"))
    used = networks(lab.status())
    lab.down()
    assert eventually(lambda: not used & networks_in_use())


def test_a_detached_lab_outlives_its_owner_and_is_found() -> None:
    topology = echo_topology(count=1)
    with owner(topology, "--detach") as process:
        state = state_of(process)
        assert process.wait(timeout=30) == 0
    try:
        lab = Lab.find(topology.name)
        assert lab.status() == state
        assert state.keeper.runs()
    finally:
        Lab.find(topology.name).down()
    assert not state.keeper.runs()
    with pytest.raises(ConfigError, match=f"no lab {topology.name} is up"):
        Lab.find(topology.name)


def test_sigterm_to_the_keeper_takes_the_lab_down() -> None:
    with Lab.up(echo_topology("--deaf-child")) as lab:
        state = lab.status()
        used = networks(state)
        os.kill(state.keeper.pid, signal.SIGTERM)
        assert eventually(lambda: not used & networks_in_use())
        assert eventually(lambda: lab.name not in Lab.names())


def test_an_interrupt_of_the_terminal_reaches_the_owner_alone() -> None:
    with Lab.up(echo_topology(count=1)) as lab:
        state = lab.status()
        groups = {os.getpgid(pid) for pid in (state.keeper.pid, state.host.pid, state.appliances[0].pid)}
        sessions = {os.getsid(pid) for pid in (state.keeper.pid, state.host.pid, state.appliances[0].pid)}
        assert os.getpgrp() not in groups
        assert os.getsid(0) not in sessions


def test_nodes_are_stopped_unplugged_and_ended_one_by_one() -> None:
    topology = replace(echo_topology(), hosts=(Host(), Host("second", "02:6e:61:70:74:01")))
    frame = (mac_bytes(default_mac(1)), b"x" * 50)
    with Lab.up(topology) as lab:
        assert lab.topology() == topology
        assert [node.condition for node in lab.status().nodes] == ["up"] * 4
        lab.pause("n1")
        assert lab.status().find("n1").condition == "paused"
        lab.resume("n1")
        assert eventually(lambda: lab.status().find("n1").condition == "up")
        lab.unplug("n1")
        assert lab.status().find("n1").condition == "unplugged"
        before = lab.counters()
        exchange(lab, [frame], 0)
        lost = lab.counters()
        lab.plug("n1")
        assert lab.status().find("n1").condition == "up"
        assert len(exchange(lab, [frame], 1)[0]) == 1
        after = lab.counters()
        assert [each["host"].frames_out - before["host"].frames_out for each in (lost, after)] == [1, 2]
        assert [each["n1"].frames_out - before["n1"].frames_out for each in (lost, after)] == [0, 1]
        lab.signal("n2", signal.SIGTERM)
        assert eventually(lambda: lab.status().find("n2").condition == "ended")
        with pytest.raises(ConfigError, match="n2 of lab .* has ended"):
            lab.signal("n2", signal.SIGTERM)
        with pytest.raises(ConfigError, match="has no node n3; it has host, second, n1, n2"):
            lab.logs("n3")
        assert list(lab.logs("n1")) == []


def test_a_cable_has_the_mtu_of_its_own() -> None:
    topology = replace(echo_topology(mtu=3400), hosts=(Host(mtu=1400),))
    with Lab.up(topology) as lab:
        assert json.loads(on_node(lab, "host", INTERFACES))["eth0"][0] == 1400
        assert json.loads(on_node(lab, "n1", INTERFACES))["eth0"][0] == 3400


def test_a_command_inside_an_unknown_node_is_refused() -> None:
    with Lab.up(echo_topology(count=1)) as lab, pytest.raises(ConfigError, match="it has switch, host, n1"):
        lab.inside("n7", ["true"])


def test_capability_says_why() -> None:
    found = capability()
    assert found.kind in (("root", "userns") if os.geteuid() == 0 else ("userns",))
    assert found.reason.endswith(".")


def test_entering_namespaces_imports_nothing_that_starts_threads() -> None:
    code = "import sys, host_sdk.lab.enter; print('numpy' in sys.modules, 'pyroute2' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "False False\n"


def test_enter_refuses_a_process_that_is_gone() -> None:
    command = [sys.executable, "-m", "host_sdk.lab.enter", "--pid", str(2**22 + 1), "--", "true"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == REFUSED
    assert "No such file" in result.stderr


def test_enter_ends_as_its_command_does() -> None:
    where = "--new" if capability().kind == "root" else "--new-user"
    inner = [sys.executable, "-c", "import os; print(os.getpid()); raise SystemExit(7)"]
    command = [sys.executable, "-m", "host_sdk.lab.enter", where, "--", *inner]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (7, "1\n")  # the first process of a new PID namespace
