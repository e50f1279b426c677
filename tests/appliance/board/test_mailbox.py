import select
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.board.interrupts import Interrupts
from appliance.board.mailbox import Letter, Mailbox, decode_letter, encode_letter
from appliance.board.registers import RegisterFile
from appliance.board.regmap import MAP, MAX_BLOCK
from host_sdk.wire.errors import RemoteProtocolError
from host_sdk.wire.header import Header
from host_sdk.wire.message import Extension, Message
from host_sdk.wire.schema import Flag, Opcode

RX_LENGTH, RX_POP, TX_SEND, TX_STATUS = 0x200, 0x204, 0x208, 0x20C
RX, TX = 0x1000_0000, 0x2000_0000
SENT, FULL, REFUSED = 0, 1, 2

# By hand: peer; version 1, ANNOUNCE, no flags, session 0, request 0, length 2, pipeline 0, priority 0, credits 0,
# fragment 0, fragment size 65535, status 0, retry after 0; the two bytes.
BEACON = bytes.fromhex(
    "0000ffffffffffff 01 81 0000 00000000 0000000000000000 00000002 0000 00 00 0000 ffff 0000 0000 80c0"
)


class Rig:
    """A mailbox with its registers, used as firmware would."""

    def __init__(self, depth: int = 4) -> None:
        self.mailbox = Mailbox(depth)
        self.interrupts = Interrupts()
        self.registers = RegisterFile(MAP, lambda _: None)
        self.interrupts.attach(self.registers)
        self.mailbox.attach(self.registers, self.interrupts)

    def take(self) -> bytes:
        length = self.registers.read(RX_LENGTH)
        raw = b"".join(
            self.registers.read_block(RX + at, min(MAX_BLOCK, length - at)) for at in range(0, length, MAX_BLOCK)
        )
        self.registers.write(RX_POP, 1)
        return raw

    def send(self, raw: bytes) -> int:
        for at in range(0, len(raw), MAX_BLOCK):
            self.registers.write_block(TX + at, raw[at : at + MAX_BLOCK])
        self.registers.write(TX_SEND, len(raw))
        return self.registers.read(TX_STATUS)


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.interrupts.disconnect()
    rig.mailbox.close()


def request(number: int, body: bytes = b"", flags: int = 0) -> Letter:
    return Letter(7, Message(Header(opcode=Opcode.CONTROL, request=number, flags=flags), body))


def readable(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def test_golden_letter() -> None:
    letter = decode_letter(BEACON)
    assert letter.peer == 0xFFFF_FFFF_FFFF
    assert letter.message.header == Header(opcode=Opcode.ANNOUNCE, request=0, length=2)
    assert letter.message.body == b"\x80\xc0"
    assert encode_letter(letter) == BEACON


def test_letters_come_in_order_and_whole(rig: Rig) -> None:
    body = bytes(range(256)) * 1000
    assert rig.mailbox.post(request(1, body, Flag.CRC))
    assert rig.mailbox.post(Letter(8, Message(Header(opcode=Opcode.CONTROL, request=2), b"", (Extension(9, b"e"),))))
    first = rig.take()
    assert struct.unpack_from(">Q", first) == (7,)
    assert first[9] == Opcode.CONTROL
    assert first[40:-4] == body
    assert rig.take()[:8] == bytes([0, 0, 0, 0, 0, 0, 0, 8])
    assert rig.registers.read(RX_LENGTH) == 0
    assert rig.mailbox.received == 2


def test_a_full_inbox_says_so(rig: Rig) -> None:
    assert [rig.mailbox.post(request(number)) for number in range(6)] == [True] * 4 + [False] * 2
    assert rig.mailbox.overflows == 2
    rig.take()
    assert rig.mailbox.post(request(9))


def test_the_bytes_of_an_inbox_are_bounded_as_well() -> None:
    mailbox = Mailbox(depth=64, capacity=1000)
    try:
        assert [mailbox.post(request(number, bytes(400))) for number in range(3)] == [True, True, False]
        assert mailbox.post(request(4, bytes(200)))
        assert not mailbox.post(request(5, b"x"))
    finally:
        mailbox.close()


def test_letters_survive_a_reset(rig: Rig) -> None:
    rig.mailbox.post(request(1, b"still here"))
    rig.registers.reset()
    rig.interrupts.disconnect()
    assert rig.take().endswith(b"still here")


def test_popping_nothing_does_nothing(rig: Rig) -> None:
    rig.registers.write(RX_POP, 1)
    assert rig.mailbox.received == 0


def test_the_window_is_0_behind_the_letter(rig: Rig) -> None:
    assert rig.registers.read_block(RX, 8) == bytes(8)
    rig.mailbox.post(request(1))
    assert rig.registers.read_block(RX + 30, 20)[10:] == bytes(10)


def test_posting_signals_the_line_once_enabled(rig: Rig) -> None:
    with rig.interrupts.connect() as line:
        rig.mailbox.post(request(1))
        assert not readable(line.fileno())
        assert rig.registers.read(0x100) == 1
        rig.registers.write(0x104, 1)
        assert readable(line.fileno())
        line.recv(100)
        rig.registers.write(0x100, 1)
        assert rig.registers.read(0x100) == 0
        rig.mailbox.post(request(2))
        assert readable(line.fileno())


def test_a_line_that_nobody_reads_blocks_nobody(rig: Rig) -> None:
    with rig.interrupts.connect():
        rig.registers.write(0x104, 1)
        for _ in range(10_000):
            rig.mailbox.post(request(1))
    for _ in range(3):
        rig.mailbox.post(request(1))


def test_replies_are_collected_and_clear_the_descriptor(rig: Rig) -> None:
    assert not readable(rig.mailbox.reply_fd)
    assert rig.send(BEACON) == SENT
    assert rig.send(BEACON) == SENT
    assert readable(rig.mailbox.reply_fd)
    assert rig.mailbox.collect() == [decode_letter(BEACON)] * 2
    assert not readable(rig.mailbox.reply_fd)
    assert rig.mailbox.collect() == []


def test_a_full_outbox_interrupts_when_there_is_room(rig: Rig) -> None:
    assert [rig.send(BEACON) for _ in range(5)] == [SENT] * 4 + [FULL]
    assert rig.registers.read(0x100) == 0
    assert len(rig.mailbox.collect()) == 4
    assert rig.registers.read(0x100) == 2
    assert rig.send(BEACON) == SENT


def altered(at: int, value: int) -> bytes:
    raw = bytearray(BEACON)
    raw[at] = value
    return bytes(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        BEACON[:39],
        BEACON[:-1],
        BEACON + b"x",
        altered(8, 2),  # version
        altered(9, Opcode.CONTROL),  # a request
        altered(9, Opcode.RESULT),  # an inference result, which firmware does not make
        altered(9, 0xFF),  # an unknown reply
        altered(10, 0x80),  # an unknown flag
        altered(11, Flag.CRC),  # a CRC that is not there
        altered(33, 1),  # fragment 1
        altered(34, 0),  # another fragment size
    ],
)
def test_what_is_no_proper_reply_is_refused(rig: Rig, raw: bytes) -> None:
    assert rig.send(raw) == REFUSED
    assert rig.mailbox.refused == 1
    assert rig.mailbox.collect() == []


def test_a_doorbell_beyond_the_window_is_refused(rig: Rig) -> None:
    rig.registers.write(TX_SEND, 0xFFFF_FFFF)
    assert rig.registers.read(TX_STATUS) == REFUSED


@given(st.binary(max_size=200))
def test_any_bytes_are_a_letter_or_one_error(raw: bytes) -> None:
    for candidate in (raw, BEACON[:8] + raw, BEACON[:12] + raw):
        try:
            decode_letter(candidate)
        except RemoteProtocolError:
            continue
