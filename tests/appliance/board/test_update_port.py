"""The update port as hostile firmware uses it: each misuse has its status, and costs neither images nor an update."""

import hashlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.board.command import CommandPort
from appliance.board.nor import BLOCK_SIZE
from appliance.board.registers import BusFaultError, RegisterFile
from appliance.board.regmap import (
    MAP,
    MAX_BLOCK,
    MAX_PART,
    UPDATE_ARGUMENT,
    UPDATE_COMMAND,
    UPDATE_DATA,
    UPDATE_RESULT,
    UPDATE_STATUS,
    BusStatus,
    CommandStatus,
    UpdateCommand,
)
from appliance.board.update import UPDATE_PORT, update_commands
from firmware.boot.layout import Slot
from firmware.boot.resident import ResidentRom
from firmware.boot.slots import TRIAL_NS
from firmware.image.development import DEVELOPMENT_POLICY
from firmware.image.format import Image
from tests.firmware.boot.rig import NEW, NEWER, OLD, SLOT_BLOCKS, Rig, image_of

Command = UpdateCommand
OK, UNKNOWN, BAD, REFUSED, FAILED = (
    CommandStatus.OK,
    CommandStatus.UNKNOWN,
    CommandStatus.BAD_ARGUMENT,
    CommandStatus.REFUSED,
    CommandStatus.FAILED,
)
DIGEST = hashlib.sha256(NEW).digest()
EVERY_COMMAND = st.one_of(st.sampled_from(tuple(Command)), st.integers(0, 0xFFFF_FFFF))


class Board:
    """A board's update port over real slots, used through its registers alone; the firmware is never started."""

    def __init__(self, directory: Path, slot_blocks: int = SLOT_BLOCKS) -> None:
        self.rig = Rig(directory, blocks=2 + 3 * slot_blocks)
        self.rig.provision()
        self.now = 1_000
        self.booted = ""
        self.rom = ResidentRom(self.rig.chip, self.rig.fuses, DEVELOPMENT_POLICY, self._start, lambda: self.now)
        self.faults: list[str] = []
        self.registers = RegisterFile(MAP, self.faults.append)
        CommandPort(self.registers, UPDATE_PORT, update_commands(self.rom))

    def _start(self, image: Image, _bus: int, _irq: int, _epoch: int) -> "subprocess.Popen[bytes]":
        self.booted = image.version
        with subprocess.Popen(["true"]) as process:
            return process

    def boot(self) -> str:
        self.registers.reset()
        self.rom.launch(3, 4, 1)
        return self.booted

    def ring(self, command: int, length: int) -> tuple[int, bytes]:
        """Ring the doorbell with an argument of so many bytes; return status and result."""
        self.registers.write(UPDATE_ARGUMENT.address, length)
        self.registers.write(UPDATE_COMMAND.address, command)
        size, result = self.registers.read(UPDATE_RESULT.address), b""
        for at in range(0, size, MAX_BLOCK):
            result += self.registers.read_block(UPDATE_DATA.address + at, min(MAX_BLOCK, size - at))
        return self.registers.read(UPDATE_STATUS.address), result

    def raw(self, command: int, argument: bytes) -> tuple[int, bytes]:
        for at in range(0, len(argument), MAX_BLOCK):
            self.registers.write_block(UPDATE_DATA.address + at, argument[at : at + MAX_BLOCK])
        return self.ring(command, len(argument))

    def run(self, command: int, *values: object) -> tuple[int, Any]:
        status, result = self.raw(command, msgpack.packb(values) if values else b"")
        return status, msgpack.unpackb(result) if status == OK else result.decode()

    def slots(self) -> dict[str, Any]:
        status, found = self.run(Command.STATUS)
        assert status == OK
        return dict(found)

    def refused(self, expected: CommandStatus, words: str, command: int, *values: object) -> None:
        """A command is refused so, and has changed nothing: no slot, no fuse, no update that is under way."""
        before = self.slots(), self.contents(), self.rig.fuses.security_counter
        status, sentence = self.run(command, *values)
        assert (status, words in sentence) == (expected, True), sentence
        assert (self.slots(), self.contents(), self.rig.fuses.security_counter) == before

    def contents(self) -> list[bytes]:
        return [hashlib.sha256(self.rig.contents(slot)).digest() for slot in Slot]

    def send(self, image: bytes, begin: int = 0, part: int = 1000) -> None:
        for at in range(begin, len(image), part):
            end = min(len(image), at + part)
            assert self.run(Command.WRITE, at, image[at:end]) == (OK, end)

    def flash(self, image: bytes) -> None:
        assert self.run(Command.BEGIN, len(image), hashlib.sha256(image).digest()) == (OK, 0)
        self.send(image)
        assert self.run(Command.FINISH) == (OK, None)
        assert self.run(Command.ACTIVATE) == (OK, None)


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    board = Board(tmp_path)
    assert board.boot() == "1.0"
    yield board
    board.rig.close()


def test_an_image_goes_through_the_port(board: Board) -> None:
    board.flash(NEW)
    assert board.boot() == "2.0"
    assert board.run(Command.CONFIRM) == (OK, None)
    assert (board.slots()["slot"], board.slots()["state"]) == ("B", "confirmed")
    assert board.run(Command.ROLL_BACK) == (OK, None)
    assert board.boot() == "1.0"


@pytest.mark.parametrize("command", [0, 8, 99, 0x8000_0001, 0xFFFF_FFFF])
def test_commands_that_there_are_not(board: Board, command: int) -> None:
    board.refused(UNKNOWN, f"there is no command {command}", command, 1, b"")


def test_a_board_without_slots_knows_no_command() -> None:
    registers = RegisterFile(MAP, lambda _: None)
    CommandPort(registers, UPDATE_PORT, {})
    for command in Command:
        registers.write(UPDATE_COMMAND.address, command)
        assert registers.read(UPDATE_STATUS.address) == UNKNOWN


@pytest.mark.parametrize("command", [Command.BEGIN, Command.WRITE])
@pytest.mark.parametrize(
    "argument",
    [
        b"",
        b"\xc0",
        b"\x92",
        b"\x92\x01",
        msgpack.packb([1, bytes(32)]) + b"\0",
        msgpack.packb([1]),
        msgpack.packb([1, bytes(32), 1]),
        msgpack.packb(["1", bytes(32)]),
        msgpack.packb([True, bytes(32)]),
        msgpack.packb([1.0, bytes(32)]),
        msgpack.packb([1, "0" * 32]),
        msgpack.packb([1, [0] * 15]),
        msgpack.packb([{}, bytes(32)]),
        msgpack.packb({"size": 1, "digest": bytes(32)}),
        b"\x92\x01\xc6\xff\xff\xff\xff",  # announces 4 GiB
        b"\x92\x01\xdd\xff\xff\xff\xff",
        b"\xdd\xff\xff\xff\xff",
        bytes(2 * MAX_PART),
    ],
)
def test_arguments_of_another_shape(board: Board, command: Command, argument: bytes) -> None:
    assert board.run(Command.BEGIN, len(NEW), DIGEST) == (OK, 0)
    before = board.slots()
    assert board.raw(command, argument)[0] == BAD
    assert board.slots() == before
    board.send(NEW)
    assert board.run(Command.FINISH) == (OK, None)


@pytest.mark.parametrize("length", [2 * MAX_PART + 1, 0x8000_0000, 0xFFFF_FFFF])
@pytest.mark.parametrize("command", list(Command))
def test_an_argument_longer_than_the_window(board: Board, command: Command, length: int) -> None:
    status, sentence = board.ring(command, length)
    assert status == BAD
    assert sentence == f"{length} bytes of argument are more than the window".encode()
    assert board.slots()["slots"]["B"] == {"state": "empty"}


@pytest.mark.parametrize(
    ("size", "digest", "words"),
    [
        (0, DIGEST, "an image of 0 bytes does not go"),
        (-1, DIGEST, "an image of -1 bytes does not go"),
        (SLOT_BLOCKS * BLOCK_SIZE + 1, DIGEST, "does not go into a slot"),
        (2**64 - 1, DIGEST, "does not go into a slot"),
        (-(2**63), DIGEST, "does not go into a slot"),
        (len(NEW), b"", "0 bytes are no SHA-256"),
        (len(NEW), DIGEST[:-1], "31 bytes are no SHA-256"),
        (len(NEW), DIGEST + b"\0", "33 bytes are no SHA-256"),
    ],
)
def test_an_update_that_cannot_be_begun(board: Board, size: int, digest: bytes, words: str) -> None:
    board.refused(REFUSED, words, Command.BEGIN, size, digest)
    # Neither does it end the update that is under way.
    assert board.run(Command.BEGIN, len(NEW), DIGEST) == (OK, 0)
    board.send(NEW[: BLOCK_SIZE + 5])
    board.refused(REFUSED, words, Command.BEGIN, size, digest)
    board.send(NEW, BLOCK_SIZE + 5)
    assert board.run(Command.FINISH) == (OK, None)


@pytest.mark.parametrize("offset", [0, 999, 1001, 2000, -1, -(2**63), 2**64 - 1, BLOCK_SIZE])
def test_a_part_that_is_not_the_next(board: Board, offset: int) -> None:
    assert board.run(Command.BEGIN, len(NEW), DIGEST) == (OK, 0)
    board.send(NEW[:1000])
    board.refused(
        REFUSED, f"the next part of the image begins at 1000, not at {offset}", Command.WRITE, offset, bytes(50)
    )
    board.send(NEW, 1000)
    assert board.run(Command.FINISH) == (OK, None)


def test_parts_that_are_too_long(board: Board) -> None:
    assert board.run(Command.BEGIN, len(NEW), DIGEST) == (OK, 0)
    board.refused(BAD, f"a part of {MAX_PART + 1} bytes; at most {MAX_PART}", Command.WRITE, 0, bytes(MAX_PART + 1))
    begin = len(NEW) - 100
    board.send(NEW[:begin])
    beyond = f"101 bytes at {begin} go beyond an image of {len(NEW)} bytes"
    board.refused(REFUSED, beyond, Command.WRITE, begin, NEW[begin:] + b"\0")
    board.send(NEW, begin)
    board.refused(REFUSED, "go beyond an image", Command.WRITE, len(NEW), b"\0")
    assert board.run(Command.WRITE, len(NEW), b"") == (OK, len(NEW))
    assert board.run(Command.FINISH) == (OK, None)


def test_the_longest_part_is_taken_at_once(tmp_path: Path) -> None:
    board = Board(tmp_path, slot_blocks=2 + MAX_PART // BLOCK_SIZE)
    assert board.boot() == "1.0"
    image = image_of("6.0", 1, MAX_PART)
    assert board.run(Command.BEGIN, len(image), hashlib.sha256(image).digest()) == (OK, 0)
    assert board.run(Command.WRITE, 0, image[:MAX_PART]) == (OK, MAX_PART)
    board.send(image, MAX_PART)
    assert board.run(Command.FINISH) == (OK, None)
    board.rig.close()


def test_commands_before_anything_was_begun(board: Board) -> None:
    board.refused(REFUSED, "no update was begun", Command.WRITE, 0, b"x")
    board.refused(REFUSED, "no update was begun", Command.FINISH)
    board.refused(REFUSED, "slot B is empty, not ready", Command.ACTIVATE)
    board.refused(REFUSED, "slot B holds no confirmed image", Command.ROLL_BACK)
    assert board.run(Command.CONFIRM) == (OK, None)  # it is confirmed
    assert board.boot() == "1.0"


def test_commands_in_the_midst_of_an_update(board: Board) -> None:
    assert board.run(Command.BEGIN, len(NEW), DIGEST) == (OK, 0)
    half = BLOCK_SIZE + 7
    board.send(NEW[:half])
    board.refused(REFUSED, f"{half} of {len(NEW)} bytes of the image are there", Command.FINISH)
    board.refused(REFUSED, "slot B is writing, not ready", Command.ACTIVATE)
    board.refused(REFUSED, "slot B holds no confirmed image", Command.ROLL_BACK)
    board.send(NEW, half)
    board.refused(REFUSED, "slot B is writing, not ready", Command.ACTIVATE)
    assert board.run(Command.FINISH) == (OK, None)
    board.refused(REFUSED, "slot B holds no confirmed image", Command.ROLL_BACK)
    assert board.run(Command.ACTIVATE) == (OK, None)
    assert board.run(Command.ACTIVATE) == (OK, None)  # again does nothing
    assert board.boot() == "2.0"


def test_an_image_that_is_not_what_was_announced(board: Board) -> None:
    for damage in (NEW[:-1] + bytes([NEW[-1] ^ 1]), NEW[:200] + b"\xff" + NEW[201:]):
        for digest in (DIGEST, hashlib.sha256(damage).digest()):  # a lie, and an image that nobody has signed
            assert board.run(Command.BEGIN, len(damage), digest) == (OK, 0)
            board.send(damage)
            assert board.run(Command.FINISH)[0] == REFUSED
            assert board.slots()["slots"]["B"]["state"] == "bad"
            board.refused(REFUSED, "slot B is bad, not ready", Command.ACTIVATE)
            board.refused(REFUSED, "no update was begun", Command.FINISH)
    assert board.boot() == "1.0"
    board.flash(NEW)
    assert board.boot() == "2.0"


def test_an_image_on_trial_cannot_burn_its_way_back(board: Board) -> None:
    board.flash(NEWER)
    assert board.boot() == "3.0"
    board.refused(REFUSED, "the running image is on trial", Command.BEGIN, len(NEW), DIGEST)
    board.refused(REFUSED, "the running image is on trial", Command.ACTIVATE)
    board.refused(REFUSED, "no update was begun", Command.WRITE, 0, b"x")
    assert board.rig.fuses.security_counter == 1  # before it has confirmed
    board.now += TRIAL_NS
    assert board.rom.expire()
    for command, values in (
        (Command.STATUS, ()),
        (Command.BEGIN, (len(NEW), DIGEST)),
        (Command.WRITE, (0, b"x")),
        (Command.FINISH, ()),
        (Command.ACTIVATE, ()),
        (Command.CONFIRM, ()),
        (Command.ROLL_BACK, ()),
    ):
        assert board.run(command, *values) == (REFUSED, "the board is about to be booted again")
    assert board.boot() == "1.0"


def test_registers_and_window_keep_their_bounds(board: Board) -> None:
    end = UPDATE_DATA.address + UPDATE_DATA.size
    for address, data, status in (
        (end - 10, bytes(11), BusStatus.OUT_OF_RANGE),
        (UPDATE_DATA.address, bytes(MAX_BLOCK + 1), BusStatus.OUT_OF_RANGE),
        (UPDATE_DATA.address, b"", BusStatus.OUT_OF_RANGE),
        (end, b"x", BusStatus.UNDEFINED),
    ):
        with pytest.raises(BusFaultError) as fault:
            board.registers.write_block(address, data)
        assert fault.value.status is status
    for register in (UPDATE_STATUS, UPDATE_RESULT):
        with pytest.raises(BusFaultError) as fault:
            board.registers.write(register.address, 0)
        assert fault.value.status is BusStatus.DENIED
    with pytest.raises(BusFaultError) as fault:
        board.registers.read(UPDATE_COMMAND.address)
    assert fault.value.status is BusStatus.DENIED
    assert len(board.faults) == board.registers.faults == 7
    assert board.slots()["slots"]["B"] == {"state": "empty"}


def test_nothing_of_an_argument_or_result_is_left_in_the_window(board: Board) -> None:
    assert board.run(Command.BEGIN, len(NEW), DIGEST) == (OK, 0)
    _, result = board.raw(Command.WRITE, msgpack.packb([0, b"\xee" * 5000]))
    window = board.registers.read_block(UPDATE_DATA.address, MAX_BLOCK)
    assert window == result.ljust(MAX_BLOCK, b"\0")
    assert board.ring(Command.WRITE, 5006)[0] == BAD  # the argument of before is not taken twice


class Broken(ResidentRom):
    """Slots whose flash fails, and whose status is larger than the window."""

    def __init__(self) -> None:
        pass

    def status(self) -> dict[str, object]:
        return {"detail": "x" * 2 * MAX_PART}

    def begin(self, size: int, digest: bytes) -> int:
        raise OSError(size, digest.decode() * 2000)


def test_what_breaks_behind_the_port_costs_only_its_command(caplog: pytest.LogCaptureFixture) -> None:
    registers = RegisterFile(MAP, lambda _: None)
    CommandPort(registers, UPDATE_PORT, update_commands(Broken()))
    argument = msgpack.packb([5, b"e"])
    for command, words in ((Command.BEGIN, b"OSError: "), (Command.STATUS, b"larger than the window")):
        registers.write_block(UPDATE_DATA.address, argument)
        registers.write(UPDATE_ARGUMENT.address, len(argument))
        registers.write(UPDATE_COMMAND.address, command)
        assert registers.read(UPDATE_STATUS.address) == FAILED
        size = registers.read(UPDATE_RESULT.address)
        assert size <= 1000
        assert words in registers.read_block(UPDATE_DATA.address, size)
    assert "command 2 of the firmware failed" in caplog.text


ARGUMENTS = st.one_of(
    st.binary(max_size=80),
    st.tuples(
        st.one_of(
            st.sampled_from((0, 1, 1000, BLOCK_SIZE, len(NEW), len(OLD), 2**32)), st.integers(-(2**63), 2**64 - 1)
        ),
        st.one_of(st.binary(max_size=40), st.sampled_from((DIGEST, NEW[:1000], bytes(BLOCK_SIZE)))),
    ).map(msgpack.packb),
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(EVERY_COMMAND, ARGUMENTS), max_size=12))
def test_whatever_firmware_does_the_running_image_stays(tmp_path: Path, doings: list[tuple[int, bytes]]) -> None:
    for name in ("nor", "fuses"):
        (tmp_path / name).unlink(missing_ok=True)
    board = Board(tmp_path)
    try:
        assert board.boot() == "1.0"
        before = board.contents()
        for command, argument in doings:
            status, _ = board.raw(command, argument)
            assert status in (OK, UNKNOWN, BAD, REFUSED)
        after = board.contents()
        assert [after[slot] for slot in (Slot.A, Slot.RECOVERY)] == [before[slot] for slot in (Slot.A, Slot.RECOVERY)]
        assert board.boot() == "1.0"
        board.flash(NEW)
        assert board.boot() == "2.0"
    finally:
        board.rig.close()
