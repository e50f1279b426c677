"""A responder as simple as can be, to hold the requester against: answers ``answer:`` and the body, or refuses."""

from collections import defaultdict
from dataclasses import dataclass, field, replace

from host_sdk.wire.header import Header, decode_header
from host_sdk.wire.message import Message, decode_message, encode_message, fragment_frames
from host_sdk.wire.schema import HEADER_SIZE, REPLY_BIT, Flag, Opcode, Status


@dataclass
class ModelResponder:
    """What one appliance does, without time, memory or work.

    Attributes:
        credits: What every reply grants.
        refuse: Status that the next INFER, OPEN or CONTROL gets instead of an answer.
        retry_after: With BUSY, in units of 100 µs.
        ran: Bodies of the INFER requests that were executed, once for each copy.
    """

    fragment_size: int = 40
    credits: int = 2
    refuse: Status = Status.OK
    retry_after: int = 0
    ran: list[bytes] = field(default_factory=list)
    sessions: dict[int, int] = field(default_factory=dict)  # request id of the OPEN: session
    numbers: int = 0
    fragments: dict[tuple[int, int], dict[int, bytes]] = field(default_factory=lambda: defaultdict(dict))

    def receive(self, pdu: bytes) -> list[bytes]:
        """Take one PDU; return those of the reply when it made a message whole."""
        header = decode_header(pdu)
        parts = self.fragments[header.opcode, header.request]
        parts[header.fragment] = pdu[HEADER_SIZE:]
        if len(parts) < header.fragments:
            return []
        del self.fragments[header.opcode, header.request]
        message = decode_message(header, b"".join(parts[index] for index in sorted(parts)))
        reply, payload = encode_message(self.answer(message), self.fragment_size)
        return list(fragment_frames(reply, payload))

    def restart(self) -> None:
        """Forget every session and every fragment."""
        self.sessions.clear()
        self.fragments.clear()

    def answer(self, message: Message) -> Message:
        header = Header(
            message.header.opcode | REPLY_BIT,
            message.header.request,
            message.header.flags & Flag.CRC,
            message.header.session,
            credits=self.credits,
        )
        status, self.refuse = self.refuse, Status.OK
        if status is not Status.OK and message.header.opcode != Opcode.DISCOVER:
            after = self.retry_after if status is Status.BUSY else 0
            return Message(replace(header, status=status, retry_after=after), b"not now")
        if message.header.opcode == Opcode.OPEN:
            if header.request not in self.sessions:
                self.numbers += 1
                self.sessions[header.request] = self.numbers
            return Message(replace(header, session=self.sessions[header.request]))
        if message.header.opcode == Opcode.INFER:
            if header.session not in self.sessions.values():
                return Message(replace(header, status=Status.UNKNOWN_SESSION))
            self.ran.append(message.body)
        return Message(header, b"answer:" + message.body)
