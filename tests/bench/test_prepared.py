"""Prepared requests against a scripted responder on a switch in memory."""

import itertools

import msgpack
import numpy as np
import pytest

from host_sdk.bench.prepared import PreparedWindow
from host_sdk.wire.header import Header, decode_header
from host_sdk.wire.links.memory import MemoryLink, MemorySwitch
from host_sdk.wire.message import Message, Trailer, encode_message, fragment_frames
from host_sdk.wire.schema import Flag, Opcode, Status

SESSION, FIRST = 0x00010005, 11
FLAGS = int(Flag.ONCE | Flag.TRAILER)


class Responder:
    """Opens one session and answers requests when it is told to, each at its last fragment."""

    def __init__(self, node: MemoryLink, host: MemoryLink) -> None:
        self._node, self._host = node, host
        self.asked: list[int] = []
        receive = host.receive

        def receive_after_turn():  # type: ignore[no-untyped-def]
            self.turn()
            return receive()

        host.receive = receive_after_turn  # type: ignore[method-assign]

    def turn(self, status: Status = Status.OK) -> None:
        batch = self._node.receive()
        for index in range(len(batch)):
            header = decode_header(batch.pdu(index).tobytes())
            if header.opcode == Opcode.OPEN:
                body = msgpack.packb({"credits": 64, "fragments": 64, "next": FIRST})
                self._send(Header(Opcode.OPENED, header.request, int(Flag.CRC), SESSION), body)
            elif header.opcode == Opcode.INFER and header.fragment == header.fragments - 1:
                self.asked.append(header.request)
                self._send(
                    Header(Opcode.RESULT, header.request, FLAGS, SESSION, status=status),
                    bytes(8),
                    Trailer((0,) * 6, (0,) * 6, 0, 1, 1, 0),
                )

    def _send(self, header: Header, body: bytes, trailer: Trailer | None = None) -> None:
        (pdu,) = fragment_frames(*encode_message(Message(header, body, trailer=trailer), 1400))
        buffers = self._node.allocate(1)
        start = int(buffers.starts[0])
        buffers.memory[start : start + len(pdu)] = np.frombuffer(pdu, np.uint8)
        buffers.lengths[0], buffers.peers[0] = len(pdu), self._host.address
        self._node.send(buffers)


@pytest.mark.parametrize("size", [16, 5000], ids=["one frame", "several"])
def test_what_was_due_is_told_of_each_request_and_stays_told(size: int) -> None:
    switch = MemorySwitch()
    node, host = switch.attach(), switch.attach()
    responder, ticks = Responder(node, host), itertools.count(1)
    window = PreparedWindow(host, node.address, Header(Opcode.INFER, 0, FLAGS), bytes(size), lambda: next(ticks))
    found = []
    for due in range(9000):  # places are used again after 4096
        window.submit(np.array([due]))
        assert window.outstanding == 1
        answered = window.receive()
        assert answered is not None
        found.append(answered)
    assert [each.due_ns.tolist() for each in found] == [[due] for due in range(9000)]
    assert responder.asked == list(range(FIRST, FIRST + 9000))
    assert (window.outstanding, window.lost) == (0, 0)
