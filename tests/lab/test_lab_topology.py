import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host_sdk.lab.topology import Appliance, Host, Topology
from host_sdk.wire.errors import ConfigError

SMALLEST: dict[str, Any] = {"name": "bench", "appliances": [{"name": "napu0"}]}


def test_what_is_left_out_has_defaults() -> None:
    topology = Topology.from_mapping(SMALLEST)
    assert topology.mtu == 1500
    assert topology.link == "auto"
    assert topology.host == Host("host", "02:6e:61:70:75:00")
    assert topology.appliances == (Appliance("napu0", "02:6e:61:70:75:01", "napu-s"),)


def test_everything_can_be_said() -> None:
    data = {
        "name": "bench",
        "mtu": 9000,
        "link": "packet",
        "host": {"name": "sender", "mac": "02:00:00:00:00:fe"},
        "appliances": [
            {
                "name": "a",
                "mac": "02:00:00:00:00:01",
                "profile": "edge",
                "arguments": ["--seed", "7"],
                "command": ["node", "--ready-fd={ready_fd}"],
                "faults_in": "loss=5%",
                "faults_out": "delay=1ms",
                "fault_seed": 7,
            },
            {"name": "b"},
        ],
    }
    topology = Topology.from_mapping(data)
    assert topology.host == Host("sender", "02:00:00:00:00:fe")
    first = Appliance("a", "02:00:00:00:00:01", "edge", ("--seed", "7"), ("node", "--ready-fd={ready_fd}"))
    first = replace(first, faults_in="loss=5%", faults_out="delay=1ms", fault_seed=7)
    assert topology.appliances[0] == first
    assert topology.appliances[1].mac == "02:6e:61:70:75:02"


names = st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True).filter(lambda name: name not in ("switch", "keeper"))


@given(
    names,
    st.lists(names.filter(lambda name: name != "host"), min_size=1, max_size=5, unique=True),
    st.integers(576, 9000),
    st.sampled_from(["auto", "xdp", "packet"]),
    st.lists(st.text()),
    st.booleans(),
)
def test_plain_data_and_back(
    name: str, nodes: list[str], mtu: int, link: str, arguments: list[str], direct: bool
) -> None:
    appliances = tuple(
        Appliance(node, f"02:00:00:00:00:{index:02x}", arguments=tuple(arguments)) for index, node in enumerate(nodes)
    )
    cabling = "direct" if direct and len(nodes) == 1 else "switch"
    topology = Topology(name, appliances, mtu=mtu, link=link, cabling=cabling)
    assert Topology.from_mapping(json.loads(json.dumps(topology.to_mapping()))) == topology


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mtu": 575}, "576 to 9000"),
        ({"mtu": 9001}, "576 to 9000"),
        ({"mtu": "1500"}, "mtu is '1500'; it must be a whole number"),
        ({"mtu": True}, "whole number"),
        ({"link": "carrier pigeon"}, "give auto, xdp, packet"),
        ({"cabling": "string"}, "give switch, direct"),
        ({"cabling": "direct", "appliances": [{"name": "a"}, {"name": "b"}]}, "a direct cable has two ends"),
        ({"name": "../etc"}, "no name"),
        ({"name": ""}, "no name"),
        ({"name": "a" * 33}, "no name"),
        ({"name": "Bench"}, "no name"),
        ({"name": None}, "name is missing"),
        ({"colour": "red"}, "key 'colour' is not known; known are name, appliances"),
        ({"appliances": []}, "0 appliances; give 1 to 254"),
        ({"appliances": [{"name": f"n{number}"} for number in range(255)]}, "255 appliances"),
        ({"appliances": "napu0"}, "must be a list"),
        ({"appliances": ["napu0"]}, r"appliances\[0\]: 'napu0' is not a mapping"),
        ({"appliances": [{"name": "a"}, {"name": "a"}]}, "two nodes have the name a"),
        ({"appliances": [{"name": "host"}]}, "two nodes have the name host"),
        ({"appliances": [{"name": "switch"}]}, "no name"),
        ({"appliances": [{"name": "a", "mac": "02:6e:61:70:75:00"}]}, "two nodes have the mac"),
        ({"appliances": [{"name": "a", "mac": "00:00:00:00:00:01"}]}, "02:xx:xx:xx:xx:xx"),
        ({"appliances": [{"name": "a", "mac": "02:00:00:00:00:0A"}]}, "lower case"),
        ({"appliances": [{"name": "a", "mac": 5}]}, "mac is 5; it must be text"),
        ({"appliances": [{"name": "a", "arguments": ["--seed", 7]}]}, "list of text"),
        ({"appliances": [{"name": "a", "profile": ""}]}, "profile is empty"),
        ({"appliances": [{"name": "a", "command": ["node"]}]}, "no {ready_fd}"),
        ({"appliances": [{"name": "a", "faults_in": "los=5%"}]}, "appliance a: faults_in: .*did you mean loss"),
        ({"appliances": [{"name": "a", "faults_out": 5}]}, "faults_out is 5; it must be text"),
        ({"appliances": [{"name": "a", "fault_seed": -1}]}, "fault_seed is -1"),
        ({"host": {"name": "a b"}}, "no name"),
        ({"host": []}, "not a mapping"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Topology.from_mapping(SMALLEST | change)


def test_commands_are_filled_in_for_each_appliance() -> None:
    topology = Topology.from_mapping({"name": "bench", "appliances": [{"name": "a"}, {"name": "b"}]})
    filled = topology.with_commands(lambda appliance: ["node", appliance.name, "{ready_fd}"])
    assert [appliance.command for appliance in filled.appliances] == [
        ("node", "a", "{ready_fd}"),
        ("node", "b", "{ready_fd}"),
    ]
    assert replace(filled, appliances=topology.appliances) == topology
