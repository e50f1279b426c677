"""The dissector in a real tshark, on captures of known content: links, times, copies, refusals, reassembly."""

import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgpack
import pytest

from host_sdk.capture.tapped import TappedLink
from host_sdk.cli.demo_images import held_out
from host_sdk.client import NapuClient
from host_sdk.wire.exchange.arrived import Arrived
from host_sdk.wire.exchange.notices import notice
from host_sdk.wire.header import Header
from host_sdk.wire.links.udp import UdpLink
from host_sdk.wire.message import Message, Trailer, encode_message, fragment_frames
from host_sdk.wire.schema import SEAL, SEAL_TAG_SIZE, UDP_PORT, Flag, Opcode, Status
from tests.rig.dissected import (
    REQUESTER,
    RESPONDER,
    needs_tshark,
    over_ethernet,
    over_udp,
    tshark,
    tshark_fields,
    write_capture,
)
from tests.rig.nodes import node_process
from tests.wire.golden import GOLDEN, SEALED_INFER, SESSION

pytestmark = needs_tshark

US, MS = 1_000, 1_000_000
LINKS = ("request_in", "reply_in", "copy_of", "reassembled_in", "response_time", "response_time_last", "stream")
EXPERTS = (
    *("retransmission", "duplicate", "busy", "refused", "late", "unanswered", "unasked", "incomplete", "conflict"),
    *("bad_crc", "malformed", "dropped", "cut", "unknown_flag", "too_long", "bad_sequence"),
)
ONCE = int(Flag.CRC | Flag.ONCE)
INFER = Header(Opcode.INFER, 7, ONCE, session=SESSION, pipeline=0x101, deadline=5_000)
RESULT = Header(Opcode.RESULT, 7, ONCE, session=SESSION, pipeline=0x101, credits=64)
BUSY = Header(Opcode.RESULT, 7, ONCE, session=SESSION, status=Status.BUSY, retry_after=25)
Sent = tuple[int, bytes]  # when, in ns since the first; what


def pdus(header: Header, body: bytes = b"body", fragment_size: int = 1468) -> list[bytes]:
    return list(fragment_frames(*encode_message(Message(header, body), fragment_size)))


def capture(path: Path, sent: Sequence[Sent], *, udp: bool = False) -> Path:
    """Write what requester and responder sent each other; the opcode says which of them it was."""
    frames = []
    for time, pdu in sent:
        reply = bool(pdu[1] & 0x80)
        if udp:
            ends = (0x7F000001 << 16 | 50_000, 0x7F000002 << 16 | UDP_PORT)
            frames.append((time, over_udp(pdu, *(ends[::-1] if reply else ends))))
        else:
            ends = (REQUESTER, RESPONDER)
            frames.append((time, over_ethernet(pdu, *(ends[::-1] if reply else ends)).ljust(60, b"\0")))
    return write_capture(path / "a.pcap", frames)


def seen(path: Path, sent: Sequence[Sent], *, two_pass: bool = True, udp: bool = False) -> list[dict[str, str]]:
    """Return links and expert infos of each frame, those that are there."""
    names = [f"nip.{name}" for name in (*LINKS, *EXPERTS)]
    rows = tshark_fields(capture(path, sent, udp=udp), names, two_pass=two_pass)
    assert len(rows) == len(sent)
    return [{name.removeprefix("nip."): value for name, value in row.items()} for row in rows]


def experts(row: dict[str, str]) -> set[str]:
    return {name for name in row if name in EXPERTS}


@pytest.mark.parametrize("udp", [False, True], ids=["ethernet", "udp"])
@pytest.mark.parametrize("two_pass", [False, True], ids=["one pass", "two passes"])
def test_a_reply_and_its_request_are_linked_with_the_time_between(tmp_path: Path, udp: bool, two_pass: bool) -> None:
    request, reply = seen(tmp_path, [(0, pdus(INFER)[0]), (412_345, pdus(RESULT)[0])], two_pass=two_pass, udp=udp)
    assert (reply["request_in"], reply["response_time"]) == ("1", "0.000412345")
    assert request.get("reply_in") == ("2" if two_pass else None)  # in one pass the future is not known
    assert request["stream"] == reply["stream"]
    assert experts(request) == experts(reply) == set()


@pytest.mark.parametrize("two_pass", [False, True], ids=["one pass", "two passes"])
def test_a_lost_reply_a_retransmission_and_the_answer_given_again(tmp_path: Path, two_pass: bool) -> None:
    """The first answer is seen where the capture was taken, and lost behind it."""
    ask, answer = pdus(INFER)[0], pdus(RESULT)[0]
    first, reply, second, again = seen(
        tmp_path, [(0, ask), (1 * MS, answer), (11 * MS, ask), (12 * MS, answer)], two_pass=two_pass
    )
    assert experts(first) == experts(reply) == set()
    assert (experts(second), second["copy_of"]) == ({"retransmission"}, "1")
    assert (experts(again), again["copy_of"], again["request_in"]) == ({"retransmission"}, "2", "1")


def test_an_answer_to_a_retransmission_has_both_times(tmp_path: Path) -> None:
    header = replace(INFER, deadline=0)
    ask = pdus(header)[0]
    *_, reply = seen(tmp_path, [(0, ask), (30 * MS, ask), (31 * MS, pdus(RESULT)[0])])
    assert (reply["response_time"], reply["response_time_last"]) == ("0.031000000", "0.001000000")


def test_a_copy_that_the_network_made_is_a_duplicate(tmp_path: Path) -> None:
    ask, answer = pdus(INFER)[0], pdus(RESULT)[0]
    rows = seen(tmp_path, [(0, ask), (50 * US, ask), (MS, answer), (MS + 50 * US, answer), (2 * MS, answer)])
    assert [experts(row) for row in rows] == [set(), {"duplicate"}, set(), {"retransmission"}, {"duplicate"}]
    assert "the network" in tshark(tmp_path / "a.pcap", "-V", "-Y", "frame.number == 2")


def test_busy_and_the_request_after_it(tmp_path: Path) -> None:
    rows = seen(
        tmp_path, [(0, pdus(INFER)[0]), (MS, pdus(BUSY, b"")[0]), (4 * MS, pdus(INFER)[0]), (5 * MS, pdus(RESULT)[0])]
    )
    assert [experts(row) for row in rows] == [set(), {"busy"}, {"retransmission"}, set()]
    assert rows[0]["reply_in"] == rows[2]["reply_in"] == "4"  # the final one
    text = tshark(tmp_path / "a.pcap", "-V", two_pass=True)
    assert "BUSY: try again after 2.500 ms" in text
    assert "Sent again after the refusal in frame 2, as in frame 1" in text


def test_a_late_answer_and_one_in_time(tmp_path: Path) -> None:
    late = seen(tmp_path, [(0, pdus(INFER)[0]), (5 * MS + 1, pdus(RESULT)[0])])
    assert experts(late[1]) == {"late"}
    assert "after the deadline of 5.000 ms, counted from frame 1" in tshark(tmp_path / "a.pcap", "-V")
    in_time = seen(tmp_path, [(0, pdus(INFER)[0]), (5 * MS, pdus(RESULT)[0])])
    assert experts(in_time[1]) == set()
    never = seen(tmp_path, [(0, pdus(replace(INFER, deadline=0))[0]), (5000 * MS, pdus(RESULT)[0])])
    assert experts(never[1]) == set()


def test_what_has_no_answer_is_known_on_the_second_pass(tmp_path: Path) -> None:
    sent = [(0, pdus(INFER)[0]), (11 * MS, pdus(INFER)[0]), (MS * 20, pdus(replace(RESULT, request=8))[0])]
    once, twice = seen(tmp_path, sent, two_pass=False), seen(tmp_path, sent)
    assert [experts(row) for row in once] == [set(), {"retransmission"}, {"unasked"}]
    assert [experts(row) for row in twice] == [{"unanswered"}, {"retransmission"}, {"unasked"}]


def test_only_a_busy_is_no_answer(tmp_path: Path) -> None:
    ask, _ = seen(tmp_path, [(0, pdus(INFER)[0]), (MS, pdus(BUSY, b"")[0])])
    assert experts(ask) == {"unanswered"}
    assert "No answer in this capture but the refusal in frame 2" in tshark(tmp_path / "a.pcap", "-V", two_pass=True)


def test_a_reply_with_a_wrong_crc_is_no_answer(tmp_path: Path) -> None:
    good = pdus(RESULT)[0]
    damaged = good[:33] + bytes([good[33] ^ 0x10]) + good[34:]
    rows = seen(tmp_path, [(0, pdus(INFER)[0]), (MS, damaged), (2 * MS, pdus(INFER)[0]), (3 * MS, good)])
    assert [experts(row) for row in rows] == [set(), {"bad_crc"}, {"retransmission"}, {"retransmission"}]
    assert rows[0]["reply_in"] == "4"


@pytest.mark.parametrize("two_pass", [False, True], ids=["one pass", "two passes"])
def test_fragments_out_of_order_are_reassembled(tmp_path: Path, two_pass: bool) -> None:
    body = bytes(range(256)) * 3
    parts = pdus(INFER, body, fragment_size=100)
    order = [3, 0, 7, 1, 2, 6, 5, 4]
    sent = [(at * US, parts[index]) for at, index in enumerate(order)]
    rows = seen(tmp_path, [*sent, (MS, pdus(RESULT)[0])], two_pass=two_pass)
    assert all(experts(row) == set() for row in rows)
    assert [row.get("reassembled_in") for row in rows[:8]] == ["8" if two_pass else None] * 7 + ["8"]
    fields = tshark_fields(
        tmp_path / "a.pcap", ["nip.body", "nip.crc.status", "nip.fragment_in", "nip.fragment"], two_pass=two_pass
    )
    assert fields[7]["nip.body"] == body.hex()
    assert fields[7]["nip.crc.status"] == "1"
    assert fields[7]["nip.fragment_in"] == ",".join(str(order.index(index) + 1) for index in range(8))
    assert all("nip.body" not in row for row in fields[:7])


def test_a_lost_fragment_asked_for_by_grant(tmp_path: Path) -> None:
    parts = pdus(INFER, bytes(400), fragment_size=100)
    have = Arrived(Opcode.INFER, 1, 32, bytes([0b01110000]))
    grant = pdus(Header(Opcode.GRANT, 7, ONCE, SESSION), have.encode())[0]
    sent = [parts[0], parts[2], parts[3], parts[4], grant, parts[1], pdus(RESULT)[0]]
    rows = seen(tmp_path, [(index * 20 * US, pdu) for index, pdu in enumerate(sent)])
    assert all(experts(row) == set() for row in rows)  # fragment 1 is not in the capture before
    assert rows[4]["request_in"] == "1"
    assert {row["reassembled_in"] for row in (*rows[:4], rows[5])} == {"6"}
    assert "Arrived: all before 1, window 32, and 2-4" in tshark(tmp_path / "a.pcap", "-V")


def test_a_fragment_that_comes_twice_is_put_in_once(tmp_path: Path) -> None:
    parts = pdus(INFER, bytes(150), fragment_size=100)
    rows = seen(tmp_path, [(0, parts[0]), (20 * MS, parts[0]), (21 * MS, parts[1]), (22 * MS, pdus(RESULT)[0])])
    assert [experts(row) for row in rows] == [set(), {"retransmission"}, set(), {"late"}]
    assert [row.get("reassembled_in") for row in rows[:3]] == ["3", "3", "3"]


def test_a_damaged_message_is_reassembled_anew_when_it_is_sent_again(tmp_path: Path) -> None:
    parts = pdus(INFER, bytes(150), fragment_size=100)
    damaged = parts[0][:-1] + b"\x01"
    refusal = pdus(replace(BUSY, status=Status.BAD_CRC, retry_after=0), b"")[0]
    sent = [damaged, parts[1], refusal, parts[0], parts[1], pdus(RESULT)[0]]
    rows = seen(tmp_path, [(index * MS, pdu) for index, pdu in enumerate(sent)])
    assert [experts(row) for row in rows] == [
        *(set(), {"bad_crc"}, {"refused"}, {"retransmission"}, {"retransmission"}, set())
    ]
    assert [row.get("reassembled_in") for row in rows[:5]] == ["2", "2", None, "5", "5"]


def test_missing_fragments_and_conflicting_ones(tmp_path: Path) -> None:
    parts = pdus(INFER, bytes(250), fragment_size=100)
    other = pdus(replace(INFER, priority=9), bytes(250), fragment_size=100)
    rows = seen(tmp_path, [(0, parts[0]), (US, other[1])])
    assert [experts(row) for row in rows] == [{"incomplete", "unanswered"}, {"incomplete", "conflict"}]


def test_conversations_are_kept_apart_by_session_and_by_peer(tmp_path: Path) -> None:
    other = replace(INFER, session=SESSION + 1)
    sent = [pdus(INFER)[0], pdus(other)[0], pdus(replace(RESULT, session=SESSION + 1))[0], pdus(RESULT)[0]]
    rows = seen(tmp_path, [(index * MS, pdu) for index, pdu in enumerate(sent)])
    assert [row["stream"] for row in rows] == ["0", "1", "1", "0"]
    assert [row["request_in"] for row in rows[2:]] == ["2", "1"]
    assert [experts(row) for row in rows] == [set()] * 4


def test_a_session_is_opened_and_discovery_is_answered_by_several(tmp_path: Path) -> None:
    opened = {golden.name: golden.data[0] for golden in GOLDEN}
    announce = pdus(Header(Opcode.ANNOUNCE, 0xA1B2C3D4E5F60718, int(Flag.CRC)), msgpack.packb({"name": "n1"}))[0]
    beacon = pdus(Header(Opcode.ANNOUNCE, 0, int(Flag.CRC)), msgpack.packb({"name": "n1"}))[0]
    frames = [
        (0, over_ethernet(opened["DISCOVER"], REQUESTER, 0xFFFFFFFFFFFF)),
        (MS, over_ethernet(announce, RESPONDER, REQUESTER)),
        (2 * MS, over_ethernet(announce, RESPONDER + 1, REQUESTER)),
        (3 * MS, over_ethernet(opened["OPEN"], REQUESTER, RESPONDER)),
        (4 * MS, over_ethernet(opened["OPENED"], RESPONDER, REQUESTER)),
        (5 * MS, over_ethernet(beacon, RESPONDER, 0xFFFFFFFFFFFF)),
    ]
    names = ["nip.request_in", "nip.reply_in", "nip.unasked", "nip.copy_of", "nip.unanswered"]
    rows = tshark_fields(write_capture(tmp_path / "a.pcap", frames), names, two_pass=True)
    assert rows == [
        *({"nip.reply_in": "2"}, {"nip.request_in": "1"}, {"nip.request_in": "1"}),
        *({"nip.reply_in": "5"}, {"nip.request_in": "4"}, {}),
    ]


def sealed(header: Header, sequence: int, size: int = 12) -> bytes:
    """Return a frame as a sealed one looks from outside; its ciphertext is none."""
    made = replace(header, flags=header.flags | Flag.SEALED, length=size, fragment_size=1468).encode()
    return made + struct.pack(SEAL.struct_format, 77, sequence) + bytes(size + SEAL_TAG_SIZE)


def test_sealed_frames_are_linked_and_their_copies_told_apart_by_sequence(tmp_path: Path) -> None:
    sent = [sealed(INFER, 1), sealed(INFER, 1), sealed(INFER, 2), sealed(RESULT, 1)]
    rows = seen(tmp_path, [(index * 100 * US, pdu) for index, pdu in enumerate(sent)])
    assert [experts(row) for row in rows] == [set(), {"duplicate"}, {"retransmission"}, set()]
    assert rows[0]["reply_in"] == "4"
    text = tshark(tmp_path / "a.pcap", "-V")
    assert "its content needs the key" in text
    assert "body" not in text


def test_a_hint_in_the_clear_belongs_to_the_sealed_request(tmp_path: Path) -> None:
    hint = pdus(Header(Opcode.RESULT, 7, 0, SESSION, status=Status.UNKNOWN_KEY), b"")[0]
    ask, said = seen(tmp_path, [(0, sealed(INFER, 1)), (MS, hint)])
    assert (experts(said), said["request_in"]) == ({"refused"}, "1")
    assert experts(ask) == {"unanswered"}  # a hint is nobody's word
    plain = seen(tmp_path, [(0, sealed(INFER, 1)), (MS, pdus(RESULT)[0])])
    assert experts(plain[1]) == {"unasked"}  # N-139


def test_notices_are_shown(tmp_path: Path) -> None:
    settle = notice(Opcode.SETTLE, replace(INFER, request=5), bytes([0b10100000]))
    resend = notice(Opcode.RESEND, INFER, Arrived(Opcode.RESULT, 2, 8).encode())
    sent = [pdus(INFER)[0], notice(Opcode.CANCEL, INFER), settle, resend]
    rows = seen(tmp_path, [(index * MS, pdu) for index, pdu in enumerate(sent)])
    assert [row.get("request_in") for row in rows] == [None, "1", None, "1"]
    text = tshark(tmp_path / "a.pcap", "-V")
    assert "(request + 1, 3)" in text
    assert "Arrived: all before 2, window 8" in text
    fields = tshark_fields(tmp_path / "a.pcap", ["nip.settle.count", "nip.arrived.opcode", "nip.arrived.base"])
    assert fields[2:] == [{"nip.settle.count": "2"}, {"nip.arrived.opcode": "0x90", "nip.arrived.base": "2"}]


def test_a_control_body_is_a_tree(tmp_path: Path) -> None:
    body = {
        "op": "stats", "list": [1, -2, 2.5, None, True, b"\x01\x02", ""], "deep": {"größe": -(2**40), "big": 2**64 - 1},
    }  # fmt: skip
    control = Header(Opcode.CONTROL, 9, int(Flag.CRC))
    path = capture(tmp_path, [(0, pdus(control, msgpack.packb(body))[0])])
    lines = [line.strip() for line in tshark(path, "-V").splitlines()]
    begin = lines.index("map of 3")
    assert lines[begin : begin + 13] == [
        "map of 3",
        'op: "stats"',
        "list: list of 7",
        *("[0]: 1", "[1]: -2", "[2]: 2.5", "[3]: nil", "[4]: true", "[5]: 2 bytes", '[6]: ""'),
        "deep: map of 2",
        *("größe: -1099511627776", "big: 18446744073709551615"),
    ]
    (row,) = tshark_fields(path, ["nip.control.op", "nip.msgpack.int", "nip.msgpack.bytes", "nip.msgpack.map"])
    assert row == {
        "nip.control.op": "stats",
        "nip.msgpack.int": "-2,-1099511627776",
        "nip.msgpack.bytes": "0102",
        "nip.msgpack.map": "3,2",
    }


BROKEN_MAPS = {
    b"": "ends before a value",
    b"\x93\x01\x02\x03": "is no map",
    b"\x81\xa1a": "ends before a value",
    b"\x81\xa5a": "ends within a key",
    b"\x81\xa1a\xda\x01": "ends within a length",
    b"\x81\xa1a\xdb\xff\xff\xff\xff": "ends within a value",
    b"\x81\xa1a\xc1": "0xc1 begins no value",
    b"\x81\x91\x01\x01": "a key that is no scalar",
    b"\x80\x00": "1 bytes behind the map",
    b"\x81\xa1a" + b"\x91" * 40 + b"\x01": "deeper than 16",
    b"\x81\xa1a\xdd\x00\x00\xc3\x50" + b"\x01" * 50_000: "more than 4096 values",
    b"\xdf\xff\xff\xff\xff" + b"\xa1a\x01" * 10: "ends before a value",
}


def test_bodies_that_are_no_sound_maps_are_said_to_be_malformed(tmp_path: Path) -> None:
    header = Header(Opcode.CONTROLLED, 9)
    sent = [
        (index, pdus(replace(header, request=index + 9), body, 0xFFFF)[0]) for index, body in enumerate(BROKEN_MAPS)
    ]
    rows = tshark_fields(capture(tmp_path, sent), ["_ws.expert.message", "nip.malformed"])
    for row, why in zip(rows, BROKEN_MAPS.values(), strict=True):
        assert f"msgpack: {why}" in row["_ws.expert.message"]
        assert row["nip.malformed"] == "1"


def test_a_trailers_stages_are_summed_up(tmp_path: Path) -> None:
    trailer = Trailer((1500, 20_000, 80_000, 120_000, 9000, 5000), (1, 2, 3, 4, 5, 0xFFFFFFFF), 5, 1, 2, 3)
    message = Message(replace(RESULT, flags=int(Flag.CRC | Flag.TRAILER)), b"x", trailer=trailer)
    path = capture(tmp_path, [(0, next(fragment_frames(*encode_message(message, 1468))))])
    text = tshark(path, "-V")
    assert "rx 1.5 µs, queue 20.0 µs, pre 80.0 µs, dla 120.0 µs, post 9.0 µs, tx 5.0 µs; in all 235.5 µs" in text
    assert "modelled tx ns: 4294967295 (or more)" in text


def test_a_capture_that_cuts_frames_off_says_so(tmp_path: Path) -> None:
    frames = [(0, over_ethernet(pdus(INFER, bytes(500))[0], REQUESTER, RESPONDER))] * 2
    for snap, header in ((14 + 100, "0x10"), (14 + 20, None)):
        path = write_capture(tmp_path / "a.pcap", frames, snap)
        rows = tshark_fields(path, ["nip.cut", "nip.opcode", "nip.drop_reason", "nip.crc"], two_pass=True)
        assert rows[0] == {"nip.cut": "1"} | ({"nip.opcode": header} if header else {})


def test_an_icmp_error_that_quotes_a_request_is_no_retransmission(tmp_path: Path) -> None:
    ask = pdus(INFER)[0]
    ends = (0x7F000001 << 16 | 50_000, 0x7F000002 << 16 | UDP_PORT)
    quoted = over_udp(ask, *ends)[14:]
    icmp = struct.pack(">BBHI", 3, 3, 0, 0) + quoted
    outer = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(icmp), 0, 0, 64, 1, 0, b"\x7f\0\0\2", b"\x7f\0\0\1")
    frames = [(0, over_udp(ask, *ends)), (MS * 20, over_udp(ask, *ends)[:14] + outer + icmp)]
    rows = tshark_fields(write_capture(tmp_path / "a.pcap", frames), ["nip.copy_of", "nip.request", "nip.unanswered"])
    assert rows == [{"nip.request": f"0x{7:016x}"}, {"nip.request": f"0x{7:016x}"}]


def test_the_info_column_says_what_matters(tmp_path: Path) -> None:
    sent = [(0, pdus(INFER)[0]), (MS, pdus(BUSY, b"")[0]), (4 * MS, pdus(INFER)[0]), (5 * MS, SEALED_INFER)]
    text = tshark(capture(tmp_path, sent), "-T", "fields", "-e", "_ws.col.Info").splitlines()
    assert text == [
        "INFER session=9f3a0007 request=0000000000000007 pipeline=257 length=8",
        "RESULT BUSY session=9f3a0007 request=0000000000000007 length=4 after 1.000 ms",
        "[Retransmission] INFER session=9f3a0007 request=0000000000000007 pipeline=257 length=8",
        "INFER (sealed) session=9f3a0007 request=0123456789abcdef pipeline=257 length=12",
    ]


def test_meanings_from_the_schema_can_be_filtered_by_name(tmp_path: Path) -> None:
    path = capture(tmp_path, [(0, pdus(INFER)[0]), (MS, pdus(BUSY, b"")[0])])
    for condition in ("nip.status == BUSY", "nip.opcode == RESULT", "nip.flags.once == 1 && nip.retry_after == 25"):
        assert tshark(path, "-Y", condition, "-T", "fields", "-e", "frame.number") == "2\n", condition


def test_a_real_exchange_over_a_bad_wire_is_explained(tmp_path: Path) -> None:
    """Whatever a client and a node made of losses between them: copies are called so, requests have their answers."""
    picture = held_out(1)[0].jpeg
    faults = ("--faults-in", "loss=15%", "--faults-out", "loss=15%", "--fault-seed", "3")
    with node_process(tmp_path / "node", *faults) as node:
        link = TappedLink(UdpLink("127.0.0.1", 0, peers=[node.address]), tmp_path / "a.pcap")
        with NapuClient(link, node.address) as client:
            answers = list(client.infer_many("digits", [picture] * 40))
        port = node.host_port[1]
    assert len(answers) == 40
    names = [
        "udp.payload",
        "udp.dstport",
        "nip.opcode",
        "nip.request",
        "nip.copy_of",
        "nip.reply_in",
        "nip.response_time",
    ]
    errors = ["nip.duplicate", "nip.bad_crc", "nip.malformed", "nip.dropped", "nip.unanswered", "nip.unasked"]
    decode = ("-d", f"udp.port=={port},nip")
    rows = tshark_fields(tmp_path / "a.pcap", [*names, *errors], more=decode, two_pass=True)
    wrong = [row for row in rows if any(name in row for name in errors)]
    # A client that goes away sends CLOSE and does not wait.
    assert all(row["nip.opcode"] == f"0x{Opcode.CLOSE:02x}" and "nip.unanswered" in row for row in wrong)
    asked = [row for row in rows if row["udp.dstport"] == str(port) and row["nip.opcode"] == "0x10"]
    copies, before = [], set()
    for row in asked:
        copies.append(row["udp.payload"] in before)
        before.add(row["udp.payload"])
    assert [("nip.copy_of" in row) for row in asked] == copies
    assert sum(copies) > 3
    assert len({row["nip.request"] for row in asked}) == 40
    assert all("nip.reply_in" in row for row in asked)
    answered = [row for row in rows if row["nip.opcode"] == "0x90" and "nip.response_time" in row]
    assert len(answered) == 40
    assert all(0 < float(row["nip.response_time"]) < 10 for row in answered)
