"""Topologies as trees, pictures and files of other tools."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from host_sdk.lab.driver import LinkCounters
from host_sdk.lab.export import compose, containerlab
from host_sdk.lab.graph import LinkRates, link_rates, quantity, tree
from host_sdk.lab.graph_picture import draw
from host_sdk.lab.state import LabState, NodeState
from host_sdk.lab.topology import Topology
from host_sdk.wire.errors import ConfigError
from tests.rig.engine import needs_compose

NAPU = [sys.executable, "-m", "host_sdk.cli.main"]
LAB = Topology.from_mapping(
    {
        "name": "edge",
        "mtu": 9000,
        "hosts": [{"name": "host"}, {"name": "second"}],
        "appliances": [
            {"name": "cam", "count": 2, "pipelines": ["/models/digits"], "arguments": ["--poll", "$HOME it's"]},
            {"name": "far", "firmware": "/images/new.img"},
        ],
        "links": [{"nodes": ["far"], "rate": "10Mbit", "faults_in": "loss=5%"}],
    }
)


def test_a_tree_has_every_node_and_what_is_special() -> None:
    assert tree(LAB) == [
        "edge (any driver)",
        "└── switch (mtu 9000)",
        "    ├── host    02:6e:61:70:75:00  host",
        "    ├── second  02:6e:61:70:74:01  host",
        "    ├── cam1    02:6e:61:70:75:01  napu-s",
        "    ├── cam2    02:6e:61:70:75:02  napu-s",
        "    └── far     02:6e:61:70:75:03  napu-s  in rate=10Mbit,loss=5%; out rate=10Mbit",
    ]


def test_a_tree_of_a_lab_that_is_up_says_how_it_is() -> None:
    nodes = [NodeState(node.name, node.mac, 1, "") for node in LAB.nodes]
    nodes[2] = NodeState("cam1", "02:6e:61:70:75:01", 0, "", exit_code=-9, condition="ended")
    state = LabState("edge", "up", None, 9000, "auto", "switch", tuple(nodes[:2]), tuple(nodes[2:]), "docker")
    lines = tree(LAB, state, {"cam2": LinkRates(12345, 1e6, 7, 800)})
    assert lines[0] == "edge (docker)"
    assert lines[4].endswith("napu-s  ended with -9")
    assert lines[5].endswith("napu-s  up  in 12.3 k/s 1.00 Mbit/s, out 7 /s 800 bit/s")


def test_rates_are_differences_and_a_new_cable_begins_at_nothing() -> None:
    before = {"a": LinkCounters(100, 1000, 50, 500), "gone": LinkCounters(1, 1, 1, 1)}
    after = {"a": LinkCounters(300, 2000, 10, 20), "new": LinkCounters(9, 9, 9, 9)}
    assert link_rates(before, after, 2.0) == {"a": LinkRates(100, 4000, 5, 80)}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 "),
        (7.4, "7 "),
        (999, "999 "),
        (999.6, "1.00 k"),
        (12_345, "12.3 k"),
        (123_456, "123 k"),
        (9.996e6, "10.0 M"),
    ],
)
def test_quantities_have_three_digits(value: float, text: str) -> None:
    assert quantity(value) == text


@pytest.mark.parametrize("count", [1, 40])
def test_a_picture_has_every_node_in_a_place_of_its_own(tmp_path: Path, count: int) -> None:
    lab = Topology.from_mapping({"name": "many", "appliances": [{"name": "n", "count": count}]})
    draw(tmp_path / "lab.svg", lab)
    written = (tmp_path / "lab.svg").read_text()
    assert all(f"<!-- {node.name} -->" in written for node in lab.nodes)
    assert written.count("<!-- 02:6e:61:70:75:") == len(lab.nodes)


def test_the_ending_says_what_a_picture_becomes(tmp_path: Path) -> None:
    draw(tmp_path / "lab.png", LAB)
    assert (tmp_path / "lab.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ConfigError, match=r"ends with .png or .svg"):
        draw(tmp_path / "lab.pdf", LAB)


def test_a_compose_file_has_the_labs_containers(tmp_path: Path) -> None:
    document = yaml.safe_load(compose(LAB, tmp_path))
    assert set(document["services"]) == {"host", "second", "cam1", "cam2", "far"}
    assert document["networks"]["lab"]["driver_opts"] == {"com.docker.network.driver.mtu": "9000"}
    camera = document["services"]["cam1"]
    assert (camera["cap_drop"], camera["cap_add"], camera["read_only"]) == (["ALL"], ["NET_RAW"], True)
    assert camera["mac_address"] == "02:6e:61:70:75:01"
    assert camera["command"][-1] == "$$HOME it's"
    mounted = dict(bind.split(":")[:2] for bind in camera["volumes"])
    assert mounted.pop("cam1-flash") == "/flash"
    (here,) = mounted
    assert (tmp_path / here).resolve() == Path("/models/digits")
    assert camera["command"][camera["command"].index("--pipeline") + 1] == mounted[here]
    assert "--firmware" in document["services"]["far"]["command"]


@needs_compose
def test_compose_takes_the_file(tmp_path: Path) -> None:
    file = tmp_path / "compose.yaml"
    file.write_text(compose(LAB, tmp_path))
    command = ["docker", "compose", "-f", str(file), "config", "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout)
    assert read["services"]["cam1"]["command"][-1] in ("$HOME it's", "$$HOME it's")
    assert read["networks"]["lab"]["internal"]


def test_a_containerlab_topology_joins_everybody_to_the_bridge(tmp_path: Path) -> None:
    text = containerlab(LAB, tmp_path)
    topology = yaml.safe_load(text)["topology"]
    assert topology["nodes"]["napu-edge"] == {"kind": "bridge"}
    assert topology["nodes"]["far"]["kind"] == "linux"
    assert topology["nodes"]["far"]["network-mode"] == "none"
    assert topology["nodes"]["cam1"]["cmd"].endswith("""--poll '$HOME it'"'"'s'""")
    ends = [link["endpoints"] for link in topology["links"]]
    assert [near["mac"] for near, _ in ends] == [node.mac for node in LAB.nodes]
    assert {far["node"] for _, far in ends} == {"napu-edge"}
    assert len({far["interface"] for _, far in ends}) == len(LAB.nodes)
    assert "ip link add napu-edge type bridge" in text


def napu(*arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run([*NAPU, *arguments], capture_output=True, text=True, check=False, timeout=60, cwd=cwd)
    assert "Traceback" not in done.stderr
    return done


def test_commands_about_a_file_need_no_lab(tmp_path: Path) -> None:
    (tmp_path / "edge.yaml").write_text("name: edge\nappliances:\n  - name: cam\n    colour: red\n")
    wrong = napu("lab", "up", "edge.yaml", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "edge.yaml:4: appliances[0] has a key 'colour'" in wrong.stderr
    (tmp_path / "edge.yaml").write_text("name: edge\nappliances:\n  - name: cam\n")
    assert "├── host" in napu("lab", "graph", "edge.yaml", "--svg", "edge.svg", cwd=tmp_path).stdout
    assert (tmp_path / "edge.svg").is_file()
    assert "leave out the options" in napu("lab", "up", "edge.yaml", "--nodes", "3", cwd=tmp_path).stderr
    assert "driver 'podman' is not known" in napu("lab", "up", "edge.yaml", "--driver", "podman", cwd=tmp_path).stderr
    assert napu("lab", "export", "edge.yaml", "--compose", "out.yaml", cwd=tmp_path).returncode == 0
    assert "cam" in yaml.safe_load((tmp_path / "out.yaml").read_text())["services"]
    assert (
        "no/out.yaml cannot be written"
        in napu("lab", "export", "edge.yaml", "--compose", "no/out.yaml", cwd=tmp_path).stderr
    )
    printed = json.loads(napu("lab", "schema", cwd=tmp_path).stdout)
    assert printed["additionalProperties"] is False
