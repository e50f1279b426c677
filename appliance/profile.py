"""Hardware as data: what a board is made of, how fast and how hungry its parts are, and where its limits lie."""

import tomllib
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any

from host_sdk.wire.errors import ConfigError
from host_sdk.wire.schema import MAX_MESSAGE


@dataclass(frozen=True, slots=True)
class Figure:
    """An assumption about hardware and its reason."""

    value: float
    why: str


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the emulated board; counts, bytes and ms as the names say."""

    sessions: int
    credits: int
    queue_depth: int
    max_message: int
    reassembly_bytes: int
    reassembly_timeout_ms: int
    discovery_per_s: int
    flash_bytes: int
    pipelines: int


_RANGES = {
    "sessions": (1, 65535),
    "credits": (1, 255),
    "queue_depth": (1, 65536),
    "max_message": (65536, MAX_MESSAGE),
    "reassembly_bytes": (1 << 20, 1 << 32),
    "reassembly_timeout_ms": (10, 60_000),
    "discovery_per_s": (1, 100_000),
    "flash_bytes": (1 << 20, 1 << 36),
    "pipelines": (1, 255),
}
_FIGURES = {
    "port": ("rate_gbps", "watts"),
    "image_engine": ("megapixels_per_s", "watts"),
    "vector_engine": ("gigaelements_per_s", "watts"),
    "dla": ("cores", "gigamacs_per_s", "launch_us", "watts"),
    "board": ("idle_watts",),
}


@dataclass(frozen=True, slots=True)
class Profile:
    """One board.

    Attributes:
        figures: Part and property to assumption, for example ``("dla", "watts")``.
        limits: Bounds of memory and count.
    """

    name: str
    description: str
    figures: dict[tuple[str, str], Figure]
    limits: Limits

    def value(self, part: str, name: str) -> float:
        """Return the value of an assumption."""
        return self.figures[part, name].value


def available_profiles() -> list[str]:
    """Return the names of the profiles that ship with the project."""
    return sorted(
        entry.name.removesuffix(".toml")
        for entry in resources.files("appliance.profiles").iterdir()
        if entry.name.endswith(".toml")
    )


def load_profile(name: str) -> Profile:
    """Load a profile by its name, or from a file when the name ends in ``.toml``.

    Raises:
        ConfigError: There is no such profile, or it is wrong; the message says where.
    """
    if name.endswith(".toml"):
        try:
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"profile {name} cannot be read: {error}") from None
    elif name in available_profiles():
        text = (resources.files("appliance.profiles") / f"{name}.toml").read_text(encoding="utf-8")
    else:
        known = ", ".join(available_profiles())
        raise ConfigError(f"no profile is called {name}; there are: {known}, or give a .toml file")
    try:
        return parse_profile(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"profile {name} is no TOML: {error}") from None
    except ConfigError as error:
        raise ConfigError(f"profile {name}: {error}") from None


def parse_profile(data: dict[str, Any]) -> Profile:
    """Check a profile's data.

    Raises:
        ConfigError: Something is missing, unknown or out of range.
    """
    expected = {"name", "description", "limits", *_FIGURES}
    if set(data) != expected:
        wrong = ", ".join(sorted(set(data) ^ expected))
        raise ConfigError(f"missing or unknown: {wrong}")
    figures = {(part, name): _figure(data[part], part, name) for part, names in _FIGURES.items() for name in names}
    names = {entry.name for entry in fields(Limits)}
    if not isinstance(data["limits"], dict) or set(data["limits"]) != names:
        raise ConfigError(f"[limits] needs exactly: {', '.join(sorted(names))}")
    for name, value in data["limits"].items():
        low, high = _RANGES[name]
        if type(value) is not int or not low <= value <= high:
            raise ConfigError(f"limits.{name} must be a whole number from {low} to {high}, not {value!r}")
    return Profile(str(data["name"]), str(data["description"]), figures, Limits(**data["limits"]))


def _figure(table: Any, part: str, name: str) -> Figure:
    entry = table.get(name) if isinstance(table, dict) else None
    if not isinstance(entry, dict) or set(entry) != {"value", "why"}:
        raise ConfigError(f'{part}.{name} must be {{ value = …, why = "…" }}')
    value, why = entry["value"], entry["why"]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
        raise ConfigError(f"{part}.{name}.value must be a positive number, not {value!r}")
    if not isinstance(why, str) or len(why) < 10:
        raise ConfigError(f"{part}.{name}.why must give the source or the reason of the figure")
    return Figure(float(value), why)
