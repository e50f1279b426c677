"""Takes values of known kinds out of plain data, as YAML and JSON give it, or says which is wrong."""

from collections.abc import Mapping, Sequence
from typing import NoReturn

from host_sdk.wire.errors import ConfigError


class Reader:
    """Reads one mapping of a lab file.

    Raises:
        ConfigError: The data is not a mapping, or has a key that is not known. So do all methods when the
            value is missing without a default, or of another kind.
    """

    def __init__(self, data: object, where: str, known: Sequence[str]) -> None:
        if not isinstance(data, Mapping):
            raise ConfigError(f"{where}: {data!r} is not a mapping; give one with {', '.join(known)}")
        for key in data:
            if key not in known:
                raise ConfigError(f"{where}: key {key!r} is not known; known are {', '.join(known)}")
        self._data: Mapping[str, object] = data
        self._where = where

    def _take(self, key: str, default: object) -> object:
        value = self._data.get(key, default)
        if value is None:
            raise ConfigError(f"{self._where}: {key} is missing; add it")
        return value

    def _refuse(self, key: str, value: object, kind: str) -> NoReturn:
        raise ConfigError(f"{self._where}: {key} is {value!r}; it must be {kind}")

    def text(self, key: str, default: str | None = None) -> str:
        """Return text."""
        value = self._take(key, default)
        return value if isinstance(value, str) else self._refuse(key, value, "text (put it in quotes)")

    def number(self, key: str, default: int | None = None) -> int:
        """Return a whole number."""
        value = self._take(key, default)
        if not isinstance(value, int) or isinstance(value, bool):
            self._refuse(key, value, "a whole number")
        return value

    def sequence(self, key: str, default: Sequence[object] | None = None) -> Sequence[object]:
        """Return a list of whatever."""
        value = self._take(key, default)
        return value if isinstance(value, list | tuple) else self._refuse(key, value, "a list")

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of text, possibly empty or left out."""
        values = self.sequence(key, ())
        for value in values:
            if not isinstance(value, str):
                self._refuse(key, values, "a list of text (put its entries in quotes)")
        return tuple(str(value) for value in values)

    def mapping(self, key: str) -> object:
        """Return what a reader of its own shall read; an empty mapping when it was left out."""
        return self._take(key, {})
