"""What runs first at a port of the switch: ``python -m host_sdk.lab.port --sync-fd N [-- argv…]``.

The process makes a network namespace of its own, waits until the keeper has put a cable into it, sets the
interface up and becomes the node's command; without one it stays, and holds the namespace for the host. On
the socket ``--sync-fd`` the two take turns: the port's PID, ``cable``, ``plugged``, ``go``.
"""

import argparse
import signal
import socket
import sys
from collections.abc import Sequence

from host_sdk.lab import namespace
from host_sdk.lab.enter import execute

INTERFACE = "eth0"  # the far end of every cable
BRIDGE = "br0"  # the switch, in whose namespace the near ends are
CABLE = b"cable"
PLUGGED = b"plugged"
GO = b"go"


def port_name(index: int) -> str:
    """Return what the n-th port of the switch is called, counted from 0."""
    return f"port{index}"


class _KeeperGoneError(Exception):
    """The other end of the socket was closed."""


def _expect(sync: socket.socket, word: bytes) -> None:
    if sync.recv(64) != word:
        raise _KeeperGoneError


def _plug(sync: socket.socket) -> None:
    """Take the port's turns."""
    namespace.unshare(namespace.NEW_NET)
    namespace.silence_ipv6()
    sync.send(b"%d" % namespace.visible_pid())
    _expect(sync, CABLE)
    namespace.raise_interface("lo")
    namespace.raise_interface(INTERFACE)
    sync.send(PLUGGED)
    _expect(sync, GO)


def main(argv: Sequence[str] | None = None) -> int:
    """Become the command; return 1 when the keeper went away before."""
    parser = argparse.ArgumentParser(prog="python -m host_sdk.lab.port", description=__doc__)
    parser.add_argument("--sync-fd", type=int, required=True, help="socket (SOCK_SEQPACKET) to the keeper")
    parser.add_argument("command", nargs="*", help="what the node runs; nothing: hold the namespace")
    arguments = parser.parse_args(argv)
    with socket.socket(fileno=arguments.sync_fd) as sync:
        try:
            _plug(sync)
        except (_KeeperGoneError, ConnectionError):
            return 1
    if arguments.command:
        try:
            execute(arguments.command)
        except OSError as error:
            sys.stderr.write(f"cannot run {arguments.command[0]}: {error}\n")
            return 127
    while True:
        signal.pause()


if __name__ == "__main__":
    sys.exit(main())
