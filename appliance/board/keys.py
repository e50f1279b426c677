"""The key port: how the firmware hands the keys of sealed frames to the hardware, which alone uses them."""

from typing import TYPE_CHECKING, Protocol

import msgpack

from appliance.board.command import ArgumentError, Command, Port, unpack_argument
from appliance.board.regmap import KEYS_ARGUMENT, KEYS_COMMAND, KEYS_DATA, KEYS_RESULT, KEYS_STATUS, KeyCommand
from appliance.clock import Clock
from host_sdk.wire.errors import RemoteProtocolError
from host_sdk.wire.roles import Grant

if TYPE_CHECKING:  # ciphers take memory that an open appliance can do without
    from appliance.dataplane.grants import Granting, GrantTable
    from appliance.dataplane.loop import Dataplane

KEYS_PORT = Port(KEYS_ARGUMENT, KEYS_COMMAND, KEYS_STATUS, KEYS_RESULT, KEYS_DATA)
MAX_LIFETIME_MS = 7 * 24 * 3_600_000
_MAX_SERIAL = 40  # hexadecimal digits: certificates' numbers have at most 20 bytes
_NS_PER_MS = 1_000_000
_NIL: bytes = msgpack.packb(None)


class Keys(Protocol):
    """The keys of sealed frames. Called from the board's thread."""

    def grant(self, granting: "Granting") -> None:
        """Put a key into force; raises DeviceError where it cannot be."""

    def lifetime_ms(self, number: int, peer: int, serial: str) -> int:
        """Return how long a key is still in force for a certificate at an address; 0 where it is not."""

    def holders(self) -> list[str]:
        """Return the certificates that have keys."""

    def drop(self, serial: str) -> None:
        """Drop the keys of a certificate."""


class GrantedKeys:
    """Offers the board the keys of a dataplane, on whose thread they are changed.

    Args:
        grants: The holders of keys.
        dataplane: Ends the sessions of keys that are gone.
        clock: Time; the dataplane's.
    """

    def __init__(self, grants: "GrantTable", dataplane: "Dataplane", clock: Clock) -> None:
        self._grants, self._dataplane, self._clock = grants, dataplane, clock

    def grant(self, granting: "Granting") -> None:
        """Put a key into force.

        Raises:
            DeviceError: It cannot be.
            TimeoutError: The dataplane does not run.
        """

        def add() -> None:
            self._dataplane.end_sessions(self._grants.add(granting, self._clock.now_ns()))

        self._dataplane.call(add)

    def lifetime_ms(self, number: int, peer: int, serial: str) -> int:
        """Return how long a key is still in force for a certificate at an address; 0 where it is not."""

        def look() -> int:
            return self._grants.lifetime_ns(number, peer, serial, self._clock.now_ns()) // _NS_PER_MS

        return int(self._dataplane.call(look))

    def holders(self) -> list[str]:
        """Return the certificates that have keys."""
        return list(self._dataplane.call(self._grants.serials))

    def drop(self, serial: str) -> None:
        """Drop the keys of a certificate, and end their sessions."""
        self._dataplane.call(lambda: self._dataplane.end_sessions(self._grants.drop(serial)))


def key_commands(keys: Keys) -> dict[int, Command]:
    """Return the commands of the key port."""

    def grant(argument: bytes) -> bytes:
        keys.grant(_granting(argument))
        return _NIL

    def lifetime(argument: bytes) -> bytes:
        number, peer, serial = unpack_argument(argument, int, int, str)
        return _pack(keys.lifetime_ms(number, peer, serial))

    def drop(argument: bytes) -> bytes:
        (serial,) = unpack_argument(argument, str)
        keys.drop(serial)
        return _NIL

    return {
        KeyCommand.GRANT: grant,
        KeyCommand.LIFETIME: lifetime,
        KeyCommand.HOLDERS: lambda _: _pack(keys.holders()),
        KeyCommand.DROP: drop,
    }


def _granting(argument: bytes) -> "Granting":
    """Return the key to put into force.

    Raises:
        ArgumentError: A part is not what it should be.
    """
    from appliance.dataplane.grants import Granting
    from host_sdk.wire.links.base import SEALED_PEER
    from host_sdk.wire.sealed.keys import MATERIAL_SIZE

    number, peer, material, packed, serial, lifetime_ms = unpack_argument(argument, int, int, bytes, bytes, str, int)
    try:
        grant = Grant.decode(packed)
    except RemoteProtocolError as error:
        raise ArgumentError(str(error)) from None
    if not 0 < number < SEALED_PEER or len(material) != MATERIAL_SIZE:
        raise ArgumentError(f"key {number:#x} with {len(material)} bytes of material")
    if not 0 < len(serial) <= _MAX_SERIAL or not 0 < lifetime_ms <= MAX_LIFETIME_MS:
        raise ArgumentError(f"certificate {serial[:_MAX_SERIAL]!r}, {lifetime_ms} ms")
    return Granting(number, peer, material, grant, serial, lifetime_ms * _NS_PER_MS)


def _pack(value: object) -> bytes:
    packed: bytes = msgpack.packb(value)
    return packed
