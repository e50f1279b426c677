"""A firmware that tries to get out before it serves; the test puts it in place of firmware/main.py in an image.

Each attempt ends in a line on the console. TARGETS is filled in by the test.
"""
# ruff: noqa: PTH123, PTH208, S606, T201 - written as an attacker would

import ctypes
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

from appliance.board.regmap import (
    ATTEST_ARGUMENT,
    ATTEST_COMMAND,
    ATTEST_DATA,
    ATTEST_RESULT,
    ATTEST_STATUS,
    AttestCommand,
)
from firmware import real_main
from firmware.bus import BusClient
from firmware.ports import CommandPort, FlashStore
from host_sdk.wire.errors import DeviceError

TARGETS: dict[str, str] = {}
ARGUMENTS: list[str] = []
NODE = os.getppid()
LIBC = ctypes.CDLL(None, use_errno=True)


def must(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def fork() -> None:
    for _ in range(200):  # of a bomb that this would be
        if os.fork() == 0:
            signal.pause()


def allocate() -> None:
    held = [bytearray(64 << 20) for _ in range(64)]
    assert held


def in_memory_file() -> None:
    with open(os.memfd_create("hoard"), "wb") as file:
        file.write(bytes(1 << 20))


def udp() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"hello", ("127.0.0.1", int(TARGETS["udp"])))


def abstract() -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("\0" + TARGETS["abstract"])


def mount() -> None:
    LIBC.unshare(0x1002_0000)  # a user and a mount namespace, in which everybody is root
    must(LIBC.mount(b"tmpfs", b"/tmp", b"tmpfs", 0, b""))


def open_files() -> None:
    held: list[int] = []
    try:
        while len(held) < 1000:
            held.append(os.open("/proc/self/fd/0", os.O_PATH))
    finally:
        for descriptor in held:
            os.close(descriptor)


def over_the_bus(attempt: Callable[[BusClient], object]) -> Callable[[], None]:
    """Return an attempt that is refused with an OSError where the hardware refuses."""

    def run() -> None:
        with socket.socket(fileno=os.dup(int(ARGUMENTS[0]))) as bus:
            try:
                attempt(BusClient(bus))
            except DeviceError as error:
                raise PermissionError(str(error)) from None

    return run


def extend(bus: BusClient) -> None:
    """Ring everything at the attestation port but what it has, with something like an event in its window."""
    port = CommandPort(bus, (ATTEST_ARGUMENT, ATTEST_COMMAND, ATTEST_STATUS, ATTEST_RESULT), ATTEST_DATA)
    for code in (*range(300), 0xFFFF_FFFF):
        if code in tuple(AttestCommand):
            continue
        try:
            port.run(code, bytes([2, 0, 0, 0]) + bytes(32))
        except DeviceError:
            continue
        return
    raise PermissionError("no command extends the register")


def steal(bus: BusClient) -> None:
    """Read the key as an object of the flash, under any name."""
    for name in ("DEVICE-KEY", "board/../DEVICE-KEY", "./DEVICE-KEY", "../flash/DEVICE-KEY", "device-key"):
        try:
            FlashStore(bus).read(name, 100)
        except DeviceError:
            continue
        return
    raise PermissionError("no name leads to it")


ATTEMPTS: dict[str, Callable[[], object]] = {
    "file system: read /etc/shadow": lambda: Path("/etc/shadow").read_bytes(),
    "file system: read /etc/passwd": lambda: Path("/etc/passwd").read_bytes(),
    "file system: read the flash": lambda: Path(TARGETS["flash"]).read_bytes(),
    "file system: list the flash": lambda: os.listdir(Path(TARGETS["flash"]).parent),
    "file system: list /": lambda: os.listdir("/"),
    "file system: write to /tmp": lambda: Path(TARGETS["file"]).write_text("here"),
    "file system: write to /dev/shm": lambda: Path("/dev/shm/napu-escape").write_text("here"),
    "file system: make a directory": lambda: Path(TARGETS["file"]).mkdir(),
    "file system: delete": lambda: Path(TARGETS["flash"]).unlink(),
    "file system: run a program": lambda: os.execv("/bin/true", ["true"]),
    "file system: mount": mount,
    "file system: environment of the node": lambda: Path(f"/proc/{NODE}/environ").read_bytes(),
    "file system: memory of the node": lambda: os.open(f"/proc/{NODE}/mem", os.O_RDONLY),
    "file system: memory of the node, to write": lambda: os.open(f"/proc/{NODE}/mem", os.O_RDWR),
    "file system: files of the node": lambda: os.listdir(f"/proc/{NODE}/fd"),
    "file system: trace the node": lambda: must(LIBC.ptrace(16, NODE, 0, 0)),
    "file system: read the device key": lambda: Path(TARGETS["flash"]).with_name("DEVICE-KEY").read_bytes(),
    "attestation: extend the register": over_the_bus(extend),
    "attestation: change its length": over_the_bus(lambda bus: bus.write(ATTEST_RESULT.address, 7)),
    "attestation: read the device key": over_the_bus(steal),
    "attestation: forget boots": over_the_bus(lambda bus: FlashStore(bus).write("board/boots", b"")),
    "attestation: forget the key": over_the_bus(lambda bus: FlashStore(bus).delete("board/device-key")),
    "network: TCP to loopback": lambda: socket.create_connection(("127.0.0.1", int(TARGETS["tcp"])), 5),
    "network: UDP to loopback": udp,
    "network: an abstract Unix socket": abstract,
    "privileges: become root": lambda: os.setresuid(0, 0, 0),
    "privileges: a raw socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
    "signals: kill the node": lambda: os.kill(NODE, signal.SIGKILL),
    "signals: stop the node": lambda: os.kill(NODE, signal.SIGSTOP),
    "processes: fork without end": fork,
    "processes: a program": lambda: subprocess.run(["/bin/true"], check=False),
    "processes: a thread": lambda: threading.Thread(target=signal.pause, daemon=True).start(),
    "limits: allocate without end": allocate,
    "limits: a file in memory": in_memory_file,
    "limits: open files without end": open_files,
}


def main(arguments: list[str]) -> int:
    ARGUMENTS.extend(arguments)
    for name, attempt in ATTEMPTS.items():
        try:
            attempt()
        except (OSError, MemoryError, RuntimeError, subprocess.SubprocessError) as error:
            print(f"attempt {name}: refused, {type(error).__name__}", flush=True)
        else:
            print(f"attempt {name}: DONE", flush=True)
    return real_main.main(arguments)
