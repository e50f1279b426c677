"""What is fuzzed: each parser as a function of any bytes, which a value or one documented refusal comes of.

``make fuzz`` feeds these functions with inputs that a coverage-guided fuzzer makes up; tests/fuzz/test_targets.py with
their seeds and with mutations of them. Whatever a function raises is a defect.
"""

import contextlib
import io
import json
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import msgpack
import numpy as np

from appliance.board.command import ArgumentError, unpack_argument
from appliance.board.mailbox import decode_letter
from appliance.engines.image import ImageEngine, MediaError, colour, resize
from appliance.pipelines.manifest import parse_manifest
from appliance.pipelines.package import unpack
from firmware.boot.state import decode_state
from firmware.image import read_image, verify_image
from firmware.image.compare import payload_files
from firmware.image.errors import ImageError, TamperedError
from firmware.image.keys import read_certificate
from firmware.image.policy import parse_policy
from firmware.image.tlv import encode_tlvs, read_tlvs
from firmware.services.pipelines import check_package
from host_sdk.capture.frames import CapturedFrames, find_pdus
from host_sdk.capture.pcapng import PcapngReader
from host_sdk.lab.topology import Topology
from host_sdk.wire.errors import (
    BadPipelineError,
    CaptureError,
    ConfigError,
    DeviceError,
    FrameError,
    RemoteProtocolError,
)
from host_sdk.wire.exchange.arrived import Arrived
from host_sdk.wire.exchange.reassembly import Reassembler, ReassemblyLimits
from host_sdk.wire.header import HEADER_DTYPE, classify_headers, decode_header
from host_sdk.wire.message import decode_message, encode_message
from host_sdk.wire.schema import HEADER_SIZE, DropReason, Status
from host_sdk.wire.secure.credentials import Credentials
from tests.firmware.images import GOOD, POLICY, Parts
from tests.fuzz import control, seeds

SMALLEST = 46  # bytes up to which Ethernet pads a PDU
PIECE = struct.Struct(">H")


@dataclass(frozen=True, slots=True)
class Target:
    """One parser.

    Attributes:
        run: Parses any bytes; raises nothing.
        seeds: Returns inputs to begin with, most of which are taken.
    """

    run: Callable[[bytes], None]
    seeds: Callable[[], Sequence[bytes]]


def refusing(parse: Callable[[bytes], object], *refusals: type[Exception]) -> Callable[[bytes], None]:
    """Return a function that parses bytes and takes some exceptions for the answer."""

    def run(data: bytes) -> None:
        try:
            parse(data)
        except refusals as error:
            assert str(error), "a refusal without a word"

    return run


def text_of(parse: Callable[[str], object]) -> Callable[[bytes], object]:
    """Return a parser of a text as one of bytes."""
    return lambda data: parse(data.decode(errors="replace"))


def pieces(data: bytes) -> Iterator[bytes]:
    """Yield parts of an input, each of which stands behind its length of two bytes."""
    at = 0
    while at + PIECE.size <= len(data):
        (length,) = PIECE.unpack_from(data, at)
        at += PIECE.size
        yield data[at : at + length]
        at += length


def joined(parts: Sequence[bytes]) -> bytes:
    """Return what :func:`pieces` takes apart."""
    return b"".join(PIECE.pack(len(part)) + part for part in parts)


def image(data: bytes) -> None:
    try:
        read = read_image(data)
    except ImageError as error:
        assert type(error) is not ImageError
        return
    assert data[: len(read.signed)] == read.signed
    try:
        verify_image(data, POLICY)
    except ImageError as error:
        assert type(error) is not ImageError
        return
    assert data in SIGNED, "an image that nobody has signed"


def tlv(data: bytes) -> None:
    """The first byte says which types are expected."""
    kinds = [kind for kind in range(1, 9) if data[:1] and data[0] >> (kind - 1) & 1]
    try:
        values = read_tlvs(data[1:], kinds, "fuzzed")
    except TamperedError:
        return
    assert encode_tlvs(dict(zip(kinds, values, strict=True))) == data[1:]


def header(data: bytes) -> None:
    """One PDU by itself, and the vectorised check of the same bytes."""
    reason: DropReason | Status = DropReason.ACCEPTED
    try:
        found = decode_header(data, SMALLEST)
    except FrameError as error:
        reason = error.reason
    else:
        assert found.encode() == data[:HEADER_SIZE]
        assert 0 <= found.payload_size <= len(data) - HEADER_SIZE
    padded = data[:HEADER_SIZE].ljust(HEADER_SIZE, b"\0")
    vector = np.frombuffer(padded, HEADER_DTYPE)
    assert classify_headers(vector, np.array([len(data)]), SMALLEST)[0] == reason


def message(data: bytes) -> None:
    """A whole message behind its header, which is made to fit its length."""
    try:
        head = replace(decode_header(data[:HEADER_SIZE] + bytes(1 << 16), 1 << 17), fragment=0)
    except FrameError:
        return
    body = data[HEADER_SIZE:]
    head = replace(head, length=len(body))
    try:
        found = decode_message(head, body)
    except FrameError:
        return
    again, payload = encode_message(found, 0xFFFF)
    assert decode_message(again, payload) == replace(found, header=again)


SIGNED = {GOOD, Parts(payload=b"").image(), Parts(build=b"").image()}
LIMITS = ReassemblyLimits(memory=1 << 16, message=1 << 20, timeout_ns=1000)


def reassembly(data: bytes) -> None:
    """PDUs of two peers, one after the other, with time going on; what is whole has the length that was announced."""
    reassembler = Reassembler(LIMITS)
    now = 0
    for now, pdu in enumerate(pieces(data)):
        try:
            head = decode_header(pdu)
            whole = reassembler.add(now % 2, head, pdu[HEADER_SIZE:], 100 * now)
        except FrameError:
            continue
        assert whole is None or len(whole.payload) == head.length
        assert 0 <= reassembler.memory <= LIMITS.memory
        reassembler.arrived(now % 2, head, 4)
        reassembler.expire(100 * now)
    while (timer := reassembler.next_timer()) is not None:
        assert timer <= 100 * now + LIMITS.total_ns
        reassembler.expire(timer)
    assert (len(reassembler), reassembler.memory) == (0, 0)


def arrived(data: bytes) -> None:
    """The body of a GRANT or RESEND; the first two bytes are how many fragments the message has."""
    fragments = int.from_bytes(data[:2], "big") + 1
    try:
        found = Arrived.decode(data[2:])
    except FrameError:
        return
    assert found.encode()[4:] == data[2:][4:]  # opcode and what is reserved before
    # Not among(): the fuzzer keeps for ever what a comparison of arrays gives.
    assert found.have(fragments).shape == (fragments,)


def package(data: bytes) -> None:
    """What the firmware takes for a package and what the hardware does; a stranger's goes through both."""
    refusing(check_package, BadPipelineError)(data)
    refusing(unpack, ConfigError)(data)


def topology(data: bytes) -> None:
    try:
        mapping = json.loads(data)
    except (ValueError, RecursionError):
        return
    try:
        found = Topology.from_mapping(mapping)
    except ConfigError:
        return
    assert Topology.from_mapping(found.to_mapping()) == found


def credentials(data: bytes) -> None:
    try:
        found = Credentials.decode(data)
        assert Credentials.decode(found.encode()) == found
        found.trust()
        found.context(server=True)
    except ConfigError:
        return


def capture(data: bytes) -> None:
    reader = PcapngReader(io.BytesIO(data))
    with contextlib.suppress(CaptureError):
        packets = list(reader)
        kinds = {packet.interface for packet in packets}
        for kind in kinds:  # whatever was captured, the frames in it are looked for
            frames = CapturedFrames.of([packet for packet in packets if packet.interface == kind])
            find_pdus(frames, reader.interfaces[kind].link_type)


def argument(data: bytes) -> None:
    for kinds in ((str,), (int, bytes), (str, int, int)):
        try:
            values = unpack_argument(data, *kinds)
        except ArgumentError:
            continue
        assert [type(value) for value in values] == list(kinds)


ENGINE = ImageEngine(("JPEG", "PNG"), 1 << 14, (colour("RGB"), resize(8, 8, "bilinear")), (8, 8, 3))

TARGETS: dict[str, Target] = {
    "argument": Target(argument, lambda: [msgpack.packb(values) for values in (["a"], [7, b"x"], ["a", 1, 2])]),
    "arrived": Target(arrived, seeds.arrived),
    "capture": Target(capture, seeds.captures),
    "certificate": Target(refusing(read_certificate, ImageError), seeds.certificates),
    "control": Target(control.plain, seeds.control),
    "credentials": Target(credentials, lambda: [held.encode() for held in control.known().values()]),
    "header": Target(header, seeds.pdus),
    "image": Target(image, lambda: [*seeds.images(), Parts(payload=b"").image(), Parts(build=b"").image()]),
    "letter": Target(refusing(decode_letter, RemoteProtocolError), seeds.letters),
    "manifest": Target(refusing(text_of(parse_manifest), ConfigError), seeds.manifests),
    "media": Target(refusing(ENGINE.decode, MediaError), seeds.media),
    "message": Target(message, seeds.pdus),
    "package": Target(package, seeds.packages),
    "payload": Target(refusing(payload_files, ImageError), seeds.payloads),
    "policy": Target(refusing(text_of(parse_policy), ConfigError), seeds.policies),
    "reassembly": Target(reassembly, lambda: [joined(run) for run in seeds.runs()]),
    "records": Target(lambda data: control.records(pieces(data)), lambda: [joined(run) for run in control.hellos()]),
    "requests": Target(control.requests, lambda: [control.framed(body) for body in seeds.control()]),
    "state": Target(refusing(decode_state, DeviceError), seeds.states),
    "tlv": Target(tlv, lambda: [b"\0", b"\x05" + encode_tlvs({1: b"one", 3: b"three"}), b"\xff"]),
    "topology": Target(topology, seeds.topologies),
}
