"""What is read from a capture for its replay, and how ids are put in place of others."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host_sdk.capture.answers import compare, gather_answers, tally
from host_sdk.capture.fields import header_of
from host_sdk.capture.frames import CapturedFrames
from host_sdk.capture.packet import CapturedPacket, Interface
from host_sdk.capture.replay import Renaming, plan_replay
from host_sdk.capture.replayer import Replayer, match_handles
from host_sdk.capture.tapped import PcapWriter
from host_sdk.capture.writer import CaptureWriter, Target
from host_sdk.wire.errors import CaptureError, FrameError
from host_sdk.wire.header import Header, decode_header
from host_sdk.wire.message import covered_header
from tests.rig.frames import BAD_CRC, CONTROL, CRC_FLAG, DISCOVER, INFER, OPEN, REPLY, Pdu, decode, message

DEVICE, ONE, TWO = 0x0200_0000_0001, 0x0200_0000_0002, 0x0200_0000_0003
NAME, FIRST, SECOND = "02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:03"
SESSION, PIPELINE = 0x1234_0001, 0x0101
WORKING = 0xA0
SEALED_FLAG = 0x10
EPOCH = 1_700_000_000_000_000_000


def infer(number: int, body: bytes = b"body", **fields: int) -> Pdu:
    return Pdu(INFER, body, number, **{"flags": CRC_FLAG, "session": SESSION, "pipeline": PIPELINE, **fields})


def result(number: int, body: bytes = b"answer", status: int = 0, **fields: int) -> Pdu:
    shown = {"flags": CRC_FLAG, "session": SESSION, "pipeline": PIPELINE, "tail": status << 16, **fields}
    return Pdu(INFER | REPLY, body, number, **shown)


def write(path: Path, *frames: tuple[int, int, int, bytes], udp: bool = False) -> Path:
    writer = PcapWriter(path, udp=udp)
    for time_us, source, destination, pdu in frames:
        writer.write(EPOCH + time_us * 1000, source, destination, pdu)
    writer.close()
    return path


def single(pdu: Pdu) -> bytes:
    (frame,) = message(pdu)
    return frame


@given(st.binary(min_size=28, max_size=90), st.sampled_from(list(range(28))), st.integers(0, 255))
def test_fields_are_those_of_the_codec(junk: bytes, at: int, value: int) -> None:
    good = single(infer(1, junk[:40], fragment=0))
    for pdu in (junk, good[:at] + bytes([value]) + good[at + 1 :], good + junk[:10], good[:-1]):
        try:
            expected: Header | None = decode_header(pdu, 46)
        except FrameError:
            expected = None
        found = header_of(pdu)
        assert (found.header if found else None) == expected
        if found and expected:
            assert found.encode() == pdu[:32]
            assert found.covered() == covered_header(expected)
            assert (found.fragments, found.payload_size) == (expected.fragments, expected.payload_size)
            assert (found.is_reply, found.status) == (expected.is_reply, expected.status)


def test_frames_at_an_interface_are_batches_by_what_came_together(tmp_path: Path) -> None:
    """Each has a time of its own there, and answers pass between them."""
    asked = [single(infer(number)) for number in range(5)]
    frames = [
        (0, ONE, DEVICE, asked[0]),
        (40, DEVICE, ONE, single(result(0))),
        (99, ONE, DEVICE, asked[1]),
        (101, ONE, DEVICE, asked[2]),
        (150, TWO, DEVICE, asked[3]),
        (300, ONE, DEVICE, asked[4]),
    ]
    path = tmp_path / "a.pcapng"
    writer = CaptureWriter(Target(path), [Interface("eth0")], {"capture": {"interface": "eth0"}}, lambda: EPOCH)
    for time_us, source, destination, pdu in frames:
        data = destination.to_bytes(6, "big") + source.to_bytes(6, "big") + b"\x88\xb5" + pdu
        writer.write(0, CapturedFrames.of([CapturedPacket(0, EPOCH + time_us * 1000, data, len(data))]))
    writer.close()
    plan = plan_replay(path)
    assert [(batch.time_ns - EPOCH, [pdu for _, pdu in batch.frames]) for batch in plan.batches] == [
        (99_000, asked[:2]),
        (150_000, asked[2:4]),
        (300_000, asked[4:]),
    ]


def test_damaged_answers_are_passed_over_and_those_for_now_do_not_replace_final_ones() -> None:
    answer = single(result(1))
    spoilt = answer[:33] + bytes([answer[33] ^ 4]) + answer[34:]
    bare = single(result(1, b"other", flags=8))  # its flag CRC was lost on the way
    bad_crc = single(result(1, b"", BAD_CRC))
    replies = [(FIRST, pdu) for pdu in (bad_crc, answer, spoilt, bare, bad_crc)]
    (found,) = gather_answers(replies).values()
    assert (found.payload, found.frames) == (answer[32:], 2)
    working = Pdu(WORKING, b"", 1, 0, SESSION).encode()
    assert tally([*replies, (FIRST, working)]) == {"OK": 1, "BAD_CRC": 2, "WORKING": 1}


def test_pipelines_are_not_found_by_damaged_answers(tmp_path: Path) -> None:
    asked, answer = single(infer(1)), single(result(1))
    path = write(tmp_path / "a.pcap", (0, ONE, DEVICE, asked), (1, DEVICE, ONE, answer[:20] + b"\x21" + answer[21:]))
    assert plan_replay(path).handles == [PIPELINE]


def test_frames_of_one_time_are_one_batch_and_the_appliance_is_found(tmp_path: Path) -> None:
    asked = [single(infer(number)) for number in range(5)]
    answer = single(result(1))
    damaged = bytes([9]) + asked[4][1:]  # no version that there is: which way it goes is told by its address
    path = write(
        tmp_path / "a.pcap",
        (0, ONE, DEVICE, asked[0]),
        (0, TWO, DEVICE, asked[1]),
        (0, DEVICE, ONE, answer),
        (5, ONE, DEVICE, asked[2]),
        (5, ONE, DEVICE, damaged),
        (6, ONE, DEVICE, asked[3]),
        (7, ONE, TWO, asked[3]),
    )
    plan = plan_replay(path)
    assert plan.appliance == NAME
    assert [(batch.time_ns - EPOCH, list(batch.frames)) for batch in plan.batches] == [
        (0, [(FIRST, asked[0]), (SECOND, asked[1])]),
        (5000, [(FIRST, asked[2]), (FIRST, damaged)]),
        (6000, [(FIRST, asked[3])]),
    ]
    assert plan.replies == ((FIRST, answer),)
    assert plan.peers == [FIRST, SECOND]
    assert plan.handles == [PIPELINE]


def test_control_and_sealed_frames_are_left_out_and_padding_is_taken_off(tmp_path: Path) -> None:
    sealed = Pdu(INFER, bytes(40), 9, flags=SEALED_FLAG, session=SESSION)
    short = Pdu(INFER, b"x", 1, session=SESSION).encode()
    path = write(
        tmp_path / "a.pcap",
        (0, ONE, DEVICE, single(Pdu(CONTROL, b"\x80", 1, flags=CRC_FLAG))),
        (1, ONE, DEVICE, single(Pdu(DISCOVER, b"", 2))),
        (2, ONE, DEVICE, sealed.encode()),
        (3, ONE, DEVICE, sealed.encode()),
        (4, ONE, DEVICE, short + bytes(46 - len(short))),
    )
    plan = plan_replay(path)
    assert plan.left_out == Counter(control=1, discovery=1, sealed=2)
    assert [batch.frames for batch in plan.batches] == [((FIRST, short),)]
    few = write(tmp_path / "b.pcap", (0, ONE, DEVICE, sealed.encode()), *[(1, ONE, DEVICE, short)] * 2)
    assert plan_replay(few).left_out == Counter()  # one flag among others is damage


def test_what_cannot_be_replayed_is_said(tmp_path: Path) -> None:
    (tmp_path / "none.pcap").write_bytes(b"no capture")
    with pytest.raises(CaptureError, match="cannot be read"):
        plan_replay(tmp_path / "none.pcap")
    with pytest.raises(CaptureError, match="no request to an appliance"):
        plan_replay(write(tmp_path / "empty.pcap"))
    path = write(tmp_path / "a.pcap", (0, ONE, DEVICE, single(infer(1))))
    with pytest.raises(CaptureError, match="no request to 02:00:00:00:00:09"):
        plan_replay(path, "02:00:00:00:00:09")
    sealed = Pdu(INFER, bytes(40), 9, flags=SEALED_FLAG, session=SESSION).encode()
    with pytest.raises(CaptureError, match="left out: 1 sealed"):
        plan_replay(write(tmp_path / "sealed.pcap", (0, ONE, DEVICE, sealed)))


@given(
    body=st.binary(max_size=300),
    size=st.integers(1, 120),
    number=st.integers(1, (1 << 64) - 1),
    session=st.integers(1, (1 << 32) - 1),
    handle=st.integers(0, 0xFFFF),
    shift=st.integers(-(1 << 62), 1 << 62),
    crc=st.booleans(),
)
def test_renamed_messages_are_those_that_would_have_been_made(
    body: bytes, size: int, number: int, session: int, handle: int, shift: int, crc: bool
) -> None:
    flags = CRC_FLAG * crc
    renaming = Renaming({PIPELINE: handle}, shift)
    renaming.opened(FIRST, SESSION, session)
    low = (1 << 62) - 1
    changed = (number & ~low) | ((number + shift) & low)
    before = message(infer(number, body, flags=flags), size)
    after = message(infer(changed, body, flags=flags, session=session, pipeline=handle), size)
    assert [renaming.there(FIRST, pdu) for pdu in before] == after
    assert [renaming.back(FIRST, pdu) for pdu in after] == before
    assert renaming.request(number) == changed
    assert decode(renaming.there(SECOND, before[0])).session == SESSION  # of another peer


def test_what_was_damaged_stays_so() -> None:
    renaming = Renaming({PIPELINE: 7})
    (damaged,) = message(infer(1), spoil_crc=True)
    assert renaming.there(FIRST, damaged) == message(infer(1, pipeline=7), spoil_crc=True)[0]
    assert renaming.there(FIRST, damaged[:20]) == damaged[:20]


def test_sessions_are_opened_as_the_capture_shows_or_else_anew(tmp_path: Path) -> None:
    other = 0x4444_0002
    path = write(
        tmp_path / "a.pcap",
        (0, ONE, DEVICE, single(Pdu(OPEN, b"\x80", 50, flags=CRC_FLAG))),
        (1, DEVICE, ONE, single(Pdu(OPEN | REPLY, b"\x80", 50, flags=CRC_FLAG, session=SESSION))),
        (2, ONE, DEVICE, single(infer(51))),
        (3, TWO, DEVICE, single(infer(901, session=other))),
        (4, TWO, DEVICE, single(infer(900, session=other))),
    )
    plan = plan_replay(path)
    replayer = Replayer(plan, {})
    ((peer, opening),) = replayer.openings(1500)
    assert (peer, decode(opening).opcode, decode(opening).request) == (SECOND, OPEN, 899)
    batches = plan.batches
    assert [replayer.awaits(batch) for batch in batches] == [False, True, True, True]
    made = single(Pdu(OPEN | REPLY, b"\x80", 899, flags=CRC_FLAG, session=0xBBBB_0001))
    assert replayer.take(SECOND, made) is None
    assert replayer.take(FIRST, single(Pdu(OPEN | REPLY, b"\x80", 50, flags=CRC_FLAG, session=0xAAAA_0001)))
    assert [replayer.awaits(batch) for batch in batches] == [False] * 4
    sent = [decode(pdu).session for batch in batches for _, pdu in replayer.there(batch)]
    assert sent == [0, 0xAAAA_0001, 0xBBBB_0001, 0xBBBB_0001]
    assert replayer.peer_of(single(result(901, session=0xBBBB_0001))) == SECOND
    assert replayer.replies == [plan.replies[0]]  # with the session that the capture has


def test_handles_are_found_by_the_model_that_answers_name(tmp_path: Path) -> None:
    def trailer(digest: int) -> bytes:
        return b"answer" + bytes(56) + digest.to_bytes(8, "big")

    frames = [
        (0, ONE, DEVICE, single(infer(1))),
        (1, DEVICE, ONE, single(result(1, trailer(0xAA), flags=CRC_FLAG | 2))),
        (2, DEVICE, ONE, single(result(2, trailer(0xBB), flags=CRC_FLAG | 2, pipeline=0x0102))),
    ]
    plan = plan_replay(write(tmp_path / "a.pcap", *frames))
    assert plan.digests == {PIPELINE: 0xAA, 0x0102: 0xBB}
    served = [{"handle": 5, "model_sha256": f"{0xBB:016x}" + "0" * 48}, {"handle": 6, "model_sha256": "f" * 64}]
    assert match_handles(plan, served) == ({0x0102: 5}, [PIPELINE])
    bare = plan_replay(write(tmp_path / "b.pcap", frames[0]))
    assert match_handles(bare, served[:1]) == ({PIPELINE: 5}, [])
    assert match_handles(bare, served) == ({}, [PIPELINE])


def test_answers_are_compared_by_field() -> None:
    then = [
        (FIRST, single(result(1))),
        (FIRST, single(result(2, status=16, body=b""))),
        (FIRST, single(result(2))),  # the last one counts
        (FIRST, single(result(3, priority=1))),
        (FIRST, single(result(4))),
        (FIRST, single(result(5, credits=3))),
        *((FIRST, pdu) for pdu in message(result(6, bytes(90)), 40)),
    ]
    now = [
        (FIRST, single(result(1))),
        (FIRST, single(result(2))),
        (FIRST, single(result(3, body=b"wrong", priority=2))),
        (FIRST, single(result(5, credits=9))),
        (FIRST, message(result(6, bytes(90)), 40)[0]),
        (SECOND, single(result(7))),
    ]
    found = compare(gather_answers(then), gather_answers(now))
    assert (found.identical, found.alike, found.different, found.missing, found.extra) == (2, 1, 2, 1, 1)
    assert not found.same
    told = [(entry.key[2], entry.field) for entry in found.differences]
    assert told == [(3, "priority"), (3, "body"), (4, "answer"), (6, "answer")]
    assert str(found.differences[1]).endswith("body was 6 bytes 616e73776572, is 5 bytes 77726f6e67")
    assert compare(gather_answers(then), gather_answers(then)).same
