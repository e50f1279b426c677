"""What a capture asks of an appliance, as batches of frames to send it again, with ids that hold where they go."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from host_sdk.capture.fields import Fields, header_of, unpadded
from host_sdk.capture.file import CaptureFile
from host_sdk.capture.reader import CapturedPdu, pdu_in
from host_sdk.wire.crc import crc32c
from host_sdk.wire.errors import CaptureError
from host_sdk.wire.links.base import BURST
from host_sdk.wire.message import Trailer, crc_of
from host_sdk.wire.schema import CRC_SIZE, HEADER_SIZE, REPLY_BIT, TRAILER, UDP_PORT, Flag, Opcode

MAX_BYTES = 1 << 30  # of the PDUs of a capture that is replayed
_LOW_IDS = (1 << 62) - 1  # the bits above tell kinds of requests apart for some requesters
TOGETHER_NS = 100_000  # an appliance takes at once what came in so short a time
_INNER_TAPS = ("classified", "dla")
_NOT_REPLAYED: dict[int, str] = {Opcode.DISCOVER: "discovery", Opcode.CONTROL: "control"}


@dataclass(frozen=True, slots=True)
class Batch:
    """Frames that reached the appliance at one time.

    Attributes:
        time_ns: When, in ns since 1970.
        frames: Sender and PDU of each.
    """

    time_ns: int
    frames: tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a capture has of one appliance.

    Attributes:
        appliance: Its address, as the capture has it.
        batches: What it was sent, in order.
        replies: Receiver and PDU of what it sent, in order.
        left_out: Frames that are not replayed, by why.
        digests: By pipeline handle, the first 8 bytes of the SHA-256 of the model that its answers name.
    """

    appliance: str
    batches: tuple[Batch, ...]
    replies: tuple[tuple[str, bytes], ...]
    left_out: Counter[str] = field(default_factory=Counter)
    digests: Mapping[int, int] = field(default_factory=dict)

    @property
    def peers(self) -> list[str]:
        """Who sent something, in the order in which they first did."""
        return list(dict.fromkeys(peer for batch in self.batches for peer, _ in batch.frames))

    @property
    def handles(self) -> list[int]:
        """Handles of the pipelines that answered, ascending; where none did, those that requests name."""
        answered: set[int] = set()
        for _, pdu in self.replies:
            header = header_of(pdu)
            if header and header.opcode == Opcode.RESULT and not header.status and header.pipeline not in answered:
                answered |= {header.pipeline} if is_sound(header, pdu) else set()
        if answered:
            return sorted(answered)
        asked = (header_of(pdu) for batch in self.batches for _, pdu in batch.frames)
        return sorted({header.pipeline for header in asked if header and header.opcode == Opcode.INFER})

    @property
    def asked(self) -> set[tuple[str, int, int]]:
        """Peer, session and id of every INFER."""
        headers = ((peer, header_of(pdu)) for batch in self.batches for peer, pdu in batch.frames)
        return {(peer, at.session, at.request) for peer, at in headers if at and at.opcode == Opcode.INFER}

    @property
    def longest(self) -> int:
        """Bytes of the longest PDU."""
        sent = (len(pdu) for batch in self.batches for _, pdu in batch.frames)
        return max(0, max(sent, default=0), max((len(pdu) for _, pdu in self.replies), default=0))


def plan_replay(path: Path, appliance: str = "") -> Plan:
    """Read what a capture has of one appliance; operations of the control plane and sealed frames are left out.

    Frames with one timestamp that follow one another, with nothing from the appliance in between, are one batch, as an
    appliance that writes its own captures takes them. In a capture of an interface every frame has a time of its own:
    there a batch is what came within 100 µs, at the time of the last of them. Which way a frame goes follows from its
    addresses, so that damaged ones are replayed as well.

    Args:
        path: A pcap or pcapng file.
        appliance: Address of the appliance, with its UDP port where it has one; by default that which most requests go
            to, over Ethernet or to the well-known port.

    Raises:
        CaptureError: The file cannot be read, is too large, or has no request.
    """
    _, colon, port = appliance.rpartition(":")
    over_udp = colon and port.isdecimal() and "." in appliance
    left_out: Counter[str] = Counter()
    with CaptureFile(path) as file:
        together_ns = TOGETHER_NS if "capture" in file.metadata() else 0
        pdus = _read(file, path, int(port) if over_udp else UDP_PORT, left_out)
    found = appliance or _find_appliance(pdus)
    if not found or not any(found in (pdu.source, pdu.destination) for pdu in pdus):
        raise CaptureError(f"{path} has no request to {appliance or 'an appliance'} that could be replayed")
    headers = [header_of(pdu.pdu) for pdu in pdus if pdu.destination == found]
    asked = [header for header in headers if header and header.opcode == Opcode.INFER]
    # Else such a flag is damage, and the frame was answered as one that has it.
    sealed = 2 * sum(bool(header.flags & Flag.SEALED) for header in asked) > len(asked)
    taken = _taken(pdus, found, left_out, sealed=sealed)
    batches = tuple(_bursts(taken, together_ns) if together_ns else _batches(taken))
    replies = tuple((pdu.destination, unpadded(pdu.pdu)) for pdu in pdus if pdu.source == found)
    if not batches:
        why = ", ".join(f"{count} {reason}" for reason, count in left_out.items()) or "none"
        raise CaptureError(f"{path} has no frame to {found} that can be replayed; left out: {why}")
    return Plan(found, batches, replies, left_out, _digests(replies))


def _read(file: CaptureFile, path: Path, port: int, left_out: Counter[str]) -> list[CapturedPdu]:
    """Return the PDUs on the wire: of a capture inside a node, not those that its inner taps show once more."""
    pdus, size = [], 0
    for packet in file:
        interface = file.interfaces[packet.interface]
        if interface.name.rpartition(":")[2] in _INNER_TAPS:
            continue
        found = pdu_in(interface.link_type, packet.data, port)
        if found and len(packet.data) < packet.length:
            left_out["cut off"] += 1
        elif found:
            pdus.append(CapturedPdu(packet.time_ns, *found[:2], packet.length, found[2]))
            if (size := size + len(found[2])) > MAX_BYTES:
                raise CaptureError(f"{path} has more than {MAX_BYTES} bytes of frames; cut it with editcap")
    return pdus


def _find_appliance(pdus: Iterable[CapturedPdu]) -> str:
    """Return the address that most requests go to; the well-known port breaks a tie."""
    asked: Counter[str] = Counter()
    for pdu in pdus:
        header = header_of(pdu.pdu)
        if header and not header.is_reply and header.opcode in (Opcode.OPEN, Opcode.INFER):
            asked[pdu.destination] += 1
    return max(asked, key=lambda address: (asked[address], address.endswith(f":{UDP_PORT}")), default="")


def _taken(
    pdus: Iterable[CapturedPdu], appliance: str, left_out: Counter[str], *, sealed: bool
) -> Iterator[CapturedPdu | None]:
    """Yield what the appliance is sent, in order, and None for what comes from it."""
    for pdu in pdus:
        if pdu.source == appliance:
            yield None
        if pdu.destination != appliance:
            continue
        if (reason := _left_out(pdu.pdu, sealed=sealed)) is not None:
            left_out[reason] += 1
        else:
            yield pdu


def _batches(taken: Iterable[CapturedPdu | None]) -> Iterator[Batch]:
    """Yield frames of one time together, if nothing came from the appliance between them."""
    frames: list[tuple[str, bytes]] = []
    time_ns: int | None = None
    answered = False
    for pdu in taken:
        if pdu is None:
            answered = True
            continue
        if frames and (answered or pdu.time_ns != time_ns or len(frames) == BURST):
            yield Batch(time_ns or 0, tuple(frames))
            frames = []
        answered = False
        # Of a file that several threads wrote into, or that was merged, times may go back a little.
        time_ns = max(pdu.time_ns, time_ns or 0) if not frames else time_ns
        frames.append((pdu.source, unpadded(pdu.pdu)))
    if frames:
        yield Batch(time_ns or 0, tuple(frames))


def _bursts(taken: Iterable[CapturedPdu | None], together_ns: int) -> Iterator[Batch]:
    """Yield frames that came within a time together, at the time of the last."""
    frames: list[tuple[str, bytes]] = []
    first = last = 0
    for pdu in taken:
        if pdu is None:
            continue
        if frames and (pdu.time_ns - first > together_ns or len(frames) == BURST):
            yield Batch(last, tuple(frames))
            frames = []
        last = max(pdu.time_ns, last)
        first = first if frames else last
        frames.append((pdu.source, unpadded(pdu.pdu)))
    if frames:
        yield Batch(last, tuple(frames))


def _left_out(pdu: bytes, *, sealed: bool) -> str | None:
    """Return why a frame is not replayed; None where it is."""
    header = header_of(pdu)
    if header is None:
        return None
    return "sealed" if sealed and header.flags & Flag.SEALED else _NOT_REPLAYED.get(header.opcode)


def is_sound(fields: Fields, pdu: bytes) -> bool:
    """Return whether a reply is one that its requester takes, as far as one of its fragments shows it.

    Of a message in one fragment, the CRC is right; the answer to a *once* request has one.
    """
    if not fields.flags & Flag.CRC:
        return not fields.flags & Flag.ONCE
    if fields.fragments > 1:
        return True
    end = HEADER_SIZE + fields.length - CRC_SIZE
    found = int.from_bytes(pdu[end : end + CRC_SIZE], "big")
    return end >= HEADER_SIZE and crc_of(pdu[HEADER_SIZE:end], fields.covered()) == found


def _digests(replies: Iterable[tuple[str, bytes]]) -> dict[int, int]:
    """Return what model the answers of each pipeline name, from sound ones of one frame."""
    found: dict[int, int] = {}
    for _, pdu in replies:
        header = header_of(pdu)
        if header is None or header.opcode != Opcode.RESULT or header.status or header.fragments > 1:
            continue
        end = len(pdu) - (CRC_SIZE if header.flags & Flag.CRC else 0)
        there = header.flags & Flag.TRAILER and header.pipeline not in found and end - TRAILER.size >= HEADER_SIZE
        if there and is_sound(header, pdu):
            found[header.pipeline] = Trailer.decode(pdu[end - TRAILER.size : end]).model_digest
    return found


class Renaming:
    """Puts the ids that hold at one appliance in place of those that held at another, in frames of either direction.

    A message's CRC covers its header, so it is changed along: CRCs are linear, and the difference that a header makes
    is the same whatever the message holds. A message that was damaged stays so.

    Args:
        handles: Pipeline handle to handle.
        shift: What is added to request ids.

    Attributes:
        sessions: Session to session, by the peer that has it.
    """

    def __init__(self, handles: Mapping[int, int], shift: int = 0) -> None:
        self.handles, self.shift = dict(handles), shift
        self.sessions: dict[tuple[str, int], int] = {}
        self._back_handles = {new: old for old, new in self.handles.items()}
        self._back_sessions: dict[tuple[str, int], int] = {}

    def opened(self, peer: str, old: int, new: int) -> None:
        """Note that a session of a peer has another number."""
        self.sessions[peer, old] = new
        self._back_sessions[peer, new] = old

    def request(self, number: int) -> int:
        """Return the id that a request gets."""
        return (number & ~_LOW_IDS) | ((number + self.shift) & _LOW_IDS)

    def there(self, peer: str, pdu: bytes) -> bytes:
        """Return a frame of a peer as it is sent now."""
        return _renamed(pdu, self.sessions, self.handles, peer, self.shift)

    def back(self, peer: str, pdu: bytes) -> bytes:
        """Return a frame for a peer that came now as it would have come then."""
        return _renamed(pdu, self._back_sessions, self._back_handles, peer, -self.shift)


def _renamed(
    pdu: bytes, sessions: Mapping[tuple[str, int], int], handles: Mapping[int, int], peer: str, shift: int
) -> bytes:
    header = header_of(pdu)
    if header is None:
        return pdu
    infers = header.opcode & ~REPLY_BIT == Opcode.INFER
    changed = header._replace(
        session=sessions.get((peer, header.session), header.session),
        request=(header.request & ~_LOW_IDS) | ((header.request + shift) & _LOW_IDS),
        pipeline=handles.get(header.pipeline, header.pipeline) if infers else header.pipeline,
    )
    if changed == header:
        return pdu
    if not header.flags & Flag.CRC:
        return changed.encode() + pdu[HEADER_SIZE:]
    body = bytearray(pdu[HEADER_SIZE:])
    difference = crc32c(header.covered()) ^ crc32c(changed.covered())
    begin = header.length - CRC_SIZE - header.fragment * header.fragment_size
    for index, byte in enumerate(difference.to_bytes(CRC_SIZE, "big")):
        if 0 <= begin + index < header.payload_size:
            body[begin + index] ^= byte
    return changed.encode() + bytes(body)
