"""The manifest of a pipeline: TOML to checked data. What it says of the model is checked when it is compiled."""

import re
import tomllib
from dataclasses import dataclass
from typing import Any, Literal

from host_sdk.wire.errors import ConfigError
from host_sdk.wire.schema import MAX_MESSAGE

MAX_BATCH = 64
MAX_DELAY_US = 1_000_000
MAX_FLOAT = 1e30
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_DESCRIPTION = re.compile(r"[^\n]{0,500}")
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,62}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class StageEntry:
    """One stage as the manifest has it: its kind and its own parameters."""

    kind: str
    parameters: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a pipeline is made of.

    Attributes:
        input_kind: ``image`` (encoded media) or ``tensor`` (raw bytes of one tensor).
        input_dtype: With ``tensor``: numpy's name of its element type; None is the model's own.
        formats: With ``image``: names of the formats taken.
        max_bytes: With ``image``: longest body taken.
        max_pixels: With ``image``: largest image taken.
        max_batch: Most requests that share an invocation.
        max_delay_us: Longest time that a request waits for others to share one.
        sealed: Whether requests have to come sealed; None: as the appliance's access has it.
    """

    name: str
    description: str
    model_file: str
    model_sha256: str
    input_kind: Literal["image", "tensor"]
    input_dtype: str | None
    formats: tuple[str, ...]
    max_bytes: int
    max_pixels: int
    max_batch: int
    max_delay_us: int
    pre: tuple[StageEntry, ...]
    post: tuple[StageEntry, ...]
    sealed: bool | None = None

    def file_names(self) -> set[str]:
        """Return the names of the files that the manifest refers to."""
        stages = (*self.pre, *self.post)
        named = {str(stage.parameters["file"]) for stage in stages if "file" in stage.parameters}
        return {self.model_file, *named}


def _is_number(value: Any) -> bool:
    """Return whether a value is a finite number that float32 can hold."""
    return type(value) in (int, float) and -MAX_FLOAT <= value <= MAX_FLOAT


def _shown(value: Any) -> str:
    """Return a value as a sentence can carry it."""
    try:
        text = repr(value)
    except ValueError:  # Python prints no number of thousands of digits
        return "what it is"
    return text if len(text) <= 80 else f"{text[:77]}..."


class Table:
    """A TOML table whose keys are taken one by one, so that none is overlooked and none is unknown."""

    def __init__(self, data: Any, where: str) -> None:
        if not isinstance(data, dict):
            raise ConfigError(f"{where} must be a table")
        self._data, self._where = dict(data), where

    def text(self, key: str, pattern: re.Pattern[str] | None = None, default: str | None = None) -> str:
        """Take a string, matching the whole pattern if there is one."""
        value = self._data.pop(key, default)
        if not isinstance(value, str) or (pattern and not pattern.fullmatch(value)):
            form = f" of the form {pattern.pattern}" if pattern else ""
            raise ConfigError(f"{self._where}: {key} must be a text{form}, not {_shown(value)}")
        return value

    def number(self, key: str, low: int, high: int, default: int | None = None) -> int:
        """Take a whole number in a range."""
        value = self._data.pop(key, default)
        if type(value) is not int or not low <= value <= high:
            raise ConfigError(f"{self._where}: {key} must be a whole number from {low} to {high}, not {_shown(value)}")
        return value

    def truth(self, key: str) -> bool | None:
        """Take true or false; None where there is neither."""
        value = self._data.pop(key, None)
        if value is not None and not isinstance(value, bool):
            raise ConfigError(f"{self._where}: {key} must be true or false, not {_shown(value)}")
        return value

    def numbers(self, key: str) -> list[float]:
        """Take a list of one to four numbers."""
        value = self._data.pop(key, None)
        if not isinstance(value, list) or not 1 <= len(value) <= 4 or not all(_is_number(entry) for entry in value):
            raise ConfigError(
                f"{self._where}: {key} must be a list of numbers, one for each channel, not {_shown(value)}"
            )
        return [float(entry) for entry in value]

    def texts(self, key: str, known: set[str]) -> tuple[str, ...]:
        """Take a list of texts from a known set."""
        value = self._data.pop(key, None)
        good = isinstance(value, list) and all(isinstance(entry, str) and entry in known for entry in value)
        if not good or not value:
            raise ConfigError(f"{self._where}: {key} must be a list of {', '.join(sorted(known))}, not {_shown(value)}")
        return tuple(value)

    def table(self, key: str, default: dict[str, Any] | None = None) -> "Table":
        """Take a table."""
        return Table(self._data.pop(key, default), f"[{key}]")

    def stages(self, key: str) -> tuple[StageEntry, ...]:
        """Take a list of stages."""
        value = self._data.pop(key, [])
        if not isinstance(value, list) or len(value) > 16:
            raise ConfigError(f"{key} must be a list of at most 16 stages")
        entries = []
        for index, entry in enumerate(value):
            table = Table(entry, f"{key} stage {index + 1}")
            kind = table.text("stage")
            if "file" in table._data:
                table._data["file"] = table.text("file", _FILE)
            entries.append(StageEntry(kind, table.rest()))
        return tuple(entries)

    def rest(self) -> dict[str, Any]:
        """Take all that is left."""
        left, self._data = self._data, {}
        return left

    def finish(self) -> None:
        """Refuse what nobody took."""
        if self._data:
            raise ConfigError(f"{self._where}: unknown: {', '.join(sorted(self._data))}")


def parse_manifest(text: str) -> Manifest:
    """Return the manifest in a TOML text.

    Raises:
        ConfigError: It is no TOML, or something is missing, unknown or out of range; the message says where.
    """
    try:
        root = Table(tomllib.loads(text), "manifest")
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, or a number of too many digits
        raise ConfigError(f"manifest is no TOML: {error}") from None
    model, source, batch = root.table("model"), root.table("input"), root.table("batch", {})
    kind = source.text("kind", re.compile("image|tensor"))
    image = kind == "image"
    manifest = Manifest(
        name=root.text("name", _NAME),
        description=root.text("description", _DESCRIPTION, default=""),
        model_file=model.text("file", _FILE),
        model_sha256=model.text("sha256", _SHA256),
        input_kind="image" if image else "tensor",
        input_dtype=None if image else source.text("dtype", default="") or None,
        formats=source.texts("formats", {"jpeg", "png"}) if image else (),
        max_bytes=source.number("max_bytes", 1, MAX_MESSAGE) if image else 0,
        max_pixels=source.number("max_pixels", 1, 1 << 26) if image else 0,
        max_batch=batch.number("max", 1, MAX_BATCH, 1),
        max_delay_us=batch.number("max_delay_us", 0, MAX_DELAY_US, 0),
        pre=root.stages("pre"),
        post=root.stages("post"),
        sealed=root.truth("sealed"),
    )
    for table in (model, source, batch, root):
        table.finish()
    return manifest
