"""A responder as simple as can be, to hold the requester against: answers ``answer:`` and the body, or refuses.

It is written from the protocol's text, without time, and knows nothing of how the appliance does it.
"""

from dataclasses import dataclass, field, replace

import msgpack

from host_sdk.wire.exchange.arrived import Arrived
from host_sdk.wire.header import Header, decode_header
from host_sdk.wire.message import Message, decode_message, encode_message, fragment_frames
from host_sdk.wire.schema import HEADER_SIZE, REPLY_BIT, Flag, Opcode, Status

WINDOW = 8
FRAGMENTS = 8


@dataclass
class ModelSession:
    base: int
    fragment_size: int
    fragments: int
    highest: int
    answers: dict[int, list[bytes] | None] = field(default_factory=dict)  # of once requests; None while pending
    released: set[int] = field(default_factory=set)


@dataclass
class Unfinished:
    header: Header
    parts: dict[int, bytes] = field(default_factory=dict)
    news: int = 0


@dataclass
class ModelResponder:
    """What one appliance does, without time, memory or work.

    Attributes:
        mtu: Longer PDUs are lost on the way.
        fragment_size: Of replies outside sessions.
        credits: What every reply grants.
        refuse: Status that the next INFER, OPEN or CONTROL gets instead of an answer.
        retry_after: With BUSY, in units of 100 µs.
        slow: Whether INFER requests wait for :meth:`finish`.
        padding: Bytes that answers to INFER are longer.
        ran: Session and request of the INFER requests that were executed, once for each execution.
        tenants: That OPENs named.
        settled: Once ids that a SETTLE named, each once.
    """

    mtu: int = 1 << 16
    fragment_size: int = 600
    credits: int = 2
    window: int = WINDOW
    fragments: int = FRAGMENTS
    refuse: Status = Status.OK
    retry_after: int = 0
    slow: bool = False
    padding: int = 0
    ran: list[tuple[int, int]] = field(default_factory=list)
    tenants: list[str] = field(default_factory=list)
    settled: set[int] = field(default_factory=set)
    sessions: dict[int, ModelSession] = field(default_factory=dict)
    opened: dict[int, int] = field(default_factory=dict)  # request id of the OPEN: session
    numbers: int = 0
    unfinished: dict[tuple[int, int, int], Unfinished] = field(default_factory=dict)
    waiting: list[Message] = field(default_factory=list)

    def receive(self, pdu: bytes) -> list[bytes]:
        """Take one PDU; return those to send for it."""
        if len(pdu) > self.mtu:
            return []
        header = decode_header(pdu)
        if header.opcode in (Opcode.CANCEL, Opcode.SETTLE, Opcode.RESEND):
            return self.notified(decode_message(header, pdu[HEADER_SIZE:]))
        session = self.sessions.get(header.session)
        if header.opcode == Opcode.INFER and header.flags & Flag.ONCE and session:
            known = self.copy(session, header)
            if known is not None:
                return known
        key = (header.opcode, header.session, header.request)
        unfinished = self.unfinished.setdefault(key, Unfinished(header))
        again = header.fragment in unfinished.parts
        unfinished.parts[header.fragment] = pdu[HEADER_SIZE:]
        if len(unfinished.parts) < header.fragments:
            return self.grant(unfinished, again, header)
        del self.unfinished[key]
        payload = b"".join(part for _, part in sorted(unfinished.parts.items()))
        return self.answer(decode_message(header, payload))

    def grant(self, unfinished: Unfinished, again: bool, header: Header) -> list[bytes]:
        unfinished.news += not again
        if not (again or header.fragment == header.fragments - 1 or 4 * unfinished.news >= self.fragments):
            return []
        unfinished.news = 0
        have = [index in unfinished.parts for index in range(header.fragments)]
        base = have.index(False)
        bits = "".join("1" if there else "0" for there in have[base:]).rstrip("0")
        bits += "0" * (-len(bits) % 8)
        bitmap = int(bits or "0", 2).to_bytes(len(bits) // 8, "big")
        return [self.notice(Opcode.GRANT, header, Arrived(header.opcode, base, self.fragments, bitmap).encode())]

    def notice(self, opcode: Opcode, about: Header, body: bytes = b"", retry_after: int = 0) -> bytes:
        flags = about.flags & (Flag.CRC | Flag.ONCE)
        header = Header(opcode, about.request, int(flags), about.session, retry_after=retry_after)
        (pdu,) = fragment_frames(*encode_message(Message(header, body), 544))
        return pdu

    def copy(self, session: ModelSession, header: Header) -> list[bytes] | None:
        """Return what a frame of a *once* request gets that is known; None for one that is new."""
        number = header.request
        if number in session.answers:
            kept = session.answers[number]
            return [self.notice(Opcode.WORKING, header, retry_after=20)] if kept is None else self.first(session, kept)
        outdated = any(known > number and known % self.window == number % self.window for known in session.answers)
        return [] if number in session.released or outdated else None

    def first(self, session: ModelSession, pdus: list[bytes]) -> list[bytes]:
        return pdus[: session.fragments]

    def notified(self, message: Message) -> list[bytes]:
        header = message.header
        session = self.sessions.get(header.session)
        if header.opcode == Opcode.RESEND:
            return self.resend(session, message)
        if session is None:
            return []
        if header.opcode == Opcode.SETTLE:
            bits = "".join(f"{byte:08b}" for byte in message.body)
            named = {number for number in session.answers if number <= header.request}
            named |= {header.request + 1 + index for index, bit in enumerate(bits) if bit == "1"}
            self.settled |= named
            for number in named & set(session.answers):
                session.released.add(number)
                del session.answers[number]
        elif header.flags & Flag.ONCE and header.request not in session.answers and not self.copy(session, header):
            self.keep(session, self.reply(header, status=Status.CANCELLED), header)
        else:
            for waiting in [waiting for waiting in self.waiting if waiting.header.request == header.request]:
                self.waiting.remove(waiting)
                return self.keep(session, self.reply(waiting.header, status=Status.CANCELLED), waiting.header)
        return []

    def resend(self, session: ModelSession | None, message: Message) -> list[bytes]:
        header = message.header
        if session is None or not header.flags & Flag.ONCE:
            return [self.notice(Opcode.UNKNOWN, header)]
        if header.request not in session.answers:
            outdated = self.copy(session, header) is not None
            return [] if outdated else [self.notice(Opcode.UNKNOWN, header)]
        pdus = session.answers[header.request]
        if pdus is None:
            return [self.notice(Opcode.WORKING, header)]
        arrived = Arrived.decode(message.body)
        have = arrived.have(len(pdus))
        return [pdus[at] for at in range(arrived.base, min(arrived.base + arrived.window, len(pdus))) if not have[at]]

    def keep(self, session: ModelSession, reply: Message, asked: Header) -> list[bytes]:
        """Encode an answer to an INFER, and keep that to a *once* request."""
        pdus = list(fragment_frames(*encode_message(reply, session.fragment_size)))
        if not asked.flags & Flag.ONCE:
            return pdus
        session.answers = {
            known: answer
            for known, answer in session.answers.items()
            if known % self.window != asked.request % self.window
        }
        session.answers[asked.request] = pdus
        return self.first(session, pdus)

    def restart(self) -> None:
        """Forget every session and every fragment."""
        self.sessions.clear()
        self.opened.clear()
        self.unfinished.clear()
        self.waiting.clear()

    def forget_fragments(self) -> None:
        """Give up every unfinished message."""
        self.unfinished.clear()

    def finish(self) -> list[bytes]:
        """Answer what waits."""
        waiting, self.waiting = self.waiting, []
        return [pdu for message in waiting for pdu in self.run(message)]

    def reply(self, asked: Header, body: bytes = b"", **changes: int) -> Message:
        flags = asked.flags & (Flag.CRC | Flag.ONCE)
        base = Header(asked.opcode | REPLY_BIT, asked.request, int(flags), asked.session, credits=self.credits)
        return Message(replace(base, **changes), body)

    def answer(self, message: Message) -> list[bytes]:
        asked = message.header
        status, self.refuse = self.refuse, Status.OK
        if status is not Status.OK and asked.opcode != Opcode.DISCOVER:
            after = self.retry_after if status is Status.BUSY else 0
            return self.outside(self.reply(asked, b"not now", status=status, retry_after=after))
        if asked.opcode == Opcode.OPEN:
            return self.open(message)
        if asked.opcode == Opcode.INFER:
            session = self.sessions.get(asked.session)
            if session is None:
                return self.outside(self.reply(asked, status=Status.UNKNOWN_SESSION))
            if asked.flags & Flag.ONCE:
                session.highest = max(session.highest, asked.request)
                session.answers[asked.request] = None
            self.waiting.append(message)
            return [] if self.slow else self.finish()
        return self.outside(self.reply(asked, b"answer:" + message.body))

    def run(self, message: Message) -> list[bytes]:
        session = self.sessions.get(message.header.session)
        if session is None:
            return []
        self.ran.append((message.header.session, message.header.request))
        body = b"answer:" + message.body + bytes(self.padding)
        return self.keep(session, self.reply(message.header, body), message.header)

    def outside(self, reply: Message) -> list[bytes]:
        return list(fragment_frames(*encode_message(reply, self.fragment_size)))

    def open(self, message: Message) -> list[bytes]:
        number, said = message.header.request, msgpack.unpackb(message.body)
        self.tenants.append(said.get("tenant", ""))
        if said.get("resume") in self.sessions:
            self.opened[number] = said["resume"]
            session = self.sessions[said["resume"]]
            session.answers.clear()
            session.highest += 1 << 32
        elif number not in self.opened:
            self.numbers += 1
            self.opened[number] = self.numbers
            self.sessions[self.numbers] = ModelSession(number, said["fragment_size"], said["fragments"], number)
        session = self.sessions[self.opened[number]]
        answer = {
            "credits": max(1, self.credits),
            "max_message": 1 << 24,
            "window": self.window,
            "fragments": self.fragments,
            "base": session.base,
            "next": session.highest + 1,
        }
        reply = self.reply(message.header, msgpack.packb(answer), session=self.opened[number])
        missing = message.header.length - encode_message(reply, 1 << 15)[0].length
        answer["padding"] = bytes(max(0, missing - len("padding") - 4))
        reply = replace(reply, body=msgpack.packb(answer))
        return list(fragment_frames(*encode_message(reply, message.header.fragment_size)))
