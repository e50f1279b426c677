"""A node whose interface goes away and comes back, in another name, with another address, or as it was."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from host_sdk.client import NapuClient
from host_sdk.operations import Timeout
from host_sdk.results import Inference
from tests.rig.nodes import NodeProcess, node_process, stop, within
from tests.rig.packages import held_out
from tests.rig.switched import Switched, switched
from tests.rig.wires import needs_root

pytestmark = needs_root
PATIENT = Timeout(request=30, control=30)


@pytest.fixture(scope="module")
def lab() -> Iterator[Switched]:
    with switched("host", "node") as made:
        yield made


@contextmanager
def served(lab: Switched, directory: Path, link: str) -> Iterator[NodeProcess]:
    with lab.places["node"].entered(), node_process(directory, link=link) as node:
        yield node


@contextmanager
def asking(lab: Switched, address: str | None, timeout: Timeout = PATIENT) -> Iterator[NapuClient]:
    with lab.places["host"].entered():
        client = NapuClient("packet:eth0", address, timeout=timeout)
    with client:
        yield client


def said(node: NodeProcess, words: str, times: int) -> bool:
    return node.log.read_text().count(words) == times


class Asking:
    """A thread that makes *once* requests, one after the other, until it is told to end."""

    def __init__(self, client: NapuClient) -> None:
        self.answers: list[Inference] = []
        self.errors: list[BaseException] = []
        self._client, self._end = client, threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        images = held_out()[:40]
        try:
            while not self._end.is_set():
                for _, jpeg in images:
                    self.answers.append(self._client.infer("digits", jpeg))
        except BaseException as error:  # noqa: BLE001 - shown by the test
            self.errors.append(error)

    def has(self, count: int) -> bool:
        return len(self.answers) > count

    def end(self) -> None:
        self._end.set()
        self._thread.join(60)
        assert not self._thread.is_alive()
        assert not self.errors
        labels = [label for label, _ in held_out()[:40]]
        assert [answer.label for answer in self.answers] == [labels[i % 40] for i in range(len(self.answers))]


@pytest.mark.parametrize("link", ["packet:any", "auto:any"])
def test_requests_end_right_over_an_outage(lab: Switched, tmp_path: Path, link: str) -> None:
    with served(lab, tmp_path, link) as node, asking(lab, node.address) as client:
        before = client.stats()["hardware"]
        thread = Asking(client)
        assert within(10, lambda: len(thread.answers) > 20)
        for count, (old, new) in enumerate((("eth0", "eth1"), ("eth1", "eth0")), 1):
            lab.pull("node", old)
            assert within(10, partial(said, node, "the link is lost", count))
            seen = len(thread.answers)
            lab.plug("node", new, mac=node.address)
            assert within(20, partial(thread.has, seen + 20))
        thread.end()
        after = client.stats()["hardware"]
        assert (before["link_losses"], after["link_losses"]) == (0, 2)
        assert after["link_outage_ms"] > 0
        assert after["sessions"] == before["sessions"] + 1  # the one that was there before the outages
        assert after["answers_ok"] - before["answers_ok"] >= len(thread.answers)
        log = node.log.read_text()
        assert log.count("the link is lost: interface eth") == 2
        assert log.count("the link is back on eth") == 2


def test_it_is_found_at_its_new_address_and_is_the_same_device(lab: Switched, tmp_path: Path) -> None:
    with served(lab, tmp_path, "packet:any") as node:
        lab.pull("node")
        lab.plug("node", "eth1", mac="02:00:00:00:77:01")
        try:
            with asking(lab, None) as client:
                (found,) = client.discover()
                assert found.address == "02:00:00:00:77:01" != node.address
                assert found.device == node.facts["device"]
                label, jpeg = held_out()[0]
                assert client.infer("digits", jpeg).label == label
        finally:
            lab.pull("node", "eth1")
            lab.plug("node", "eth0")


def test_a_link_on_a_named_interface_waits_for_that_name(lab: Switched, tmp_path: Path) -> None:
    with served(lab, tmp_path, "packet:eth0") as node, asking(lab, node.address) as client:
        label, jpeg = held_out()[0]
        lab.pull("node")
        lab.plug("node", "eth1", mac=node.address)
        assert within(10, lambda: "waits for an interface: there is no interface 'eth0'" in node.log.read_text())
        asked = node.cpu_ticks()
        with asking(lab, node.address, Timeout(request=0.5, control=0.5)) as hasty, pytest.raises(TimeoutError):
            hasty.infer("digits", jpeg)
        assert node.cpu_ticks() - asked < 20, "it does not sleep while it waits"
        lab.pull("node", "eth1")
        lab.plug("node", "eth0", mac=node.address)
        assert client.infer("digits", jpeg).label == label


def test_an_interface_that_is_set_down_and_up(lab: Switched, tmp_path: Path) -> None:
    with served(lab, tmp_path, "packet:any") as node, asking(lab, node.address) as client:
        for _ in range(2):
            lab.places["node"].set("eth0", state="down")
            lab.places["node"].set("eth0", state="up")
        label, jpeg = held_out()[0]
        assert client.infer("digits", jpeg).label == label


def test_a_narrower_interface_ends_the_node_with_a_sentence(lab: Switched, tmp_path: Path) -> None:
    with served(lab, tmp_path, "packet:any") as node:
        lab.pull("node")
        lab.plug("node", "eth0", mtu=1400)
        try:
            assert node.process.wait(10) == 1
            assert "interface eth0 has MTU 1400; 1500 was told, so start anew" in node.log.read_text()
        finally:
            lab.pull("node")
            lab.plug("node", "eth0")


def test_an_address_of_udp_that_goes_away_and_returns(lab: Switched, tmp_path: Path) -> None:
    def address(place: str, host: int) -> None:
        with lab.places[place].ip() as ip:
            ip.addr("add", index=ip.link_lookup(ifname="eth0")[0], address=f"192.0.2.{host}", prefixlen=24)

    address("host", 1)
    address("node", 2)
    with served(lab, tmp_path, "udp:192.0.2.2") as node:
        with lab.places["host"].entered():
            client = NapuClient("udp:192.0.2.1:0", node.address, timeout=PATIENT)
        with client:
            thread = Asking(client)
            assert within(10, lambda: len(thread.answers) > 20)
            mac = lab.mac("node")  # another one would be news to the host's table of neighbours only after a while
            lab.pull("node")
            seen = len(thread.answers)
            lab.plug("node", "eth0", mac=mac)
            address("node", 2)
            assert within(25, partial(thread.has, seen + 20))
            thread.end()
        assert stop(node.process) == 0
