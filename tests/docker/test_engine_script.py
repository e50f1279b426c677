"""``docker/engine``: it takes the engine that answers, or runs one and leaves nothing of it."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.rig.engine import ROOT, needs_engine

ENGINE = str(ROOT / "docker/engine")
NOWHERE = "unix:///nonexistent/docker.sock"
TOOLS = all(shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") for name in ("dockerd", "docker"))
can_start_one = pytest.mark.skipif(os.geteuid() != 0 or not TOOLS, reason="starting an engine needs root and dockerd")
TIMEOUT_S = 100


def environment(**changes: str) -> dict[str, str]:
    return {**os.environ, **changes}


def machine() -> dict[str, str]:
    """Return what the machine's firewall and forwarding are."""
    state = {"ip_forward": Path("/proc/sys/net/ipv4/ip_forward").read_text()}
    for path in Path("/proc/sys/net/bridge").glob("bridge-nf-call-*"):
        state[path.name] = path.read_text()
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    for command in (["iptables-save"], ["ip6tables-save"], ["nft", "list", "ruleset"]):
        if program := shutil.which(command[0], path=path):
            done = subprocess.run([program, *command[1:]], capture_output=True, text=True, timeout=20, check=False)
            # Comments have the time, and counters count.
            state[command[0]] = "\n".join(line for line in done.stdout.splitlines() if not line.startswith(("#", ":")))
    return state


def assert_nothing_is_left(directory: Path, network: str) -> None:
    assert not directory.exists()
    assert str(directory) not in Path("/proc/self/mountinfo").read_text()
    assert not Path(f"/sys/class/net/br-{network[:12]}").exists()
    running = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.parent.exists()]
    assert not [command for command in running if os.fsencode(directory) in command]


@needs_engine
def test_an_engine_that_answers_is_used() -> None:
    told = "echo ${DOCKER_HOST-none}; docker version --format '{{.Server.Version}}'"
    done = subprocess.run(
        [ENGINE, "run", "--", "sh", "-c", f"{told}; exit 7"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 7, done.stderr
    address, version = done.stdout.split()
    assert address == os.environ.get("DOCKER_HOST", "none")
    assert version
    assert "private" not in done.stderr


@can_start_one
def test_a_private_engine_leaves_the_machine_as_it_was() -> None:
    before = machine()
    script = "echo $DOCKER_HOST; docker network create left; ls /sys/class/net"
    done = subprocess.run(
        [ENGINE, "run", "--", "sh", "-ec", script],
        env=environment(DOCKER_HOST=NOWHERE),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    address, network, *interfaces = done.stdout.split()
    assert f"br-{network[:12]}" in interfaces
    assert machine() == before
    assert_nothing_is_left(Path(address.removeprefix("unix://")).parent, network)


@can_start_one
def test_after_ctrl_c_nothing_is_left() -> None:
    script = "echo $DOCKER_HOST; docker network create left; exec sleep 100"
    with subprocess.Popen(
        [ENGINE, "run", "--", "sh", "-ec", script],
        env=environment(DOCKER_HOST=NOWHERE),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        address, network = (process.stdout.readline().strip() for _ in range(2))
        os.killpg(process.pid, signal.SIGINT)
        _, told = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130, told
    assert_nothing_is_left(Path(address.removeprefix("unix://")).parent, network)


def test_where_no_engine_can_be_had_it_says_what_to_do(tmp_path: Path) -> None:
    for name in ("sh", "dirname"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    done = subprocess.run(
        [ENGINE, "run", "--", "true"],
        env=environment(DOCKER_HOST=NOWHERE, PATH=str(tmp_path)),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 1
    wanted = "install Docker Engine" if os.geteuid() == 0 else "needs root: start yours, or set DOCKER_HOST"
    assert done.stderr.strip().endswith(wanted)
