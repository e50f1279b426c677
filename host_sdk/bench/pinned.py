"""Run a command on one core: ``python -m host_sdk.bench.pinned CORE -- argv…``; it ends when its parent does."""

import os
import sys

from host_sdk.lab.enter import execute
from host_sdk.lab.namespace import die_with_parent


def pinned(core: int, command: list[str]) -> list[str]:
    """Return the command line that runs a command on a core."""
    return [sys.executable, "-m", "host_sdk.bench.pinned", str(core), "--", *command]


def main() -> None:
    """Become the command."""
    core, _, *command = sys.argv[1:]
    die_with_parent()
    os.sched_setaffinity(0, {int(core)})
    execute(command)


if __name__ == "__main__":
    main()
