"""The memory that a node may take: bounds of the profile, cut so that all of them together stay below a limit.

A profile's bounds are those of the emulated board. In a container whose memory is limited below their sum, a node that
is flooded would be killed before it refuses; so the bounds shrink with the limit, and what is beyond them is BUSY.
"""

import logging
from dataclasses import replace
from pathlib import Path

from appliance.profile import Limits, Profile
from host_sdk.wire.errors import ConfigError

BASE_BYTES = 112 << 20  # of a node and its firmware with their pipelines, before anything waits
LEAST_BYTES = 32 << 20  # for all that waits, so that a few long requests fit
SESSION_BYTES = 18 << 10  # of a session with *once* requests
_LEAST_SESSIONS, _LEAST_REASSEMBLY, _LEAST_MESSAGE = 64, 8 << 20, 1 << 20
_FILES = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_log = logging.getLogger(__name__)


def container_limit(files: tuple[str, ...] = _FILES) -> int | None:
    """Return the memory in bytes that this process's container may take; None where nothing limits it."""
    for file in files:
        try:
            text = Path(file).read_text().strip()
        except OSError:
            continue
        if text.isdecimal() and int(text) < 1 << 48:  # more is how the older of the two says "no limit"
            return int(text)
    return None


def bounded(profile: Profile, queued_bytes: int, mebibytes: int = 0) -> tuple[Profile, int]:
    """Return a profile with bounds for so many MiB, or 0 for the container's limit, and what may wait: see :func:`fit`.

    Raises:
        ConfigError: The limit leaves no room to work in.
    """
    available = mebibytes << 20 if mebibytes else container_limit()
    if available is None:
        return profile, queued_bytes
    limits, queued_bytes = fit(profile.limits, queued_bytes, available)
    return replace(profile, limits=limits), queued_bytes


def fit(limits: Limits, queued_bytes: int, available: int) -> tuple[Limits, int]:
    """Return bounds that stay below a limit in all: as they are where they do, else all cut by the same factor.

    Args:
        limits: The profile's bounds.
        queued_bytes: What the requests that wait for one pipeline may take.
        available: The limit in bytes.

    Returns:
        The bounds, and those of what waits for one pipeline. Of several pipelines one can be full at a time.

    Raises:
        ConfigError: The limit leaves no room to work in.
    """
    room = available - BASE_BYTES
    if room < LEAST_BYTES:
        least = (BASE_BYTES + LEAST_BYTES) >> 20
        raise ConfigError(f"a node needs {least} MiB of memory, and may take {available >> 20}; raise the limit")
    wanted = limits.kept_answers_bytes + limits.reassembly_bytes + limits.sessions * SESSION_BYTES + queued_bytes
    if wanted <= room:
        return limits, queued_bytes
    factor = room / wanted
    reassembly = max(_LEAST_REASSEMBLY, int(limits.reassembly_bytes * factor))
    cut = replace(
        limits,
        sessions=max(_LEAST_SESSIONS, int(limits.sessions * factor)),
        kept_answers_bytes=int(limits.kept_answers_bytes * factor),
        reassembly_bytes=reassembly,
        max_message=max(_LEAST_MESSAGE, min(limits.max_message, reassembly // 2)),
    )
    _log.info("memory: bounds are cut to %d %%, as %d MiB are all there is", int(factor * 100), available >> 20)
    return cut, int(queued_bytes * factor)
