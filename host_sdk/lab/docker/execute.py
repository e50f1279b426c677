"""Run a command in a container: ``python -m host_sdk.lab.docker.execute CONTAINER -- argv…``.

Its output, its input and its exit status are those of the command; at a terminal it has one there as well. The engine
may be anywhere. What NAPU_ variables there are here are there too.
"""

import argparse
import contextlib
import os
import select
import socket
import struct
import sys
import termios
import tty
from collections.abc import Iterator, Sequence
from typing import Any, Final

from docker import DockerClient

from host_sdk.lab.docker.engine import opened_engine
from host_sdk.wire.errors import NapuError

FAILED: Final = 125  # exit status when the command has not run
_HEADER: Final = struct.Struct(">BxxxI")  # of a piece of output: 1 standard output or 2 standard error, length
_PIECE: Final = 65536
_PASSED: Final = "NAPU_"  # variables that begin so are passed on
_KEPT_HERE: Final = frozenset({"NAPU_IMAGE", "NAPU_IDENTITY", "NAPU_CA"})  # names or paths of this machine


def run(client: DockerClient, container: str, command: Sequence[str]) -> int:
    """Run a command in a container; return its exit status.

    Raises:
        docker.errors.APIError: The container is not there, or does not run.
    """
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    environment = {key: value for key, value in os.environ.items() if key.startswith(_PASSED) and key not in _KEPT_HERE}
    made = client.api.exec_create(container, list(command), stdin=True, tty=terminal, environment=environment)
    stream: Any = client.api.exec_start(made["Id"], tty=terminal, socket=True)
    connection: socket.socket = getattr(stream, "_sock", stream)
    connection.setblocking(True)
    with _raw_terminal() if terminal else contextlib.nullcontext():
        _pump(connection, plain=terminal)
    status = client.api.exec_inspect(made["Id"])["ExitCode"]
    return FAILED if status is None else int(status)


def _pump(connection: socket.socket, *, plain: bool) -> None:
    """Pass input there and output back until the output ends."""
    sources: list[Any] = [connection, sys.stdin.fileno()]
    received = b""
    while True:
        ready, _, _ = select.select(sources, [], [])
        if connection in ready:
            piece = connection.recv(_PIECE)
            if not piece:
                return
            received = b"" if plain else _show(received + piece)
            if plain:
                os.write(1, piece)
        if len(ready) > 1 or ready[0] is not connection:
            typed = os.read(sys.stdin.fileno(), _PIECE)
            if typed:
                connection.sendall(typed)
            else:
                sources.remove(sys.stdin.fileno())
                connection.shutdown(socket.SHUT_WR)


def _show(received: bytes) -> bytes:
    """Write the whole pieces of output to where they belong; return the beginning of the next one."""
    while len(received) >= _HEADER.size:
        kind, length = _HEADER.unpack_from(received)
        end = _HEADER.size + length
        if len(received) < end:
            break
        target = sys.stderr if kind == 2 else sys.stdout
        target.buffer.write(received[_HEADER.size : end])
        target.buffer.flush()
        received = received[end:]
    return received


@contextlib.contextmanager
def _raw_terminal() -> Iterator[None]:
    """Let every key go through: the terminal there does what keys are for."""
    before = termios.tcgetattr(0)
    tty.setraw(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status, or FAILED."""
    parser = argparse.ArgumentParser(prog="python -m host_sdk.lab.docker.execute", description=__doc__)
    parser.add_argument("container")
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args(argv)
    try:
        with opened_engine() as client:
            return run(client, arguments.container, arguments.command)
    except NapuError as error:
        sys.stderr.write(f"napu: {error}\n")
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
