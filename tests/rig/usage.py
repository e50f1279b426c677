"""What processes hold: memory, descriptors, threads; and whether that grows."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import linear_regression
from typing import Final

_GROUPS: Final = Path("/sys/fs/cgroup")
# What a run may add by the slope of all samples after the warm-up, over the time between the first and the last.
ALLOWED: Final = {"memory_kb": 3072.0, "descriptors": 2.0, "threads": 1.0}


@dataclass(frozen=True)
class Usage:
    """What some processes hold together.

    Attributes:
        at_s: When, in monotonic s.
        memory_kb: Anonymous and shared memory, each page by its share: what grows where something leaks. Pages of
            files are left out, whose shares change when another container ends.
        pss_kb: All memory, each page by its share.
        own_kb: Memory that is in no other process (USS).
        descriptors: Open files.
        threads: Threads.
    """

    at_s: float
    memory_kb: int
    pss_kb: int
    own_kb: int
    descriptors: int
    threads: int


def usage(pids: Iterable[int], at_s: float) -> Usage:
    """Return what processes hold.

    Raises:
        OSError: One has ended.
    """
    memory = pss = own = descriptors = threads = 0
    for pid in pids:
        place = Path("/proc", str(pid))
        sums: dict[str, int] = {}
        for line in (place / "smaps_rollup").read_text().splitlines()[1:]:
            name, _, rest = line.partition(":")
            sums[name] = int(rest.split()[0])
        memory += sums["Pss_Anon"] + sums["Pss_Shmem"] + sums["Swap"]
        pss += sums["Pss"]
        own += sums["Private_Clean"] + sums["Private_Dirty"]
        descriptors += len(list((place / "fd").iterdir()))
        threads += len(list((place / "task").iterdir()))
    return Usage(at_s, memory, pss, own, descriptors, threads)


def family(pid: int) -> list[int]:
    """Return a process and all that it has started, whichever of its threads did.

    Raises:
        OSError: It has ended.
    """
    found = [pid]
    for task in Path("/proc", str(pid), "task").iterdir():
        for child in (task / "children").read_text().split():
            try:
                found += family(int(child))
            except OSError:  # it has ended meanwhile
                continue
    return found


def group(pid: int, controller: str) -> tuple[Path, bool]:
    """Return the control group of a process for a controller, and whether it is of version 2.

    Raises:
        OSError: The process has ended, or is in none.
    """
    for line in Path("/proc", str(pid), "cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return _GROUPS / controller / path.lstrip("/"), False
        if not controllers and (unified := _GROUPS / path.lstrip("/")).joinpath("cgroup.controllers").exists():
            return unified, True
    raise OSError(f"process {pid} is in no control group for {controller}")


def group_memory(pid: int) -> int:
    """Return the bytes that the control group of a process has; OSError as :func:`group`."""
    place, unified = group(pid, "memory")
    return int((place / ("memory.current" if unified else "memory.usage_in_bytes")).read_text())


def group_cpu_s(pid: int) -> float:
    """Return the processor time of all that ever ran in the control group of a process; OSError as :func:`group`."""
    place, unified = group(pid, "cpuacct")
    if unified:
        return int((place / "cpu.stat").read_text().split()[1]) / 1e6
    return int((place / "cpuacct.usage").read_text()) / 1e9


@dataclass(frozen=True)
class Growth:
    """How what was held has changed over a run.

    Attributes:
        first: At the end of the warm-up.
        last: At the end.
        added: By the slope of all samples between, per kind.
    """

    first: Usage
    last: Usage
    added: dict[str, float]

    @property
    def over(self) -> list[str]:
        """The kinds of which there is more than allowed."""
        return [kind for kind, most in ALLOWED.items() if self.added[kind] > most]


def growth(samples: Sequence[Usage]) -> Growth:
    """Return the growth over the samples after the warm-up, of which there must be two at least."""
    times = [sample.at_s for sample in samples]
    span = times[-1] - times[0]
    added = {
        kind: linear_regression(times, [float(asdict(sample)[kind]) for sample in samples]).slope * span
        for kind in ALLOWED
    }
    return Growth(samples[0], samples[-1], added)
