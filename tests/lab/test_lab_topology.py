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
        "driver": "netns",
        "hosts": [{"name": "sender", "mac": "02:00:00:00:00:fe"}, {"name": "other"}],
        "links": [
            {"nodes": ["c", "other"], "mtu": 1500},
            {"nodes": ["c2"], "rate": "10Mbit", "faults": "delay=1ms", "faults_in": "flip=1%"},
        ],
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
            {
                "name": "b",
                "pipelines": ["p"],
                "firmware": "new.img",
                "access": "mutual",
                "credentials": "identity",
            },
            {"name": "c", "count": 2, "fault_seed": 5},
        ],
    }
    topology = Topology.from_mapping(data)
    assert topology.driver == "netns"
    assert topology.hosts == (Host("sender", "02:00:00:00:00:fe"), Host("other", "02:6e:61:70:74:01", 1500))
    assert topology.host == topology.hosts[0]
    first = Appliance("a", "02:00:00:00:00:01", "edge", ("--seed", "7"), ("node", "--ready-fd={ready_fd}"))
    first = replace(first, faults_in="loss=5%", faults_out="delay=1ms", fault_seed=7)
    assert topology.appliances[0] == first
    second, third, fourth = topology.appliances[1:]
    assert second.mac == "02:6e:61:70:75:02"
    assert (second.pipelines, second.firmware) == (("p",), "new.img")
    assert (second.access, second.credentials) == ("mutual", "identity")
    assert third == Appliance("c1", "02:6e:61:70:75:03", fault_seed=5, mtu=1500)
    damage = {"faults_in": "delay=1ms,rate=10Mbit,flip=1%", "faults_out": "delay=1ms,rate=10Mbit"}
    assert fourth == Appliance("c2", "02:6e:61:70:75:04", fault_seed=6, mtu=1500, **damage)
    assert Topology.from_mapping(topology.to_mapping()) == topology


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
        ({"name": "../etc"}, "must be a name"),
        ({"name": ""}, "must be a name"),
        ({"name": "a" * 33}, "must be a name"),
        ({"name": "Bench"}, "must be a name"),
        ({"name": None}, "name is None; it must be text"),
        ({"driver": "podman"}, "driver is 'podman'; give netns, docker"),
        ({"colour": "red"}, "has a key 'colour', which is not known; known are name, driver"),
        ({"appliances": []}, "0 appliances; give 1 to 254"),
        ({"appliances": [{"name": f"n{number}"} for number in range(255)]}, "255 appliances"),
        ({"appliances": "napu0"}, "must be a list"),
        ({"appliances": ["napu0"]}, r"appliances\[0\] is 'napu0'; it must be a mapping with name, count"),
        ({"appliances": [{"name": "a"}, {"name": "a"}]}, "two nodes have the name a"),
        ({"appliances": [{"name": "host"}]}, "two nodes have the name host"),
        ({"appliances": [{"name": "switch"}]}, "must be a name"),
        ({"appliances": [{"name": "a", "mac": "02:6e:61:70:75:00"}]}, "two nodes have the mac"),
        ({"appliances": [{"name": "a", "mac": "00:00:00:00:00:01"}]}, "02:xx:xx:xx:xx:xx"),
        ({"appliances": [{"name": "a", "mac": "02:00:00:00:00:0A"}]}, "lower case"),
        ({"appliances": [{"name": "a", "mac": 5}]}, "mac is 5; it must be text"),
        ({"appliances": [{"name": "a", "arguments": ["--seed", 7]}]}, r"arguments\[1\] is 7; it must be text"),
        ({"appliances": [{"name": "a", "profile": ""}]}, "profile is ''"),
        ({"appliances": [{"name": "a", "command": ["node"]}]}, "no {ready_fd}"),
        ({"appliances": [{"name": "a", "faults_in": "los=5%"}]}, "appliance a: faults_in: .*did you mean loss"),
        ({"appliances": [{"name": "a", "faults_out": 5}]}, "faults_out is 5; it must be text"),
        ({"appliances": [{"name": "a", "fault_seed": -1}]}, "fault_seed is -1"),
        ({"hosts": [{"name": "a b"}]}, "must be a name"),
        ({"hosts": []}, "has 0 hosts; give 1 to 16"),
        ({"host": {"name": "a"}}, "did you mean hosts"),
        ({"appliances": [{}]}, r"appliances\[0\] has no name; add it"),
        ({"appliances": [{"name": "a", "count": 0}]}, "give 1 to 254"),
        ({"appliances": [{"name": "a", "count": 200}, {"name": "b", "count": 55}]}, "more than 254 appliances"),
        ({"appliances": [{"name": "a", "count": 2, "mac": "02:00:00:00:00:01"}]}, "both mac and count"),
        ({"appliances": [{"name": "a", "count": 2}, {"name": "a2"}]}, "two nodes have the name a2"),
        ({"appliances": [{"name": "a", "access": "mutual"}]}, "mutual needs credentials"),
        ({"appliances": [{"name": "a", "access": "none"}]}, "access is 'none'; give open, mutual"),
        ({"appliances": [{"name": "a", "pipelines": "digits"}]}, "must be a list of directories"),
        ({"links": [{"nodes": ["b"]}]}, r"links\[0\] is at b, which is no node; there are host, napu0"),
        ({"links": [{"nodes": []}]}, "has 0 names"),
        ({"links": [{"nodes": ["host"], "rate": "1Mbit"}]}, "host is a host"),
        ({"links": [{"nodes": ["napu0"], "rate": "fast"}]}, "must be a rate"),
        ({"links": [{"nodes": ["napu0"], "rate": "1Mbit", "faults": "rate=2Mbit"}]}, "rate is there twice"),
        ({"links": [{"nodes": ["napu0"], "mtu": 9000}]}, "napu0 has mtu 9000, and the lab 1500"),
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
