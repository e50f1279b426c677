"""The rig's verbs: send, expect, expect_none, expect_quiet, and the few things that most cases do with them."""

import random
from dataclasses import dataclass, field, replace
from typing import Any

import msgpack

from host_sdk.conformance.case import FailedError, NotApplicableError
from host_sdk.conformance.frames import CRC, ONCE, TRAILED, Frame, Reply, control_body, join, message
from host_sdk.conformance.patterns import Pattern, described
from host_sdk.conformance.port import Port
from host_sdk.conformance.target import Target, Work
from host_sdk.wire.schema import CRC_SIZE, HEADER_SIZE, REPLY_BIT, Opcode, Status

ANSWER_NS = 1_000_000_000  # in which an answer comes, if one comes
QUIET_NS = 15_000_000  # in which a frame that was on its way would have come
_AWAY = 1 << 63  # in the ids of requests that are not counted
ONE_FRAME = 1400


@dataclass
class Session:
    """A session of one case.

    Attributes:
        number: Its id.
        opened: The body of its OPENED.
        port: Whose it is.
        following: Id of its next *once* request.
    """

    number: int
    opened: dict[str, Any]
    port: Port
    following: int = field(default=0)

    def next_id(self) -> int:
        """Return the id of the next *once* request."""
        self.following += 1
        return self.following - 1

    @property
    def credits(self) -> int:
        """INFER requests that it may have outstanding."""
        return int(self.opened["credits"])

    @property
    def window(self) -> int:
        """Ids of *once* requests that it may have unsettled."""
        return int(self.opened["window"])


class Rig:
    """What a case works with.

    Args:
        target: The responder, and the links to it.
        patience: Factor of every time that is waited.
        generator: Source of request ids.
    """

    def __init__(self, target: Target, patience: float = 1.0, generator: random.Random | None = None) -> None:
        self.target, self.patience = target, patience
        self.random = generator or random.Random()  # noqa: S311 - ids, no secrets
        self.port = Port(target.link, target.peer, target.now)
        self._second = Port(target.second, target.peer, target.now) if target.second else None
        self._sessions: list[Session] = []

    # ---- verbs ---------------------------------------------------------------------------------------------------

    def send(self, *pdus: bytes, port: Port | None = None) -> None:
        """Send PDUs as they are."""
        (port or self.port).send(list(pdus))

    def expect(self, pattern: Pattern, port: Port | None = None, within_ns: int = ANSWER_NS) -> Reply:
        """Return the next frame that is meant; those that are not are kept.

        Raises:
            FailedError: It does not come in time.
        """
        chosen = port or self.port
        found = chosen.take(pattern, int(within_ns * self.patience))
        if found is None:
            raise FailedError(str(pattern), chosen.said(), chosen.last())
        return found

    def expect_none(self, pattern: Pattern, port: Port | None = None, for_ns: int = QUIET_NS) -> None:
        """Check that no such frame comes: not before the answer to something that is asked behind it, nor soon after.

        Raises:
            FailedError: One comes.
        """
        chosen = port or self.port
        self.fence(chosen)
        found = chosen.take(pattern, int(for_ns * self.patience))
        if found is not None:
            raise FailedError(f"no frame with {pattern}", described(found), chosen.last())

    def expect_quiet(self, port: Port | None = None) -> None:
        """Check that nothing comes at all."""
        self.expect_none(Pattern(), port)

    def fence(self, port: Port | None = None) -> None:
        """Ask something that is always answered, and take the answer: what was sent before has been looked at then."""
        request = self.number()
        chosen = port or self.port
        chosen.send([Frame(Opcode.CLOSE, request=request).encode()])
        self.expect(Pattern(opcode=Opcode.CLOSED, request=request), chosen)

    def fail(self, expected: str, got: str, port: Port | None = None) -> FailedError:
        """Return a failure with the last frames, to be raised."""
        return FailedError(expected, got, (port or self.port).last())

    def check(self, condition: bool, expected: str, got: object) -> None:
        """Check something that a case has computed.

        Raises:
            FailedError: It is not so.
        """
        if not condition:
            raise self.fail(expected, str(got))

    # ---- requests ------------------------------------------------------------------------------------------------

    def number(self) -> int:
        """Return a request id that nobody else has."""
        return self.random.getrandbits(62) | 1

    @property
    def second(self) -> Port:
        """A port with another address.

        Raises:
            NotApplicableError: There is none.
        """
        if self._second is None:
            raise NotApplicableError(f"a {self.target.link.kind} link has one address here")
        return self._second

    def put(self, frame: Frame, size: int | None = None, port: Port | None = None) -> Frame:
        """Send a message, in fragments of ``size`` bytes or as large as they go; return it with its request id."""
        if not frame.request:
            frame = frame.but(request=self.number())
        largest = min(ONE_FRAME, self.target.mtu - HEADER_SIZE)
        self.send(*message(frame, size or frame.fragment_size or largest), port=port)
        return frame

    def answer(self, frame: Frame, port: Port | None = None, within_ns: int = ANSWER_NS) -> Reply:
        """Return the whole answer to a request, and check what is so of every reply.

        Raises:
            FailedError: It does not come, or breaks a rule that all replies keep.
        """
        pattern = Pattern(opcode=frame.opcode | REPLY_BIT, request=frame.request)
        first = self.expect(pattern, port, within_ns)
        parts = {first.fragment: first}
        while len(parts) < first.fragments:
            part = self.expect(pattern, port, within_ns)
            same = replace(part, data=b"", payload=b"", fragment=0, credits=0)
            if same != replace(first, data=b"", payload=b"", fragment=0, credits=0):
                raise self.fail("fragments with the same header (N-022)", described(part), port)
            parts[part.fragment] = part
        reply = join(list(parts.values()))
        self._check_reply(frame, reply, port)
        return reply

    def ask(self, frame: Frame, size: int | None = None, port: Port | None = None) -> Reply:
        """Send a message and return its whole answer."""
        return self.answer(self.put(frame, size, port), port)

    def refused(self, frame: Frame, status: Status, size: int | None = None, port: Port | None = None) -> Reply:
        """Send a message and check that its answer has a status."""
        return self.has_status(self.ask(frame, size, port), status, port)

    def has_status(self, reply: Reply, status: Status, port: Port | None = None) -> Reply:
        """Check the status of a reply."""
        if reply.status != status:
            raise self.fail(f"status {status.name}", described(reply), port)
        return reply

    def dropped(self, *pdus: bytes) -> None:
        """Send PDUs and check that none of them is answered, and that the target goes on."""
        self.send(*pdus)
        self.expect_quiet()

    def _check_reply(self, frame: Frame, reply: Reply, port: Port | None) -> None:
        """Check what is so of every whole reply, whatever it answers."""
        good = (
            (reply.version == 1, "version 1 (N-010)"),
            (reply.flags & CRC == frame.flags & CRC, "flag CRC as in the request (N-036)"),
            (reply.sound, "the CRC-32C of the message at its end (N-046)"),
            (reply.excess == 0 or len(reply.data) <= self.target.link.smallest, "one PDU and nothing else (N-002)"),
            (len(reply.data) <= max(self.target.mtu, self.target.link.smallest), "PDUs within the MTU (N-005)"),
        )
        for so, expected in good:
            if not so:
                raise self.fail(expected, described(reply), port)

    # ---- control, sessions, inferences ----------------------------------------------------------------------------

    def control(self, operation: str, **arguments: Any) -> Frame:
        """Return a CONTROL for an operation.

        Raises:
            NotApplicableError: The target's control plane is for those who have proved who they are.
        """
        self.needs_control()
        return Frame(Opcode.CONTROL, control_body(operation, **arguments), self.number(), CRC)

    def needs_control(self) -> None:
        """Check that anybody may ask for operations.

        Raises:
            NotApplicableError: Nobody may without a certificate.
        """
        if not self.target.open_access:
            raise NotApplicableError("with mutual access the control plane is in secure streams alone")

    def opening(self, **keys: Any) -> Frame:
        """Return an OPEN."""
        return Frame(Opcode.OPEN, msgpack.packb({**self._asked, **keys}), self.number(), CRC)

    @property
    def _asked(self) -> dict[str, Any]:
        largest = max(544, min(ONE_FRAME, self.target.mtu - HEADER_SIZE))
        return {"fragment_size": largest, "fragments": 65535}

    def padded(self, size: int) -> Frame:
        """Return an OPEN whose PDU has ``size`` bytes, at least 576, by padding."""
        asked = {"fragment_size": size - HEADER_SIZE, "padding": bytes(256)}
        spare = size - HEADER_SIZE - CRC_SIZE - len(msgpack.packb({**self._asked, **asked}))
        return self.opening(**{**asked, "padding": bytes(256 + spare)})

    def open(self, port: Port | None = None, frame: Frame | None = None, **keys: Any) -> Session:
        """Open a session, which ends with the case."""
        reply = self.has_status(self.ask(frame or self.opening(**keys), port=port), Status.OK, port)
        opened = reply.unpacked()
        wanted = ("credits", "max_message", "window", "fragments", "base", "next")
        if reply.session == 0 or not all(type(opened.get(key)) is int for key in wanted):
            raise self.fail(f"OPENED with a session and a map of {', '.join(wanted)} (N-059)", described(reply), port)
        session = Session(reply.session, opened, port or self.port, opened["next"])
        self._sessions.append(session)
        return session

    @property
    def last_session(self) -> Session:
        """The session that this case has opened last."""
        return self._sessions[-1]

    def close(self, session: Session) -> Reply:
        """Close a session."""
        return self.ask(Frame(Opcode.CLOSE, b"", 0, CRC, session.number), port=session.port)

    @property
    def work(self) -> Work:
        """What can be inferred.

        Raises:
            NotApplicableError: No pipeline can.
        """
        if self.target.work is None:
            raise NotApplicableError(self.target.no_work)
        return self.target.work

    def infer(self, session: Session, /, *, once: bool = False, **fields: Any) -> Frame:
        """Return a good INFER, with some fields changed; a *once* request gets the session's next id."""
        flags = CRC | (ONCE if once else 0)
        number = session.next_id() if once and "request" not in fields else self.number() | _AWAY
        known = {
            "payload": self.work.body,
            "request": number,
            "flags": flags,
            "session": session.number,
            "pipeline": self.work.handle,
        }
        return Frame(Opcode.INFER, **{**known, **fields})

    def pieces(self, frame: Frame, count: int = 3) -> list[bytes]:
        """Return a message in at least ``count`` fragments.

        Raises:
            NotApplicableError: It has too few bytes.
        """
        length = len(frame.payload) + 4 * (frame.flags & CRC)
        size = min((length - 1) // (count - 1), ONE_FRAME)
        if size < 1:
            raise NotApplicableError(f"{length} bytes are no {count} fragments")
        return message(frame, size)

    def right(self, reply: Reply, port: Port | None = None) -> Reply:
        """Check that a RESULT is the answer to the good INFER."""
        self.has_status(reply, Status.OK, port)
        if reply.body != self.work.answer:
            raise self.fail(f"the answer {self.work.answer[:32].hex()}...", reply.body[:32].hex(), port)
        return reply

    def runs(self, session: Session, /, size: int | None = None, **fields: Any) -> Reply:
        """Check that a good INFER is answered right; return the answer."""
        return self.right(self.ask(self.infer(session, **fields), size, session.port), session.port)

    def traced(self, session: Session, /, **fields: Any) -> Frame:
        """Return a good *once* INFER that asks for a trailer, in which two executions differ."""
        return self.infer(session, once=True, **{"flags": CRC | ONCE | TRAILED, **fields})

    def begin(self) -> None:
        """Forget what came before a case."""
        for port in (self.port, self._second):
            if port:
                port.forget()

    def finish(self) -> None:
        """Close what a case has opened; whatever became of it."""
        for session in self._sessions:
            session.port.send([Frame(Opcode.CLOSE, request=self.number(), session=session.number).encode()])
            session.port.take(Pattern(opcode=Opcode.CLOSED), int(ANSWER_NS * self.patience / 4))
        self._sessions.clear()
