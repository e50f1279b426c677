"""What became of each request on the way: spans from the client's send to its receive, on the client's clock.

The client's times are measured: when frames were handed to its link and taken from it. How long each stage of the
appliance took is measured as well, by the appliance, and comes in the trailer. When the appliance began is not known to
the client: the time that is left is divided evenly between the way there and the way back, or, where a request was sent
more than once, the way back is taken to be as long as the shortest one seen.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from host_sdk.capture.answers import Answer
from host_sdk.capture.fields import Fields, header_of
from host_sdk.wire.errors import CaptureError, FrameError
from host_sdk.wire.exchange.course import TRANSIENT
from host_sdk.wire.header import Header
from host_sdk.wire.message import Trailer, decode_message
from host_sdk.wire.schema import HEADER_SIZE, REPLY_BIT, STAGES, Opcode, Status, is_notice

MAX_FRAMES = 1_000_000


@dataclass(frozen=True, slots=True)
class Observed:
    """A frame at the client.

    Attributes:
        time_ns: When it was handed to the link, or taken from it.
        peer: The appliance's key.
        sent: Whether the client sent it.
        pdu: The PDU.
    """

    time_ns: int
    peer: int
    sent: bool
    pdu: bytes


class Observations:
    """Takes the frames of a tap into memory.

    Args:
        own: The client's key.
    """

    def __init__(self, own: int) -> None:
        self._own = own
        self.frames: list[Observed] = []

    def write(self, time_ns: int, source: int, destination: int, pdu: bytes) -> None:
        """Take one PDU.

        Raises:
            CaptureError: There are too many.
        """
        if len(self.frames) >= MAX_FRAMES:
            raise CaptureError(f"more than {MAX_FRAMES} frames; trace fewer requests")
        sent = source == self._own
        self.frames.append(Observed(time_ns, destination if sent else source, sent, pdu))

    def flush(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


@dataclass(slots=True)
class RequestSpan:
    """One request.

    Attributes:
        peer: The appliance's key.
        header: Of its first frame.
        sent: When its first frame was sent, ns.
        frames: Frames of it that were sent, copies among them.
        transmissions: Times that its first or last fragment was sent, whichever is more.
        events: What happened in between: time and name.
        received: When its answer was whole; None while it is not.
        status: Of that answer.
        trailer: What that says of the stages.
    """

    peer: int
    header: Header
    sent: int
    frames: int = 0
    transmissions: int = 0
    events: list[tuple[int, str]] = field(default_factory=list)
    received: int | None = None
    status: Status = Status.OK
    trailer: Trailer | None = None

    @property
    def outside_ns(self) -> int:
        """Ns from send to receive that were not in any stage; below 0 where the two clocks disagree."""
        inside = sum(self.trailer.measured_ns) if self.trailer else 0
        return (self.received or self.sent) - self.sent - inside


def request_spans(frames: Iterable[Observed]) -> list[RequestSpan]:
    """Return the INFER requests among frames that were answered for good, in the order of their first frames."""
    spans: dict[tuple[int, int, int], RequestSpan] = {}
    answers: dict[tuple[int, int, int], Answer] = {}
    for frame in frames:
        fields = header_of(frame.pdu)
        if fields is None:
            continue
        header = fields.header
        key = (frame.peer, header.session, header.request)
        if frame.sent and header.opcode == Opcode.INFER:
            _sent(spans.setdefault(key, RequestSpan(frame.peer, header, frame.time_ns)), header, frame.time_ns)
        elif (span := spans.get(key)) is None or span.received is not None:
            continue
        elif is_notice(header.opcode):
            span.events.append((frame.time_ns, _name(header.opcode)))
        elif header.opcode == Opcode.INFER | REPLY_BIT and not frame.sent:
            _received(span, answers, key, fields, frame)
    return [span for span in spans.values() if span.received is not None]


def _sent(span: RequestSpan, header: Header, time_ns: int) -> None:
    span.frames += 1
    if span.frames > header.fragments:
        span.events.append((time_ns, f"fragment {header.fragment} again"))
    if header.fragment == header.fragments - 1:
        span.transmissions += 1


def _received(
    span: RequestSpan,
    answers: dict[tuple[int, int, int], Answer],
    key: tuple[int, int, int],
    header: Fields,
    frame: Observed,
) -> None:
    answer = answers.get(key)
    if answer is None or (answer.header.status, answer.header.length) != (header.status, header.length):
        answer = answers[key] = Answer(header)
    answer.parts[header.fragment] = frame.pdu[HEADER_SIZE : HEADER_SIZE + header.payload_size]
    if not answer.whole:
        return
    try:
        message = decode_message(answer.header.header, answer.payload)
    except FrameError:
        span.events.append((frame.time_ns, "damaged answer"))
        del answers[key]
        return
    if header.status in TRANSIENT:
        span.events.append((frame.time_ns, Status(header.status).name))
        return
    span.received, span.trailer = frame.time_ns, message.trailer
    span.status = Status(header.status) if header.status in Status.__members__.values() else Status.INTERNAL


def _name(opcode: int) -> str:
    return Opcode(opcode).name if opcode in Opcode.__members__.values() else f"notice {opcode:#04x}"


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a request's time.

    Attributes:
        name: ``way there``, ``appliance``, a stage, or ``way back``.
        begin: ns.
        end: ns.
        measured: By whom: ``appliance`` for its stages, ``derived`` for what is placed.
        inner: Whether it lies within ``appliance``.
    """

    name: str
    begin: int
    end: int
    measured: str
    inner: bool = False


def parts_of(span: RequestSpan, shortest_back_ns: int) -> Iterator[Part]:
    """Yield the parts of a request, in order; nothing for one whose answer has no trailer.

    Args:
        span: The request.
        shortest_back_ns: The shortest way back from this appliance.
    """
    if span.trailer is None or span.received is None:
        return
    inside = min(sum(span.trailer.measured_ns), span.received - span.sent)
    outside = span.received - span.sent - inside
    back = outside // 2 if span.transmissions <= 1 else min(shortest_back_ns, outside)
    begin, end = span.received - back - inside, span.received - back
    yield Part("way there", span.sent, begin, "derived")
    yield Part("appliance", begin, end, "derived")
    for stage, took in zip(STAGES, span.trailer.measured_ns, strict=True):
        until = min(begin + took, end)
        yield Part(stage, begin, until, "appliance", inner=True)
        begin = until
    yield Part("way back", end, span.received, "derived")


def shortest_ways_back(spans: Iterable[RequestSpan]) -> dict[int, int]:
    """Return the shortest way back from each appliance, ns: half of what is outside of requests that were sent once."""
    found: dict[int, int] = {}
    for span in spans:
        if span.trailer is not None and span.transmissions <= 1 and span.outside_ns >= 0:
            found[span.peer] = min(found.get(span.peer, span.outside_ns // 2), span.outside_ns // 2)
    return found
