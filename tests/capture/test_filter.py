"""Filters against the same question asked of each frame in plain Python."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from host_sdk.capture.filter import FrameFilter
from host_sdk.capture.frames import CapturedFrames, find_pdus
from host_sdk.capture.heads import udp_heads
from host_sdk.capture.packet import CapturedPacket
from host_sdk.wire.errors import ConfigError
from tests.rig.captures import REQUESTER, RESPONDER
from tests.rig.frames import Pdu

A, B = REQUESTER, RESPONDER
IP_A, IP_B = 0x0A000001 << 16 | 5555, 0x0A000002 << 16 | 34997


def frames(datas: list[bytes]) -> CapturedFrames:
    return CapturedFrames.of([CapturedPacket(0, 0, data, len(data)) for data in datas])


def ethernet(pdu: Pdu, source: bytes = A, destination: bytes = B) -> bytes:
    return destination + source + b"\x88\xb5" + pdu.encode()


def udp(pdu: Pdu) -> bytes:
    raw = pdu.encode()
    head = udp_heads(np.array([IP_A], np.uint64), np.array([IP_B], np.uint64), np.array([len(raw)]))
    return bytes(12) + b"\x08\x00" + head.tobytes() + raw


PDUS = st.builds(
    Pdu,
    opcode=st.sampled_from([0x10, 0x90, 0x01, 0x77]),
    request=st.integers(0, 3),
    session=st.integers(0, 2),
    pipeline=st.integers(256, 258),
    tail=st.sampled_from([0, 16 << 16, 0xFFFF_FFFF]),
)
TERMS: dict[str, Callable[[Pdu], bool]] = {
    "": lambda _: True,
    "opcode=INFER": lambda pdu: pdu.opcode == 0x10,
    "opcode=infer,0x90": lambda pdu: pdu.opcode in (0x10, 0x90),
    "opcode!=RESULT": lambda pdu: pdu.opcode != 0x90,
    "session=1": lambda pdu: pdu.session == 1,
    "request=0x2,3 session!=0": lambda pdu: pdu.request in (2, 3) and pdu.session != 0,
    "status=BUSY": lambda pdu: pdu.opcode & 0x80 > 0 and pdu.status == 16,
    "status!=OK": lambda pdu: pdu.opcode & 0x80 > 0 and pdu.status != 0,
    "pipeline=257 opcode=INFER": lambda pdu: pdu.pipeline == 257 and pdu.opcode == 0x10,
    "peer=02:00:00:00:00:01": lambda _: True,
    "peer=02:00:00:00:00:09": lambda _: False,
    "peer!=10.0.0.1": lambda _: True,
}


@pytest.mark.parametrize("text", TERMS)
@given(pdus=st.lists(PDUS, min_size=1, max_size=20))
def test_a_mask_is_what_each_frame_says(text: str, pdus: list[Pdu]) -> None:
    found = find_pdus(frames([ethernet(pdu) for pdu in pdus]), 1)
    assert FrameFilter.parse(text).mask(found).tolist() == [TERMS[text](pdu) for pdu in pdus]


def test_frames_of_other_protocols_never_pass_and_udp_does() -> None:
    pdu = Pdu(0x10, bytes(20), 1)
    others = [b"", bytes(13), B + A + b"\x08\x06" + bytes(40), B + A + b"\x88\xb5" + bytes(31), udp(pdu)[:60]]
    found = find_pdus(frames([*others, ethernet(pdu), udp(pdu)]), 1)
    assert FrameFilter.parse("").mask(found).tolist() == [False] * 5 + [True, True]
    assert FrameFilter.parse("peer=10.0.0.1").mask(found).tolist() == [False] * 6 + [True]
    assert FrameFilter.parse("peer=10.0.0.1:5555").mask(found).tolist()[-1]
    assert not FrameFilter.parse("peer=10.0.0.1:5556").mask(found).any()
    assert found.headers["request"].tolist()[-2:] == [1, 1]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("opcode", "no term"),
        ("colour=red", "knows no 'colour'"),
        ("opcode=INFR", "no opcode is called INFR"),
        ("status=99999999", "out of range"),
        ("session=x", "a number is wanted"),
        ("session=-1", "out of range"),
        ("peer=nobody", "not a MAC address"),
        ("peer=10.0.0.300", "no IPv4 address"),
        ("request=1,", "a number is wanted"),
        (" ".join(["session=1"] * 17), "at most 16"),
        ("request=" + ",".join(["1"] * 257), "at most 256"),
    ],
)
def test_a_filter_that_is_none_is_a_sentence(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        FrameFilter.parse(text)
