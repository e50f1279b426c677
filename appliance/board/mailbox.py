"""The mailbox: control messages on their way from the dataplane to the firmware, and replies back."""

import os
import threading
from collections import deque
from dataclasses import dataclass

from appliance.board.interrupts import Interrupts
from appliance.board.registers import RegisterFile
from appliance.board.regmap import (
    LETTER,
    LETTER_FRAGMENT_SIZE,
    MAILBOX_RX,
    MAILBOX_RX_LENGTH,
    MAILBOX_RX_POP,
    MAILBOX_TX,
    MAILBOX_TX_SEND,
    MAILBOX_TX_STATUS,
    Interrupt,
    SendStatus,
)
from host_sdk.wire.errors import FrameError, LocalProtocolError, RemoteProtocolError
from host_sdk.wire.header import check_length, decode_header
from host_sdk.wire.message import Message, decode_message, encode_message
from host_sdk.wire.schema import HEADER_SIZE, Opcode

# Everything that firmware answers; results of inference come from hardware alone.
_REPLIES = frozenset({Opcode.ANNOUNCE, Opcode.OPENED, Opcode.CLOSED, Opcode.CONTROLLED})
_HEAD = LETTER.size + HEADER_SIZE


@dataclass(frozen=True, slots=True)
class Letter:
    """One control message.

    Attributes:
        peer: Key of who sent it or shall get it, as in :mod:`host_sdk.wire.links.base`.
        message: The whole message.
    """

    peer: int
    message: Message


def encode_letter(letter: Letter) -> bytes:
    """Return a letter's bytes as they cross the bus.

    Raises:
        LocalProtocolError: A value does not fit its field, or the message is too long.
    """
    header, payload = encode_message(letter.message, LETTER_FRAGMENT_SIZE)
    return LETTER.pack(letter.peer) + header.encode() + payload


def decode_letter(raw: bytes) -> Letter:
    """Take apart, and check, what the firmware wants to send.

    Raises:
        RemoteProtocolError: It is no whole message, or not one that firmware may send.
    """
    if len(raw) < _HEAD:
        raise RemoteProtocolError(f"{len(raw)} bytes are no letter; its head alone has {_HEAD}")
    (peer,) = LETTER.unpack_from(raw)
    # The header belongs to a PDU of the largest fragment size; the message itself may be longer than one.
    header = decode_header(raw[LETTER.size : _HEAD + LETTER_FRAGMENT_SIZE])
    check_length(header.length)
    if header.fragment or header.fragment_size != LETTER_FRAGMENT_SIZE or len(raw) - _HEAD != header.length:
        raise RemoteProtocolError(f"letter of {len(raw)} bytes with a message of {header.length}")
    if header.opcode not in _REPLIES:
        raise RemoteProtocolError(f"opcode {header.opcode:#04x} is no reply of the firmware's")
    return Letter(peer, decode_message(header, raw[_HEAD:]))


class Mailbox:
    """Two bounded FIFOs between the dataplane's thread and the board's; both survive resets of the firmware.

    Args:
        depth: Letters that can wait on each side.
        capacity: Bytes of bodies that can wait for the firmware.

    Attributes:
        received: Letters that the firmware has taken.
        sent: Letters that the firmware has sent.
        refused: Letters from the firmware that were no proper replies.
        overflows: Letters for the firmware that found the FIFO full.
    """

    def __init__(self, depth: int = 64, capacity: int = 32 * 1024 * 1024) -> None:
        self.received = 0
        self.sent = 0
        self.refused = 0
        self.overflows = 0
        self._depth = depth
        self._capacity = capacity
        self._inbox_bytes = 0
        self._lock = threading.Lock()
        self._inbox: deque[Letter] = deque()
        self._outbox: list[Letter] = []
        self._head: bytes | None = None
        self._reply_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._interrupts: Interrupts | None = None

    def post(self, letter: Letter) -> bool:
        """Hand a letter to the firmware, running or not; return False when there is no room."""
        with self._lock:
            size = self._inbox_bytes + len(letter.message.body)
            if len(self._inbox) >= self._depth or size > self._capacity:
                self.overflows += 1
                return False
            self._inbox.append(letter)
            self._inbox_bytes = size
        if self._interrupts:
            self._interrupts.trigger(Interrupt.MAILBOX_RX)
        return True

    def collect(self) -> list[Letter]:
        """Take everything that the firmware has sent."""
        if not self._outbox:  # looked at without the lock, as this is asked at every turn of the dataplane
            return []
        with self._lock:
            letters, self._outbox = self._outbox, []
            if letters:
                os.eventfd_read(self._reply_fd)
        if len(letters) >= self._depth and self._interrupts:
            self._interrupts.trigger(Interrupt.MAILBOX_TX)
        return letters

    @property
    def reply_fd(self) -> int:
        """Descriptor that polls readable while :meth:`collect` has something."""
        return self._reply_fd

    def close(self) -> None:
        """Give the descriptor back; for whoever made the mailbox, when nobody uses it any more."""
        os.close(self._reply_fd)

    def attach(self, registers: RegisterFile, interrupts: Interrupts) -> None:
        """Take the mailbox's registers and windows of a board."""
        self._interrupts = interrupts
        registers.on_read(MAILBOX_RX_LENGTH, lambda: len(self._oldest()))
        registers.on_write(MAILBOX_RX_POP, self._pop)
        registers.on_write(MAILBOX_TX_SEND, lambda length: self._send(registers, length))
        registers.back(MAILBOX_RX, self)

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes of the oldest letter as the window shows it; 0 behind its end."""
        return self._oldest()[offset : offset + length].ljust(length, b"\0")

    def write(self, offset: int, data: bytes) -> None:
        """Do nothing: the window is read-only."""

    def clear(self) -> None:
        """Do nothing: letters survive resets."""

    def _oldest(self) -> bytes:
        while self._head is None and self._inbox:
            try:
                self._head = encode_letter(self._inbox[0])
            except LocalProtocolError:
                self._drop_oldest()
        return self._head or b""

    def _pop(self, _value: int) -> None:
        if self._oldest():
            self._drop_oldest()
            self.received += 1

    def _drop_oldest(self) -> None:
        with self._lock:
            self._inbox_bytes -= len(self._inbox.popleft().message.body)
        self._head = None

    def _send(self, registers: RegisterFile, length: int) -> None:
        registers.set_value(MAILBOX_TX_STATUS, self._forward(registers, length))

    def _forward(self, registers: RegisterFile, length: int) -> SendStatus:
        try:
            if length > MAILBOX_TX.size:
                raise RemoteProtocolError(f"letter of {length} bytes in a window of {MAILBOX_TX.size}")
            letter = decode_letter(registers.storage(MAILBOX_TX).read(0, length))
        except (FrameError, RemoteProtocolError):
            self.refused += 1
            return SendStatus.REFUSED
        with self._lock:
            if len(self._outbox) >= self._depth:
                return SendStatus.FULL
            self._outbox.append(letter)
            os.eventfd_write(self._reply_fd, 1)
        self.sent += 1
        return SendStatus.SENT
