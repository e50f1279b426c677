"""A scripted appliance on a switch in memory: says what a test wants to hear, in bytes made by hand."""

import threading
from collections.abc import Callable
from typing import Any, Self

import msgpack
import numpy as np

from host_sdk.wire.links.memory import MemoryLink, MemorySwitch
from tests.rig.frames import BUSY, CLOSE, CONTROL, CRC_FLAG, DISCOVER, INFER, OPEN, REPLY, Pdu, decode, message

SESSION = 0x00010000
ONCE_FLAG = 8
NOTICE = 0x20  # the bit that tells notices from requests
RESEND, UNKNOWN = 0x22, 0xA1
MAX_MESSAGE = 1 << 24
PIPELINES = {
    "pipelines": [
        {
            "name": "echo",
            "description": "answers what it is sent",
            "handle": 257,
            "digest": "0" * 64,
            "model_sha256": "0" * 64,
            "backend": "script",
            "macs": 1,
            "max_batch": 1,
            "input": {"kind": "tensor", "dtype": "uint8", "shape": [4], "max_bytes": 4},
            "outputs": [{"name": "same", "dtype": "uint8", "shape": [4]}],
        }
    ]
}
IDENTITY = {
    "device": "0",
    "name": "script",
    "profile": "none",
    "link": "memory",
    "mtu": 1500,
    "credits": 64,
    "firmware": {"version": "0", "digest": "0", "epoch": 1, "pid": 1},
    "pipelines": [{"name": "echo", "handle": 257}],
}
Infer = Callable[[Pdu], list[Pdu]]


def reply_to(asked: Pdu, body: bytes = b"", *, status: int = 0, retry_after: int = 0, **fields: int) -> Pdu:
    """Return the answer to a request, with a CRC if that had one; ``fields`` override what it repeats."""
    shown = {
        "flags": asked.flags & (CRC_FLAG | ONCE_FLAG),
        "session": asked.session,
        "priority": asked.priority,
        "credits": 64,
        "pipeline": asked.pipeline,
    }
    tail = status << 16 | retry_after
    return Pdu(asked.opcode | REPLY, body, asked.request, tail=tail, **{**shown, **fields})


class Scripted:
    """Answers OPEN, CONTROL and DISCOVER as an appliance does, and INFER as ``infer`` says.

    Attributes:
        infer: What a request is answered with.
        control: The body of answers to CONTROL and DISCOVER, by operation.
        asked: Every request that came in.
        notices: Every notice that did.
        bounds: What an OPENED says, but for base and next.
        mtu: Longer PDUs are lost on the way.
        silent: Whether nothing is answered.
        full: Whether sessions are refused.
        hung: Whether nothing is answered that firmware has a part in.
    """

    def __init__(self, switch: MemorySwitch, infer: Infer | None = None) -> None:
        self.infer: Infer = infer or (lambda asked: [reply_to(asked, asked.payload[:4])])
        self.control: dict[str, Any] = {"pipelines": PIPELINES, "identity": IDENTITY}
        self.asked: list[Pdu] = []
        self.notices: list[Pdu] = []
        self.bounds: dict[str, Any] = {"credits": 64, "max_message": MAX_MESSAGE, "window": 128, "fragments": 256}
        self.mtu = 1 << 16
        self.silent = self.hung = self.full = False
        self._base = self._highest = 0
        self._link: MemoryLink = switch.attach()
        self._stopping = False
        self._thread = threading.Thread(target=self._serve, name="scripted appliance")

    @property
    def address(self) -> str:
        return self._link.format_address(self._link.address)

    def _serve(self) -> None:
        while not self._stopping:
            self._link.wait(5_000_000)
            batch = self._link.receive()
            for index, peer in enumerate(batch.peers.tolist()):
                data = batch.pdu(index).tobytes()
                asked = decode(data)
                if len(data) > self.mtu:
                    continue
                if asked.opcode & NOTICE:
                    self.notices.append(asked)
                    if asked.opcode == RESEND and asked.session != SESSION and not self.silent:
                        self.send(peer, Pdu(UNKNOWN, b"", asked.request, asked.flags, asked.session))
                    continue
                self.asked.append(asked)
                deaf = self.silent or (self.hung and asked.opcode in (CONTROL, DISCOVER))
                for answer in [] if deaf else self._answers(asked):
                    self.send(peer, answer)

    def send(self, peer: int, answer: Pdu) -> None:
        """Send a message to a port of the switch."""
        for data in message(answer, 1400):
            buffers = self._link.allocate(1)
            buffers.memory[: len(data)] = np.frombuffer(data, np.uint8)
            buffers.lengths[0], buffers.peers[0] = len(data), peer
            self._link.send(buffers)

    def _answers(self, asked: Pdu) -> list[Pdu]:
        if asked.opcode == OPEN and self.full:
            return [reply_to(asked, b"no room for a session", status=BUSY)]
        if asked.opcode == OPEN:
            return [self._opened(asked)]
        if asked.opcode == DISCOVER:
            return [reply_to(asked, msgpack.packb(self.control["identity"]))]
        if asked.opcode == CONTROL:
            operation = msgpack.unpackb(asked.payload[:-4])["op"]
            return [reply_to(asked, msgpack.packb(self.control[operation]))]
        if asked.opcode == CLOSE:
            return [reply_to(asked)]
        assert asked.opcode == INFER
        if asked.flags & ONCE_FLAG:
            self._highest = max(self._highest, asked.request)
        return self.infer(asked)

    @staticmethod
    def content(asked: Pdu) -> dict[str, Any]:
        """Return the map in a request."""
        return dict(msgpack.unpackb(asked.payload[: -4 if asked.flags & CRC_FLAG else None]))

    def _opened(self, asked: Pdu) -> Pdu:
        """Return the answer to an OPEN, as long as that was."""
        content = self.content(asked)
        if content.get("resume") == SESSION and self._base:
            self._highest += (1 << 32) - 1
        else:
            self._base = self._highest = asked.request
        said = {**self.bounds, "base": self._base, "next": self._highest + 1}
        if "padding" in content:
            said["padding"] = bytes(300)
            shorter = len(asked.payload) - 4 - len(msgpack.packb(said))
            said["padding"] = bytes(300 + shorter)
        return reply_to(asked, msgpack.packb(said), session=SESSION)

    def infers(self) -> list[Pdu]:
        """Return the inference requests that came in."""
        return [asked for asked in self.asked if asked.opcode == INFER]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        self._thread.join(10)
        self._link.close()
