"""Fragments: in any order, together or not at all, and what ends a message that is not whole."""

from typing import Any

from host_sdk.conformance.case import NotApplicableError, Section
from host_sdk.conformance.frames import CRC, Frame, message
from host_sdk.conformance.patterns import Pattern, described
from host_sdk.conformance.rig import Rig, Session
from host_sdk.wire.schema import HEADER_SIZE, Opcode, Status

SECTION = Section("fragments")
case = SECTION.case
CLASSES = {"datagram": False, "once": True}
_SECOND = 1_000_000_000
_LONG = 6 * _SECOND  # far longer than the time that an unfinished message should have


_IMPOSSIBLE: dict[str, dict[str, int]] = {
    "a fragment_size of 0": {"fragment_size": 0},
    "the second fragment of one": {"fragment": 1},
    "fragment 65535": {"fragment": 0xFFFF},
    "fragment 3 of three": {"fragment": 3, "length": 3000, "fragment_size": 1000},
    "fragment 1 of an empty message": {"length": 0, "fragment": 1, "fragment_size": 1},
}


@case("N-025", "a PDU with {} is dropped", _IMPOSSIBLE)
def bad_fragment(rig: Rig, fields: dict[str, Any]) -> None:
    rig.dropped(Frame(Opcode.OPEN, bytes(100), rig.number(), **fields).encode())


@case("N-026", "a PDU of {} is dropped", {"1 byte": 1, "31 bytes": 31, "a header alone": 32, "one byte too few": 131})
def truncated(rig: Rig, size: int) -> None:
    rig.dropped(Frame(Opcode.OPEN, bytes(100), rig.number()).encode()[:size])


def _order(rig: Rig, session: Session, once: bool, order: str) -> None:
    frame = rig.infer(session, once=once)
    pieces = rig.pieces(frame, 5)
    arranged = {"reversed": pieces[::-1], "odd first": pieces[1::2] + pieces[::2]}[order]
    rig.send(*arranged)
    rig.right(rig.answer(frame))


@case("N-027", "the fragments of a {} request are taken in reverse", CLASSES)
def reverse(rig: Rig, once: bool) -> None:
    _order(rig, rig.open(), once, "reversed")


@case("N-027", "the fragments of a {} request are taken mixed", CLASSES)
def mixed(rig: Rig, once: bool) -> None:
    _order(rig, rig.open(), once, "odd first")


@case("N-027", "the fragments of a CONTROL are taken in reverse")
def control_reverse(rig: Rig) -> None:
    frame = rig.control("identity")
    rig.send(*rig.pieces(frame, 4)[::-1])
    rig.has_status(rig.answer(frame), Status.OK)


def _apart(rig: Rig, one: Frame, other: Frame, expected: Status) -> None:
    """Send the first half of one message and the second of another, then what is missing of both."""
    halves = [rig.pieces(frame, 2) for frame in (one, other)]
    rig.send(halves[0][0], *halves[1][1:])
    rig.expect_none(Pattern(opcode=(one.opcode | 0x80, other.opcode | 0x80)))
    rig.send(*halves[0][1:], halves[1][0])
    rig.right(rig.answer(one))
    rig.has_status(rig.answer(other), expected)


@case("N-028", "fragments of two requests do not make one")
def other_request(rig: Rig) -> None:
    session = rig.open()
    _apart(rig, rig.infer(session), rig.infer(session), Status.OK)


@case("N-028", "fragments in two sessions do not make one")
def other_session(rig: Rig) -> None:
    one, other = rig.open(), rig.open()
    frame = rig.infer(one)
    _apart(rig, frame, rig.infer(other, request=frame.request), Status.OK)


@case("N-028", "fragments of two opcodes do not make one")
def other_opcode(rig: Rig) -> None:
    frame = rig.infer(rig.open())
    _apart(rig, frame, frame.but(opcode=0x55), Status.UNKNOWN_OPCODE)


@case("N-028", "fragments from two peers do not make one")
def other_peer(rig: Rig) -> None:
    frame = rig.infer(rig.open())
    first, *rest = rig.pieces(frame, 2)
    rig.send(first)
    rig.send(*rest, port=rig.second)
    rig.expect_none(Pattern(opcode=Opcode.RESULT, status=Status.OK))
    rig.send(*rest)
    rig.right(rig.answer(frame))


@case("N-029", "a second copy of a fragment of a {} request changes nothing", CLASSES)
def duplicate(rig: Rig, once: bool) -> None:
    frame = rig.infer(rig.open(), once=once)
    pieces = rig.pieces(frame, 3)
    rig.send(pieces[0], pieces[0], pieces[1], pieces[0], pieces[1], *pieces[2:])
    rig.right(rig.answer(frame))
    rig.expect_none(Pattern(opcode=Opcode.RESULT, request=frame.request))


@case("N-029", "a second copy of a fragment of a {} request, with other bytes, changes nothing", CLASSES)
def forged_duplicate(rig: Rig, once: bool) -> None:
    frame = rig.infer(rig.open(), once=once)
    pieces = rig.pieces(frame, 3)
    forged = pieces[0][:HEADER_SIZE] + bytes(byte ^ 0x55 for byte in pieces[0][HEADER_SIZE:])
    rig.send(pieces[0], forged, *pieces[1:])
    rig.right(rig.answer(frame))  # its CRC covers what came first


_CONFLICTS = {
    "priority": {"priority": 9},
    "deadline": {"deadline": 12345},
    "flags": {"flags": 0},
    "pipeline": {"pipeline": 0xFFFF},
    "length": {"length": 3},
}


@case("N-030 N-031", "a fragment with another {} ends a datagram request with FRAGMENT_CONFLICT", _CONFLICTS)
def conflict(rig: Rig, fields: dict[str, int]) -> None:
    _conflict(rig, fields, once=False)


@case("N-030 N-031", "a fragment with another {} ends a once request with FRAGMENT_CONFLICT", _CONFLICTS)
def conflict_once(rig: Rig, fields: dict[str, int]) -> None:
    if "flags" in fields:
        fields = {"flags": 1 | 2 | 8}
    _conflict(rig, fields, once=True)


def _conflict(rig: Rig, fields: dict[str, int], *, once: bool) -> None:
    frame = rig.infer(rig.open(), once=once)
    pieces = rig.pieces(frame, 3)
    size = len(pieces[0]) - HEADER_SIZE
    length = len(frame.payload) + 4
    changed = {"length": length, **fields}
    if "length" in fields:
        changed["length"] = length + 1
    second = frame.but(fragment=1, fragment_size=size, payload=pieces[1][HEADER_SIZE:], **changed)
    rig.send(pieces[0], second.encode())
    pattern = Pattern(opcode=Opcode.RESULT, request=frame.request)
    reply = rig.expect(pattern)
    rig.has_status(reply, Status.FRAGMENT_CONFLICT)


@case("N-030 N-031", "a once request that began with a fragment of another length ends with FRAGMENT_CONFLICT")
def conflict_first(rig: Rig) -> None:
    frame = rig.infer(rig.open(), once=True)
    pieces = rig.pieces(frame, 3)
    size = len(pieces[0]) - HEADER_SIZE
    other = frame.but(length=len(frame.payload) + 5, fragment=0, fragment_size=size, payload=pieces[0][HEADER_SIZE:])
    rig.send(other.encode(), pieces[1])
    rig.has_status(rig.expect(Pattern(opcode=Opcode.RESULT, request=frame.request)), Status.FRAGMENT_CONFLICT)


def _age(rig: Rig, frame: Frame) -> None:
    rig.send(rig.pieces(frame, 2)[0])
    reply = rig.expect(Pattern(opcode=frame.opcode | 0x80, request=frame.request), within_ns=_LONG)
    rig.has_status(reply, Status.REASSEMBLY_TIMEOUT)


@case("N-033 N-123", "a {} request of which a fragment stays away is answered REASSEMBLY_TIMEOUT", CLASSES)
def age(rig: Rig, once: bool) -> None:
    _age(rig, rig.infer(rig.open(), once=once))


@case("N-033 N-123", "a CONTROL of which a fragment stays away is answered REASSEMBLY_TIMEOUT")
def age_control(rig: Rig) -> None:
    _age(rig, rig.control("identity"))


@case("N-033", "a late copy of a fragment of a request that was whole is not answered REASSEMBLY_TIMEOUT")
def late_copy(rig: Rig) -> None:
    frame = rig.infer(rig.open())
    pieces = rig.pieces(frame, 3)
    rig.send(*pieces)
    rig.right(rig.answer(frame))
    rig.send(pieces[0])
    rig.expect_none(Pattern(opcode=Opcode.RESULT, request=frame.request), for_ns=3 * _SECOND)


@case("N-124", "a request whose fragments come one a second is given up as well", slow=True)
def total_age(rig: Rig) -> None:
    frame = rig.infer(rig.open())
    pieces = rig.pieces(frame, min(len(frame.payload), 100))
    answer = Pattern(opcode=Opcode.RESULT, request=frame.request)
    for piece in pieces[:60]:
        rig.send(piece)
        rig.port.settle(_SECOND)
        if any(answer.matches(reply) for reply in rig.port.waiting):
            break
    rig.has_status(rig.expect(answer), Status.REASSEMBLY_TIMEOUT)


@case("N-107", "the OPENED to an OPEN with padding is as long: {}", {"576": 576, "1000": 1000, "the MTU": 0})
def padded_open(rig: Rig, size: int) -> None:
    size = min(size or rig.target.mtu, rig.target.mtu)
    frame = rig.padded(size)
    rig.send(*message(frame, size - HEADER_SIZE))
    reply = rig.expect(Pattern(opcode=Opcode.OPENED, request=frame.request))
    rig.check(len(reply.data) == size, f"an OPENED of {size} bytes", described(reply))
    rig.open(frame=frame)


@case("N-107", "an OPEN longer than the responder's MTU gets an OPENED as long as that allows")
def too_padded_open(rig: Rig) -> None:
    size = rig.target.mtu - HEADER_SIZE
    frame = rig.opening(fragment_size=size, padding=bytes(rig.target.mtu))
    rig.send(*message(frame, size))
    reply = rig.expect(Pattern(opcode=Opcode.OPENED, request=frame.request))
    rig.has_status(reply, Status.OK)
    rig.check(len(reply.data) <= rig.target.mtu, "one PDU within the MTU", len(reply.data))
    rig.open(frame=frame)


@case("N-108 N-063", "no fragment of a RESULT is larger than the session's fragment_size of 544")
def small_fragments(rig: Rig) -> None:
    if len(rig.work.answer) <= 544:
        raise NotApplicableError(f"the pipeline's answers of {len(rig.work.answer)} bytes need one fragment")
    session = rig.open(fragment_size=544)
    frame = rig.infer(session)
    rig.put(frame)
    reply = rig.right(rig.answer(frame))
    rig.check(reply.fragment_size <= 544, "fragments of at most 544 bytes", reply.fragment_size)


@case("N-108 N-063", "no refusal in a session with a fragment_size of 544 is larger than that")
def small_refusals(rig: Rig) -> None:
    session = rig.open(fragment_size=544)
    reply = rig.ask(Frame(Opcode.INFER, b"", 0, CRC, session.number, pipeline=0xFFFF))
    rig.check(len(reply.data) <= 576, "a PDU of at most 576 bytes", len(reply.data))


@case("N-014 N-028", "fragments of a {} request that differ in `credits` alone are of one message", CLASSES)
def other_credits(rig: Rig, once: bool) -> None:
    frame = rig.infer(rig.open(), once=once)
    first, *rest = rig.pieces(frame, 3)
    rig.send(first[:23] + b"\x07" + first[24:], *rest)
    rig.right(rig.answer(frame))
