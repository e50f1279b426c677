"""Firmware over the wire on real nodes: upgrades under load, and images that die, hang, or are mixed from two."""

import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from firmware.image.build import SOURCES, build_image
from firmware.image.format import Terms
from host_sdk.client import NapuClient
from host_sdk.results import Inference
from host_sdk.upgrade import FirmwareImage, Upgrade
from host_sdk.wire.errors import BadArgumentError, DeviceError, NapuError, NapuTimeoutError, UnavailableError
from tests.rig.nodes import NodeProcess, node_process, within
from tests.rig.packages import held_out

RATE = 1000.0
DIES = "def main(arguments):\n    raise SystemExit(3)\n"
HANGS = """
import socket, time
from firmware.hal import Hal
def main(arguments):
    bus, line, _ = arguments
    hal = Hal(socket.socket(fileno=int(bus)), socket.socket(fileno=int(line)))
    hal.start_watchdog(200)
    time.sleep(3600)
"""


def image(tmp_path: Path, version: str, main: str = "") -> FirmwareImage:
    sources = SOURCES
    if main:
        sources = tmp_path / f"sources-{version}"
        shutil.copytree(SOURCES, sources)
        (sources / "main.py").write_text(main)
    path = tmp_path / f"{version}.img"
    path.write_bytes(build_image(version, sources))
    return FirmwareImage.read(path)


class SteadyLoad(threading.Thread):
    """A steady load on nodes until the end of a block; each answer is compared."""

    def __init__(self, nodes: list[NodeProcess]) -> None:
        super().__init__(name="load")
        self._addresses = [node.address for node in nodes]
        self._stopping = threading.Event()
        self.sent = 0
        self.answered = 0
        self.failures: list[BaseException] = []

    def run(self) -> None:
        (label, jpeg), *_ = held_out()

        def items() -> Iterator[bytes]:
            while not self._stopping.is_set():
                self.sent += 1
                yield jpeg

        with NapuClient("udp:127.0.0.1:0", self._addresses) as client:
            for result in client.infer_steadily("digits", items(), RATE):
                if isinstance(result, Inference) and result.label == label:
                    self.answered += 1
                else:
                    self.failures.append(result if isinstance(result, NapuError) else AssertionError(result.label))

    def __enter__(self) -> Self:
        self.start()
        assert within(20, lambda: self.answered > 100)
        return self

    def __exit__(self, *_: object) -> None:
        more = self.answered + 100
        assert within(20, lambda: self.answered > more)
        self._stopping.set()
        self.join(30)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[NodeProcess]]:
    with node_process(tmp_path_factory.mktemp("one")) as one, node_process(tmp_path_factory.mktemp("two")) as two:
        yield [one, two]


@pytest.fixture
def ask(nodes: list[NodeProcess]) -> Iterator[Callable[..., Any]]:
    with NapuClient("udp:127.0.0.1:0", [node.address for node in nodes]) as client:

        def control(number: int, operation: str, **arguments: Any) -> dict[str, Any]:
            return client.control(operation, target=nodes[number].address, **arguments)

        yield control


def upgrade(ask: Callable[..., Any], number: int = 0) -> Upgrade:
    return Upgrade(lambda operation, **arguments: ask(number, operation, **arguments))


def test_upgrade_crash_failed_upgrades_and_rollback_under_load(
    nodes: list[NodeProcess], ask: Callable[..., Any], tmp_path: Path
) -> None:
    first, second = upgrade(ask, 0), upgrade(ask, 1)
    old = first.status()["version"]
    with SteadyLoad(nodes) as load:
        for each in (first, second):
            done = each.run(image(tmp_path, "2.0"))
            assert (done.before, done.after, done.changed, done.confirmed) == (old, "2.0", True, True)
        epoch = first.status()["epoch"]
        os.kill(nodes[0].firmware_pid(), signal.SIGKILL)
        assert within(10, lambda: first.status()["epoch"] == epoch + 1)
        with pytest.raises(DeviceError, match=r"not kept; version 2\.0 runs: slot A: its image has used up its tries"):
            first.run(image(tmp_path, "3.0", DIES))
        assert first.status()["slots"]["A"]["state"] == "bad"
        with pytest.raises(DeviceError, match=r"not kept; version 2\.0 runs"):
            first.run(image(tmp_path, "3.1", HANGS))
        assert ask(0, "health")["resets"]["watchdog"] == 3
        done = second.roll_back()
        assert (done.before, done.after, done.confirmed) == ("2.0", old, True)
    assert load.failures == []
    assert load.answered == load.sent
    assert [each.status()["version"] for each in (first, second)] == ["2.0", old]


def test_an_image_that_a_host_does_not_confirm_stays_on_trial(ask: Callable[..., Any], tmp_path: Path) -> None:
    two = upgrade(ask, 1)
    done = two.run(image(tmp_path, "4.0"), confirm=False)
    assert (done.after, done.confirmed) == ("4.0", False)
    status = two.status()
    assert (status["state"], status["reason"]) == ("trying", "TRIAL")
    assert 0 < status["trial_ms"] <= 60_000
    with pytest.raises(BadArgumentError, match="on trial"):
        two.send(image(tmp_path, "4.1"))
    assert two.run(image(tmp_path, "4.0")).confirmed
    assert two.status()["state"] == "confirmed"
    assert two.run(image(tmp_path, "4.0")).changed is False


def test_one_that_confirms_itself_needs_no_host(ask: Callable[..., Any], tmp_path: Path) -> None:
    new, two = image(tmp_path, "4.5"), upgrade(ask, 1)
    two.send(new)
    epoch = two.status()["epoch"]
    assert ask(1, "fw.activate", digest=new.digest) == {"reboot": 1}
    assert within(10, lambda: _epoch(two) == epoch + 1)
    assert two.status()["state"] == "confirmed"
    # A copy of it that comes late does nothing.
    assert ask(1, "fw.activate", digest=new.digest) == {"reboot": 0}
    assert ask(1, "fw.rollback", leaving=bytes(32)) == {"reboot": 0}
    assert two.status()["epoch"] == epoch + 1


def _epoch(of: Upgrade) -> int:
    try:
        return int(of.status()["epoch"])
    except (NapuTimeoutError, UnavailableError):
        return -1


def test_chunks_of_two_images_are_refused_and_nothing_changes(ask: Callable[..., Any], tmp_path: Path) -> None:
    one, other = image(tmp_path, "5.0"), image(tmp_path, "5.1")
    assert len(one.data) == len(other.data)
    before = upgrade(ask).status()
    mixed = one.data[:100_000] + other.data[100_000:]
    ask(0, "fw.begin", size=len(mixed), digest=one.digest)
    for offset in range(0, len(mixed), 1 << 16):
        ask(0, "fw.chunk", offset=offset, data=mixed[offset : offset + (1 << 16)])
    with pytest.raises(BadArgumentError, match="does not hold the image"):
        ask(0, "fw.finish")
    texts = [line["text"] for line in ask(0, "logs")["lines"]]
    assert any("audit: refused an image: 'the slot does not hold the image" in text for text in texts)
    with pytest.raises(BadArgumentError, match="no slot holds|bad"):
        ask(0, "fw.activate", digest=one.digest)
    after = upgrade(ask).status()
    assert (after["digest"], after["epoch"]) == (before["digest"], before["epoch"])
    assert after["slots"]["A"]["state"] == "bad"


def test_an_image_past_its_end_is_refused(ask: Callable[..., Any], tmp_path: Path) -> None:
    """Freeze: what was good once is offered after its time."""
    path = tmp_path / "old.img"
    path.write_bytes(build_image("1.5", terms=Terms(issued=1, expires=1_000_000_000)))
    with pytest.raises(BadArgumentError, match="expired"):
        upgrade(ask).run(FirmwareImage.read(path))


def test_a_firmware_that_dies_while_it_is_sent_an_image(
    nodes: list[NodeProcess], ask: Callable[..., Any], tmp_path: Path
) -> None:
    new, sent = image(tmp_path, "6.0"), []

    def step(what: str, offset: int, _size: int) -> None:
        if what == "sending":
            sent.append(offset)
            if len(sent) == 2:
                os.kill(nodes[0].firmware_pid(), signal.SIGKILL)

    one = Upgrade(lambda operation, **arguments: ask(0, operation, **arguments), step)
    assert one.run(new).confirmed
    assert one.status()["digest"] == new.digest.hex()
    assert sent[2] > 0  # it went on at the last whole block


@pytest.mark.parametrize(
    ("operation", "arguments", "reason"),
    [
        ("fw.begin", {"size": 1 << 30, "digest": bytes(32)}, "does not go into a slot"),
        ("fw.begin", {"size": 0, "digest": bytes(32)}, "size must be 1"),
        ("fw.begin", {"size": 10, "digest": b"short"}, "no SHA-256"),
        ("fw.chunk", {"offset": 0, "data": bytes((1 << 16) + 1)}, "at most 65536"),
        ("fw.activate", {"digest": b"\x01" * 32}, "no slot holds"),
        ("fw.activate", {"digest": bytes(32), "confirm": "nobody"}, "must be host or self"),
    ],
)
def test_what_makes_no_sense_is_refused(
    ask: Callable[..., Any], operation: str, arguments: dict[str, Any], reason: str
) -> None:
    before = upgrade(ask).status()
    with pytest.raises(BadArgumentError, match=reason):
        ask(0, operation, **arguments)
    assert upgrade(ask).status()["epoch"] == before["epoch"]


def test_parts_that_are_not_the_next_are_refused(ask: Callable[..., Any], tmp_path: Path) -> None:
    new = image(tmp_path, "7.0")
    one = upgrade(ask)
    ask(0, "fw.begin", size=len(new.data), digest=new.digest)
    assert ask(0, "fw.chunk", offset=0, data=new.data[:8192]) == {"offset": 8192}
    with pytest.raises(BadArgumentError, match="begins at 8192, not at 4096"):
        ask(0, "fw.chunk", offset=4096, data=new.data[4096:8192])
    with pytest.raises(BadArgumentError, match="8192 of"):
        ask(0, "fw.finish")
    assert ask(0, "fw.begin", size=8192, digest=new.digest) == {"offset": 0, "part": 65536}
    with pytest.raises(BadArgumentError, match="beyond an image"):
        ask(0, "fw.chunk", offset=0, data=new.data[:8193])
    one.send(new)
    assert one.status()["slots"]["A" if one.status()["slot"] == "B" else "B"]["state"] == "ready"
