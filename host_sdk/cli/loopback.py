"""Appliances on loopback, for machines that allow no network namespaces."""

import os
import select
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from typing import BinaryIO

from host_sdk.wire.errors import DeviceError, NapuTimeoutError
from host_sdk.wire.schema import UDP_PORT

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 3.0


class LoopbackNodes:
    """Nodes as child processes, each on a loopback address of its own; entering gives their addresses.

    The addresses hold this process's number, so that two demos at once do not meet.

    Args:
        count: Number of nodes, at most 32.
        profile: Their hardware profile.
    """

    def __init__(self, count: int, profile: str) -> None:
        self._count, self._profile = count, profile
        self._stack = ExitStack()

    def __enter__(self) -> list[str]:
        pid = os.getpid()
        hosts = [f"127.{64 + index}.{pid >> 8 & 0xFF}.{pid % 254 + 1}" for index in range(self._count)]
        with ExitStack() as stack:
            started = [(host, *self._start(stack, host)) for host in hosts]
            for host, ready, log in started:
                _await_ready(host, ready, log)
            self._stack = stack.pop_all()
        return [f"{host}:{UDP_PORT}" for host in hosts]

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self, stack: ExitStack, host: str) -> tuple[int, BinaryIO]:
        """Start a node; return the pipe that it announces itself on, and its log."""
        log: BinaryIO = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - the stack is the context manager
        ready, ready_writer = os.pipe()
        stack.callback(os.close, ready)
        # The node holds the reading end and sees it end when this process does, in whatever way.
        owner_reader, owner = os.pipe()
        stack.callback(os.close, owner)
        command = [sys.executable, "-m", "appliance.cli", "--profile", self._profile, "--link", f"udp:{host}"]
        command += ["--access", "open"]
        command += ["--name", host, "--ready-fd", str(ready_writer), "--owner-fd", str(owner_reader)]
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(ready_writer, owner_reader),
                start_new_session=True,
            )
        finally:
            os.close(ready_writer)
            os.close(owner_reader)
        stack.callback(_stop, process)
        return ready, log


def _await_ready(host: str, ready: int, log: BinaryIO) -> None:
    if not select.select([ready], [], [], START_TIMEOUT_S)[0]:
        raise NapuTimeoutError(f"appliance {host} did not serve within {START_TIMEOUT_S:g} s")
    with open(ready, "rb", closefd=False) as pipe:
        announced = pipe.readline()
    if not announced:
        log.seek(0)
        tail = log.read()[-2000:].decode(errors="replace")
        raise DeviceError(f"appliance {host} ended before it served:\n{tail}")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
