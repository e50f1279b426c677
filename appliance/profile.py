"""Hardware as data: what a board is made of, how fast and how hungry its parts are, and where its limits lie."""

import hashlib
import tomllib
from dataclasses import dataclass, field, fields, replace
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
    """Bounds of the emulated board; counts, bytes, ms and s as the names say.

    Attributes:
        sessions: Sessions that can be open at once.
        credits: Requests that a session may have outstanding.
        session_window: How far the ids of a session's *once* requests that are not settled may lie apart.
        session_fragments: Fragments of a session's requests that may be under way.
        session_idle_s: After so long without use a session ends.
        kept_answers_bytes: Memory for kept answers that are too long for a session's window.
        queue_depth: Requests that can wait for a pipeline.
        queue_wait_ms: No more wait than are served in this time, at the pipeline's present pace.
        max_message: Longest message that is taken.
        reassembly_bytes: Memory of unfinished messages.
        reassembly_timeout_ms: When an unfinished message is given up of which nothing new comes.
        discovery_per_s: DISCOVER queries that are answered in a second.
        flash_bytes: Size of the flash.
        pipelines: Pipelines that can be loaded at once.
    """

    sessions: int
    credits: int
    session_window: int
    session_fragments: int
    session_idle_s: int
    kept_answers_bytes: int
    queue_depth: int
    queue_wait_ms: int
    max_message: int
    reassembly_bytes: int
    reassembly_timeout_ms: int
    discovery_per_s: int
    flash_bytes: int
    pipelines: int


_RANGES = {
    "sessions": (1, 65535),
    "credits": (1, 255),
    "session_window": (1, 1024),
    "session_fragments": (1, 65535),
    "session_idle_s": (60, 86_400),
    "kept_answers_bytes": (0, 1 << 36),
    "queue_depth": (1, 65536),
    "queue_wait_ms": (1, 60_000),
    "max_message": (65536, MAX_MESSAGE),
    "reassembly_bytes": (1 << 20, 1 << 32),
    "reassembly_timeout_ms": (10, 60_000),
    "discovery_per_s": (1, 100_000),
    "flash_bytes": (1 << 20, 1 << 36),
    "pipelines": (1, 255),
}
MAX_TENANTS = 64
MAX_TENANT_NAME = 64  # bytes of UTF-8
MAX_WEIGHT = 1000
MAX_CELSIUS = 1000
_FIGURES = {
    "port": ("rate_gbps", "watts"),
    "image_engine": ("megapixels_per_s", "watts"),
    "vector_engine": ("gigaelements_per_s", "watts"),
    "dla": ("cores", "gigamacs_per_s", "launch_us", "watts"),
    "board": ("idle_watts",),
    "thermal": ("ambient_c", "resistance_k_per_w", "capacity_j_per_k", "limit_c", "resume_c", "throttled_percent"),
}


@dataclass(frozen=True, slots=True)
class Profile:
    """One board.

    Attributes:
        figures: Part and property to assumption, for example ``("dla", "watts")``.
        limits: Bounds of memory and count.
        tenants: Name to weight of those who share the board; all others are one more, ``default``.
        digest: SHA-256 of the text that it was read from, 32 bytes; empty where it was made otherwise.
    """

    name: str
    description: str
    figures: dict[tuple[str, str], Figure]
    limits: Limits
    tenants: dict[str, int] = field(default_factory=dict)
    digest: bytes = b""

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
        return replace(parse_profile(tomllib.loads(text)), digest=hashlib.sha256(text.encode()).digest())
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
    if set(data) - {"tenants"} != expected:
        wrong = ", ".join(sorted(set(data) - {"tenants"} ^ expected))
        raise ConfigError(f"missing or unknown: {wrong}")
    figures = {(part, name): _figure(data[part], part, name) for part, names in _FIGURES.items() for name in names}
    _check_thermal({name: figures["thermal", name].value for name in _FIGURES["thermal"]})
    limits, tenants = _limits(data["limits"]), _tenants(data.get("tenants", {}))
    return Profile(str(data["name"]), str(data["description"]), figures, limits, tenants)


def _check_thermal(value: dict[str, float]) -> None:
    if not value["ambient_c"] < value["resume_c"] < value["limit_c"] <= MAX_CELSIUS:
        raise ConfigError(f"thermal.ambient_c, resume_c and limit_c must rise, to at most {MAX_CELSIUS}")
    if not 1 <= value["throttled_percent"] <= 100 or value["throttled_percent"] % 1:
        raise ConfigError("thermal.throttled_percent.value must be a whole number from 1 to 100")


def _limits(table: Any) -> Limits:
    names = {entry.name for entry in fields(Limits)}
    if not isinstance(table, dict) or set(table) != names:
        raise ConfigError(f"[limits] needs exactly: {', '.join(sorted(names))}")
    for name, value in table.items():
        low, high = _RANGES[name]
        if type(value) is not int or not low <= value <= high:
            raise ConfigError(f"limits.{name} must be a whole number from {low} to {high}, not {value!r}")
    limits = Limits(**table)
    window = limits.session_window
    if window & (window - 1) or window < limits.credits:
        raise ConfigError(f"limits.session_window must be a power of two, at least limits.credits, not {window}")
    return limits


def _tenants(table: Any) -> dict[str, int]:
    if not isinstance(table, dict) or len(table) > MAX_TENANTS:
        raise ConfigError(f"[tenants] must be a table of at most {MAX_TENANTS} names; take some out")
    weights = {}
    for name, entry in table.items():
        if not 0 < len(name.encode()) <= MAX_TENANT_NAME:
            raise ConfigError(f"a tenant's name must be of 1 to {MAX_TENANT_NAME} bytes, not {name!r}")
        weight = entry.get("weight") if isinstance(entry, dict) and len(entry) == 1 else None
        if type(weight) is not int or not 1 <= weight <= MAX_WEIGHT:
            raise ConfigError(f"tenants.{name} must be {{ weight = … }}, a whole number from 1 to {MAX_WEIGHT}")
        weights[name] = weight
    return weights


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
