"""The reference responder, with frames made by hand: it must not be wrong in the same way as those held against it."""

import msgpack
import pytest

from tests.rig.frames import BUSY, CLOSE, INFER, OK, OPEN, UNKNOWN_SESSION, Pdu, decode, message
from tests.rig.reference_responder import ReferenceResponder
from tests.rig.reference_sessions import ResponderLimits

ONCE, CANCELLED = 9, 20  # with flag CRC
CANCEL, SETTLE, RESEND, RESULT, WORKING, UNKNOWN, GRANT = 0x20, 0x21, 0x22, 0x90, 0xA0, 0xA1, 0xA2
BASE = 100  # id of the OPEN


class Host:
    def __init__(self, **limits: int) -> None:
        self.responder = ReferenceResponder(lambda _, body: body * 2, ResponderLimits(**limits))
        (opened,) = self.ask(Pdu(OPEN, msgpack.packb({"fragment_size": 600, "fragments": 2}), BASE))
        self.session, self.said = opened.session, msgpack.unpackb(opened.payload)

    def send(self, *pdus: bytes) -> list[Pdu]:
        return [decode(reply) for pdu in pdus for _, reply in self.responder.receive(1, pdu, 0)]

    def ask(self, pdu: Pdu) -> list[Pdu]:
        return self.send(*message(pdu, 600))

    def work(self) -> list[Pdu]:
        return [decode(reply) for _, reply in self.responder.work(0)]

    def infer(self, number: int, body: bytes = b"abc", flags: int = ONCE) -> list[bytes]:
        return message(Pdu(INFER, body, BASE + number, flags, self.session), 600)

    def notice(self, opcode: int, number: int, body: bytes = b"") -> list[Pdu]:
        return self.ask(Pdu(opcode, body, BASE + number, ONCE, self.session))


@pytest.fixture
def host() -> Host:
    return Host()


def kinds(pdus: list[Pdu]) -> list[int]:
    return [pdu.opcode for pdu in pdus]


def test_a_session_begins_behind_its_open_and_is_found_again(host: Host) -> None:
    assert (host.said["base"], host.said["next"]) == (BASE, BASE + 1)
    (again,) = host.ask(Pdu(OPEN, msgpack.packb({"fragment_size": 600}), BASE))
    assert again.session == host.session
    host.send(*host.infer(5))
    (resumed,) = host.ask(Pdu(OPEN, msgpack.packb({"fragment_size": 600, "resume": host.session}), 7))
    assert resumed.session == host.session
    assert msgpack.unpackb(resumed.payload)["next"] >= BASE + 5 + (1 << 32)


def test_a_copy_waits_for_the_answer_and_then_gets_it_again(host: Host) -> None:
    (asked,) = host.infer(1)
    assert host.send(asked) == []
    assert kinds(host.send(asked, asked)) == [WORKING, WORKING]
    (answer,) = host.work()
    assert (answer.status, answer.payload[:6], answer.flags) == (OK, b"abcabc", ONCE)
    assert host.send(asked) == [answer]
    assert len(host.responder.executions) == 1


def test_fragments_are_granted_and_long_answers_asked_for(host: Host) -> None:
    first, second, third = host.infer(1, bytes(1500))
    (grant,) = host.send(third)
    assert (grant.opcode, grant.payload[:-4].hex()) == (GRANT, "10000008" + "00000000" + "20")
    assert kinds(host.send(first, second)) == []
    assert [pdu.fragment for pdu in host.work()] == [0, 1]  # 3000 bytes in five fragments, two of them unasked
    more = host.notice(RESEND, 1, bytes.fromhex("90000002" + "00000001" + "40"))
    assert [pdu.fragment for pdu in more] == [1]  # fragments 1 and 2 may be under way, 2 is there
    assert kinds(host.notice(RESEND, 2, bytes.fromhex("90000002" + "00000000"))) == [UNKNOWN]


def test_what_is_settled_is_forgotten_and_not_executed_again(host: Host) -> None:
    for number in (1, 2, 3):
        host.send(*host.infer(number))
        host.work()
    assert host.notice(SETTLE, 1, b"\x40") == []  # up to 1, and 1 + 1 + 1
    assert host.send(*host.infer(1), *host.infer(3)) == []
    assert kinds(host.send(*host.infer(2))) == [RESULT]
    assert host.send(*host.infer(2 + 8)) == []  # takes the slot of 2
    assert host.send(*host.infer(2)) == []
    assert len(host.responder.executions) == 3


def test_a_cancel_ends_what_waits_and_what_has_not_come(host: Host) -> None:
    host.send(*host.infer(1))
    assert host.notice(CANCEL, 1) == host.notice(CANCEL, 2) == []
    assert [pdu.status for pdu in host.work()] == [CANCELLED]
    assert [pdu.status for pdu in host.send(*host.infer(2), *host.infer(1))] == [CANCELLED, CANCELLED]
    assert host.responder.executions == []


def test_a_displaced_request_can_come_again_but_none_before_it() -> None:
    host = Host(window=2)
    host.send(*host.infer(1))
    host.work()
    host.send(*host.infer(3))
    assert [decode(pdu).status for _, pdu in host.responder.displace()] == [BUSY]
    assert host.send(*host.infer(1)) == []
    assert host.send(*host.infer(3)) == []
    assert [pdu.status for pdu in host.work()] == [OK]
    assert len(host.responder.executions) == 2


def test_no_room_means_busy() -> None:
    host = Host(credits=1, window=4)
    (refused,) = host.send(*host.infer(1), *host.infer(2))
    assert (refused.status, refused.retry_after > 0) == (BUSY, True)
    host = Host(kept=1)
    host.send(*host.infer(1))
    host.work()
    assert [pdu.status for pdu in host.send(*host.infer(2))] == [BUSY]
    host.notice(SETTLE, 1)
    assert host.send(*host.infer(2)) == []


def test_nothing_is_known_after_a_restart_or_a_close(host: Host) -> None:
    host.send(*host.infer(1))
    host.responder.restart()
    assert [pdu.status for pdu in host.send(*host.infer(1))] == [UNKNOWN_SESSION]
    assert kinds(host.notice(RESEND, 1, bytes.fromhex("90000002" + "00000000"))) == [UNKNOWN]
    other = Host()
    assert [pdu.status for pdu in other.ask(Pdu(CLOSE, b"", 9, 0, other.session))] == [OK]
    assert [pdu.status for pdu in other.send(*other.infer(1))] == [UNKNOWN_SESSION]
