"""The scapy layer against bytes written by hand and against the codec."""

from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Padding, Raw

from host_sdk.capture.scapy_layer import NIP, SCAPY_NAMES
from host_sdk.wire.header import Header, decode_header
from host_sdk.wire.schema import REPLY_HEADER, REQUEST_HEADER, UDP_PORT, Opcode, Status
from tests.wire.golden import SEALED_INFER

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
    assert frame[Raw].load == b"body"
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
    assert not request.answers(reply)
    other = NIP(REPLY)
    other.request = 8
    assert not other.answers(request)


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
