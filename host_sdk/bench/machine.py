"""Where a benchmark ran: the processor, the kernel, the versions."""

import importlib.metadata
import os
import platform
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

PACKAGES = ("napu", "numpy", "ai-edge-litert")


def describe_machine(cores: tuple[int, int], now: datetime | None = None) -> dict[str, Any]:
    """Return what to know of this machine and what is installed on it.

    Args:
        cores: Of the load and of the server.
        now: The time; by default the present one.
    """
    return {
        "cpu": cpu_name(Path("/proc/cpuinfo").read_text(errors="replace")),
        "cores": os.cpu_count(),
        "load_core": cores[0],
        "server_core": cores[1],
        "memory_mb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "versions": dict(_versions()),
        "load_average": round(os.getloadavg()[0], 2),
        "date": (now or datetime.now(UTC)).isoformat(timespec="seconds"),
    }


def _versions() -> Iterable[tuple[str, str]]:
    for package in PACKAGES:
        try:
            yield package, importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            yield package, "not installed"


def cpu_name(cpuinfo: str) -> str:
    """Return the processor's name from the text of /proc/cpuinfo; the architecture where it has none."""
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()


def choose_cores(allowed: Iterable[int]) -> tuple[int, int]:
    """Return the cores of the load and of the server; one and the same where there is only one."""
    first, *others = sorted(allowed)
    return first, others[0] if others else first
