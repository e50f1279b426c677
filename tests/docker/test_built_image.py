"""The image: who runs in it, what that user may do, and what it is made of."""

import json
from collections.abc import Iterator

import pytest

from tests.rig.engine import HARDENED, container, docker, inspect, needs_engine, network, unique, wait_for

pytestmark = needs_engine

NET_RAW = 1 << 13
UNHEALTHY = 1


@pytest.fixture(scope="module")
def switch() -> Iterator[str]:
    with network(unique("image")) as name:
        yield name


@pytest.fixture(scope="module")
def appliance(napu_image: str, switch: str) -> Iterator[str]:
    with container(unique("appliance"), f"--network={switch}", "--health-interval=2s", image=napu_image) as name:
        wait_for(lambda: '"firmware": true' in docker("logs", name).stdout, "the firmware runs")
        yield name


def on_the_switch(switch: str, image: str, *command: str) -> str:
    return docker("run", "--rm", f"--network={switch}", *HARDENED, "--no-healthcheck", image, *command).stdout


def processes(name: str) -> list[dict[str, str]]:
    """Return what the kernel says of each process in a container."""
    text = docker("exec", name, "sh", "-c", "cat /proc/[0-9]*/status").stdout
    rows: list[dict[str, str]] = []
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key == "Name":
            rows.append({})
        rows[-1][key] = value.strip()
    return rows


def test_the_node_runs_as_a_user_of_its_own_with_net_raw_alone(appliance: str) -> None:
    pythons = [row for row in processes(appliance) if row["Name"].startswith("python")]
    node = next(row for row in pythons if row["Pid"] == "1")
    assert node["Uid"].split() == ["10001"] * 4
    assert int(node["CapPrm"], 16) == int(node["CapEff"], 16) == int(node["CapBnd"], 16) == NET_RAW


def test_firmware_has_no_capability_and_can_never_get_one(appliance: str) -> None:
    (firmware,) = [row for row in processes(appliance) if row["Name"].startswith("python") and row["Pid"] != "1"]
    assert int(firmware["CapPrm"], 16) == int(firmware["CapAmb"], 16) == 0
    assert firmware["NoNewPrivs"] == "1"


def test_only_flash_and_tmp_can_be_written(appliance: str) -> None:
    def writes(path: str) -> bool:
        return docker("exec", appliance, "touch", path, check=False).returncode == 0

    assert {path: writes(path) for path in ("/flash/x", "/tmp/x", "/x", "/opt/napu/x", "/usr/share/napu/x")} == {
        "/flash/x": True,
        "/tmp/x": True,
        "/x": False,
        "/opt/napu/x": False,
        "/usr/share/napu/x": False,
    }


@pytest.mark.usefixtures("appliance")
def test_a_host_infers_over_raw_frames(switch: str, napu_image: str) -> None:
    answer = on_the_switch(switch, napu_image, "napu", "infer", "digits", "digits/0007-two.jpg", "--json")
    assert '"two"' in answer
    (node,) = json.loads(on_the_switch(switch, napu_image, "napu", "discover", "--json"))["appliances"]
    assert (node["link"], node["mtu"]) == ("packet", 9000)


def test_the_healthcheck_turns_healthy_and_fails_for_a_node_that_hangs(appliance: str) -> None:
    wait_for(lambda: inspect(appliance)["State"]["Health"]["Status"] == "healthy", "the container is healthy")
    assert docker("exec", appliance, "napu-node-health").returncode == 0
    docker("kill", "--signal=STOP", appliance)
    try:
        assert docker("exec", appliance, "napu-node-health", check=False).returncode == UNHEALTHY
    finally:
        docker("kill", "--signal=CONT", appliance)


def test_it_stops_when_it_is_asked_and_starts_again_with_its_flash(napu_image: str, switch: str) -> None:
    with container(unique("stops"), f"--network={switch}", "--no-healthcheck", image=napu_image) as name:
        wait_for(lambda: '"firmware": true' in docker("logs", name).stdout, "the firmware runs")
        device = docker("exec", name, "sha256sum", "/flash/FUSES").stdout
        docker("stop", "--time=2", name)
        state = inspect(name)["State"]
        assert (state["ExitCode"], state["OOMKilled"]) == (0, False)  # 137 is what is killed after 2 s
        docker("start", name)
        wait_for(lambda: docker("logs", name).stdout.count('"firmware": true') == 2, "the firmware runs again")
        assert docker("exec", name, "sha256sum", "/flash/FUSES").stdout == device


@pytest.mark.parametrize("refused", ["--cap-drop=ALL", "--security-opt=no-new-privileges"])
def test_commands_start_without_net_raw_as_udp_needs_none(napu_image: str, refused: str) -> None:
    read = "import re; print(re.search('CapEff:.*', open('/proc/self/status').read())[0])"
    options = ["--rm", "--network=none", "--read-only", refused, napu_image]
    launched = docker("run", *options, "napu-node", "--help", check=False)
    assert (launched.returncode, launched.stderr) == (0, "")
    assert docker("run", *options, "python", "-c", read).stdout.split()[1].strip("0") == ""


def test_the_list_of_parts_is_what_is_installed(napu_image: str, switch: str) -> None:
    names = "import importlib.metadata as m; print(*(f'{d.name}=={d.version}' for d in m.distributions()))"
    installed = on_the_switch(switch, napu_image, "python", "-c", names).split()
    parts = json.loads(on_the_switch(switch, napu_image, "cat", "/usr/share/doc/napu/sbom.json"))
    listed = [f"{part['name']}=={part['version']}" for part in (*parts["components"], parts["metadata"]["component"])]
    assert parts["bomFormat"] == "CycloneDX"
    assert {name.lower() for name in installed} == {name.lower() for name in listed}
    assert any(name.startswith("ai-edge-litert==") for name in listed)


def test_no_build_tools_are_left(napu_image: str, switch: str) -> None:
    found = on_the_switch(switch, napu_image, "sh", "-c", "command -v gcc cc make; ls /opt/napu/bin; ls /build || true")
    assert set(found.split()) == {"napu", "napu-fw", "napu-node", "napu-node-health", "python", "python-net-raw"} | {
        "python3",
        "python3.11",
    }


def test_what_the_image_says_of_itself(napu_image: str) -> None:
    config = inspect(napu_image)["Config"]
    labels = {name.rpartition(".")[2]: value for name, value in config["Labels"].items()}
    assert (labels["title"], labels["version"], labels["licenses"]) == ("napu", "0.1.0", "Apache-2.0")
    assert (config["User"], config["StopSignal"], list(config["Volumes"])) == ("10001:10001", "SIGTERM", ["/flash"])
