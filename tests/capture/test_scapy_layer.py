"""The scapy layer against bytes written by hand and against the codec."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Padding, Raw, fuzz

from host_sdk.capture.scapy_layer import NIP, SCAPY_NAMES, NIPExtension, NIPMessage, NIPTrailer
from host_sdk.wire.errors import FrameError
from host_sdk.wire.header import Header, decode_header
from host_sdk.wire.message import decode_message
from host_sdk.wire.schema import HEADER_SIZE, REPLY_HEADER, REQUEST_HEADER, UDP_PORT, Flag, Opcode, Status
from tests.wire.golden import BUSY, EXTENDED, INFER, RESULT, SEALED_INFER, SESSION

# version 1, INFER, flags CRC|TRAILER, session, request, length 4, pipeline, priority, credits, fragment, size, deadline
REQUEST = bytes.fromhex("01 10 0003 00010002 0000000000000007 00000004 0101 09 00 0000 05b8 000f4240") + b"body"
REPLY = bytes.fromhex("01 90 0000 00010002 0000000000000007 00000000 0101 09 40 0000 ffff 0010 0005")
ETHERNET = bytes.fromhex("026e61707501 026e61707500 88b5")


def test_a_request_is_dissected_field_by_field_and_cut_off_its_padding() -> None:
    frame = Ether(ETHERNET + REQUEST + bytes(10))
    nip = frame[NIP]
    assert (nip.version, nip.opcode, int(nip.flags), nip.session, nip.request) == (1, Opcode.INFER, 3, 0x10002, 7)
    assert (nip.length, nip.pipeline, nip.priority, nip.credits) == (4, 0x101, 9, 0)
    assert (nip.fragment_index, nip.fragment_size, nip.deadline) == (0, 0x5B8, 1_000_000)
    assert str(nip.flags) == "CRC+TRAILER"
    assert frame[NIPMessage].crc == int.from_bytes(b"body", "big")  # of four bytes, all are CRC
    assert frame[Padding].load == bytes(10)


def test_a_reply_has_a_status_in_place_of_a_deadline() -> None:
    nip = Ether(ETHERNET + REPLY)[NIP]
    assert (nip.status, nip.retry_after, nip.credits) == (Status.BUSY, 5, 64)
    assert nip.deadline is None
    assert nip.sprintf("%opcode% %status%") == "RESULT BUSY"


def test_a_sealed_frame_shows_its_header_its_key_and_its_sequence() -> None:
    frame = Ether(ETHERNET + SEALED_INFER + b"more")
    nip = frame[NIP]
    assert (str(nip.flags), nip.opcode, nip.session, nip.length) == ("CRC+TRAILER+SEALED", Opcode.INFER, 0x9F3A0007, 12)
    assert (nip.key, nip.sequence) == (0x1122334455667788, 1)
    assert frame[Raw].load == SEALED_INFER[48:]  # ciphertext and tag
    assert frame[Padding].load == b"more"
    assert NIP(REQUEST).key is None


def test_over_udp_by_either_port() -> None:
    for ports in ({"sport": 4000, "dport": UDP_PORT}, {"sport": UDP_PORT, "dport": 4000}):
        packet = IP(bytes(IP(src="10.0.0.1", dst="10.0.0.2") / UDP(**ports) / NIP(REQUEST)))
        assert packet[NIP].request == 7


def test_answers_matches_replies_to_requests() -> None:
    request, reply = NIP(REQUEST), NIP(REPLY)
    assert reply.answers(request)
    assert reply.hashret() == request.hashret()
    assert not request.answers(reply)
    assert not request.answers(NIP(REQUEST))
    other = NIP(REPLY)
    other.request = 8
    assert not other.answers(request)
    assert other.hashret() != request.hashret()


@pytest.mark.parametrize(
    ("asked", "said", "answers"),
    [
        ("OPEN", "OPENED", True),
        ("CONTROL", "CONTROLLED", True),
        ("INFER", "WORKING", True),
        ("INFER", "GRANT", True),
        ("RESEND", "UNKNOWN", True),
        ("RESEND", "RESULT", True),
        ("CANCEL", "RESULT", True),
        ("SETTLE", "RESULT", False),
        ("OPEN", "RESULT", False),
        ("OPEN", "WORKING", False),
        ("RESULT", "RESULT", False),
    ],
)
def test_which_opcodes_answer_which(asked: str, said: str, answers: bool) -> None:
    session = 0 if asked == "OPEN" else 5
    assert NIP(opcode=said, request=3, session=5).answers(NIP(opcode=asked, request=3, session=session)) == answers
    if session:
        assert not NIP(opcode=said, request=3, session=6).answers(NIP(opcode=asked, request=3, session=session))


def test_what_is_left_out_is_filled_in() -> None:
    """Built from what they say, the golden frames come out to the byte."""
    common = {"session": SESSION, "pipeline": 0x101, "fragment_size": 1468}
    ask = NIP(opcode="INFER", flags="CRC+TRAILER", request=0x0123456789ABCDEF, priority=7, deadline=50_000, **common)
    assert bytes(ask / NIPMessage(body=INFER.body)) == INFER.data[0]
    answer = NIP(opcode="RESULT", flags="CRC+TRAILER", request=0x0123456789ABCDEF, priority=7, credits=64, **common)
    stages = NIPTrailer(RESULT.data[0][-68:-4])
    assert bytes(answer / NIPMessage(body=RESULT.body, trailer=stages)) == RESULT.data[0]
    extended = NIP(opcode="INFER", flags="EXTENSION", request=0x0123456789ABCDF1, **common)
    message = NIPMessage(extensions=[NIPExtension(type=0xFF01, value=b"hello")], body=EXTENDED.body)
    assert bytes(extended / message) == EXTENDED.data[0]
    busy = NIP(
        opcode="RESULT", flags="CRC", request=0x0123456789ABCDF0, session=SESSION, credits=64, fragment_size=1468
    )
    busy.status, busy.retry_after = "BUSY", 25
    assert bytes(busy / NIPMessage()) == BUSY.data[0]


def test_what_is_given_is_kept_however_wrong() -> None:
    pdu = bytes(NIP(flags="CRC", length=9, fragment_size=0) / NIPMessage(body=b"x", crc=5))
    assert pdu[16:20] == (9).to_bytes(4, "big")
    assert pdu[26:28] == bytes(2)
    assert pdu[HEADER_SIZE:] == b"x" + (5).to_bytes(4, "big")


def test_fuzzed_packets_have_valid_sizes_and_right_crcs() -> None:
    random.seed(7)
    refused: Counter[str] = Counter()
    seen = set()
    for _ in range(300):
        pdu = bytes(fuzz(NIP() / NIPMessage()))
        header = decode_header(pdu)  # raises where version, fragment or sizes are wrong
        assert not header.flags & Flag.SEALED
        seen.add((header.opcode, header.request))
        try:
            decode_message(header, pdu[HEADER_SIZE:])
        except FrameError as error:
            refused[str(Status(error.reason).name)] += 1
    assert set(refused) == {"UNSUPPORTED_FLAG"}
    assert 20 < refused["UNSUPPORTED_FLAG"] < 150
    assert len(seen) > 290


@given(st.binary(max_size=120))
def test_any_bytes_are_dissected_and_built_again(data: bytes) -> None:
    frame = ETHERNET + b"\x01\x90\x00\x07" + data
    assert bytes(Ether(frame)) == frame


@given(st.data())
def test_scapy_and_the_codec_agree_on_every_field(data: st.DataObject) -> None:
    layout = data.draw(st.sampled_from([REQUEST_HEADER, REPLY_HEADER]))
    values = {
        field.name: data.draw(st.integers(0, (1 << 8 * field.width) - 1), field.name) for field in layout.fields[3:]
    }
    values |= {"opcode": Opcode.INFER if layout is REQUEST_HEADER else Opcode.RESULT, "length": 0, "fragment": 0}
    values["fragment_size"] = max(1, values["fragment_size"])
    built = bytes(NIP(**{SCAPY_NAMES.get(name, name): value for name, value in values.items()}))
    assert built == Header(**values).encode()
    decoded, dissected = decode_header(built), NIP(built)
    for name in values:
        assert getattr(decoded, name) == dissected.getfieldval(SCAPY_NAMES.get(name, name)), name
