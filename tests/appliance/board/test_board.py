"""The board with scripted processes as its firmware: what hostile or unlucky firmware can do to it."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance.board.board import Board
from appliance.board.flash import Flash
from appliance.board.mailbox import Mailbox
from appliance.clock import WallClock
from host_sdk.wire.errors import DeviceError
from tests.appliance.board.fake_hardware import FakeHardware

# What every script begins with: a bus client of three lines, from the documented bytes.
PRELUDE = """
import os, signal, socket, sys, time
bus, line = socket.socket(fileno=int(sys.argv[1])), socket.socket(fileno=int(sys.argv[2]))
def write(address, value):
    bus.sendall(bytes.fromhex(f"0000000c02000000{address:08x}{value:08x}"))
    return bus.recv(8)
def read(address):
    bus.sendall(bytes.fromhex(f"0000000801000000{address:08x}"))
    return int.from_bytes(bus.recv(12)[8:], "big")
def ready():
    assert write(0x14, 1) == bytes([0, 0, 0, 4, 0, 0, 0, 0])
"""
IDLE = "ready(); bus.recv(1)"

Make = Callable[[str], Board]


def launch(script: str) -> Callable[[int, int, int], subprocess.Popen[bytes]]:
    def launcher(bus_fd: int, irq_fd: int, _epoch: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-I", "-c", PRELUDE + script, str(bus_fd), str(irq_fd)],
            pass_fds=(bus_fd, irq_fd),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    return launcher


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    mailbox = Mailbox()
    yield mailbox
    mailbox.close()


@pytest.fixture
def make(tmp_path: Path, mailbox: Mailbox) -> Iterator[Make]:
    boards = []

    def start(script: str) -> Board:
        board = Board(Flash(tmp_path, 1 << 20), mailbox, FakeHardware(), launch(script), WallClock())
        boards.append(board)
        board.start()
        return board

    yield start
    for board in boards:
        board.stop()


def eventually(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "the condition did not come true within 20 s"
        time.sleep(0.005)


def said(board: Board) -> str:
    return "\n".join(line.text for line in board.console.after(0))


def test_the_first_boot(make: Make) -> None:
    board = make("print('epoch', read(8), 'reason', read(16), flush=True); " + IDLE)
    assert board.wait_ready(20)
    assert board.firmware_ready
    assert (board.epoch, board.resets, board.boot_error) == (1, 0, None)
    eventually(lambda: said(board) == "epoch 1 reason 0")


def test_death_is_followed_by_another_boot(make: Make) -> None:
    board = make("print('epoch', read(8), 'resets', read(12), 'reason', read(16), flush=True); " + IDLE)
    assert board.wait_ready(20)
    first = board.firmware_pid
    assert first is not None
    os.kill(first, 9)
    eventually(lambda: board.resets == 1 and board.firmware_ready)
    assert board.firmware_pid != first
    eventually(lambda: "epoch 2 resets 1 reason 2" in said(board))
    assert "board: firmware was killed by signal 9" in said(board)


def test_a_boot_finds_the_registers_reset(make: Make) -> None:
    board = make("""
print('argument', read(0x300), 'enabled', read(0x104), 'pending', read(0x100), flush=True)
write(0x300, 77); write(0x104, 3)
if read(8) == 1:
    sys.exit(0)
ready(); bus.recv(1)
""")
    assert board.wait_ready(20)
    eventually(lambda: said(board).count("argument 0 enabled 0 pending 0") == 2)


def test_the_epoch_outlives_the_power_and_wraps(make: Make, tmp_path: Path) -> None:
    Flash(tmp_path, 100).write("board/epoch", b"65535")
    board = make(IDLE)
    assert board.wait_ready(20)
    assert board.epoch == 0
    board.stop()
    assert Flash(tmp_path, 100).read("board/epoch") == b"0"


def test_a_damaged_epoch_starts_over(make: Make, tmp_path: Path) -> None:
    Flash(tmp_path, 100).write("board/epoch", b"\xff\xff")
    board = make(IDLE)
    assert board.wait_ready(20)
    assert board.epoch == 1


def test_a_crash_leaves_its_last_words_and_its_exit_code(make: Make) -> None:
    board = make("raise RuntimeError('out of coffee')")
    eventually(lambda: board.resets >= 2)
    board.stop()
    assert "RuntimeError: out of coffee" in said(board)
    assert "board: firmware ended with exit code 1; next boot in 0 s" in said(board)
    assert "next boot in 0.1 s" in said(board)


def test_garbage_on_the_bus_costs_the_firmware_its_life(make: Make) -> None:
    board = make("""
if read(8) == 1:
    bus.sendall(os.urandom(1 << 20)); time.sleep(60)
ready(); bus.recv(1)
""")
    assert board.wait_ready(20)
    assert board.epoch == 2
    assert board.counters()["bus_broken"] == 1
    assert "bus connection closed" in said(board)
    assert "was killed by signal 9" in said(board)


def test_faults_are_answered_counted_and_logged(make: Make) -> None:
    board = make("assert write(0x0, 1)[4] == 2 and write(0x18, 1)[4] == 1; " + IDLE)
    assert board.wait_ready(20)
    assert board.counters()["bus_faults"] == 2
    assert "bus fault DENIED: register BOARD_ID cannot be written" in said(board)


def test_firmware_that_hangs_up_but_lives_is_replaced(make: Make) -> None:
    board = make("""
if read(8) == 1:
    bus.close(); time.sleep(60)
ready(); bus.recv(1)
""")
    assert board.wait_ready(20)
    assert board.epoch == 2


def test_firmware_that_does_not_kick_the_watchdog_is_reset_and_counted(make: Make) -> None:
    board = make("""
if read(8) == 1:
    ready(); write(0x500, 50); os.kill(os.getpid(), signal.SIGSTOP)
print('resets', read(12), 'reason', read(16), 'period', read(0x500), flush=True); ready(); bus.recv(1)
""")
    eventually(lambda: "resets 1 reason 3 period 0" in said(board))
    assert "board: firmware was reset by the watchdog: it did not kick it for 50 ms; next boot in 0 s" in said(board)
    counters = board.counters()
    assert (counters["resets_watchdog"], counters["resets_killed"], counters["resets_exited"]) == (1, 0, 0)


def test_the_throttle_register_sets_the_rate_within_bounds_and_a_reset_takes_it_back(
    tmp_path: Path, mailbox: Mailbox
) -> None:
    hardware = FakeHardware()
    script = """
for value in (100, 25, 0, 4000000000):
    write(0x608, value); print('rate', read(0x608), flush=True)
if read(8) == 1:
    write(0x608, 50); sys.exit(0)
ready(); bus.recv(1)
"""
    board = Board(Flash(tmp_path, 1000), mailbox, hardware, launch(script), WallClock())
    board.start()
    try:
        eventually(lambda: said(board).count("rate 100\nrate 25\nrate 1\nrate 100") == 2)
        assert hardware.rates == [25, 1, 100, 50, 100, 25, 1, 100]
    finally:
        board.stop()


def test_uptime_and_resets_by_reason_are_registers(make: Make) -> None:
    board = make("""
if read(8) == 1: sys.exit(3)
if read(8) == 2: os.kill(os.getpid(), 9)
print('uptime', read(0x20) < 20, 'resets', [read(a) for a in (0x24, 0x28, 0x2C)], 'rate', read(0x608), flush=True)
ready(); bus.recv(1)
""")
    eventually(lambda: "uptime True resets [1, 1, 0] rate 100" in said(board))
    counters = board.counters()
    assert [counters[f"resets_{reason}"] for reason in ("exited", "killed", "watchdog")] == [1, 1, 0]
    assert counters["firmware_resets"] == 2


def test_a_command_that_takes_long_is_not_held_against_the_firmware(tmp_path: Path, mailbox: Mailbox) -> None:
    class SlowHardware(FakeHardware):
        def facts(self) -> dict[str, object]:
            time.sleep(0.5)  # ten periods
            return super().facts()

    script = "ready(); write(0x500, 50); write(0x404, 1); write(0x500, 0); print('done', flush=True); bus.recv(1)"
    board = Board(Flash(tmp_path, 1000), mailbox, SlowHardware(), launch(script), WallClock())
    board.start()
    try:
        eventually(lambda: "done" in said(board))
        assert board.epoch == 1
    finally:
        board.stop()


def test_ready_is_taken_back(make: Make) -> None:
    board = make("ready(); line.recv(1) if read(8) > 1 else write(0x14, 0); bus.recv(1)")
    eventually(lambda: board.counters()["bus_transactions"] == 3)
    assert not board.firmware_ready


def test_stop_is_polite_first(make: Make) -> None:
    board = make("""
def bye(*_):
    print('bye', flush=True); sys.exit(0)
signal.signal(signal.SIGTERM, bye); ready(); bus.recv(1)
""")
    assert board.wait_ready(20)
    pid = board.firmware_pid
    board.stop()
    assert said(board).endswith("bye")
    assert not Path(f"/proc/{pid}").exists()
    assert not board.firmware_ready
    board.stop()


def test_stop_ends_firmware_that_will_not(make: Make) -> None:
    board = make("signal.signal(signal.SIGTERM, signal.SIG_IGN); ready(); bus.recv(1); time.sleep(60)")
    assert board.wait_ready(20)
    pid = board.firmware_pid
    board.stop()
    assert board.firmware_pid is None
    assert not Path(f"/proc/{pid}").exists()


def test_a_refused_image_leaves_a_reason_and_no_process(tmp_path: Path, mailbox: Mailbox) -> None:
    attempts = []

    def launcher(_bus: int, _irq: int, epoch: int) -> subprocess.Popen[bytes]:
        attempts.append(epoch)
        raise DeviceError("firmware image refused: it is a cake")

    board = Board(Flash(tmp_path, 1000), mailbox, FakeHardware(), launcher, WallClock())
    board.start()
    try:
        assert not board.wait_ready(20)
        assert board.boot_error == "firmware image refused: it is a cake"
        assert board.firmware_pid is None
        assert "it is a cake" in said(board)
    finally:
        board.stop()
    assert attempts == [1]


def test_a_system_that_is_out_of_something_is_tried_again(tmp_path: Path, mailbox: Mailbox) -> None:
    def launcher(bus_fd: int, irq_fd: int, epoch: int) -> subprocess.Popen[bytes]:
        if epoch < 3:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return launch(IDLE)(bus_fd, irq_fd, epoch)

    board = Board(Flash(tmp_path, 1000), mailbox, FakeHardware(), launcher, WallClock())
    board.start()
    try:
        assert board.wait_ready(20)
        assert board.epoch == 3
    finally:
        board.stop()


def test_a_flash_without_room_for_the_epoch_is_no_reason_not_to_boot(tmp_path: Path, mailbox: Mailbox) -> None:
    board = Board(Flash(tmp_path, 0), mailbox, FakeHardware(), launch(IDLE), WallClock())
    board.start()
    try:
        assert board.wait_ready(20)
        assert "the epoch cannot be kept" in said(board)
    finally:
        board.stop()


def test_an_idle_board_sleeps(make: Make) -> None:
    board = make(IDLE)
    assert board.wait_ready(20)
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "board"]
    status = Path(f"/proc/self/task/{thread.native_id}/status")

    def wakeups() -> str:
        return next(line for line in status.read_text().splitlines() if line.startswith("voluntary_ctxt"))

    def sleeps_through() -> bool:
        before = wakeups()
        time.sleep(1.2)
        return wakeups() == before

    eventually(sleeps_through)


def test_a_board_that_was_never_started_can_be_stopped(tmp_path: Path, mailbox: Mailbox) -> None:
    Board(Flash(tmp_path, 1000), mailbox, FakeHardware(), launch(IDLE), WallClock()).stop()
