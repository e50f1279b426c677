"""Sessions: opened, found again, resumed, whose they are, and what is left of them."""

from collections.abc import Callable
from typing import Any

import msgpack

from host_sdk.conformance.case import Section
from host_sdk.conformance.cases.fragments import CLASSES
from host_sdk.conformance.frames import CRC, Frame
from host_sdk.conformance.patterns import Pattern, described
from host_sdk.conformance.rig import Rig, Session
from host_sdk.wire.schema import Opcode, Status

SECTION = Section("sessions")
case = SECTION.case

_NO_MAPS: dict[str, bytes] = {
    "nothing": b"",
    "nil": b"\xc0",
    "a list": b"\x91\x01",
    "a map cut short": b"\x82\xadfragment_size\xcd\x05\xbc",
    "bytes behind the map": msgpack.packb({"fragment_size": 1468}) + b"\0",
    "no fragment_size": b"\x80",
    "fragment_size as text": msgpack.packb({"fragment_size": "1468"}),
    "fragment_size 543": msgpack.packb({"fragment_size": 543}),
    "fragment_size 65536": msgpack.packb({"fragment_size": 65536}),
    "fragments 0": msgpack.packb({"fragment_size": 1468, "fragments": 0}),
    "fragments 65536": msgpack.packb({"fragment_size": 1468, "fragments": 65536}),
    "a tenant of 65 bytes": msgpack.packb({"fragment_size": 1468, "tenant": "t" * 65}),
    "a tenant that is no text": msgpack.packb({"fragment_size": 1468, "tenant": 7}),
    "resume as text": msgpack.packb({"fragment_size": 1468, "resume": "last"}),
}


@case("N-058", "an OPEN with {} is answered BAD_ARGUMENT", _NO_MAPS)
def bad_open(rig: Rig, body: bytes) -> None:
    rig.refused(Frame(Opcode.OPEN, body, 0, CRC), Status.BAD_ARGUMENT)


@case("N-059", "an OPEN gets OPENED, status OK, and a session that is not 0")
def opened(rig: Rig) -> None:
    reply = rig.ask(frame := rig.opening())
    rig.check(reply.status == Status.OK and reply.session != 0, "status OK and a session", described(reply))
    rig.open(frame=frame)


_KEYS: dict[str, Any] = {
    "credits": lambda value, _: 1 <= value <= 255,
    "max_message": lambda value, _: 65536 <= value <= 1 << 24,
    "window": lambda value, opened: value & (value - 1) == 0 and opened["credits"] <= value <= 1024,
    "fragments": lambda value, _: 1 <= value <= 65535,
}


@case("N-059", "`{}` of an OPENED is there and within its bounds", {key: (key, check) for key, check in _KEYS.items()})
def opened_keys(rig: Rig, key: tuple[str, Any]) -> None:
    session = rig.open()
    value = session.opened[key[0]]
    rig.check(key[1](value, session.opened), f"{key[0]} within its bounds", value)


@case("N-059", "an OPEN without flag CRC gets a session as well")
def plain_open(rig: Rig) -> None:
    rig.open(frame=rig.opening().but(flags=0))


@case("N-060", "a second copy of an OPEN gets the same session")
def open_again(rig: Rig) -> None:
    frame = rig.opening()
    first, second = rig.open(frame=frame), rig.ask(frame)
    rig.check(second.session == first.number, f"session {first.number:#x}", described(second))


@case("N-060", "a copy of an OPEN gets the same session when others were opened meanwhile")
def open_much_later(rig: Rig) -> None:
    frame = rig.opening()
    first = rig.open(frame=frame)
    others = [rig.open() for _ in range(3)]
    rig.close(others[0])
    second = rig.ask(frame)
    rig.check(second.session == first.number, f"session {first.number:#x}", described(second))


@case("N-060", "an OPEN under the same id from another peer gets a session of its own")
def open_elsewhere(rig: Rig) -> None:
    frame = rig.opening()
    first, second = rig.open(frame=frame), rig.open(frame=frame, port=rig.second)
    rig.check(first.number != second.number, "another session", f"{second.number:#x} for both")


@case("N-101", "an OPEN that resumes a session of its own gets it")
def resume(rig: Rig) -> None:
    first = rig.open()
    reply = rig.ask(rig.opening(resume=first.number))
    rig.check(reply.session == first.number, f"session {first.number:#x}", described(reply))


@case("N-102", "an OPEN that resumes another peer's session gets a new one")
def resume_others(rig: Rig) -> None:
    first = rig.open()
    second = rig.open(port=rig.second, resume=first.number)
    rig.check(second.number != first.number, "another session", f"{second.number:#x}")


@case("N-102", "an OPEN that resumes a session that was closed gets a new one")
def resume_closed(rig: Rig) -> None:
    first = rig.open()
    rig.close(first)
    second = rig.open(resume=first.number)
    rig.check(second.number != first.number, "another session", f"{second.number:#x}")


@case("N-102", "an OPEN that resumes what never was a session gets a new one")
def resume_nothing(rig: Rig) -> None:
    session = rig.open(resume=0xFFFF_FFFE)
    rig.check(session.number != 0xFFFF_FFFE, "another session", f"{session.number:#x}")


@case("N-119", "in a new session, `base` is the OPEN's id and `next` the id after it")
def first_id(rig: Rig) -> None:
    frame = rig.opening()
    opened = rig.open(frame=frame).opened
    got = (opened["base"], opened["next"])
    rig.check(got == (frame.request, frame.request + 1), f"{frame.request} and {frame.request + 1}", got)


@case("N-119", "when a session is resumed, `next` is 2^32 above its `base`, or more")
def resumed_id(rig: Rig) -> None:
    first = rig.open()
    again = rig.ask(rig.opening(resume=first.number)).unpacked()
    rig.check(again.get("next", 0) >= first.opened["base"] + (1 << 32), "2^32 above the base", again.get("next"))


@case("N-119", "when a session is resumed, `next` is 2^32 above the ids that it has had, or more")
def resumed_id_used(rig: Rig) -> None:
    first = rig.open()
    number = first.opened["next"] + 5
    rig.runs(first, once=True, request=number)
    again = rig.ask(rig.opening(resume=first.number)).unpacked()
    rig.check(again.get("next", 0) >= number + (1 << 32), f"at least {number + (1 << 32)}", again.get("next"))


@case("N-061 N-062", "a {} INFER in another peer's session is answered UNKNOWN_SESSION", CLASSES)
def others_session(rig: Rig, once: bool) -> None:
    frame = rig.infer(rig.open(), once=once)
    rig.refused(frame, Status.UNKNOWN_SESSION, port=rig.second)


@case("N-061", "a CLOSE of another peer's session is answered UNKNOWN_SESSION, and ends nothing")
def close_others(rig: Rig) -> None:
    session = rig.open()
    rig.refused(Frame(Opcode.CLOSE, b"", 0, CRC, session.number), Status.UNKNOWN_SESSION, port=rig.second)
    rig.runs(session)


_NEVER: dict[str, Callable[[Session], int]] = {
    "0": lambda _: 0,
    "of the lowest id": lambda _: 1,
    "with one bit changed": lambda one: one.number ^ 0x10000,
}


@case("N-062", "an INFER in a session that is not open is answered UNKNOWN_SESSION: {}", _NEVER)
def no_session(rig: Rig, make: Callable[[Session], int]) -> None:
    session = rig.open()
    rig.refused(rig.infer(session, session=make(session)), Status.UNKNOWN_SESSION)


@case("N-062", "a {} INFER in fragments, in a session that is not open, is answered UNKNOWN_SESSION", CLASSES)
def no_session_fragments(rig: Rig, once: bool) -> None:
    session = rig.open()
    frame = rig.infer(session, once=once, session=session.number ^ 0x10000)
    rig.send(*rig.pieces(frame))
    rig.has_status(rig.expect(Pattern(opcode=Opcode.RESULT, request=frame.request)), Status.UNKNOWN_SESSION)


@case("N-065", "a {} INFER after the CLOSE of its session is answered UNKNOWN_SESSION", CLASSES)
def after_close(rig: Rig, once: bool) -> None:
    session = rig.open()
    rig.runs(session, once=once)
    rig.has_status(rig.close(session), Status.OK)
    rig.refused(rig.infer(session, once=once), Status.UNKNOWN_SESSION)


@case("N-065", "a copy of an answered once INFER after the CLOSE of its session is answered UNKNOWN_SESSION")
def copy_after_close(rig: Rig) -> None:
    session = rig.open()
    frame = rig.infer(session, once=True)
    rig.right(rig.ask(frame))
    rig.close(session)
    rig.refused(frame, Status.UNKNOWN_SESSION)


@case("N-065", "the last fragment of an INFER after the CLOSE of its session is answered UNKNOWN_SESSION")
def fragment_after_close(rig: Rig) -> None:
    session = rig.open()
    frame = rig.infer(session)
    pieces = rig.pieces(frame, 2)
    rig.send(pieces[0])
    rig.close(session)
    rig.send(*pieces[1:])
    rig.has_status(rig.expect(Pattern(opcode=Opcode.RESULT, request=frame.request)), Status.UNKNOWN_SESSION)


@case("N-099", "a second CLOSE of a session is answered UNKNOWN_SESSION")
def close_twice(rig: Rig) -> None:
    session = rig.open()
    rig.has_status(rig.close(session), Status.OK)
    rig.has_status(rig.close(session), Status.UNKNOWN_SESSION)


@case("N-064", "a session that was not used for 55 s is still open", slow=True)
def idle(rig: Rig) -> None:
    session = rig.open()
    rig.port.settle(55_000_000_000)
    rig.runs(session)
