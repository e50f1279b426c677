"""What a board takes: the root key in its fuses, and what it says about keys, hardware, counter and time."""

import tomllib
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from firmware.image.format import HARDWARE, MAX_COUNTER
from firmware.image.keys import MAX_SERIAL, KeyKind
from host_sdk.wire.errors import ConfigError

MAX_REVOKED = 1024
ALL_KINDS = frozenset(KeyKind)
HASH_SIZE = 32


@dataclass(frozen=True, slots=True)
class Policy:
    """What a board takes.

    Attributes:
        root_hash: SHA-256 of the root key, as in the board's fuses.
        hardware: Id of the board's hardware.
        lowest_counter: Lowest security counter that is taken.
        revoked: Serial numbers of signing keys that are not taken any more.
        kinds: Kinds of signing keys that are taken.
        now: Seconds since 1970 in UTC, or None where the board has no clock and cannot tell what has expired.
    """

    root_hash: bytes
    hardware: str = HARDWARE
    lowest_counter: int = 0
    revoked: frozenset[int] = frozenset()
    kinds: frozenset[KeyKind] = ALL_KINDS
    now: int | None = None


def parse_policy(text: str) -> Policy:
    """Return the policy in a TOML text: the fields of :class:`Policy` by name, of which root_hash is required.

    ``root_hash`` is hex, ``kinds`` are ``"development"`` and ``"release"``.

    Raises:
        ConfigError: A key is missing, unknown or not of its form.
    """
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"the policy is no TOML: {error}") from None
    unknown = table.keys() - {field.name for field in fields(Policy)}
    if unknown or "root_hash" not in table:
        known = ", ".join(field.name for field in fields(Policy))
        raise ConfigError(f"a policy has root_hash, and may have the others of: {known}; and no other key")
    return Policy(**{key: _READERS[key](value) for key, value in table.items()})


def parse_root_hash(text: Any) -> bytes:
    """Return a root key's hash from 64 hex digits.

    Raises:
        ConfigError: It is none.
    """
    try:
        raw = bytes.fromhex(text)
    except (ValueError, TypeError):
        raw = b""
    if len(raw) != HASH_SIZE:
        raise ConfigError(f"root_hash must be the SHA-256 of the root key, {2 * HASH_SIZE} hex digits")
    return raw


def parse_kind(text: Any) -> KeyKind:
    """Return a kind of keys by its name in small letters.

    Raises:
        ConfigError: There is none of that name.
    """
    for kind in KeyKind:
        if text == kind.name.lower():
            return kind
    raise ConfigError(f"there is no such kind of key; the kinds are {', '.join(kind.name.lower() for kind in KeyKind)}")


def _hardware(value: Any) -> str:
    if not isinstance(value, str):
        raise ConfigError("hardware must be text")
    return value


def _number(key: str, highest: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= highest:
            raise ConfigError(f"{key} must be a number from 0 to {highest}")
        return value

    return read


def _list(key: str, value: Any, most: int) -> list[Any]:
    if not isinstance(value, list) or len(value) > most:
        raise ConfigError(f"{key} must be a list of at most {most}")
    return value


_serial = _number("a serial number in revoked", MAX_SERIAL)
_READERS: dict[str, Callable[[Any], Any]] = {
    "root_hash": parse_root_hash,
    "hardware": _hardware,
    "lowest_counter": _number("lowest_counter", MAX_COUNTER),
    "revoked": lambda value: frozenset(map(_serial, _list("revoked", value, MAX_REVOKED))),
    "kinds": lambda value: frozenset(map(parse_kind, _list("kinds", value, len(KeyKind)))),
    "now": _number("now", 2**63 - 1),
}
