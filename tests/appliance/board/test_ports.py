from pathlib import Path

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.board.command import ArgumentError, CommandPort, unpack_argument
from appliance.board.console import Line
from appliance.board.flash import Flash
from appliance.board.ports import FLASH_PORT, SERVICE_PORT, flash_commands, service_commands
from appliance.board.registers import RegisterFile
from appliance.board.regmap import MAP, CommandStatus, FlashCommand, ServiceCommand
from tests.appliance.board.fake_hardware import FakeHardware, package


class Ports:
    """Both command ports, used as firmware would."""

    def __init__(self, directory: Path) -> None:
        self.flash = Flash(directory, 1000)
        self.hardware = FakeHardware()
        self.registers = RegisterFile(MAP, lambda _: None)
        CommandPort(self.registers, FLASH_PORT, flash_commands(self.flash))
        services = service_commands(
            self.hardware, lambda: {"own": 3}, lambda after, limit: [Line(after + 1, limit, "x")]
        )
        CommandPort(self.registers, SERVICE_PORT, services)

    def run_flash(self, command: int, argument: bytes) -> tuple[int, bytes]:
        return self._run(0x300, 0x3000_0000, command, argument)

    def run_service(self, command: int, argument: bytes = b"") -> tuple[int, bytes]:
        return self._run(0x400, 0x4000_0000, command, argument)

    def _run(self, base: int, window: int, command: int, argument: bytes) -> tuple[int, bytes]:
        if argument:
            self.registers.write_block(window, argument)
        self.registers.write(base, len(argument))
        self.registers.write(base + 4, command)
        length = self.registers.read(base + 12)
        return self.registers.read(base + 8), self.registers.read_block(window, length) if length else b""


@pytest.fixture
def ports(tmp_path: Path) -> Ports:
    return Ports(tmp_path)


def test_flash_over_the_port(ports: Ports) -> None:
    assert ports.run_flash(FlashCommand.WRITE, msgpack.packb(["a/b", b"hello"])) == (0, b"\xc0")
    assert ports.run_flash(FlashCommand.READ, msgpack.packb(["a/b", 1, 3])) == (0, b"ell")
    assert ports.run_flash(FlashCommand.LIST, b"") == (0, msgpack.packb([["a/b", 5]]))
    assert ports.run_flash(FlashCommand.FREE, b"") == (0, msgpack.packb(995))
    assert ports.run_flash(FlashCommand.DELETE, msgpack.packb(["a/b"])) == (0, b"\xc3")
    assert ports.run_flash(FlashCommand.DELETE, msgpack.packb(["a/b"])) == (0, b"\xc2")


def test_full_flash_has_a_status_of_its_own(ports: Ports) -> None:
    status, sentence = ports.run_flash(FlashCommand.WRITE, msgpack.packb(["a", bytes(1001)]))
    assert status == CommandStatus.NO_SPACE
    assert b"do not fit" in sentence


@pytest.mark.parametrize("name", ["board/epoch", "../x", "/x"])
def test_firmware_cannot_write_everywhere(ports: Ports, name: str) -> None:
    ports.flash.write("board/epoch", b"5")
    assert ports.run_flash(FlashCommand.WRITE, msgpack.packb([name, b"9"]))[0] == CommandStatus.REFUSED
    assert ports.run_flash(FlashCommand.DELETE, msgpack.packb([name]))[0] == CommandStatus.REFUSED
    assert ports.flash.read("board/epoch") == b"5"


def test_unknown_commands_and_lengths_are_answered(ports: Ports) -> None:
    assert ports.run_flash(99, b"")[0] == CommandStatus.UNKNOWN
    ports.registers.write(0x300, 0xFFFF_FFFF)
    ports.registers.write(0x304, FlashCommand.READ)
    assert ports.registers.read(0x308) == CommandStatus.BAD_ARGUMENT


@pytest.mark.parametrize(("offset", "length"), [(-1, 5), (0, -1), (0, 1 << 40)])
def test_impossible_ranges_are_bad_arguments(ports: Ports, offset: int, length: int) -> None:
    ports.flash.write("a", b"x")
    assert ports.run_flash(FlashCommand.READ, msgpack.packb(["a", offset, length]))[0] == CommandStatus.BAD_ARGUMENT


def test_services_over_the_port(ports: Ports) -> None:
    assert msgpack.unpackb(ports.run_service(ServiceCommand.FACTS)[1])["name"] == "fake"
    assert msgpack.unpackb(ports.run_service(ServiceCommand.COUNTERS)[1]) == {"frames": 12, "own": 3}
    assert ports.run_service(ServiceCommand.LOAD_PIPELINE, package("digits"))[0] == 0
    assert [one["name"] for one in msgpack.unpackb(ports.run_service(ServiceCommand.PIPELINES)[1])] == ["digits"]
    assert ports.run_service(ServiceCommand.UNLOAD_PIPELINE, msgpack.packb(["digits"])) == (0, b"\xc3")
    assert ports.run_service(ServiceCommand.CONSOLE, msgpack.packb([4, 9])) == (0, msgpack.packb([[5, 9, "x"]]))


def test_what_the_hardware_refuses_is_a_sentence(ports: Ports) -> None:
    status, sentence = ports.run_service(ServiceCommand.LOAD_PIPELINE, package("refused"))
    assert (status, sentence) == (CommandStatus.REFUSED, b"this accelerator has no such operator; use another")


def test_a_package_that_breaks_the_hardware_costs_only_itself(ports: Ports, caplog: pytest.LogCaptureFixture) -> None:
    status, sentence = ports.run_service(ServiceCommand.LOAD_PIPELINE, package("broken"))
    assert status == CommandStatus.FAILED
    assert sentence == b"ZeroDivisionError: division by zero"
    assert "failed" in caplog.text
    assert ports.run_service(ServiceCommand.LOAD_PIPELINE, package("digits"))[0] == 0


def test_arguments_have_exactly_their_types() -> None:
    assert unpack_argument(msgpack.packb(["a", 1]), str, int) == ["a", 1]
    for wrong in (["a"], ["a", True], ["a", 1, 2], ["a", [1]], ["a", {}], "a", None):
        with pytest.raises(ArgumentError):
            unpack_argument(msgpack.packb(wrong), str, int)


@given(st.binary(max_size=60))
def test_any_bytes_are_arguments_or_one_error(raw: bytes) -> None:
    for argument in (raw, b"\x92" + raw, b"\x92\xa1a" + raw):
        try:
            unpack_argument(argument, str, bytes)
        except ArgumentError:
            continue
