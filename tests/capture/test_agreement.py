"""The faces of the schema against each other: codec, numpy view, scapy layer, dpkt packets and tshark.

The same captures of golden frames and of 10,000 made ones, sound and broken, go through all of them; what each says of
every field of every frame has to be the same.
"""

import random
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from scapy.packet import NoPayload, Padding, Raw

from host_sdk.capture.dpkt_layer import NipReply, Seal, nip_packet
from host_sdk.capture.reader import CapturedPdu, read_capture
from host_sdk.capture.scapy_layer import NIP, SCAPY_NAMES, NIPMessage
from host_sdk.wire.errors import FrameError
from host_sdk.wire.header import HEADER_DTYPE, Header, decode_header, scalar_header
from host_sdk.wire.message import Extension, Message, Trailer, decode_message, encode_message, fragment_frames
from host_sdk.wire.schema import (
    CRC_SIZE,
    HEADER_SIZE,
    MAX_FRAGMENT_SIZE,
    REPLY_BIT,
    REPLY_HEADER,
    REQUEST_HEADER,
    SEAL,
    SEAL_OVERHEAD,
    STAGES,
    TRAILER,
    UDP_PORT,
    DropReason,
    Flag,
    Opcode,
    Status,
)
from tests.rig.dissected import (
    REQUESTER,
    RESPONDER,
    needs_tshark,
    over_ethernet,
    over_udp,
    tshark_fields,
    write_capture,
)
from tests.wire.golden import GOLDEN, SEALED_INFER

FRAMES = 10_000
SMALLEST = 46  # Ethernet's payload
MAPS = (Opcode.OPEN, Opcode.OPENED, Opcode.CONTROL, Opcode.CONTROLLED, Opcode.ANNOUNCE)
KNOWN_BODY = (*MAPS, Opcode.GRANT, Opcode.RESEND, Opcode.SETTLE)
HEADER_FIELDS = list(dict.fromkeys(field.name for field in (*REQUEST_HEADER.fields, *REPLY_HEADER.fields)))
TSHARK_FIELDS = [
    *(f"nip.{name}" for name in HEADER_FIELDS),
    *(f"nip.seal.{field.name}" for field in SEAL.fields),
    *(f"nip.trailer.{field.name}" for field in TRAILER.fields),
    *("nip.extension.type", "nip.extension.size", "nip.extension.value", "nip.extension_block.block_size"),
    *("nip.drop_reason", "nip.crc", "nip.crc.status", "nip.body", "nip.text", "nip.fragment_data", "nip.padding"),
    *("nip.seal.ciphertext", "nip.seal.tag", "nip.malformed", "nip.unknown_flag"),
]


@dataclass(frozen=True)
class Said:
    """What the codec says of a PDU.

    Attributes:
        header: Its fields by name, as the numpy view has them; None where it is shorter.
        reason: Why a receiver drops it; 0 where it does not.
        fragment: Its fragment, if it is taken; of a sealed one the ciphertext with its tag.
        message: The message that it holds whole and in the clear.
        refusal: Why that cannot be taken apart.
    """

    header: dict[str, int] | None
    reason: int = 0
    fragment: bytes = b""
    message: Message | None = None
    refusal: Any = None


def reason_for(pdu: bytes, smallest: int) -> tuple[int, Header | None]:
    sealed = len(pdu) >= HEADER_SIZE and bool(pdu[3] & Flag.SEALED)
    if sealed and len(pdu) < HEADER_SIZE + SEAL_OVERHEAD:
        return DropReason.TRUNCATED, None
    try:
        # Of a sealed frame, what will be there when it is opened: as many bytes less. It is never padded.
        header = decode_header(pdu[: len(pdu) - SEAL_OVERHEAD]) if sealed else decode_header(pdu, smallest)
    except FrameError as error:
        return int(error.reason), None
    return DropReason.ACCEPTED, header


def codec(pdu: bytes, smallest: int) -> Said:
    if len(pdu) < HEADER_SIZE:
        return Said(None, DropReason.TRUNCATED)
    view = np.frombuffer(pdu, HEADER_DTYPE, 1)[0]
    layout = REPLY_HEADER if int(view["opcode"]) & REPLY_BIT else REQUEST_HEADER
    fields = {field.name: int(view[field.name]) for field in layout.fields}
    reason, header = reason_for(pdu, smallest)
    if header is None:
        return Said(fields, reason)
    assert header == scalar_header(view)
    if header.flags & Flag.SEALED:
        return Said(fields, 0, pdu[HEADER_SIZE + SEAL.size : HEADER_SIZE + SEAL_OVERHEAD + header.payload_size])
    fragment = pdu[HEADER_SIZE : HEADER_SIZE + header.payload_size]
    if header.fragments > 1:
        return Said(fields, 0, fragment)
    try:
        return Said(fields, 0, fragment, decode_message(header, fragment))
    except FrameError as error:
        return Said(fields, 0, fragment, None, error.reason)


def check_dpkt(pdu: bytes, said: Said) -> None:
    if said.header is None or said.reason == DropReason.TRUNCATED:
        return
    packet = nip_packet(pdu)
    assert {name: getattr(packet, name) for name in said.header} == said.header
    assert isinstance(packet, NipReply) == bool(said.header["opcode"] & REPLY_BIT)
    if said.reason == 0:
        assert bytes(packet.data.data if isinstance(packet.data, Seal) else packet.data) == said.fragment
        assert bytes(packet) == pdu[: len(bytes(packet))]


def check_scapy(pdu: bytes, said: Said) -> None:
    if said.header is None or said.reason:
        return
    packet = NIP(pdu)
    assert {name: int(getattr(packet, SCAPY_NAMES.get(name, name))) for name in said.header} == said.header
    if said.header["flags"] & Flag.SEALED:
        assert (packet.key, packet.sequence) == struct.unpack_from(SEAL.struct_format, pdu, HEADER_SIZE)
        assert packet[Raw].load == said.fragment
        return
    assert bytes(packet.payload).startswith(said.fragment)
    message = said.message
    if message is None:
        return
    part = packet.payload
    if not said.fragment:
        assert isinstance(part, Padding | NoPayload)
        return
    assert isinstance(part, NIPMessage)
    assert part.body == message.body
    extensions = part.extensions if message.header.flags & Flag.EXTENSION else []
    assert [(each.type, each.value) for each in extensions] == [(each.type, each.value) for each in message.extensions]
    if message.trailer:
        assert [part.trailer.getfieldval(field.name) for field in TRAILER.fields] == trailer_values(message.trailer)


def trailer_values(trailer: Trailer) -> list[int]:
    rest = (trailer.energy_nj, trailer.batch_size, trailer.firmware_epoch, trailer.model_digest)
    return [*trailer.measured_ns, *trailer.modelled_ns, *rest]


def numbers(row: dict[str, str], name: str) -> list[int]:
    return [int(value, 0) for value in row.get(f"nip.{name}", "").split(",") if value]


def check_tshark(row: dict[str, str], pdu: bytes, said: Said) -> None:
    assert numbers(row, "drop_reason") == ([said.reason] if said.reason else [])
    if said.header is None:
        assert "nip.opcode" not in row
        return
    assert {name: numbers(row, name) for name in HEADER_FIELDS if f"nip.{name}" in row} == {
        name: [value] for name, value in said.header.items()
    }
    if said.reason:
        assert row.get("nip.fragment_data", "") == pdu[HEADER_SIZE:].hex()
        return
    padding = len(pdu) - HEADER_SIZE - len(said.fragment)
    if said.header["flags"] & Flag.SEALED:
        seal = [numbers(row, f"seal.{field.name}")[0] for field in SEAL.fields]
        assert tuple(seal) == struct.unpack_from(SEAL.struct_format, pdu, HEADER_SIZE)
        assert row.get("nip.seal.ciphertext", "") + row["nip.seal.tag"] == said.fragment.hex()
    elif padding:
        assert row["nip.padding"] == pdu[-padding:].hex()
    if said.refusal == Status.UNSUPPORTED_FLAG:
        assert "nip.unknown_flag" in row
    elif said.refusal == Status.BAD_CRC:
        assert row.get("nip.crc.status") == "0" or (len(said.fragment) < CRC_SIZE and "nip.malformed" in row)
    elif said.refusal == Status.MALFORMED:
        assert "nip.malformed" in row
    elif said.message is None and not said.header["flags"] & Flag.SEALED:
        assert row.get("nip.fragment_data", "") == said.fragment.hex()
    elif said.message is not None:
        check_tshark_message(row, said.message, said.fragment)


def check_tshark_message(row: dict[str, str], message: Message, payload: bytes) -> None:
    header = message.header
    if header.flags & Flag.CRC:
        assert (row["nip.crc.status"], numbers(row, "crc")) == ("1", [int.from_bytes(payload[-4:], "big")])
    else:
        assert "nip.crc" not in row
    assert numbers(row, "extension.type") == [each.type for each in message.extensions]
    assert numbers(row, "extension.size") == [len(each.value) for each in message.extensions]
    assert row.get("nip.extension.value", "") == ",".join(each.value.hex() for each in message.extensions if each.value)
    values = [number for field in TRAILER.fields for number in numbers(row, f"trailer.{field.name}")]
    assert values == (trailer_values(message.trailer) if message.trailer else [])
    refuses = header.is_reply and not 0xA0 <= header.opcode < 0xC0 and header.status != 0
    if refuses and message.body.isalnum():
        assert row["nip.text"] == message.body.decode("ascii")
    elif not refuses and header.opcode not in KNOWN_BODY:
        assert row.get("nip.body", "") == message.body.hex()


def edgy(chance: random.Random, bits: int) -> int:
    """Return a number of so many bits: often an edge, or a small one."""
    top = (1 << bits) - 1
    return chance.choice((0, 1, top, chance.getrandbits(bits), chance.getrandbits(bits), chance.randrange(64)))


def made_header(chance: random.Random) -> Header:
    opcode = int(chance.choice(tuple(Opcode))) if chance.random() < 0.8 else chance.getrandbits(8)
    reply = bool(opcode & REPLY_BIT)
    return Header(
        opcode,
        edgy(chance, 64),
        flags=chance.getrandbits(4) if chance.random() < 0.8 else edgy(chance, 16),
        session=edgy(chance, 32),
        length=chance.choice((0, 1, 40, 600, edgy(chance, 32))),
        pipeline=edgy(chance, 16),
        priority=edgy(chance, 8),
        credits=edgy(chance, 8),
        fragment=chance.choice((0, 0, edgy(chance, 16))),
        fragment_size=chance.choice((1, 20, 1468, edgy(chance, 16))),
        deadline=0 if reply else edgy(chance, 32),
        status=0 if not reply else chance.choice((0, 0, int(chance.choice(tuple(Status))), edgy(chance, 16))),
        retry_after=edgy(chance, 16) if reply else 0,
    )


def made_message(chance: random.Random) -> list[bytes]:
    header = replace(made_header(chance), length=0, fragment=0)
    size = chance.choice((0, 1, 7, 64, 300))
    body = chance.randbytes(size)
    if header.opcode in MAPS and chance.random() < 0.7:
        body = msgpack.packb({"op": "x", "n": edgy(chance, 32), "list": [1.5, None, b"raw", {"a": True}]})
    elif header.status:
        body = b"".join(chance.choice((b"a", b"Z", b"7")) for _ in range(size))
    extensions = tuple(
        Extension(edgy(chance, 16), chance.randbytes(chance.randrange(20))) for _ in range(chance.choice((0, 0, 1, 3)))
    )
    trailer = None
    if header.is_reply and chance.random() < 0.5:
        stages = [tuple(edgy(chance, 32) for _ in STAGES) for _ in range(2)]
        trailer = Trailer(stages[0], stages[1], edgy(chance, 32), edgy(chance, 16), edgy(chance, 16), edgy(chance, 64))
    fragment_size = chance.choice((40, 1468, 1468, MAX_FRAGMENT_SIZE))
    return list(fragment_frames(*encode_message(Message(header, body, extensions, trailer), fragment_size)))


def made_pdus(chance: random.Random) -> list[bytes]:
    """Return one PDU or several: of a sound message, a damaged one, any header with any bytes behind it, or none."""
    kind = chance.random()
    if kind < 0.5:
        return made_message(chance)
    if kind < 0.6:
        pdu = bytearray(made_message(chance)[0])
        pdu[chance.randrange(len(pdu))] ^= 1 << chance.randrange(8)
        return [bytes(pdu)]
    if kind < 0.7:
        pdu = made_message(chance)[0]
        return [pdu[: chance.randrange(1, len(pdu) + 1)] + chance.randbytes(chance.choice((0, 3, 20)))]
    if kind < 0.8:
        header = made_header(chance)
        flags = header.flags & 0xF | Flag.SEALED
        size = chance.choice((0, 1, 40))
        header = replace(header, flags=flags, length=size, fragment=0, fragment_size=chance.choice((20, 1468)))
        seal = struct.pack(SEAL.struct_format, edgy(chance, 64), edgy(chance, 64))
        return [header.encode() + seal + chance.randbytes(min(size, 20) + chance.choice((16, 16, 15, 17, 36)))]
    if kind < 0.95:
        return [made_header(chance).encode() + chance.randbytes(chance.choice((0, 1, 20, 40, 200)))]
    return [chance.randbytes(chance.randrange(1, 100))]


def framed(pdu: bytes, chance: random.Random) -> bytes:
    """Return a PDU in a frame from either side to the other; on Ethernet short ones are padded, with anything."""
    ends = (REQUESTER, RESPONDER) if chance.random() < 0.5 else (RESPONDER, REQUESTER)
    if chance.random() < 0.5:
        keys = (0x0A000001 << 16 | 50_000, 0x0A000002 << 16 | UDP_PORT)
        return over_udp(pdu, *(keys if ends[0] == REQUESTER else keys[::-1]))
    return over_ethernet(pdu + chance.randbytes(max(0, SMALLEST - len(pdu))), *ends)


def golden_frames() -> list[bytes]:
    pdus = [pdu for golden in GOLDEN for pdu in golden.data] + [SEALED_INFER]
    return [framed(pdu, random.Random(index % 2)) for pdu in pdus for index in range(2)]


def random_frames(seed: int) -> list[bytes]:
    chance = random.Random(seed)
    frames: list[bytes] = []
    while len(frames) < FRAMES:
        pdus = made_pdus(chance)
        chance.shuffle(pdus)
        frames += [framed(pdu, chance) for pdu in pdus]
    return frames[:FRAMES]


def smallest_of(captured: CapturedPdu) -> int:
    return 0 if "." in captured.source else SMALLEST


@pytest.fixture(scope="module", params=["golden", "random"])
def capture(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    frames = golden_frames() if request.param == "golden" else random_frames(20_26)
    timed = [(index * 10_000, frame) for index, frame in enumerate(frames)]
    return write_capture(tmp_path_factory.mktemp("agreement") / "a.pcap", timed)


def test_scapy_dpkt_numpy_and_the_codec_agree_on_every_field_of_every_frame(capture: Path) -> None:
    count = {"taken": 0, "dropped": 0, "messages": 0}
    for captured in read_capture(capture):
        said = codec(captured.pdu, smallest_of(captured))
        count["dropped" if said.reason else "taken"] += 1
        count["messages"] += said.message is not None
        check_dpkt(captured.pdu, said)
        check_scapy(captured.pdu, said)
    assert count["taken"] >= 20
    assert sum(count.values()) - count["messages"] in (FRAMES, len(golden_frames()))
    if count["dropped"]:  # the made ones: enough of each to mean something
        assert min(count.values()) > FRAMES // 10, count


@needs_tshark
@pytest.mark.parametrize("two_pass", [False, True], ids=["one pass", "two passes"])
def test_tshark_and_the_codec_agree_on_every_field_of_every_frame(capture: Path, two_pass: bool) -> None:
    rows = tshark_fields(capture, TSHARK_FIELDS, two_pass=two_pass)
    captured = list(read_capture(capture))
    assert len(rows) == len(captured)
    for number, (row, each) in enumerate(zip(rows, captured, strict=True), 1):
        try:
            check_tshark(row, each.pdu, codec(each.pdu, smallest_of(each)))
        except AssertionError as error:
            raise AssertionError(f"frame {number}, {each.pdu.hex()}, tshark: {row}") from error
