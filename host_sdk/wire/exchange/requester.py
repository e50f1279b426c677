"""The requester's side of the protocol: sessions, credits, retransmission, replies. Sans-IO.

The owner calls :meth:`Requester.submit`, sends what :meth:`Requester.to_send` yields, feeds :meth:`Requester.receive`
and takes :meth:`Requester.next_event`; at the latest at :meth:`Requester.next_timer` it calls to_send again. Times are
ns on any monotonic clock; the generator gives request ids that a stale reply cannot match.
"""

import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import msgpack

from host_sdk.wire.errors import (
    FrameError,
    NapuError,
    NapuTimeoutError,
    RemoteProtocolError,
    status_error,
)
from host_sdk.wire.exchange.reassembly import Reassembler, ReassemblyLimits
from host_sdk.wire.header import Header, decode_header
from host_sdk.wire.message import Message, check_message, decode_message, encode_message, fragment_frames
from host_sdk.wire.schema import HEADER_SIZE, REPLY_BIT, RETRY_AFTER_UNIT_US, Flag, Opcode, Status

Datagram = tuple[int, bytes]  # peer key, PDU
TRANSIENT = (Status.BUSY, Status.UNAVAILABLE, Status.REASSEMBLY_TIMEOUT, Status.BAD_CRC)


@dataclass(frozen=True, slots=True)
class RequesterLimits:
    """How a requester paces itself.

    Attributes:
        window: Requests outstanding at one appliance at most, whatever credit it grants.
        first_rto_ns: Retransmission timeout before the round trip is known; and of CONTROL, which may take its time.
        min_rto_ns: Smallest retransmission timeout.
        max_rto_ns: Largest one, that back-off ends at.
    """

    window: int = 64
    first_rto_ns: int = 250_000_000
    min_rto_ns: int = 50_000_000
    max_rto_ns: int = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Request:
    """What the owner asks for.

    Attributes:
        peer: Peer key of the appliance, or links.base.BROADCAST for a DISCOVER.
        header: Opcode, pipeline, priority, deadline and flags; the rest is filled in.
        body: The message's body.
        timeout_ns: Time from submission after which the request fails.
        in_session: Whether it needs a session, which is opened where there is none.
        gathers: Whether every reply until the timeout counts, as with DISCOVER.
    """

    peer: int
    header: Header
    body: bytes = b""
    timeout_ns: int = 2_000_000_000
    in_session: bool = False
    gathers: bool = False


@dataclass(frozen=True, slots=True)
class Event:
    """Something became of a request.

    Attributes:
        token: What submit returned.
        peer: Who answered.
        reply: The answer, with status OK; None where the request failed or a gathering is over.
        error: Why it failed.
        latency_ns: From the first transmission to the answer.
        transmissions: Times that the request was sent.
    """

    token: int
    peer: int
    reply: Message | None = None
    error: NapuError | None = None
    latency_ns: int = 0
    transmissions: int = 0


@dataclass(slots=True)
class _Flight:
    token: int
    request: Request
    expires: int
    header: Header | None = None
    pdus: list[bytes] = field(default_factory=list)
    first_sent: int = 0
    transmissions: int = 0
    rto: int = 0
    due: int = 0  # when to send (again)
    refusal: NapuError | None = None  # the last answer that said: not now


@dataclass(slots=True)
class _Appliance:
    """What is known of one appliance."""

    session: int | None = None
    opening: bool = False
    credits: int = 1
    outstanding: int = 0
    waiting: deque[int] = field(default_factory=deque)
    smoothed_ns: int | None = None
    variation_ns: int = 0

    def measure(self, sample_ns: int) -> None:
        """Take one round trip into the estimate (RFC 6298, section 2)."""
        if self.smoothed_ns is None:
            self.smoothed_ns, self.variation_ns = sample_ns, sample_ns // 2
            return
        self.variation_ns += (abs(self.smoothed_ns - sample_ns) - self.variation_ns) // 4
        self.smoothed_ns += (sample_ns - self.smoothed_ns) // 8


def _error_of(reply: Message) -> NapuError | None:
    header = reply.header
    if header.status == Status.OK:
        return None
    detail = reply.body.decode("utf-8", "replace")
    return status_error(header.status, detail, header.retry_after * RETRY_AFTER_UNIT_US / 1e6)


class Requester:
    """Requests to any number of appliances over one link.

    Args:
        fragment_size: Bytes of a message in one PDU, from the link's MTU.
        generator: Source of request ids.
        limits: Window and timeouts.
        smallest: Bytes up to which the link pads its frames.
    """

    def __init__(
        self,
        fragment_size: int,
        generator: random.Random,
        limits: RequesterLimits | None = None,
        smallest: int = 0,
    ) -> None:
        self.fragment_size = fragment_size
        self.limits = limits or RequesterLimits()
        self.bad_frames = 0
        self.stale_replies = 0
        self._smallest = smallest
        self._generator = generator
        self._appliances: dict[int, _Appliance] = {}
        self._flights: dict[int, _Flight] = {}
        self._by_request: dict[int, int] = {}  # request id -> token; ids are unique over all sessions
        self._tokens = 0
        self._reassembler = Reassembler(ReassemblyLimits())
        self._events: deque[Event] = deque()

    # ---- what the owner asks -------------------------------------------------------------------------------------

    def submit(self, request: Request, now: int) -> int:
        """Queue a request and return the token that its events carry.

        Raises:
            LocalProtocolError: The message cannot be encoded.
        """
        check_message(Message(request.header, request.body), self.fragment_size)
        self._tokens += 1
        flight = _Flight(self._tokens, request, now + request.timeout_ns)
        self._flights[flight.token] = flight
        self._appliance(request.peer).waiting.append(flight.token)
        if request.in_session:
            self._open_session(request.peer, now, request.timeout_ns)
        else:
            self._admit(flight, now)
        return flight.token

    def cancel(self, token: int) -> None:
        """Forget a request; a late reply to it is counted as stale."""
        flight = self._flights.get(token)
        if flight:
            self._finish(flight)

    def load(self, peer: int) -> int:
        """Return how many requests in sessions are outstanding at the peer or wait for its credit."""
        appliance = self._appliance(peer)
        return appliance.outstanding + len(appliance.waiting)

    @property
    def pending(self) -> int:
        """Requests that are not finished."""
        return len(self._flights)

    def next_event(self) -> Event | None:
        """Return the next event, None when there is none."""
        return self._events.popleft() if self._events else None

    def next_timer(self) -> int | None:
        """Return when to_send has work at the latest; 0, which is at once, while events wait; None for never."""
        if self._events or any(self._admissible(appliance) for appliance in self._appliances.values()):
            return 0
        timers = [
            min(flight.expires, flight.due) if flight.pdus else flight.expires for flight in self._flights.values()
        ]
        reassembly = self._reassembler.next_timer()
        if reassembly is not None:
            timers.append(reassembly)
        return min(timers, default=None)

    # ---- out -----------------------------------------------------------------------------------------------------

    def to_send(self, now: int) -> Iterator[Datagram]:
        """Yield the PDUs to send now: new requests that credit allows, and those that are due again."""
        self._reassembler.expire(now)
        self._expire_flights(now)
        for peer, appliance in list(self._appliances.items()):
            self._admit_waiting(peer, appliance, now)
        for flight in list(self._flights.values()):
            if flight.pdus and now >= flight.due:
                yield from self._transmit(flight, now)

    def farewell(self) -> Iterator[Datagram]:
        """Yield a CLOSE for every open session, for an owner that leaves and waits for no answer."""
        for peer, appliance in self._appliances.items():
            if appliance.session is not None:
                header = Header(Opcode.CLOSE, self._unused_number(), Flag.CRC, session=appliance.session)
                appliance.session = None
                for pdu in fragment_frames(*encode_message(Message(header), self.fragment_size)):
                    yield peer, pdu

    def _admissible(self, appliance: _Appliance) -> bool:
        window = min(appliance.credits, self.limits.window)
        return bool(appliance.waiting) and appliance.session is not None and appliance.outstanding < window

    def _admit_waiting(self, peer: int, appliance: _Appliance, now: int) -> None:
        while self._admissible(appliance):
            self._admit(self._flights[appliance.waiting[0]], now)
        if appliance.waiting and appliance.session is None:
            self._open_session(peer, now, self._flights[appliance.waiting[0]].expires - now)

    def _admit(self, flight: _Flight, now: int) -> None:
        """Give a request its id and its bytes."""
        request = flight.request
        appliance = self._appliance(request.peer)
        appliance.waiting.remove(flight.token)
        number = self._unused_number()
        session = appliance.session if request.in_session and appliance.session else 0
        header = replace(request.header, request=number, session=session)
        flight.header, payload = encode_message(Message(header, request.body), self.fragment_size)
        flight.pdus = list(fragment_frames(flight.header, payload))
        control = request.header.opcode == Opcode.CONTROL
        flight.due, flight.rto = now, self.limits.first_rto_ns if control else self._rto(appliance)
        self._by_request[number] = flight.token
        if request.in_session:
            appliance.outstanding += 1

    def _unused_number(self) -> int:
        """Return a request id: not 0, which is the beacon's, and not one of a request that is pending."""
        number = 0
        while number == 0 or number in self._by_request:
            number = self._generator.getrandbits(64)
        return number

    def _transmit(self, flight: _Flight, now: int) -> Iterator[Datagram]:
        if flight.transmissions == 0:
            flight.first_sent = now
        else:
            flight.rto = min(flight.rto * 2, self.limits.max_rto_ns)
        flight.transmissions += 1
        flight.due = now + flight.rto
        for pdu in flight.pdus:
            yield flight.request.peer, pdu

    def _rto(self, appliance: _Appliance) -> int:
        if appliance.smoothed_ns is None:
            return self.limits.first_rto_ns
        estimate = appliance.smoothed_ns + 4 * appliance.variation_ns
        return min(max(estimate, self.limits.min_rto_ns), self.limits.max_rto_ns)

    # ---- in ------------------------------------------------------------------------------------------------------

    def receive(self, peer: int, pdu: bytes, now: int) -> None:
        """Take one PDU from the link; what is not a reply to a pending request is counted and dropped."""
        try:
            header = decode_header(pdu, self._smallest)
            flight = self._match(peer, header)
            if flight is None:
                return
            if flight.request.header.flags & ~header.flags & Flag.CRC:
                # A damaged flag would otherwise turn off the check that finds the damage.
                raise FrameError(Status.BAD_CRC, "a reply without the CRC that its request had")
            begin = HEADER_SIZE
            whole = self._reassembler.add(peer, header, bytes(pdu[begin : begin + header.payload_size]), now)
            if whole is not None:
                self._settle(flight, peer, decode_message(header, whole.payload), now)
        except FrameError:
            # The frame or message is damaged: the request stays pending and is sent again in its time.
            self.bad_frames += 1

    def _match(self, peer: int, header: Header) -> _Flight | None:
        flight = self._flights.get(self._by_request.get(header.request, 0))
        if (
            flight is None
            or flight.header is None
            or header.opcode != flight.header.opcode | REPLY_BIT
            or (peer != flight.request.peer and not flight.request.gathers)
        ):
            self.stale_replies += 1
            return None
        return flight

    def _settle(self, flight: _Flight, peer: int, reply: Message, now: int) -> None:
        header = reply.header
        if flight.request.gathers:
            if header.status == Status.OK:
                self._events.append(Event(flight.token, peer, reply, None, now - flight.first_sent, 1))
            return
        appliance = self._appliance(peer)
        if header.credits:
            appliance.credits = header.credits
        # Karn: a retransmitted request's reply measures nothing; and an operation's time is not that of an inference.
        if flight.transmissions == 1 and flight.request.header.opcode != Opcode.CONTROL:
            appliance.measure(now - flight.first_sent)
        if header.status == Status.UNKNOWN_SESSION and header.session == appliance.session:
            # The appliance may have restarted, and its handles with it: the next request opens another session, and
            # this one's owner has to learn anew what to ask for.
            appliance.session = None
            waiting = [self._flights[token] for token in appliance.waiting]
            for waiter in [each for each in waiting if each.request.in_session]:
                self._fail(waiter, status_error(header.status, "it waited for credit of a session that is gone"))
        if header.status in TRANSIENT:
            flight.refusal = _error_of(reply)
            pause = header.retry_after * RETRY_AFTER_UNIT_US * 1000
            flight.due = now + (pause or flight.rto)
        else:
            self._complete(flight, peer, reply, now)

    def _complete(self, flight: _Flight, peer: int, reply: Message, now: int) -> None:
        error = _error_of(reply)
        if flight.request.header.opcode == Opcode.OPEN:
            self._opened(peer, reply, error)
        else:
            self._events.append(
                Event(
                    flight.token,
                    peer,
                    None if error else reply,
                    error,
                    now - flight.first_sent,
                    flight.transmissions,
                )
            )
        self._finish(flight)

    # ---- sessions ------------------------------------------------------------------------------------------------

    def _open_session(self, peer: int, now: int, timeout_ns: int) -> None:
        appliance = self._appliance(peer)
        if appliance.session is not None or appliance.opening:
            return
        appliance.opening = True
        body = msgpack.packb({"fragment_size": self.fragment_size})
        request = Request(peer, Header(opcode=Opcode.OPEN, request=0), body, timeout_ns)
        self.submit(request, now)

    def _opened(self, peer: int, reply: Message, error: NapuError | None) -> None:
        appliance = self._appliance(peer)
        appliance.opening = False
        if error is None and reply.header.session:
            appliance.session = reply.header.session
            return
        for token in list(appliance.waiting):
            self._fail(self._flights[token], error or RemoteProtocolError("OPENED names session 0"))

    def _not_opened(self, flight: _Flight) -> None:
        """Fail those who had as long to wait as the OPEN; for those who have longer, another one is sent."""
        appliance = self._appliance(flight.request.peer)
        appliance.opening = False
        error = flight.refusal or NapuTimeoutError("no session: the appliance did not answer")
        for waiting in [self._flights[token] for token in appliance.waiting]:
            if waiting.expires <= flight.expires:
                self._fail(waiting, error)

    # ---- ends ----------------------------------------------------------------------------------------------------

    def _expire_flights(self, now: int) -> None:
        expired = [flight for flight in self._flights.values() if now >= flight.expires]
        # An OPEN comes first: it knows why those who wait for it fail.
        for flight in sorted(expired, key=lambda flight: flight.request.header.opcode != Opcode.OPEN):
            if flight.token in self._flights:
                self._expire(flight)

    def _expire(self, flight: _Flight) -> None:
        if flight.request.gathers:
            self._events.append(Event(flight.token, flight.request.peer, transmissions=flight.transmissions))
            self._finish(flight)
        elif flight.request.header.opcode == Opcode.OPEN:
            self._finish(flight)
            self._not_opened(flight)
        else:
            seconds = flight.request.timeout_ns / 1e9
            silence = NapuTimeoutError(f"no answer within {seconds:g} s after {flight.transmissions} transmissions")
            self._fail(flight, flight.refusal or silence)

    def _fail(self, flight: _Flight, error: NapuError) -> None:
        self._events.append(Event(flight.token, flight.request.peer, error=error, transmissions=flight.transmissions))
        self._finish(flight)

    def _finish(self, flight: _Flight) -> None:
        self._retire(flight)
        self._flights.pop(flight.token, None)
        waiting = self._appliance(flight.request.peer).waiting
        if flight.token in waiting:
            waiting.remove(flight.token)

    def _retire(self, flight: _Flight) -> None:
        """Take a request's id out of use and give its credit back."""
        if flight.header is None:
            return
        self._by_request.pop(flight.header.request, None)
        if flight.request.in_session:
            self._appliance(flight.request.peer).outstanding -= 1

    def _appliance(self, peer: int) -> _Appliance:
        return self._appliances.setdefault(peer, _Appliance())
