"""Captures at the switch, whose bridge sees every frame once: the process and its handle.

The process is ``python -m host_sdk.lab.tap`` in the switch's network namespace. It ends, with a complete
file, on SIGTERM and when its owner or the lab ends.
"""

import argparse
import contextlib
import json
import os
import select
import selectors
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, Self

from host_sdk.lab.port import BRIDGE
from host_sdk.lab.process import ProcessIdentity
from host_sdk.lab.ring import ALL_PROTOCOLS, RETIRE_S, Ring
from host_sdk.wire.errors import ClosedError, LinkError
from host_sdk.wire.schema import ETHERTYPE

ANY = "any"  # as an interface
READY = b"listening\n"  # is written when no later frame is missed
_FILE_HEADER = struct.Struct("=IHHiIII")  # magic, version 2.4, zone, accuracy, largest frame, link type
_NANOSECONDS = 0xA1B23C4D  # the magic number of a pcap file with timestamps in ns
_LINKTYPE_ETHERNET = 1
_SNAP = 262144  # tcpdump's own
_DRAIN_TRIES = 50
_START_TIMEOUT_S = 10.0
_STOP_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class TapReport:
    """What became of the frames that crossed the switch.

    Attributes:
        frames: Frames in the file.
        dropped: Frames that the kernel had no room for; they are not in the file.
    """

    frames: int
    dropped: int


class Tap:
    """A running capture; stop it to have the file complete. Also a context manager that stops it.

    Attributes:
        path: The file: pcap with timestamps in ns.
    """

    def __init__(self, path: Path, process: "subprocess.Popen[str]") -> None:
        self.path = path
        self._process = process
        self._report: TapReport | None = None

    @property
    def pid(self) -> int:
        """Number of the process that captures."""
        return self._process.pid

    @classmethod
    def start(cls, path: Path, switch: ProcessIdentity, ethertype: int | None = ETHERTYPE) -> "Tap":
        """Begin to capture; when this returns, no later frame is missed.

        Args:
            path: File to write; an old one is replaced.
            switch: A process in the switch's network namespace, with which the capture ends.
            ethertype: Take only frames of this EtherType; None takes all.

        Raises:
            ClosedError: The switch is gone.
            LinkError: The capture cannot be had.
        """
        ready, ready_writer = os.pipe()
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, ready)
            close_writer = stack.enter_context(contextlib.ExitStack())
            close_writer.callback(os.close, ready_writer)
            lab = stack.enter_context(switch.opened())
            if lab is None:
                raise ClosedError("the lab has ended, so there is no switch to tap; bring it up again")
            owner = os.pidfd_open(os.getpid())
            stack.callback(os.close, owner)
            file = stack.enter_context(path.open("wb"))
            protocol = ALL_PROTOCOLS if ethertype is None else ethertype
            tap = cls(path, _run(switch.pid, protocol, (file.fileno(), ready_writer, owner, lab)))
            close_writer.close()
            listening = select.select([ready], [], [], _START_TIMEOUT_S)[0] and os.read(ready, 1)
        if not listening:
            tap._process.kill()
            raise LinkError(f"the tap did not start: {tap._end()[1]}")
        return tap

    def stop(self) -> TapReport:
        """End the capture and return what it held; a second call returns the same.

        Frames that had crossed the switch before the call are in the file.

        Raises:
            LinkError: The capture failed on the way, or does not end.
        """
        if self._report is None:
            self._process.terminate()
            output, errors = self._end()
            if self._process.returncode != 0:
                raise LinkError(f"the capture to {self.path} failed and is not complete: {errors}")
            self._report = TapReport(**json.loads(output))
        return self._report

    def _end(self) -> tuple[str, str]:
        """Wait for the process; return what it wrote."""
        try:
            output, errors = self._process.communicate(timeout=_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            output, errors = self._process.communicate()
        return output, errors.strip() or "it gave no reason"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _run(switch: int, protocol: int, descriptors: tuple[int, int, int, int]) -> "subprocess.Popen[str]":
    file, ready, owner, lab = descriptors
    python = [sys.executable, "-m"]
    where = [*python, "host_sdk.lab.enter", "--pid", str(switch), "--"]
    tap = [*python, "host_sdk.lab.tap", f"--protocol={protocol}", f"--file-fd={file}", f"--ready-fd={ready}"]
    return subprocess.Popen(
        [*where, *tap, f"--end-fd={owner}", f"--end-fd={lab}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=descriptors,
        start_new_session=True,
    )


def _capture(ring: Ring, file: BinaryIO, stops: selectors.BaseSelector) -> TapReport:
    """Write frames until something to stop at happens; return what was written."""
    written = 0
    while all(key.fileobj is ring for key, _ in stops.select()):
        while (block := ring.read())[0]:
            written += block[0]
            file.write(block[1])
        file.flush()
    ring.stop()
    taken = ring.taken()
    for _ in range(_DRAIN_TRIES):
        while (block := ring.read())[0]:
            written += block[0]
            file.write(block[1])
        if written >= taken:
            break
        time.sleep(RETIRE_S)
    file.flush()
    return TapReport(frames=written, dropped=ring.dropped + taken - written)


def _interface(name: str) -> str:
    """Return the interface of a name; with ANY the first one that is no loopback."""
    return next((each for _, each in socket.if_nameindex() if each != "lo"), name) if name == ANY else name


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m host_sdk.lab.tap", description=__doc__)
    parser.add_argument("--interface", default=BRIDGE, help="interface to capture at")
    parser.add_argument("--protocol", type=int, default=ALL_PROTOCOLS, help="EtherType to take; 3 takes all")
    parser.add_argument("--file-fd", type=int, required=True, help="file to write")
    parser.add_argument("--ready-fd", type=int, required=True, help="pipe that gets a line when it listens")
    parser.add_argument("--end-fd", type=int, action="append", default=[], help="pidfd to end with")
    parser.add_argument("--report-fd", type=int, default=1, help="what gets the report at the end")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Capture until the end; then write the report as JSON."""
    arguments = _parse(argv)
    wake, wake_writer = socket.socketpair()
    wake_writer.setblocking(False)
    signal.set_wakeup_fd(wake_writer.fileno())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: None)  # only so that it wakes the selector
    try:
        ring = Ring(_interface(arguments.interface), arguments.protocol)
    except LinkError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    with os.fdopen(arguments.file_fd, "wb") as file, selectors.DefaultSelector() as selector:
        for source in (ring, wake, *arguments.end_fd):
            selector.register(source, selectors.EVENT_READ)
        file.write(_FILE_HEADER.pack(_NANOSECONDS, 2, 4, 0, 0, _SNAP, _LINKTYPE_ETHERNET))
        file.flush()
        os.write(arguments.ready_fd, READY)
        report = _capture(ring, file, selector)
    with contextlib.suppress(BrokenPipeError):  # the owner is gone; the file is complete all the same
        os.write(arguments.report_fd, json.dumps(asdict(report)).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
