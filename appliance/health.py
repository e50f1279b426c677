"""``napu-node-health``: asks the node of this machine for one inference, through its own interface.

A program that is run every few seconds, on machines with many nodes: the standard library and msgpack alone, and
what it needs of the protocol is written down here, which a test compares with the schema.
"""

import os
import socket
import struct
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from functools import partial

import msgpack

from host_sdk.wire.links.classic_bpf import answer_filter, open_tap

HEADER = struct.Struct(">BBHIQIHBBHHI")  # a reply's last four bytes: status, retry_after
ETHERTYPE = UDP_PORT = 0x88B5
VERSION, REPLY_BIT = 1, 0x80
DISCOVER, OPEN, CLOSE, INFER = 1, 2, 3, 0x10
OK, BUSY, UNKNOWN_PIPELINE, WRONG_SIZE, UNDECODABLE, TOO_LARGE, NOT_SEALED = 0, 16, 49, 50, 51, 36, 82
UDP_MTU = 1472
FIRST_HANDLE = 0x101  # what the first pipeline after a start gets
EXIT_HEALTHY, EXIT_UNHEALTHY, EXIT_USAGE = 0, 1, 2

_SIOCGIFFLAGS, _SIOCGIFMTU, _SIOCGIFHWADDR = 0x8913, 0x8921, 0x8927
_UP, _ETHERNET = 1, 1
_AGAIN_S = 0.5  # after which a request is sent again
_TIMEOUT_S = 4.0
_MOST_FRAGMENTS = 1 << 16

Address = tuple[str, int]


class UnhealthyError(Exception):
    """The node does not do what it is there for; the message says what failed."""


class Port:
    """A way to the node: PDUs to it, and its PDUs back.

    Attributes:
        place: What it is, for people.
        mtu: Bytes of the longest PDU.
    """

    def __init__(self, place: str, mtu: int, sock: socket.socket, head: bytes, peer: Address | None) -> None:
        self.place, self.mtu = place, mtu
        self._socket, self._head, self._peer = sock, head, peer

    def send(self, pdu: bytes) -> None:
        """Send a PDU.

        Raises:
            OSError: The interface is gone or down.
        """
        if self._peer:
            self._socket.sendto(pdu, self._peer)
        else:
            self._socket.send(self._head + pdu)

    def receive(self, until: float) -> bytes | None:
        """Return the next PDU, or None where none comes before a moment of the monotonic clock."""
        self._socket.settimeout(max(until - time.monotonic(), 0.0001))
        try:
            return self._socket.recv(1 << 16)[len(self._head) :]
        except TimeoutError:
            return None

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()


def packet_port(interface: str) -> Port:
    """Return the way through an interface: as another station behind it, whose frames the node sees leave.

    Raises:
        OSError: The interface is missing or down, is not Ethernet, or CAP_NET_RAW is missing.
    """
    flags, mtu, kind, address = _facts(interface)
    if not flags & _UP or kind != _ETHERNET:
        raise OSError(f"interface {interface} is {'not Ethernet' if flags & _UP else 'down'}")
    own = b"\x02\x4e" + os.urandom(4)  # locally administered
    tap = open_tap(interface, answer_filter(int.from_bytes(own, "big"), ETHERTYPE))
    return Port(f"packet:{interface}", mtu, tap, address + own + ETHERTYPE.to_bytes(2, "big"), None)


def udp_port(host: str = "127.0.0.1", port: int = UDP_PORT) -> Port:
    """Return the way over UDP."""
    return Port(f"udp:{host}:{port}", UDP_MTU, socket.socket(socket.AF_INET, socket.SOCK_DGRAM), b"", (host, port))


def _facts(interface: str) -> tuple[int, int, int, bytes]:
    """Return an interface's flags, MTU, kind of hardware and address."""
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:

        def ask(request: int, layout: str) -> tuple[int, ...]:
            answer = fcntl.ioctl(control, request, struct.pack("16s24x", interface.encode()))
            return struct.unpack_from(layout, answer, 16)

        (flags,), (mtu,) = ask(_SIOCGIFFLAGS, "H"), ask(_SIOCGIFMTU, "i")
        kind, *octets = ask(_SIOCGIFHWADDR, "H6B")
    return flags, mtu, kind, bytes(octets)


def smallest_png() -> bytes:
    """Return a black picture of 8 by 8."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    parts = (b"IHDR", struct.pack(">2I5B", 8, 8, 8, 0, 0, 0, 0)), (b"IDAT", zlib.compress(bytes(72))), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


# Grey, of 8 by 8: tables of quantisation and of Huffman codes with no more in them than the picture needs.
SMALLEST_JPEG = bytes.fromhex(
    "ffd8ffdb004300" + "10" * 64 + "ffc0000b080008000801011100"
    "ffc40014000100000000000000000000000000000000ffc40014100100000000000000000000000000000000"
    "ffda0008010100003f003fffd9"
)


class Asking:
    """Requests to a node, each sent again until it is answered.

    Args:
        port: The way.
        until: When to give up, on the monotonic clock.
    """

    def __init__(self, port: Port, until: float) -> None:
        self._port, self._until = port, until
        self._fragment_size = min(port.mtu, 0xFFFF) - HEADER.size

    def open(self) -> int:
        """Open a session and return it.

        Raises:
            UnhealthyError: There is no answer, or a refusal.
        """
        body = msgpack.packb({"fragment_size": self._fragment_size})
        status, session, detail = self._ask("OPEN", OPEN, body)
        if status != OK:
            raise UnhealthyError(f"OPEN was answered with status {status}: {_text(detail)}")
        return session

    def close(self, session: int) -> None:
        """End a session; whether that arrives does not matter."""
        for pdu in self._pdus(CLOSE, b"", session, 0, self._id()):
            self._port.send(pdu)

    def announce(self, within: float) -> dict[str, object] | None:
        """Return what the node's firmware says of it, or None where it does not."""
        asking = Asking(self._port, min(self._until, time.monotonic() + within))
        try:
            status, _, body = asking._ask("DISCOVER", DISCOVER, b"")
        except UnhealthyError:
            return None
        return dict(msgpack.unpackb(body)) if status == OK else None

    def infer(self, session: int, handle: int, body: bytes) -> tuple[int, str]:
        """Return the status of an inference, and the sentence of a refusal; asked again while it is BUSY.

        Raises:
            UnhealthyError: There is no answer.
        """
        while True:
            status, _, detail = self._ask("an inference", INFER, body, session, handle)
            if status != BUSY or time.monotonic() + _AGAIN_S > self._until:
                return status, _text(detail) if status else ""
            time.sleep(_AGAIN_S / 5)

    @staticmethod
    def _id() -> int:
        return int.from_bytes(os.urandom(8), "big") >> 2 or 1

    def _pdus(self, opcode: int, body: bytes, session: int, handle: int, request: int) -> Iterator[bytes]:
        size = max(self._fragment_size, -(-len(body) // _MOST_FRAGMENTS))
        for index in range(max(1, -(-len(body) // size))):
            place = (session, request, len(body), handle, 0, 0, index, size, 0)
            yield HEADER.pack(VERSION, opcode, 0, *place) + body[index * size : (index + 1) * size]

    def _ask(self, what: str, opcode: int, body: bytes, session: int = 0, handle: int = 0) -> tuple[int, int, bytes]:
        """Return status, session and body of the answer."""
        request, parts = self._id(), dict[int, bytes]()
        while (now := time.monotonic()) < self._until:
            for pdu in self._pdus(opcode, body, session, handle, request):
                self._port.send(pdu)
            while (reply := self._port.receive(min(now + _AGAIN_S, self._until))) is not None:
                if len(reply) < HEADER.size:
                    continue
                _, answered, _, own, id_, length, _, _, _, index, size, last = HEADER.unpack_from(reply)
                if (answered, id_) != (opcode | REPLY_BIT, request) or not size:
                    continue
                parts[index] = reply[HEADER.size :][: max(0, min(size, length - index * size))]
                if sum(map(len, parts.values())) >= length or opcode == INFER:
                    return last >> 16, own, b"".join(part for _, part in sorted(parts.items()))
        raise UnhealthyError(f"no answer to {what} on {self._port.place}")


def _text(detail: bytes) -> str:
    return detail[:512].decode("utf-8", "replace")


def check(port: Port, timeout: float) -> str:
    """Return in a sentence how a node is that answers on a port.

    Raises:
        UnhealthyError: It does not answer, or cannot do an inference.
    """
    begun = time.monotonic()
    asking = Asking(port, begun + timeout)
    announced = asking.announce(timeout / 4)
    session = asking.open()
    try:
        if announced is None:
            told = _try_unknown(asking, session)
            return f"healthy, but its firmware does not answer; {told} on {port.place}"
        told = _try(asking, session, announced)
        return f"healthy: {told} in {(time.monotonic() - begun) * 1e3:.1f} ms on {port.place}"
    finally:
        asking.close(session)


def _try(asking: Asking, session: int, announced: dict[str, object]) -> str:
    """Run the pipeline with the smallest input of those that take frames in the clear."""
    pipelines = announced.get("pipelines")
    pipelines = [dict(entry) for entry in pipelines] if isinstance(pipelines, list) else []
    if not pipelines:
        return "there is no pipeline to try, and sessions open"
    chosen = min(pipelines, key=lambda one: (bool(one.get("sealed")), int(one.get("input_bytes", 0)) or 1 << 12))
    name, size = chosen["name"], int(chosen.get("input_bytes", 0))
    bodies = [bytes(size)] if size else [smallest_png(), SMALLEST_JPEG]
    status, detail = 0, ""
    for body in bodies:
        status, detail = asking.infer(session, int(chosen["handle"]), body)
        if status == OK:
            return f"{name} has answered"
        if status == BUSY:
            return f"{name} is BUSY, which is an answer"
        if status == NOT_SEALED:
            return f"{name} wants sealed frames, so no inference was tried, and says so"
        if status != UNDECODABLE:
            break
    raise UnhealthyError(f"{name} was answered with status {status}: {detail or 'no more is said'}")


def _try_unknown(asking: Asking, session: int) -> str:
    """Ask the first pipeline, as nobody tells which there are."""
    status, detail = asking.infer(session, FIRST_HANDLE, smallest_png())
    if status == OK:
        return "an inference was answered"
    if status in (BUSY, UNKNOWN_PIPELINE, WRONG_SIZE, UNDECODABLE, TOO_LARGE, NOT_SEALED):
        return f"its dataplane answers (status {status}), and which inference to try is not known,"
    raise UnhealthyError(f"an inference was answered with status {status}: {detail or 'no more is said'}")


def ways(link: str) -> list[Callable[[], Port]]:
    """Return the ways that a link's text names: ``packet:IFACE``, ``packet``, ``udp:HOST:PORT``, ``udp``, ``auto``.

    Raises:
        ValueError: It is none of these.
    """
    kind, _, place = link.partition(":")
    found: list[Callable[[], Port]] = []
    if kind in ("auto", "packet", "xdp"):
        names = [place] if place not in ("", "any") else [name for _, name in sorted(socket.if_nameindex())]
        found += [partial(packet_port, name) for name in names if name != "lo"]
    if kind == "udp" or (kind == "auto" and not place):
        host, _, port = place.partition(":") if kind == "udp" else ("", "", "")
        if port and not port.isdecimal():
            raise ValueError(f"{link!r} is not a link: a port is a number")
        host = "127.0.0.1" if host in ("", "0.0.0.0") else host  # noqa: S104 - where a node listens everywhere
        over_udp = partial(udp_port, host, int(port or UDP_PORT))
        # First where somebody has the port: an interface without a node takes until the timeout.
        found.insert(0 if _taken(UDP_PORT) else len(found), over_udp)
    if kind not in ("auto", "packet", "xdp", "udp"):
        raise ValueError(f"{link!r} is not a link; write it as for napu-node")
    return found


def _taken(port: int) -> bool:
    """Return whether a socket of this namespace is bound to a UDP port."""
    try:
        with open("/proc/net/udp", encoding="ascii") as table:  # noqa: PTH123 - pathlib takes longer than all else
            return any(line.split()[1].endswith(f":{port:04X}") for line in table if ":" in line)
    except OSError:
        return False


def look(link: str, timeout: float) -> tuple[int, str]:
    """Return the exit status and the sentence for the node of this machine."""
    failures = []
    for way in ways(link):
        try:
            port = way()
        except OSError as error:
            failures.append(str(error))
            continue
        try:
            return EXIT_HEALTHY, check(port, timeout)
        except (UnhealthyError, OSError) as error:
            failures.append(f"{port.place}: {error}" if isinstance(error, OSError) else str(error))
        finally:
            port.close()
    return EXIT_UNHEALTHY, f"unhealthy: {'; '.join(failures) or 'no Ethernet interface is there'}"


def _arguments() -> tuple[str, float]:
    if not sys.argv[1:]:  # as a container's health check has it: argparse takes as long as all else
        return os.environ.get("NAPU_NODE_LINK", "auto"), _TIMEOUT_S
    import argparse

    parser = argparse.ArgumentParser(
        prog="napu-node-health",
        description="Ask the node of this machine for one inference, through its own interface.",
        epilog="Exit status: 0 healthy, 1 not, 2 wrong arguments.",
    )
    link = "the node's link: packet:IFACE, udp:HOST:PORT; auto tries all interfaces, then UDP (auto)"
    parser.add_argument("--link", default=os.environ.get("NAPU_NODE_LINK", "auto"), help=link)
    parser.add_argument("--timeout", type=float, default=_TIMEOUT_S, help=f"seconds for each way ({_TIMEOUT_S:g})")
    read = parser.parse_args()
    return read.link, read.timeout


def run() -> None:
    """Run ``napu-node-health``."""
    try:
        code, sentence = look(*_arguments())
    except ValueError as error:
        code, sentence = EXIT_USAGE, f"napu-node-health: {error}"
    sys.stdout.write(sentence + "\n")
    raise SystemExit(code)


if __name__ == "__main__":
    run()
