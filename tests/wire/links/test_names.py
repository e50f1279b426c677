"""Peers by name: one name, several appliances, which come and go."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from host_sdk.client import NapuClient
from host_sdk.wire.errors import ConfigError
from host_sdk.wire.links.base import BROADCAST
from host_sdk.wire.links.names import AGAIN_S, PeerNames, expand, is_address, split_address
from host_sdk.wire.schema import UDP_PORT
from tests.rig.labs import eventually


class Directory:
    """What a resolver answers, as the test wants it; counts the questions."""

    def __init__(self, **hosts: list[str]) -> None:
        self.hosts, self.asked, self.gate = hosts, 0, threading.Event()
        self.gate.set()

    def __call__(self, host: str) -> list[str]:
        self.gate.wait(10)
        self.asked += 1
        if not self.hosts.get(host):
            raise ConfigError(f"host {host!r} has no IPv4 address")
        return self.hosts[host]


class Hand:
    """A clock that a test moves."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def found(names: PeerNames, wanted: list[tuple[str, int]]) -> Callable[[], bool]:
    return lambda: names.addresses() == wanted


def test_a_name_stands_for_all_its_addresses_once() -> None:
    directory = Directory(tasks=["10.0.0.2", "10.0.0.3"], other=["10.0.0.3"])
    names = PeerNames(["tasks", "other", "other:7"], directory)
    assert names.addresses() == [("10.0.0.2", UDP_PORT), ("10.0.0.3", UDP_PORT), ("10.0.0.3", 7)]


def test_a_name_is_looked_up_again_when_it_is_old_and_no_sooner() -> None:
    directory, clock = Directory(tasks=["10.0.0.2"]), Hand()
    names = PeerNames(["tasks:9"], directory, clock)
    directory.hosts["tasks"] = ["10.0.0.2", "10.0.0.4"]
    clock.now += AGAIN_S - 0.1
    assert names.addresses() == [("10.0.0.2", 9)]
    assert directory.asked == 1
    clock.now += 0.2
    assert eventually(found(names, [("10.0.0.2", 9), ("10.0.0.4", 9)]))
    assert directory.asked == 2


def test_a_resolver_that_hangs_does_not_hold_a_broadcast_up() -> None:
    directory, clock = Directory(tasks=["10.0.0.2"]), Hand()
    names = PeerNames(["tasks"], directory, clock)
    directory.gate.clear()
    directory.hosts["tasks"] = ["10.0.0.5"]
    before = threading.active_count()
    for _ in range(5):
        clock.now += AGAIN_S
        assert names.addresses() == [("10.0.0.2", UDP_PORT)]
    assert threading.active_count() == before + 1  # one question at a time
    directory.gate.set()
    assert eventually(found(names, [("10.0.0.5", UDP_PORT)]))


def test_a_name_that_has_no_address_any_more_keeps_those_it_had() -> None:
    directory, clock = Directory(tasks=["10.0.0.2"], other=["10.0.0.3"]), Hand()
    names = PeerNames(["tasks", "other"], directory, clock)
    directory.hosts = {"other": ["10.0.0.9"]}
    clock.now += AGAIN_S
    assert eventually(found(names, [("10.0.0.2", UDP_PORT), ("10.0.0.9", UDP_PORT)]))


def test_addresses_are_never_looked_up_again() -> None:
    clock = Hand()
    directory = Directory(**{"192.0.2.1": ["192.0.2.1"]})
    names = PeerNames(["192.0.2.1"], directory, clock)
    clock.now += 100 * AGAIN_S
    assert names.addresses() == [("192.0.2.1", UDP_PORT)]
    assert directory.asked == 1


def test_what_is_no_peer_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="'tasks' has no IPv4 address"):
        PeerNames(["tasks"], Directory())
    for wrong in ("", ":1", "::1", "a:x", "a:0", "a:65536"):
        with pytest.raises(ConfigError):
            split_address(wrong)
    with pytest.raises(ConfigError, match=r"'two\.\.dots' has no IPv4 address"):
        expand(["two..dots"])
    assert is_address("192.0.2.1")
    assert not is_address("localhost")
    assert not is_address("two..dots")


def test_targets_of_a_client_are_all_addresses_of_a_name() -> None:
    assert expand(["localhost:7", "127.0.0.1:7", "192.0.2.1"]) == ["127.0.0.1:7", f"192.0.2.1:{UDP_PORT}"]
    with NapuClient("udp:127.0.0.1:0", ["localhost:7", "127.0.0.1:7"]) as client:
        assert client.link.format_address(BROADCAST) == "broadcast"  # it opened: the name and the address are one peer


# In a mount namespace of its own, where /etc/hosts is the test's: the system's resolver, two appliances of one name.
BROADCASTS = """
import json, time
from host_sdk.wire.links import names
from host_sdk.wire.links.base import BROADCAST
from host_sdk.wire.links.udp import UdpLink
from tests.rig.wires import collect, send

names.AGAIN_S = 0.05
first = UdpLink("127.0.0.2", 0)
port = first.address & 0xFFFF
second = UdpLink("127.0.0.3", port)
link = UdpLink("127.0.0.1", 0, peers=[f"tasks.appliance:{port}"])
for _ in range(3):
    send(link, [b"one"], BROADCAST)
    time.sleep(0.06)
alone = [pdu.decode() for _, pdu in collect(first, 3)], len(second.receive())
with open("/etc/hosts", "a") as hosts:
    hosts.write("127.0.0.3 tasks.appliance\\n")
end = time.monotonic() + 20
while not second.wait(10_000_000) and time.monotonic() < end:
    send(link, [b"two"], BROADCAST)
named = [address.split(":")[0] for address in names.expand([f"tasks.appliance:{port}"])]
print(json.dumps([alone, bytes(second.receive().pdu(0)).decode(), named]))
"""


def test_the_systems_resolver_is_asked_again(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.2 tasks.appliance\n")
    inside = f'mount --bind "{hosts}" /etc/hosts && exec "$0" "$@"'
    command = ["unshare", "-Urm", "sh", "-c", inside, sys.executable, "-c", BROADCASTS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if "unshare" in done.stderr:
        pytest.skip(f"no mount namespace to be had: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    alone, heard, named = json.loads(done.stdout)
    assert alone == [["one", "one", "one"], 0]
    assert (heard, named) == ("two", ["127.0.0.2", "127.0.0.3"])
