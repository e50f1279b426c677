"""The real firmware, booted from a built image into a process of its own, on a board with fake hardware."""

import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import pytest

from appliance.board.board import Board
from appliance.board.flash import Flash
from appliance.board.mailbox import Letter, Mailbox
from appliance.board.sensors import ThermalModel
from appliance.clock import WallClock
from firmware.boot.rom import boot
from firmware.image import IMAGE_OBJECT, build_image, read_image
from firmware.image.build import SOURCES
from firmware.version import VERSION
from host_sdk.wire.header import Header
from host_sdk.wire.links.base import BROADCAST
from host_sdk.wire.message import Message
from host_sdk.wire.schema import Flag, Opcode, Status
from tests.appliance.board.fake_hardware import FakeHardware, FakeSlots, package

PEER = 0x02_00_00_00_00_07
WAIT_S = 20


class Node:
    """A board, its mailbox and its hardware, with the firmware in its flash."""

    def __init__(
        self, directory: Path, depth: int = 64, image: bytes | None = None, hardware: FakeHardware | None = None
    ) -> None:
        self.flash = Flash(directory, 64 << 20)
        self.flash.write("board/access", b"open")
        if image is not None:
            self.flash.write(IMAGE_OBJECT, image)
        self.mailbox = Mailbox(depth)
        self.hardware = hardware or FakeHardware()
        self.board = Board(self.flash, self.mailbox, self.hardware, self._launch, WallClock())
        self.board.attach(FakeSlots())
        self._request = 0

    def _launch(self, bus_fd: int, irq_fd: int, epoch: int) -> subprocess.Popen[bytes]:
        return boot(self.flash.read(IMAGE_OBJECT), bus_fd, irq_fd, epoch)

    def close(self) -> None:
        self.board.stop()
        self.mailbox.close()

    def post(self, opcode: int, body: bytes = b"", priority: int = 0) -> int:
        self._request += 1
        header = Header(opcode=opcode, request=self._request, flags=int(Flag.CRC), session=9, priority=priority)
        assert self.mailbox.post(Letter(PEER, Message(header, body)))
        return self._request

    def collect(self, count: int) -> list[Letter]:
        poll = select.poll()
        poll.register(self.mailbox.reply_fd, select.POLLIN)
        letters: list[Letter] = []
        end = time.monotonic() + WAIT_S
        while len(letters) < count:
            assert time.monotonic() < end, f"{len(letters)} of {count} letters came within {WAIT_S} s"
            if poll.poll(1000):
                letters += self.mailbox.collect()
        return letters

    def ask(self, operation: str, **arguments: Any) -> Any:
        request = self.post(Opcode.CONTROL, msgpack.packb({"op": operation, **arguments}))
        letters = self.collect(1)
        (letter,) = [letter for letter in letters if letter.message.header.request == request]
        assert letter.message.header.status == Status.OK, letter.message.body
        return msgpack.unpackb(letter.message.body)

    def ready(self) -> None:
        assert self.board.wait_ready(WAIT_S), [line.text for line in self.board.console.after(0)]
        (letter,) = self.collect(1)
        assert letter.peer == BROADCAST

    def eventually(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < end, f"the condition did not come true within {WAIT_S} s"
            time.sleep(0.005)


@pytest.fixture(scope="module")
def image() -> bytes:
    return build_image()


@pytest.fixture
def node(tmp_path: Path, image: bytes) -> Iterator[Node]:
    node = Node(tmp_path, image=image)
    yield node
    node.close()


def test_a_beacon_at_boot(node: Node, image: bytes) -> None:
    node.board.start()
    (letter,) = node.collect(1)
    assert letter.peer == BROADCAST
    header = letter.message.header
    assert (header.opcode, header.request, header.status) == (Opcode.ANNOUNCE, 0, Status.OK)
    assert header.flags & Flag.CRC
    identity = msgpack.unpackb(letter.message.body)
    assert identity["name"] == "fake"
    assert identity["firmware"] == {
        "version": VERSION,
        "digest": read_image(image).digest.hex(),
        "epoch": 1,
        "pid": node.board.firmware_pid,
    }


def test_discovery_and_control_are_answered_to_whoever_asked(node: Node) -> None:
    node.board.start()
    node.ready()
    request = node.post(Opcode.DISCOVER, priority=200)
    (letter,) = node.collect(1)
    header = letter.message.header
    assert letter.peer == PEER
    assert (header.opcode, header.request, header.session, header.priority) == (Opcode.ANNOUNCE, request, 9, 200)
    assert msgpack.unpackb(letter.message.body)["device"] == "4e41505500000001"
    assert node.ask("stats")["firmware"]["letters"] == 2


def test_opcodes_that_are_not_its_own(node: Node) -> None:
    node.board.start()
    node.ready()
    request = node.post(Opcode.OPEN)
    (letter,) = node.collect(1)
    header = letter.message.header
    assert (header.opcode, header.request, header.status) == (Opcode.OPENED, request, Status.UNKNOWN_OPCODE)


def test_a_crash_leaves_the_pipelines_and_nothing_else(node: Node) -> None:
    node.board.start()
    node.ready()
    installed = node.ask("pipeline.install", package=package("digits", 500_000))["pipeline"]
    pid = node.board.firmware_pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    node.eventually(lambda: node.board.resets == 1)
    node.ready()
    assert node.ask("pipelines")["pipelines"] == [installed]
    assert node.hardware.loads == ["digits"]
    identity = node.ask("identity")
    assert identity["firmware"]["epoch"] == 2
    assert identity["firmware"]["pid"] == node.board.firmware_pid != pid
    texts = [line["text"] for line in node.ask("logs")["lines"]]
    assert any("firmware was killed by signal 9" in text for text in texts)
    assert any(text.endswith("epoch 2, KILLED") for text in texts)


def test_pipelines_outlive_the_power(node: Node, tmp_path: Path) -> None:
    node.board.start()
    node.ready()
    node.ask("pipeline.install", package=package("digits"))
    node.ask("pipeline.install", package=package("words"))
    node.ask("pipeline.remove", name="words")
    node.board.stop()
    again = Node(tmp_path)
    try:
        again.board.start()
        again.ready()
        assert again.hardware.loads == ["digits"]
        assert again.ask("identity")["firmware"]["epoch"] == 2
    finally:
        again.close()


def test_letters_wait_for_a_firmware_that_is_down(node: Node) -> None:
    requests = [node.post(Opcode.CONTROL, msgpack.packb({"op": "stats"})) for _ in range(5)]
    node.board.start()
    letters = node.collect(6)
    assert sorted(letter.message.header.request for letter in letters) == [0, *requests]
    node.board.stop()


def test_letters_posted_to_a_stopped_firmware_are_answered_by_its_successor(node: Node) -> None:
    node.board.start()
    node.ready()
    pid = node.board.firmware_pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    requests = [node.post(Opcode.DISCOVER) for _ in range(3)]
    os.kill(pid, signal.SIGKILL)
    letters = node.collect(4)
    assert sorted(letter.message.header.request for letter in letters) == [0, *requests]


def test_answers_wait_for_room_in_a_full_mailbox(tmp_path: Path, image: bytes) -> None:
    node = Node(tmp_path, depth=2, image=image)
    try:
        node.board.start()
        node.ready()
        requests = [node.post(Opcode.DISCOVER), node.post(Opcode.DISCOVER)]
        node.eventually(lambda: node.mailbox.received == 2)
        requests += [node.post(Opcode.DISCOVER), node.post(Opcode.DISCOVER)]
        node.eventually(lambda: node.mailbox.received == 3)
        letters = node.collect(4)
        assert [letter.message.header.request for letter in letters] == requests
    finally:
        node.close()


def test_a_tampered_image_is_refused(node: Node, tmp_path: Path) -> None:
    path = tmp_path / IMAGE_OBJECT
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    node.board.start()
    assert not node.board.wait_ready(WAIT_S)
    assert not node.board.firmware_ready
    assert "does not match the digest" in (node.board.boot_error or "")
    assert node.mailbox.post(Letter(PEER, Message(Header(opcode=Opcode.DISCOVER, request=1))))


def test_an_empty_flash_says_what_is_missing(tmp_path: Path) -> None:
    node = Node(tmp_path)
    try:
        node.board.start()
        assert not node.board.wait_ready(WAIT_S)
        assert node.board.boot_error == "flash has no object 'firmware/image.napufw'"
    finally:
        node.close()


def test_the_code_that_runs_is_that_of_the_image(tmp_path: Path) -> None:
    changed = tmp_path / "sources"
    shutil.copytree(SOURCES, changed)
    logs = changed / "services" / "logs.py"
    logs.write_text(logs.read_text() + "\n\nprint('from the image:', __file__, flush=True)\n")
    node = Node(tmp_path / "flash", image=build_image("99.1", changed))
    try:
        node.board.start()
        node.ready()
        assert node.ask("identity")["firmware"]["version"] == "99.1"
        (line,) = [line for line in node.ask("logs")["lines"] if line["text"].startswith("from the image:")]
        assert line["text"].startswith("from the image: /proc/self/fd/")
    finally:
        node.close()


def test_the_firmware_has_nothing_of_the_node(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAPU_SECRET", "hush")
    node.board.start()
    node.ready()
    process = Path(f"/proc/{node.board.firmware_pid}")
    environment = process.joinpath("environ").read_bytes()
    assert b"NAPU_SECRET" not in environment
    assert b"PATH=" not in environment
    targets = sorted(str(path.readlink()) for path in (process / "fd").iterdir())
    kinds = [target.partition(":")[0].split("-")[0] for target in targets]
    # Standard input, output and error; bus, interrupt line and the pair that wakes it on a signal; the image.
    assert kinds == ["/dev/null", "/memfd", "pipe", "pipe", "socket", "socket", "socket", "socket"]
    assert os.getsid(int(process.name)) == int(process.name)


class Heater(FakeHardware):
    """Hardware that takes the power it is told to, on a board that is as warm as that at once.

    20 °C and 10 K/W: idle 30 °C, at most 1 + 6 + 3 W, 120 °C, and throttled to 25 % still 97.5 °C; limit 90 °C.
    """

    def __init__(self) -> None:
        super().__init__()
        self.watts, self._at = 0, time.monotonic_ns()

    def thermal(self) -> ThermalModel:
        return replace(super().thermal(), capacity_j_per_k=0.001, parts_w=6.0, dla_w=3.0)

    def energy_nj(self) -> int:
        now = time.monotonic_ns()
        self.energy += self.watts * (now - self._at)
        self._at = now
        return self.energy


@pytest.fixture
def heated(tmp_path: Path, image: bytes) -> Iterator[Node]:
    node = Node(tmp_path, image=image, hardware=Heater())
    node.board.start()
    node.ready()
    yield node
    node.close()


def test_it_throttles_a_hot_board_and_says_how_it_is(heated: Node) -> None:
    node, hardware = heated, heated.hardware
    assert isinstance(hardware, Heater)
    before = node.ask("health")
    assert before["board"]["throttled"] is False
    assert before["firmware"]["reset_reason"] == "POWER_ON"
    assert before["watchdog"] == {"period_ms": 8000}
    hardware.watts = 20
    node.eventually(lambda: node.hardware.rates == [25])
    health = node.ask("health")
    assert (health["board"]["dla_rate_percent"], health["board"]["throttled"]) == (25, True)
    assert health["board"]["temperature_c"] > health["board"]["limit_c"] == 90.0
    hardware.watts = 0
    node.eventually(lambda: node.hardware.rates == [25, 100])
    texts = [line["text"] for line in node.ask("logs")["lines"]]
    assert [text.partition("; ")[2] for text in texts if "°C" in text] == [
        "the DLA runs at 25 %",
        "the DLA runs at 100 %",
    ]


def test_sigterm_ends_it_cleanly(node: Node) -> None:
    node.board.start()
    node.ready()
    node.board.stop()
    lines = [line.text for line in node.board.console.after(0) if not line.text.startswith("isolation: ")]
    assert len(lines) == 2
    assert "access is OPEN" in lines[0]
    assert lines[1].startswith("INFO firmware.main: firmware")


def test_an_idle_firmware_sleeps(node: Node) -> None:
    node.board.start()
    node.ready()
    status = Path(f"/proc/{node.board.firmware_pid}/status")

    def sleeps_through() -> bool:
        before = switches(status)
        time.sleep(1.2)
        return switches(status) == before

    node.eventually(sleeps_through)


def switches(status: Path) -> str:
    return next(line for line in status.read_text().splitlines() if line.startswith("voluntary_ctxt"))


def test_logs_are_bounded(node: Node) -> None:
    for number in range(700):
        node.board.console.write(f"line {number}")
    node.board.start()
    node.ready()
    page = node.ask("logs")
    sequences = [line["sequence"] for line in page["lines"]]
    assert len(sequences) == 500
    assert sequences == list(range(sequences[0], sequences[0] + 500))
    assert node.ask("logs", after=page["next"]) == {"lines": [], "next": page["next"]}


NODE_SCRIPT = """
import os, sys, time
from pathlib import Path
from tests.firmware.test_firmware_system import Node
node = Node(Path(sys.argv[1]))
node.board.start()
node.ready()
print(node.board.firmware_pid, flush=True)
time.sleep(60)
"""


def test_the_firmware_does_not_outlive_the_node(tmp_path: Path, image: bytes) -> None:
    Flash(tmp_path, 64 << 20).write(IMAGE_OBJECT, image)
    root = str(SOURCES.parent)
    with subprocess.Popen(
        [sys.executable, "-c", NODE_SCRIPT, str(tmp_path)], stdout=subprocess.PIPE, cwd=root
    ) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        # A firmware that is stopped cannot notice by itself that the bus has gone.
        os.kill(pid, signal.SIGSTOP)
        process.kill()
        process.wait()
    end = time.monotonic() + WAIT_S
    while alive(pid):
        assert time.monotonic() < end, "the firmware outlived the node"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_an_operation_that_is_sent_again_is_not_carried_out_again(node: Node) -> None:
    node.board.start()
    node.ready()
    body = msgpack.packb({"op": "pipeline.install", "package": package("again", 100)})
    first = node.post(Opcode.CONTROL, body)
    (answer,) = node.collect(1)
    loads = len(node.hardware.loads)
    message = Message(Header(opcode=Opcode.CONTROL, request=first), body)
    assert node.mailbox.post(Letter(PEER, message))
    (again,) = node.collect(1)
    assert again.message.body == answer.message.body
    assert again.message.header.request == first
    assert len(node.hardware.loads) == loads
    node.post(Opcode.CONTROL, body)  # another request for the same is another operation
    node.collect(1)
    assert len(node.hardware.loads) == loads + 1


def test_a_damaged_copy_of_an_operation_does_not_leave_its_refusal_to_the_sound_one(node: Node) -> None:
    node.board.start()
    node.ready()
    body = msgpack.packb({"op": "pipelines"})
    number = node.post(Opcode.CONTROL, body + b"\x12\x34\x56\x78")  # its flag CRC was lost on the way
    (refusal,) = node.collect(1)
    assert refusal.message.header.status != Status.OK
    assert node.mailbox.post(Letter(PEER, Message(Header(opcode=Opcode.CONTROL, request=number), body)))
    (answer,) = node.collect(1)
    assert (answer.message.header.request, answer.message.header.status) == (number, Status.OK)
