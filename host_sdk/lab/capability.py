"""What labs this machine lets this user have."""

import functools
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from host_sdk.wire.errors import LinkError

_TIMEOUT_S = 30
# What can forbid user namespaces: a file below /proc/sys, the value that forbids, one that allows.
_SWITCHES = (
    ("kernel/unprivileged_userns_clone", "0", "1"),
    ("kernel/apparmor_restrict_unprivileged_userns", "1", "0"),
    ("user/max_user_namespaces", "0", "10000"),
)


@dataclass(frozen=True, slots=True)
class Capability:
    """How labs can be made here.

    Attributes:
        kind: ``root``: with the privileges that this process has; ``userns``: inside an unprivileged user
            namespace; ``none``: not at all.
        reason: One sentence that says why, and with ``none`` what would change it.
    """

    kind: Literal["root", "userns", "none"]
    reason: str


def capability() -> Capability:
    """Find out what is allowed by trying it: a child makes namespaces, a bridge and a veth pair, and ends.

    Tried once in a process; later calls return what the first one found.
    """
    return _capability(os.geteuid())


@functools.cache
def _capability(user: int) -> Capability:
    refusals = []
    if user == 0:
        refusal = _probe("--new")
        if not refusal:
            return Capability("root", "This process is root and may make network namespaces.")
        refusals.append(f"as root: {refusal}")
    refusal = _probe("--new-user")
    if not refusal:
        return Capability("userns", "This user may make network namespaces inside a user namespace.")
    refusals.append(f"in a user namespace: {refusal}")
    return Capability("none", f"The system refuses network namespaces ({'; '.join(refusals)}); {_remedy()}.")


def _probe(option: str) -> str:
    """Return why network namespaces cannot be had in one of the ways of ``enter``; nothing if they can."""
    python = [sys.executable, "-m"]
    command = [*python, "host_sdk.lab.enter", option, "--", *python, "host_sdk.lab.capability"]
    try:
        result = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {_TIMEOUT_S} s"
    if result.returncode == 0:
        return ""
    return (result.stderr.strip().splitlines() or [f"exit status {result.returncode}"])[-1]


def _remedy() -> str:
    for name, forbidden, allowed in _SWITCHES:
        path = Path("/proc/sys", name)
        if path.exists() and path.read_text().strip() == forbidden:
            return f"run as root, or allow user namespaces with 'sysctl {name.replace('/', '.')}={allowed}'"
    return "run as root, and in a container with the capabilities SYS_ADMIN and NET_ADMIN"


def main() -> int:
    """Make what a lab is made of, in the namespaces that this process is in."""
    # Imported here: a machine without pyroute2 shall hear of it in one sentence, from the probe's last line.
    from host_sdk.lab.switch import Switch

    try:
        switch = Switch(1500)
        switch.plug(os.getpid(), "02:00:00:00:00:01", 1500)
        switch.close()
    except LinkError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
