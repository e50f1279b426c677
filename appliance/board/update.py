"""The update port: how the firmware sees and replaces the images that the board boots from."""

from typing import Protocol

import msgpack

from appliance.board.command import ArgumentError, Command, Port, unpack_argument
from appliance.board.regmap import (
    MAX_PART,
    UPDATE_ARGUMENT,
    UPDATE_COMMAND,
    UPDATE_DATA,
    UPDATE_RESULT,
    UPDATE_STATUS,
    UpdateCommand,
)

UPDATE_PORT = Port(UPDATE_ARGUMENT, UPDATE_COMMAND, UPDATE_STATUS, UPDATE_RESULT, UPDATE_DATA)
_NIL: bytes = msgpack.packb(None)


class Slots(Protocol):
    """The boot ROM while the firmware runs. Called from the board's thread; methods raise DeviceError to refuse."""

    @property
    def remark(self) -> str:
        """What the last boot chose and why, in words; empty if that was nothing out of the ordinary."""

    @property
    def deadline_ns(self) -> int | None:
        """Until when the running image must confirm, on the board's clock; None if it is not on trial."""

    @property
    def trial_ms(self) -> int:
        """Time that the running image has left to confirm; 0 if it is not on trial."""

    def expire(self) -> str:
        """Give up a trial that is over, and say so; empty if none is. The board must be booted again after that."""

    def status(self) -> dict[str, object]:
        """Return what runs and why, and what is in the slots, as msgpack knows it."""

    def begin(self, size: int, digest: bytes) -> int:
        """Begin an update, or go on with it; return the offset of the first part that is missing."""

    def write(self, offset: int, data: bytes) -> int:
        """Take the next part of the image; return the offset of the one after it."""

    def finish(self) -> None:
        """Verify the image."""

    def activate(self) -> None:
        """Have the image started at the next boot, on trial."""

    def confirm(self) -> None:
        """Keep the running image."""

    def roll_back(self) -> None:
        """Have the other slot's image started at the next boot."""


def update_commands(slots: Slots) -> dict[int, Command]:
    """Return the commands of the update port."""

    def begin(argument: bytes) -> bytes:
        size, digest = unpack_argument(argument, int, bytes)
        return _pack(slots.begin(size, digest))

    def write(argument: bytes) -> bytes:
        offset, data = unpack_argument(argument, int, bytes)
        if len(data) > MAX_PART:
            raise ArgumentError(f"a part of {len(data)} bytes; at most {MAX_PART} are taken at once")
        return _pack(slots.write(offset, data))

    def finish(_: bytes) -> bytes:
        slots.finish()
        return _NIL

    def activate(_: bytes) -> bytes:
        slots.activate()
        return _NIL

    def confirm(_: bytes) -> bytes:
        slots.confirm()
        return _NIL

    def roll_back(_: bytes) -> bytes:
        slots.roll_back()
        return _NIL

    return {
        UpdateCommand.STATUS: lambda _: _pack(slots.status()),
        UpdateCommand.BEGIN: begin,
        UpdateCommand.WRITE: write,
        UpdateCommand.FINISH: finish,
        UpdateCommand.ACTIVATE: activate,
        UpdateCommand.CONFIRM: confirm,
        UpdateCommand.ROLL_BACK: roll_back,
    }


def _pack(value: object) -> bytes:
    packed: bytes = msgpack.packb(value)
    return packed
