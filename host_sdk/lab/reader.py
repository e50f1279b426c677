"""What values of a lab file may be, as data: they are read, checked, published as JSON Schema and documented by it.

A :class:`Shape` is a mapping with keys that are known. One table of them (:mod:`host_sdk.lab.file_format`) serves the
reader of lab files, the schema that editors check against, and the tables of docs/labs.md, so that none of the three
can say anything else than the others.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

from host_sdk.wire.errors import ConfigError

REQUIRED: Final = object()  # stands where a key has no default
MAX_SHOWN: Final = 60  # characters of a wrong value that an error repeats


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value stands, for whoever has to mend it.

    Attributes:
        where: The way to it through the data, as ``appliances[0]``.
        file: Name of the file; empty when the data came from none.
        line: Line in the file; 0 when it is not known.
    """

    where: str
    file: str = ""
    line: int = 0

    def below(self, container: object, key: str | int) -> "Place":
        """Return the place of an entry of a mapping or a list that stands here."""
        lines: Mapping[object, int] = getattr(container, "lines", {})
        if isinstance(key, int):
            where = f"{self.where}[{key}]"
        else:
            where = key if self.where == "lab" else f"{self.where}.{key}"
        return Place(where, self.file, lines.get(key, self.line))

    def error(self, predicate: str) -> ConfigError:
        """Return the error that what stands here is something, as ``is 'x'; it must be text``."""
        file = f"{self.file}:{self.line}: " if self.line else f"{self.file}: " if self.file else ""
        return ConfigError(f"{file}{self.where} {predicate}")


class Kind(Protocol):
    """What a value may be."""

    def read(self, value: object, place: Place) -> Any:
        """Return the value as the program takes it.

        Raises:
            ConfigError: It is another; the message says where and what is allowed.
        """

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of what :meth:`read` takes."""

    def words(self) -> str:
        """Return in a few words of Markdown what is allowed."""


def shown(value: object) -> str:
    """Return a value as an error repeats it."""
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…"


@dataclass(frozen=True, slots=True)
class Text:
    """Text, of a pattern or out of a few words where there are any.

    Attributes:
        wanted: Says in an error what is allowed.
        pattern: What it has to match as a whole; a regular expression that Python and ECMAScript read alike.
        choices: The words that are allowed.
        longest: Characters that it may have.
    """

    wanted: str = "text (put it in quotes)"
    pattern: str = ""
    choices: tuple[str, ...] = ()
    longest: int = 4096

    def read(self, value: object, place: Place) -> str:
        """Return the text; see :meth:`Kind.read`."""
        if not isinstance(value, str):
            raise place.error(f"is {shown(value)}; it must be text (put it in quotes)")
        if self.choices and value not in self.choices:
            raise place.error(f"is {shown(value)}; give {', '.join(self.choices)}")
        if len(value) > self.longest or (self.pattern and not re.fullmatch(self.pattern, value)):
            raise place.error(f"is {shown(value)}; it must be {self.wanted}")
        return value

    def schema(self) -> dict[str, Any]:
        """Return the schema; see :meth:`Kind.schema`."""
        if self.choices:
            return {"type": "string", "enum": list(self.choices)}
        found: dict[str, Any] = {"type": "string", "maxLength": self.longest}
        # Python's $ also stands before a line feed at the end; with what follows it stands where ECMAScript's does.
        return found | ({"pattern": f"^(?:{self.pattern})$(?!\\n)"} if self.pattern else {})

    def words(self) -> str:
        """Return what is allowed; see :meth:`Kind.words`."""
        return ", ".join(f"`{choice}`" for choice in self.choices) or self.wanted


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number.

    Attributes:
        least: The smallest that is allowed.
        most: The largest.
        unit: What it counts, for errors and tables.
    """

    least: int
    most: int
    unit: str = ""

    def read(self, value: object, place: Place) -> int:
        """Return the number; see :meth:`Kind.read`."""
        # 1.0 is a whole number to JSON Schema; True is none, though it is an int to Python.
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
            raise place.error(f"is {shown(value)}; it must be a whole number")
        if not self.least <= value <= self.most:
            raise place.error(f"is {shown(value)}; give {self.words()}")
        return int(value)

    def schema(self) -> dict[str, Any]:
        """Return the schema; see :meth:`Kind.schema`."""
        return {"type": "integer", "minimum": self.least, "maximum": self.most}

    def words(self) -> str:
        """Return what is allowed; see :meth:`Kind.words`."""
        most = "2^63 - 1" if self.most == (1 << 63) - 1 else str(self.most)
        return f"{self.least} to {most}{f' {self.unit}' if self.unit else ''}"


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list of values of one kind.

    Attributes:
        entry: The kind.
        plural: What they are called, as ``appliances``.
        least: How many there have to be.
        most: How many there may be.
    """

    entry: Kind
    plural: str
    least: int = 0
    most: int = 64

    def read(self, value: object, place: Place) -> tuple[Any, ...]:
        """Return the entries; see :meth:`Kind.read`."""
        if not isinstance(value, Sequence) or isinstance(value, str | bytes):
            raise place.error(f"is {shown(value)}; it must be a list of {self.plural}")
        if not self.least <= len(value) <= self.most:
            raise place.error(f"has {len(value)} {self.plural}; give {self.least} to {self.most}")
        return tuple(self.entry.read(entry, place.below(value, index)) for index, entry in enumerate(value))

    def schema(self) -> dict[str, Any]:
        """Return the schema; see :meth:`Kind.schema`."""
        return {"type": "array", "items": self.entry.schema(), "minItems": self.least, "maxItems": self.most}

    def words(self) -> str:
        """Return what is allowed; see :meth:`Kind.words`."""
        return f"list of {self.least} to {self.most} {self.plural}"


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a shape.

    Attributes:
        name: The key.
        kind: What its value may be.
        meaning: One sentence of Markdown.
        default: What counts when it is left out, as :meth:`Kind.read` gives it; REQUIRED where it may not be.
        default_words: Says that in a table, where the default itself would not.
    """

    name: str
    kind: Kind
    meaning: str
    default: Any = REQUIRED
    default_words: str = ""


@dataclass(frozen=True, slots=True)
class Values:
    """What a mapping of a known shape said.

    Attributes:
        place: Where the mapping stands.
        given: Keys that were there.
    """

    place: Place
    given: frozenset[str]
    _values: Mapping[str, Any] = field(repr=False)

    def __getitem__(self, key: str) -> Any:
        return self._values[key]


@dataclass(frozen=True, slots=True)
class Shape:
    """A mapping with keys that are known.

    Attributes:
        name: What it describes, as ``appliance``.
        keys: Its keys, in the order of the documentation.
    """

    name: str
    keys: tuple[Key, ...]

    def read(self, value: object, place: Place) -> Values:
        """Return the values; see :meth:`Kind.read`."""
        known = [key.name for key in self.keys]
        if not isinstance(value, Mapping):
            raise place.error(f"is {shown(value)}; it must be a mapping with {', '.join(known)}")
        for key in value:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, 1)
                meant = f"did you mean {near[0]}? " if near else ""
                here = replace(place, line=place.below(value, key).line)
                raise here.error(f"has a key {shown(key)}, which is not known; {meant}known are {', '.join(known)}")
        found: dict[str, Any] = {}
        for each in self.keys:
            if each.name in value:
                found[each.name] = each.kind.read(value[each.name], place.below(value, each.name))
            elif each.default is REQUIRED:
                raise place.error(f"has no {each.name}; add it")
            else:
                found[each.name] = each.default
        return Values(place, frozenset(value), found)

    def schema(self) -> dict[str, Any]:
        """Return the schema; see :meth:`Kind.schema`."""
        properties = {key.name: {**key.kind.schema(), "description": key.meaning} for key in self.keys}
        required = [key.name for key in self.keys if key.default is REQUIRED]
        return {
            "type": "object",
            "title": self.name,
            "properties": properties,
            "required": required,
            "additionalProperties": False,
        }

    def words(self) -> str:
        """Return what is allowed; see :meth:`Kind.words`."""
        return f"a mapping, see [{self.name}](#{self.name})"

    def table(self) -> str:
        """Return the table of the keys in Markdown."""
        lines = ["| key | value | left out | meaning |", "| --- | --- | --- | --- |"]
        for key in self.keys:
            left_out = "**required**" if key.default is REQUIRED else key.default_words or f"`{key.default}`"
            lines.append(f"| `{key.name}` | {key.kind.words()} | {left_out} | {key.meaning} |")
        return "\n".join(lines)
