"""Walking over hostile msgpack without building what it claims to hold."""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import msgpack

from host_sdk.wire.schema import MAX_MESSAGE

MAX_KEYS = 64
MAX_TEXT = 1 << 20
NESTED = object()  # stands for an array, map or extension, which is never unpacked

# First bytes of maps, arrays and extensions; everything else is one value without parts.
_NESTED_CODES = frozenset({*range(0x80, 0xA0), *range(0xC7, 0xCA), *range(0xD4, 0xD9), *range(0xDC, 0xE0)})
_T = TypeVar("_T")


class MapReader:
    """Reads a msgpack map key by key; memory and time are bounded by the bytes that are really there.

    After every key that :meth:`map_keys` yields, its value must be taken: with :meth:`value`, :meth:`skip` or another
    :meth:`map_keys`. All methods raise ValueError, with the reason, where the bytes are not what is read from them.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._unpacker = msgpack.Unpacker(
            max_buffer_size=max(MAX_MESSAGE, len(data)), max_str_len=MAX_TEXT, max_bin_len=MAX_MESSAGE
        )
        self._unpacker.feed(data)

    def map_keys(self) -> Iterator[str]:
        """Yield the keys of the map that begins here; each must be text, and there are at most MAX_KEYS."""
        count = self._checked(self._unpacker.read_map_header)
        if count > MAX_KEYS:
            raise ValueError(f"{count} keys in a map; at most {MAX_KEYS} are taken")
        for _ in range(count):
            key = self.value()
            if not isinstance(key, str):
                raise ValueError("a key that is no text")
            yield key

    def value(self) -> Any:
        """Return the value that begins here, or NESTED for one that has parts."""
        at = self._unpacker.tell()
        if self._data[at : at + 1] and self._data[at] in _NESTED_CODES:
            self.skip()
            return NESTED
        return self._checked(self._unpacker.unpack)

    def skip(self) -> None:
        """Pass over the value that begins here."""
        self._checked(self._unpacker.skip)

    def end(self) -> None:
        """Check that nothing follows."""
        if self._unpacker.tell() != len(self._data):
            raise ValueError(f"{len(self._data) - self._unpacker.tell()} bytes follow it")

    def _checked(self, read: Callable[[], _T]) -> _T:
        try:
            return read()
        except msgpack.exceptions.OutOfData:
            raise ValueError("it ends early") from None
        except msgpack.exceptions.StackError:
            raise ValueError("it is nested too deeply") from None
        except msgpack.exceptions.FormatError:
            raise ValueError("a byte that is no msgpack") from None
