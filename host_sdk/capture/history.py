"""What happened to one request, as a capture shows it."""

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

from host_sdk.wire.message import Trailer


class Kind(StrEnum):
    """What happened to a request."""

    SENT = "sent"
    FRAGMENT_LATE = "fragment late"
    REORDERED = "reordered"
    RETRANSMITTED = "sent again"
    DUPLICATED = "duplicated"
    PAUSED = "paused"
    WORKING = "WORKING"
    GRANT = "GRANT"
    UNKNOWN = "UNKNOWN"
    RESEND = "RESEND"
    CANCEL = "CANCEL"
    DAMAGED = "damaged"
    ANSWER_DAMAGED = "answer damaged"
    DROPPED = "dropped"
    BEGAN = "began"
    ANSWERED = "answered"
    ANSWER_FRAGMENT_LATE = "answer fragment late"
    ANSWER_LOST = "answer lost"
    ANSWERED_AGAIN = "answered again"
    ANSWER_DUPLICATED = "answer duplicated"
    ANSWER_LATE = "answer late"


class Cause(StrEnum):
    """Why something was sent again, or where it was lost."""

    NONE = ""
    TIMEOUT = "nothing had passed since, so it or its answer was lost (inferred), or slow"
    OVERTAKEN = "one that was sent after it had its answer, so it was taken for lost"
    DAMAGED = "its answer had passed, but damaged"
    TOGETHER = "the node took both together, so it was sent again or duplicated by the wire"
    PAUSE = "after the pause"
    UNKNOWN = "the responder had forgotten it"
    MISSING = "the other end said that it was missing"
    WORKING = "although it was being worked on"
    ANSWERED = "although its answer had passed, which was lost behind this point (inferred), or late"
    UNEXPLAINED = "sooner than any timeout ends, and nothing that passed says why"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a request.

    Attributes:
        time_ns: When, ns since 1970.
        kind: What.
        fragment: Of request or answer; None where it is about the whole.
        after_ns: Since the transmission before, or of BUSY its ``retry_after``, or of an answer that was late, by
            how much; 0 where none of these is meant.
        cause: Why.
        status: Of an answer.
    """

    time_ns: int
    kind: Kind
    fragment: int | None = None
    after_ns: int = 0
    cause: Cause = Cause.NONE
    status: int = 0


@dataclass(frozen=True, slots=True)
class AnalysisLimits:
    """Bounds of an analysis.

    Attributes:
        open_requests: Requests that are followed at once; the one that was quiet for the longest makes room.
        fragments: Fragments of one request, and of its answer, that are told apart.
        events: Events that are kept of one request; later ones are counted.
        linger_ns: How long after its answer a request is followed, for copies that come behind.
        idle_ns: How long a request without an answer is followed after its last frame.
        duplicate_ns: A copy that comes sooner was made by the wire, for no end sends again so soon.
        timeout_ns: No retransmission timeout is shorter; at the point of capture it may look like half of it.
    """

    open_requests: int = 65536
    fragments: int = 65536
    events: int = 64
    linger_ns: int = 2_000_000_000
    idle_ns: int = 60_000_000_000
    duplicate_ns: int = 200_000
    timeout_ns: int = 10_000_000


@dataclass(slots=True)
class RequestHistory:
    """What happened to one request.

    Attributes:
        requester: Peer key.
        responder: Peer key.
        udp: Whether over UDP.
        session: Of the header.
        request: Its id.
        opcode: What was asked; 0 where nothing of the request passed, only answers or notices.
        pipeline: Of the header.
        flags: Of the header.
        deadline_ns: Relative to its arrival; 0 is never.
        fragments: Of the request's message.
        began_ns: When its first frame passed.
        ended_ns: When its final answer was whole; None while there is none.
        status: Of that.
        answers: Whole final answers that passed.
        trailer: Of the answer, where it has one and it was captured.
        first_frame: Number of its first frame.
        frames: Frames of it and of its answers, notices included.
        events: What happened, in order; at most as many as the limits say.
        counts: How often each kind of event happened, those among them that are not kept.
        causes: How often a frame of it was sent again for each cause, likewise.
    """

    requester: int
    responder: int
    udp: bool
    session: int
    request: int
    began_ns: int
    first_frame: int
    opcode: int = 0
    pipeline: int = 0
    flags: int = 0
    deadline_ns: int = 0
    fragments: int = 1
    ended_ns: int | None = None
    status: int | None = None
    answers: int = 0
    trailer: Trailer | None = None
    frames: int = 0
    events: list[Event] = field(default_factory=list)
    counts: Counter[Kind] = field(default_factory=Counter)
    causes: Counter[Cause] = field(default_factory=Counter)

    @property
    def latency_ns(self) -> int | None:
        """From the first frame of the request to the last of its answer, at the point of capture."""
        return None if self.ended_ns is None or not self.opcode else self.ended_ns - self.began_ns

    @property
    def is_complete(self) -> bool:
        """Whether the beginning of the request was captured."""
        return bool(self.opcode)
