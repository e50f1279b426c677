"""Carriage: what a link's frame holds, and whom it goes to."""

from collections.abc import Callable

from host_sdk.conformance.case import NotApplicableError, Section
from host_sdk.conformance.frames import CRC, Frame, message
from host_sdk.conformance.patterns import Pattern, described
from host_sdk.conformance.rig import Rig
from host_sdk.wire.links.base import BROADCAST
from host_sdk.wire.schema import HEADER_SIZE, MIN_MTU, Opcode, Status

SECTION = Section("carriage")
case = SECTION.case
_ETHERNET = ("packet", "xdp")


@case("N-001", "on Ethernet, a PDU is the payload of a frame of this EtherType")
def ethertype(rig: Rig) -> None:
    if rig.target.link.kind not in _ETHERNET:
        raise NotApplicableError(f"a {rig.target.link.kind} link has no EtherType")
    rig.ask(Frame(Opcode.CLOSE, flags=CRC))  # a link of Ethernet takes frames of its own EtherType alone


@case("N-002 N-008", "two PDUs in one datagram are none: neither is answered")
def two_in_one(rig: Rig) -> None:
    one, two = (Frame(Opcode.CLOSE, request=rig.number(), flags=0).encode() for _ in range(2))
    rig.dropped(one + two)


@case("N-002", "a reply is one PDU and nothing else")
def one_in_one(rig: Rig) -> None:
    request = Frame(Opcode.CLOSE, request=rig.number())
    rig.send(request.encode())
    reply = rig.expect(Pattern(opcode=Opcode.CLOSED, request=request.request))
    padded = len(reply.data) <= rig.target.link.smallest
    rig.check(reply.excess == 0 or padded, "a PDU of header and fragment", described(reply))


@case("N-004", "a PDU of 576 bytes arrives, and its answer of as many")
def smallest_mtu(rig: Rig) -> None:
    frame = rig.padded(MIN_MTU)
    rig.send(*message(frame))
    reply = rig.expect(Pattern(opcode=Opcode.OPENED, request=frame.request, status=Status.OK))
    rig.open(frame=frame)
    rig.check(len(reply.data) == MIN_MTU, "an OPENED of 576 bytes", len(reply.data))


@case(
    "N-005 N-022 N-023 N-024", "no PDU of a long answer is longer than the link's MTU, and it comes in fragments alike"
)
def long_answer(rig: Rig) -> None:
    request = rig.control("stats")
    rig.send(*message(request))
    first = rig.expect(Pattern(opcode=Opcode.CONTROLLED, request=request.request))
    if first.fragments == 1:
        raise NotApplicableError(f"its longest answer that anybody can ask for has {first.length} bytes, one fragment")
    parts = [first]
    while len(parts) < first.fragments:
        parts.append(rig.expect(Pattern(opcode=Opcode.CONTROLLED, request=request.request)))
    rig.check(max(len(part.data) for part in parts) <= rig.target.mtu, f"at most {rig.target.mtu} bytes", "more")
    rig.check({part.fragment for part in parts} == set(range(first.fragments)), "every fragment once", len(parts))
    heads = {part.data[:23] + part.data[26:HEADER_SIZE] for part in parts}
    rig.check(len(heads) == 1, "headers that differ in fragment and credits alone", len(heads))


@case("N-006", "of two who ask under the same id, each gets the answer to its own request")
def reply_to_sender(rig: Rig) -> None:
    other, request = rig.second, rig.number()
    rig.send(Frame(Opcode.CLOSE, request=request, priority=1).encode())
    rig.send(Frame(Opcode.CLOSE, request=request, priority=2).encode(), port=other)
    for port, priority in ((rig.port, 1), (other, 2)):
        found = rig.expect(Pattern(opcode=Opcode.CLOSED, request=request), port)
        rig.check(
            found.priority == priority, f"the answer to its own request, of priority {priority}", described(found)
        )
        rig.expect_none(Pattern(request=request), port)


@case("N-007", "Ethernet's padding is ignored: {}", {"zeros": 0, "ones": 0xFF})
def padding(rig: Rig, value: int) -> None:
    smallest = rig.target.link.smallest
    if not smallest:
        raise NotApplicableError(f"a {rig.target.link.kind} link pads nothing")
    request = Frame(Opcode.CLOSE, request=rig.number())
    rig.send(request.encode() + bytes([value]) * (smallest - HEADER_SIZE))
    rig.answer(request)


@case("N-008", "a PDU with {} bytes behind its fragment is dropped", {"1": 1, "20": 20, "500": 500})
def trailing_bytes(rig: Rig, count: int) -> None:
    body = bytes(64)  # more than Ethernet pads
    rig.dropped(Frame(Opcode.OPEN, body, rig.number()).encode() + bytes(count))


_SOURCES: dict[str, Callable[[Rig], int]] = {
    "the broadcast address": lambda _: BROADCAST,
    "zero": lambda _: 0,
    "the responder's own address": lambda rig: rig.target.peer,
}


@case("N-009", "a frame whose source is {} is answered to nobody", _SOURCES)
def forged_source(rig: Rig, source: Callable[[Rig], int]) -> None:
    if rig.target.forge is None:
        raise NotApplicableError(f"a {rig.target.link.kind} link cannot forge a source")
    if source(rig) == rig.target.peer and rig.target.link.kind in _ETHERNET:
        raise NotApplicableError("a switch on the way would look for the responder at this end from then on")
    request = rig.number()
    rig.target.forge(source(rig), Frame(Opcode.CLOSE, request=request).encode())
    rig.expect_none(Pattern(request=request))
