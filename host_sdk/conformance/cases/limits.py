"""Limits: every frame is counted once, and what headers announce costs nothing."""

from collections.abc import Callable

from host_sdk.conformance.case import Section
from host_sdk.conformance.cases.window import settle
from host_sdk.conformance.frames import CRC, Frame, message
from host_sdk.conformance.rig import Rig
from host_sdk.wire.schema import Opcode

SECTION = Section("limits")
case = SECTION.case
_TRIES = 3
_ANNOUNCED = 400  # messages whose headers announce as much as a message can have


def _counters(rig: Rig) -> dict[str, int]:
    """Return what has become of the target's frames."""
    told = rig.ask(Frame(Opcode.DISCOVER, b"", 0, CRC)).unpacked().get("counters")
    if not isinstance(told, dict):
        raise rig.fail("an ANNOUNCE with counters", str(told))
    return told


def _outdated(rig: Rig) -> list[bytes]:
    frame = rig.infer(rig.open(), once=True)
    rig.right(rig.ask(frame))
    rig.put(settle(frame, frame.request))
    rig.fence()
    return message(frame, 1400)


def _copied(rig: Rig) -> list[bytes]:
    frame = rig.infer(rig.open(), once=True)
    rig.right(rig.ask(frame))
    return message(frame, 1400)


def _doubled(rig: Rig) -> list[bytes]:
    frame = rig.infer(rig.open())
    first, *_ = rig.pieces(frame)
    rig.send(first)
    rig.fence()
    return [first]


_COUNTED: dict[str, tuple[str, Callable[[Rig], list[bytes]]]] = {
    "TRUNCATED": ("frames_truncated", lambda _: [Frame(Opcode.OPEN, bytes(60)).encode()[:-1]]),
    "TRAILING_BYTES": ("frames_trailing_bytes", lambda _: [Frame(Opcode.OPEN, bytes(60)).encode() + b"\0"]),
    "BAD_VERSION": ("frames_bad_version", lambda _: [Frame(Opcode.OPEN, version=9).encode()]),
    "BAD_FRAGMENT": ("frames_bad_fragment", lambda _: [Frame(Opcode.OPEN, fragment=3).encode()]),
    "NOT_A_REQUEST": ("frames_not_a_request", lambda _: [Frame(Opcode.OPENED).encode()]),
    "NOT_KNOWN": ("frames_not_known", lambda _: [Frame(0x3F).encode()]),
    "OUTDATED": ("frames_outdated", _outdated),
    "DUPLICATE": ("frames_duplicate", _copied),
    "FRAGMENT_DUPLICATE": ("frames_fragment_duplicate", _doubled),
}


@case("N-089", "a frame is counted once, under its reason: {}", _COUNTED)
def counted(rig: Rig, kind: tuple[str, Callable[[Rig], list[bytes]]]) -> None:
    name, make = kind
    risen: list[int] = []
    for _ in range(_TRIES):  # others may send it such frames meanwhile
        pdus = make(rig)
        before = _counters(rig)
        rig.send(*pdus)
        rig.fence()
        after = _counters(rig)
        risen.append(after.get(name, 0) - before.get(name, 0))
        conserved = sum(count for reason, count in after.items() if reason.startswith("frames_"))
        expected = f"rx_frames {conserved}, the sum of all reasons"
        rig.check(conserved == after.get("rx_frames"), expected, after.get("rx_frames"))
        if risen[-1] == len(pdus):
            return
    raise rig.fail(f"{name} {len(pdus)} higher", f"{risen} in {_TRIES} tries")


@case("N-091", "headers that announce gigabytes keep no memory from a request in fragments")
def announced_memory(rig: Rig) -> None:
    session = rig.open()
    length = session.opened["max_message"]
    begun = Frame(Opcode.CONTROL, b"\0", length=length, fragment_size=512, flags=CRC)
    body = bytes(512)
    for _ in range(_ANNOUNCED // 50):
        rig.send(*[begun.but(request=rig.number(), payload=body).encode() for _ in range(50)])
        rig.fence()
    frame = rig.infer(session)
    rig.send(*rig.pieces(frame))
    rig.right(rig.answer(frame))
    rig.port.settle(3_000_000_000)  # until they are given up
    rig.fence()
