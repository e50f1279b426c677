"""Run a command in other namespaces: ``python -m host_sdk.lab.enter WHERE -- argv…``.

``--new``
    In new network and PID namespaces, below a guard. Whatever ends the command, the kernel then kills all
    that it started, even what has left its session; whatever ends the guard ends the command.
``--new-user``
    The same inside a new user namespace, so that no privilege is needed.
``--pid PID``
    In the network namespace of a process, and in its user namespace where that differs.

A module of its own because only a process without threads may change its user namespace, and numpy starts
some: it imports nothing but the standard library.
"""

import argparse
import os
import select
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from host_sdk.lab import namespace

REFUSED = 125  # exit status when the namespaces cannot be had; the command has not run


def execute(argv: Sequence[str]) -> NoReturn:
    """Become a command.

    Raises:
        OSError: It cannot be run.
    """
    os.execvp(argv[0], list(argv))  # noqa: S606 - a shell is what it shall not be


def _start_new(argv: Sequence[str]) -> int:
    """Run a command as the first process of the new PID namespace; return its exit status."""
    guard = os.pidfd_open(os.getpid())
    child = os.fork()
    if child == 0:
        namespace.die_with_parent()
        if select.select([guard], [], [], 0)[0]:  # it died before it could be named as parent to die with
            os._exit(REFUSED)
        execute(argv)
    os.close(guard)

    def forward(number: int, _: FrameType | None) -> None:
        os.kill(child, number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, forward)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code if code >= 0 else 128 - code


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m host_sdk.lab.enter", description=__doc__)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--new", action="store_true", help="in new network and PID namespaces")
    where.add_argument("--new-user", action="store_true", help="the same in a new user namespace")
    where.add_argument("--pid", type=int, help="in the network namespace of this process")
    parser.add_argument("--detach", action="store_true", help="return at once and leave the guard behind")
    parser.add_argument("command", nargs="+", help="what to run, and its arguments")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status, or REFUSED when the namespaces cannot be had."""
    arguments = _parse(argv)
    try:
        if arguments.pid is not None:
            namespace.join(arguments.pid)
            execute(arguments.command)
        if arguments.detach and os.fork():
            return 0
        new = namespace.NEW_NET | namespace.NEW_PID
        if arguments.new_user:
            namespace.unshare_user(new)
        else:
            namespace.unshare(new)
        return _start_new(arguments.command)
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        return REFUSED


if __name__ == "__main__":
    sys.exit(main())
