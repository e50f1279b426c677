"""Frames of this protocol in a capture, one at a time, with their headers read: a stream in bounded memory."""

from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np

from host_sdk.capture.file import CaptureFile
from host_sdk.capture.frames import CapturedFrames, find_pdus
from host_sdk.capture.node import TAPS
from host_sdk.capture.packet import LINKTYPE_ETHERNET, CapturedPacket, Interface
from host_sdk.capture.pcapng import VERDICT_HARDWARE
from host_sdk.wire.header import Header, classify_headers
from host_sdk.wire.links.ethernet import SMALLEST
from host_sdk.wire.message import message_crc
from host_sdk.wire.schema import CRC_SIZE, HEADER_SIZE, REPLY_BIT, SEAL, UDP_PORT, DropReason, Flag

_CHUNK = 1024  # packets that are looked at together
_CRC, _SEALED = int(Flag.CRC), int(Flag.SEALED)


class Sighting(NamedTuple):
    """A frame of this protocol that passed a point of capture.

    Attributes:
        number: Of the packet in its file, from 1, as Wireshark counts.
        time_ns: When, ns since 1970.
        source: Peer key: MAC address, or IPv4 address << 16 | port.
        destination: The same.
        udp: Whether it came in UDP.
        tap: Within a node: one of TAPS; empty on a wire.
        reason: What the check of its header says; with a verdict of the node, that one.
        frame_bytes: Of the whole frame.
        payload: What was captured of its fragment, without padding, and without seal and tag where it was sealed.
        lost: Frames that the capture lost between the one before at its interface and this.
        version … retry_after: The header; ``deadline`` means something in requests, the last two in replies.
    """

    number: int
    time_ns: int
    source: int
    destination: int
    udp: bool
    tap: str
    reason: DropReason
    frame_bytes: int
    payload: bytes
    lost: int
    version: int
    opcode: int
    flags: int
    session: int
    request: int
    length: int
    pipeline: int
    priority: int
    credits: int
    fragment: int
    fragment_size: int
    deadline: int
    status: int
    retry_after: int

    @property
    def is_reply(self) -> bool:
        """Whether it comes from a responder."""
        return bool(self.opcode & REPLY_BIT)

    @property
    def requester(self) -> int:
        """The end that asks."""
        return self.destination if self.is_reply else self.source

    @property
    def responder(self) -> int:
        """The end that answers."""
        return self.source if self.is_reply else self.destination

    @property
    def fragments(self) -> int:
        """Fragments of its message; of an impossible header 1."""
        return max(1, -(-self.length // self.fragment_size)) if self.fragment_size else 1

    @property
    def header(self) -> Header:
        """Its header as the codec has it."""
        reply = self.is_reply
        return Header(
            *(self.opcode, self.request, self.flags, self.session, self.length, self.pipeline, self.priority),
            *(self.credits, self.fragment, self.fragment_size),
            deadline=0 if reply else self.deadline,
            status=self.status if reply else 0,
            retry_after=self.retry_after if reply else 0,
        )

    @property
    def damaged(self) -> bool:
        """Whether its CRC is wrong; only told of a message of one frame that was captured whole and came unsealed."""
        if self.flags & (_CRC | _SEALED) != _CRC or not CRC_SIZE <= self.length == len(self.payload):
            return False
        crc = int.from_bytes(self.payload[-CRC_SIZE:], "big")
        return message_crc(self.payload[:-CRC_SIZE], self.header) != crc


def tap_of(interface: Interface) -> str:
    """Return at which tap of a node an interface was; empty for one on a wire."""
    tap = interface.name.rpartition(":")[2]
    return tap if ":" in interface.name and tap in TAPS else ""


class Sightings:
    """The sightings in a capture file; iterate it once.

    Args:
        file: The file.
        ports: UDP ports that make a datagram one of this protocol, besides 34997 and those that the file names.

    Attributes:
        packets: Packets that were read so far, those of other protocols among them.
        lost: Of them, what the packets themselves say was lost between them.
    """

    def __init__(self, file: CaptureFile, ports: Collection[int] = ()) -> None:
        named = file.metadata().get("udp_ports", [])
        found = [port for port in named if isinstance(port, int)] if isinstance(named, list) else []
        self._file, self._ports = file, {UDP_PORT, *ports, *(port for port in found if 0 < port < 1 << 16)}
        self.packets = self.lost = 0

    def __iter__(self) -> Iterator[Sighting]:
        """Yield them in the order of the file.

        Raises:
            CaptureError: The file is damaged or cut off; what came before was yielded.
        """
        packets = iter(self._file)
        failure: Exception | None = None

        def caught() -> Iterator[CapturedPacket]:
            """Yield packets up to the first damage, so that those before it in their chunk are not lost with it."""
            nonlocal failure
            try:
                yield from packets
            except Exception as error:  # noqa: BLE001 - it is raised below
                failure = error

        source = caught()
        while chunk := list(islice(source, _CHUNK)):
            first = self.packets + 1
            self.packets += len(chunk)
            self.lost += sum(packet.lost for packet in chunk)
            yield from self._look(chunk, first)
        if failure is not None:
            raise failure

    def _look(self, chunk: list[CapturedPacket], first: int) -> Iterable[Sighting]:
        """Return the sightings among packets, the first of which has this number."""
        interfaces = self._file.interfaces
        types = np.array([interfaces[packet.interface].link_type for packet in chunk])
        taps = {index: tap_of(interfaces[index]) for index in {packet.interface for packet in chunk}}
        found: dict[int, Sighting] = {}
        for link_type in set(types.tolist()):
            where = np.flatnonzero(types == link_type).tolist()
            frames = CapturedFrames.of([chunk[index] for index in where])
            pdus = find_pdus(frames, link_type, self._ports)
            ethernet = link_type == LINKTYPE_ETHERNET
            reasons = classify_headers(pdus.headers, pdus.lengths, SMALLEST if ethernet else 0).tolist()
            if ethernet:  # with UDP in it there is no padding
                reasons = np.where(pdus.udp, classify_headers(pdus.headers, pdus.lengths, 0), reasons).tolist()
            begins = (pdus.starts - frames.starts).tolist()
            columns = zip(where, pdus.sources.tolist(), pdus.destinations.tolist(), pdus.udp.tolist(), strict=True)
            headers = pdus.headers.tolist()
            for row, (index, source, destination, udp) in enumerate(columns):
                if pdus.found[row]:
                    packet, header = chunk[index], headers[row]
                    verdict = packet.verdicts.get(VERDICT_HARDWARE, b"")
                    reason = _reason(verdict, reasons[row], header[2])
                    payload = _payload(packet.data[begins[row] + HEADER_SIZE :], header)
                    found[index] = Sighting(
                        *(first + index, packet.time_ns, source, destination, udp, taps[packet.interface]),
                        *(reason, packet.length, payload, packet.lost),
                        *header,
                    )
        return [found[index] for index in sorted(found)]


def _reason(verdict: bytes, checked: int, flags: int) -> DropReason:
    if len(verdict) == 1 and verdict[0] < len(DropReason):
        return DropReason(verdict[0])
    # A sealed frame is longer than its header says, which is checked when it was opened.
    return DropReason.ACCEPTED if flags & _SEALED and checked == DropReason.TRAILING_BYTES else DropReason(checked)


def _payload(rest: bytes, header: tuple[int, ...]) -> bytes:
    flags, length, fragment, size = header[2], header[5], header[9], header[10]
    begin = SEAL.size if flags & _SEALED else 0
    return rest[begin : begin + max(0, min(size, length - fragment * size))]
