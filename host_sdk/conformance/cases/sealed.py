"""Sealed frames, where a responder has keys: with mutual access."""

import struct

from host_sdk.conformance.case import NotApplicableError, Section
from host_sdk.conformance.frames import CRC, Frame, Reply, message
from host_sdk.conformance.patterns import Mask, Pattern, described
from host_sdk.conformance.rig import Rig
from host_sdk.conformance.seals import SEALED, opened, sealed, sequence_of, with_seal
from host_sdk.wire.schema import SEAL_FRAMES, Opcode, Status
from host_sdk.wire.sealed.keys import SealKey

SECTION = Section("sealed frames")
case = SECTION.case


def _mutual(rig: Rig) -> None:
    if rig.target.open_access:
        raise NotApplicableError("with open access nobody has keys")


def _key(rig: Rig) -> SealKey:
    _mutual(rig)
    if rig.target.key is None:
        raise NotApplicableError("without --identity there is no key to seal with")
    return rig.target.key


def _close(rig: Rig) -> Frame:
    return Frame(Opcode.CLOSE, b"", rig.number(), CRC)


def _fresh(key: SealKey, ahead: int = 1) -> int:
    """Return a sequence that was not used before, the ``ahead``-th of those."""
    return key.draw(ahead)[-1]


def _sealed(rig: Rig, frame: Frame, sequence: int = 0) -> bytes:
    key = _key(rig)
    return sealed(key, message(frame)[0], sequence or _fresh(key))


def _answer(rig: Rig, frame: Frame) -> Reply:
    """Return what is in the sealed answer to a sealed request."""
    found = rig.expect(Pattern(request=frame.request, flags=Mask(SEALED, SEALED)))
    inside = opened(_key(rig), found)
    if inside is None:
        raise rig.fail("a frame sealed with the responder's half of the key", described(found))
    return inside


def _nothing(rig: Rig, frame: Frame, *pdus: bytes) -> None:
    """Send PDUs, and check that nothing comes but the hint that a key is not known."""
    rig.send(*pdus)
    rig.fence()
    while reply := rig.port.take(Pattern(request=frame.request), 15_000_000):
        hint = reply.status == Status.UNKNOWN_KEY and not reply.flags & SEALED
        rig.check(hint, "nothing, or the hint UNKNOWN_KEY", described(reply))
        rig.check(reply.body == b"", "a hint with an empty body", described(reply))


_SEALS = {
    "a key that nobody has": (0x1122_3344_5566_7788, 1),
    "key 0": (0, 1),
    "a key of 64 bits": ((1 << 64) - 1, 1),
}


@case("N-129", "a sealed frame with {} gets nothing but the hint UNKNOWN_KEY", _SEALS)
def unknown_key(rig: Rig, seal: tuple[int, int]) -> None:
    _mutual(rig)
    frame = Frame(Opcode.CLOSE, struct.pack(">QQ", *seal) + bytes(20), rig.number(), CRC | SEALED)
    _nothing(rig, frame, frame.but(length=4, fragment_size=4).encode())


@case("N-129", "a sealed frame with the key of another address gets nothing but the hint UNKNOWN_KEY")
def others_key(rig: Rig) -> None:
    frame, other = _close(rig), rig.second
    pdu = _sealed(rig, frame)
    rig.send(pdu, port=other)
    rig.fence(other)
    while reply := other.take(Pattern(request=frame.request), 15_000_000):
        rig.check(reply.status == Status.UNKNOWN_KEY, "nothing, or the hint UNKNOWN_KEY", described(reply))


@case("N-125 N-126 N-135", "a sealed request gets an answer that is sealed with the responder's half of the key")
def sealed_answer(rig: Rig) -> None:
    frame = _close(rig)
    rig.send(_sealed(rig, frame))
    reply = _answer(rig, frame)
    rig.check(reply.opcode == Opcode.CLOSED and reply.sound, "CLOSED with its CRC", described(reply))


@case("N-126 N-127", "a responder uses no sequence twice")
def sequences(rig: Rig) -> None:
    used: list[int] = []
    for _ in range(5):
        frame = _close(rig)
        rig.send(_sealed(rig, frame))
        found = rig.expect(Pattern(request=frame.request, flags=Mask(SEALED, SEALED)))
        rig.check(opened(_key(rig), found) is not None, "a frame sealed with its own sequence", described(found))
        used.append(sequence_of(found))
    rig.check(used == sorted(set(used)), "sequences that count up", used)


_FLIPS = {"header": 22, "fragment": 49, "tag": -1}


@case("N-130", "a sealed frame with a bit of its {} flipped is dropped", _FLIPS)
def bad_tag(rig: Rig, place: int) -> None:
    frame = _close(rig)
    pdu = bytearray(_sealed(rig, frame))
    pdu[place] ^= 0x10
    rig.send(bytes(pdu))
    rig.expect_none(Pattern(opcode=Opcode.CLOSED, request=frame.request))


@case("N-130", "a sealed frame with sequence {} is dropped", {"0": 0, "2^31 + 1": SEAL_FRAMES + 1})
def bad_sequence(rig: Rig, sequence: int) -> None:
    frame, key = _close(rig), _key(rig)
    pdu = sealed(key, message(frame)[0], sequence)
    rig.send(with_seal(pdu, key.number, sequence))
    rig.expect_none(Pattern(opcode=Opcode.CLOSED, request=frame.request))


@case("N-131", "a second copy of a sealed frame is dropped")
def replayed(rig: Rig) -> None:
    frame = _close(rig)
    pdu = _sealed(rig, frame)
    rig.send(pdu)
    _answer(rig, frame)
    rig.send(pdu)
    rig.expect_none(Pattern(request=frame.request))


@case("N-132", "a sealed frame whose sequence is 1000 behind the highest is taken, once")
def behind(rig: Rig) -> None:
    early, late, key = _close(rig), _close(rig), _key(rig)
    numbers = key.draw(1001)
    rig.send(_sealed(rig, late, numbers[-1]))
    _answer(rig, late)
    pdu = _sealed(rig, early, numbers[0])
    rig.send(pdu)
    _answer(rig, early)
    rig.send(pdu)
    rig.expect_none(Pattern(request=early.request))


@case("N-133", "a frame far ahead whose tag is wrong moves nothing: the next sequence is taken")
def far_ahead(rig: Rig) -> None:
    frame, key = _close(rig), _key(rig)
    following = _fresh(key)
    bad = bytearray(sealed(key, message(frame)[0], following + (1 << 20)))
    bad[-1] ^= 1
    rig.send(bytes(bad))
    rig.expect_none(Pattern(request=frame.request))
    rig.send(_sealed(rig, frame, following))
    _answer(rig, frame)


@case("N-134 N-135", "a session that was opened sealed is not open for plain frames from the same address")
def own_peer(rig: Rig) -> None:
    opening = rig.opening(fragment_size=512)
    rig.send(_sealed(rig, opening))
    session = _answer(rig, opening)
    rig.has_status(session, Status.OK)
    rig.refused(Frame(Opcode.CLOSE, b"", 0, CRC, session.session), Status.UNKNOWN_SESSION)
    close = Frame(Opcode.CLOSE, b"", rig.number(), CRC, session.session)
    rig.send(_sealed(rig, close))
    rig.has_status(_answer(rig, close), Status.OK)


@case("N-136 N-137", "an INFER in the clear, for a pipeline that takes sealed requests alone, is answered NOT_SEALED")
def not_sealed(rig: Rig) -> None:
    _mutual(rig)
    alone = [entry for entry in rig.target.announced.get("pipelines", ()) if entry.get("sealed")]
    if not alone:
        raise NotApplicableError("it has no pipeline that takes sealed requests alone")
    frame = Frame(Opcode.INFER, b"x", rig.number(), CRC, rig.open().number, alone[0]["handle"])
    rig.refused(frame, Status.NOT_SEALED)


@case("N-138", "with open access no pipeline takes sealed requests alone")
def open_pipelines(rig: Rig) -> None:
    if not rig.target.open_access:
        raise NotApplicableError("access is mutual")
    for entry in rig.target.announced.get("pipelines", ()):
        rig.check(entry.get("sealed") is False, "sealed false", entry)
