"""Frames that a container captures where this process cannot, streamed here.

The container runs ``napu lab tap`` with nothing but NET_RAW, at the bridge in the engine's own network namespace or at
the interface of a node, and writes a pcap stream; what the kernel dropped on the way it tells at the end.
"""

import contextlib
import json
import select
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any, Final

from docker import DockerClient
from docker.models.containers import Container
from docker.types import LogConfig

from host_sdk.lab.docker.address import image_name
from host_sdk.lab.docker.engine import explained, opened_engine
from host_sdk.lab.docker.node_command import FLASH
from host_sdk.lab.docker.parts import TAP, common_settings, network_name
from host_sdk.lab.ring import Entry
from host_sdk.lab.tap import READY
from host_sdk.wire.errors import LinkError

START_S: Final = 20.0
_STOP_S: Final = 20.0
_CHUNK: Final = 1 << 20
_PIECE: Final = struct.Struct(">BxxxI")  # of an attached stream: 1 standard output or 2 standard error, length
_FILE_HEADER: Final = 24  # of pcap
_RECORD: Final = struct.Struct("=4I")  # of pcap, by the engine's machine: s, ns, captured, length
_SOURCE: Final = 6  # where in a frame its source address is


class StreamRing:
    """Frames out of a container, as :class:`host_sdk.lab.driver.FrameRing` gives them.

    Attributes:
        dropped: Frames that the kernel there had no room for; known at the end.
        resources: What is given back with the ring: the container, the connection, the engine's client.

    Args:
        container: The tap.
        connection: Attached to its output.
        mac: Address of the node at whose cable it is, which tells what goes out; empty at the switch.
    """

    def __init__(self, container: Container, connection: socket.socket, mac: str) -> None:
        self.dropped = 0
        self.resources = contextlib.ExitStack()
        self._container, self._connection = container, connection
        self._mac = bytes.fromhex(mac.replace(":", ""))
        self._stream = bytearray()
        self._frames = bytearray()
        self._told = bytearray()
        self._head = _FILE_HEADER
        self._read = 0
        self._ended = False
        self._total: int | None = None

    def await_listening(self) -> None:
        """Wait until no later frame is missed.

        Raises:
            LinkError: The tap ended instead, or says nothing.
        """
        deadline = time.monotonic() + START_S
        while READY not in self._told:
            left = deadline - time.monotonic()
            if self._ended or left <= 0:
                told = self._told.decode(errors="replace").strip() or "it says nothing"
                raise LinkError(f"the capture did not start: {told}")
            if select.select([self._connection], [], [], left)[0]:
                self._receive()
        self._told.clear()

    def fileno(self) -> int:
        """Return the descriptor that polls readable when frames come."""
        return self._connection.fileno()

    def _receive(self) -> None:
        """Take what has come, in whole pieces."""
        piece = self._connection.recv(_CHUNK)
        self._ended |= not piece
        self._stream += piece
        at = 0
        while len(self._stream) - at >= _PIECE.size:
            kind, length = _PIECE.unpack_from(self._stream, at)
            begin = at + _PIECE.size
            if len(self._stream) < begin + length:
                break
            (self._told if kind == 2 else self._frames).extend(self._stream[begin : begin + length])
            at = begin + length
        del self._stream[:at]

    def entries(self) -> Iterator[tuple[memoryview, list[Entry]]]:
        """Yield the frames that have come: the memory that they are in, and where."""
        while not self._ended and select.select([self._connection], [], [], 0)[0]:
            self._receive()
            yield from self._whole()
        yield from self._whole()

    def _whole(self) -> Iterator[tuple[memoryview, list[Entry]]]:
        at, found = self._head, []
        memory = bytes(self._frames)
        while len(memory) - at >= _RECORD.size:
            seconds, nanoseconds, captured, length = _RECORD.unpack_from(memory, at)
            start = at + _RECORD.size
            if len(memory) < start + captured:
                break
            outgoing = bool(self._mac) and memory[start + _SOURCE : start + 2 * _SOURCE] == self._mac
            found.append(Entry(start, captured, length, seconds * 1_000_000_000 + nanoseconds, outgoing))
            at = start + captured
        if not found:
            return
        del self._frames[:at]
        self._head = 0
        self._read += len(found)
        yield memoryview(memory), found

    def stop(self) -> None:
        """Take no further frames, and wait for those that were taken before.

        Raises:
            LinkError: The tap does not end, or failed.
        """
        if self._total is not None:
            return
        with explained():
            self._container.kill(signal="SIGTERM")
        deadline = time.monotonic() + _STOP_S
        while not self._ended and (left := deadline - time.monotonic()) > 0:
            if select.select([self._connection], [], [], left)[0]:
                self._receive()
        try:
            report = json.loads(self._told)
        except ValueError:
            told = self._told.decode(errors="replace").strip() or "it says nothing"
            raise LinkError(f"the capture failed on the way: {told}") from None
        self._total, self.dropped = report["frames"], report["dropped"]

    def taken(self) -> int:
        """Return how many frames were taken; until :meth:`stop`, how many have come here."""
        return self._read if self._total is None else self._total

    def close(self) -> None:
        """Remove the container, and close the connection to the engine."""
        self.resources.close()


def start_tap(lab: str, container: str, mac: str) -> StreamRing:
    """Begin to capture; when this returns, no later frame is missed.

    Args:
        lab: Name of the lab.
        container: The node at whose cable; empty for the switch.
        mac: Address of that node.

    Raises:
        LinkError: The capture cannot be had.
        EngineError: The engine refuses.
    """
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(opened_engine())
        bridge = f"br-{str(client.networks.get(network_name(lab)).id)[:12]}"
        settings = common_settings(lab, f"tap-{time.monotonic_ns():x}", TAP)
        settings["tmpfs"] |= {FLASH: "size=1m"}  # in place of the volume that the image would make
        settings |= {
            "command": ["napu", "lab", "tap", "any" if container else bridge],
            "network_mode": f"container:{container}" if container else "host",
            "log_config": LogConfig(type="none"),  # or the engine would write every frame to a file as well
            "healthcheck": {"test": ["NONE"]},
        }
        tap = client.containers.create(image_name(), **settings)
        stack.callback(_remove, tap)
        connection = _attached(client, tap)
        stack.callback(connection.close)
        tap.start()
        ring = StreamRing(tap, connection, mac)
        ring.await_listening()
        ring.resources = stack.pop_all()
    return ring


def _attached(client: DockerClient, container: Container) -> socket.socket:
    stream: Any = client.api.attach_socket(str(container.id), params={"stdout": 1, "stderr": 1, "stream": 1})
    connection: socket.socket = getattr(stream, "_sock", stream)
    connection.settimeout(_STOP_S)
    return connection


def _remove(container: Container) -> None:
    with explained():
        container.remove(force=True, v=True)
