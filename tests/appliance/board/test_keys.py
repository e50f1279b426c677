"""The key port: what it takes, and that a key's material does not stay where firmware could read it."""

from dataclasses import dataclass, field
from typing import Any

import msgpack
import pytest

from appliance.board.command import CommandPort
from appliance.board.keys import KEYS_PORT, MAX_LIFETIME_MS, key_commands
from appliance.board.registers import RegisterFile
from appliance.board.regmap import (
    KEYS_ARGUMENT,
    KEYS_COMMAND,
    KEYS_DATA,
    KEYS_RESULT,
    KEYS_STATUS,
    MAP,
    CommandStatus,
    KeyCommand,
)
from appliance.dataplane.grants import Granting
from host_sdk.wire.errors import DeviceError
from host_sdk.wire.roles import Grant, Role

GRANT = Grant(Role.VIEWER, "tenant", ("one", "two"), 10, 50)
MATERIAL = bytes(range(56))
ARGUMENT = [7, 0x0200_0000_0001, MATERIAL, GRANT.encode(), "ab12", 1000]


@dataclass
class FakeKeys:
    granted: list[Granting] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)

    def grant(self, granting: Granting) -> None:
        if self.granted:
            raise DeviceError("one is enough")
        self.granted.append(granting)

    def lifetime_ms(self, number: int, peer: int, serial: str) -> int:
        return number + peer + len(serial)

    def holders(self) -> list[str]:
        return ["ab12"]

    def drop(self, serial: str) -> None:
        self.dropped.append(serial)


class Bench:
    def __init__(self) -> None:
        self.keys, self.registers = FakeKeys(), RegisterFile(MAP, lambda _: None)
        CommandPort(self.registers, KEYS_PORT, key_commands(self.keys))

    def run(self, command: int, argument: Any = None) -> tuple[CommandStatus, Any]:
        packed = msgpack.packb(argument)
        self.registers.write_block(KEYS_DATA.address, packed)
        self.registers.write(KEYS_ARGUMENT.address, len(packed))
        self.registers.write(KEYS_COMMAND.address, command)
        status = CommandStatus(self.registers.read(KEYS_STATUS.address))
        result = self.registers.read_block(KEYS_DATA.address, self.registers.read(KEYS_RESULT.address))
        return status, msgpack.unpackb(result) if status is CommandStatus.OK else result.decode()


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_its_commands(bench: Bench) -> None:
    assert bench.run(KeyCommand.GRANT, ARGUMENT) == (CommandStatus.OK, None)
    assert bench.keys.granted == [Granting(7, 0x0200_0000_0001, MATERIAL, GRANT, "ab12", 1_000_000_000)]
    assert bench.run(KeyCommand.GRANT, ARGUMENT) == (CommandStatus.REFUSED, "one is enough")
    assert bench.run(KeyCommand.LIFETIME, [1, 2, "abc"]) == (CommandStatus.OK, 6)
    assert bench.run(KeyCommand.HOLDERS) == (CommandStatus.OK, ["ab12"])
    assert bench.run(KeyCommand.DROP, ["ab12"]) == (CommandStatus.OK, None)
    assert bench.keys.dropped == ["ab12"]


def test_the_material_does_not_stay_in_the_window(bench: Bench) -> None:
    bench.run(KeyCommand.GRANT, ARGUMENT)
    assert MATERIAL[:8] not in bench.registers.read_block(KEYS_DATA.address, KEYS_DATA.size)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (0, 0),
        (0, 1 << 63),
        (0, "7"),
        (1, -1.5),
        (2, MATERIAL[1:]),
        (3, b"junk"),
        (3, b""),
        (4, ""),
        (4, "a" * 41),
        (5, 0),
        (5, MAX_LIFETIME_MS + 1),
        (5, None),
    ],
)
def test_what_is_no_grant(bench: Bench, place: int, value: Any) -> None:
    argument = [*ARGUMENT[:place], value, *ARGUMENT[place + 1 :]]
    assert bench.run(KeyCommand.GRANT, argument)[0] is CommandStatus.BAD_ARGUMENT
    assert bench.run(KeyCommand.GRANT, ARGUMENT[:-1])[0] is CommandStatus.BAD_ARGUMENT
    assert bench.keys.granted == []
