"""Parts of a message: flags, extension block, trailer, CRC; and refusals."""

import struct
from typing import Any

from host_sdk.conformance.case import NotApplicableError, Section
from host_sdk.conformance.cases.fragments import CLASSES
from host_sdk.conformance.cases.header import KINDS, Make
from host_sdk.conformance.frames import CRC, EXTENDED, ONCE, TRAILED, Frame, message
from host_sdk.conformance.patterns import Mask, Pattern, described
from host_sdk.conformance.rig import Rig
from host_sdk.wire.schema import HEADER_SIZE, MAX_DETAIL, MAX_EXTENSION_BLOCK, TRAILER, Opcode, Status

SECTION = Section("parts of a message")
case = SECTION.case


# ---- flags -----------------------------------------------------------------------------------------------------------


@case("N-098 N-118", "the RESULT of a {} request has flag ONCE exactly when that has", CLASSES)
def once_flag(rig: Rig, once: bool) -> None:
    frame = rig.put(rig.infer(rig.open(), once=once))
    rig.expect(Pattern(opcode=Opcode.RESULT, request=frame.request, flags=Mask(ONCE if once else 0, ONCE)))


@case("N-098", "a RESULT that refuses a {} request has flag ONCE exactly when that has", CLASSES)
def once_flag_refused(rig: Rig, once: bool) -> None:
    frame = rig.put(Frame(Opcode.INFER, b"x", 0, CRC | ONCE if once else 0, 0x1234_5678))
    rig.expect(Pattern(opcode=Opcode.RESULT, request=frame.request, flags=Mask(ONCE if once else 0, ONCE)))


@case("N-034", "{} with flag 0x8000 is answered UNSUPPORTED_FLAG", {**KINDS})
def unknown_flag(rig: Rig, make: Make) -> None:
    frame = make(rig)
    rig.refused(frame.but(flags=0x8000), Status.UNSUPPORTED_FLAG)


@case("N-034", "an INFER with flag {} is answered UNSUPPORTED_FLAG", {"0x0020": 0x20, "0x0400": 0x400})
def unknown_flag_bit(rig: Rig, flag: int) -> None:
    rig.refused(Frame(Opcode.INFER, b"x", 0, flag, 0x1234_5678), Status.UNSUPPORTED_FLAG)


@case("N-039", "a request of {} is answered MALFORMED", {"2 bytes": EXTENDED, "2 bytes and a CRC": CRC | EXTENDED})
def too_short(rig: Rig, flags: int) -> None:
    rig.refused(Frame(Opcode.INFER, b"ab", 0, flags, 0x1234_5678), Status.MALFORMED)


@case("N-145", "a once INFER without flag CRC, in a session whose OPEN had it, is answered MALFORMED and not run")
def bare_once(rig: Rig) -> None:
    frame = rig.infer(rig.open(), once=True)
    rig.put(frame.but(flags=ONCE))
    pattern = Pattern(opcode=Opcode.RESULT, request=frame.request)
    rig.has_status(rig.expect(pattern), Status.MALFORMED)
    rig.right(rig.ask(frame))  # nothing was kept


@case("N-145", "fragments of a once INFER without flag CRC are answered MALFORMED")
def bare_once_fragments(rig: Rig) -> None:
    frame = rig.infer(rig.open(), once=True)
    rig.send(rig.pieces(frame.but(flags=ONCE), 3)[0])
    pattern = Pattern(opcode=Opcode.RESULT, request=frame.request)
    rig.has_status(rig.expect(pattern), Status.MALFORMED)
    rig.send(*rig.pieces(frame, 3))
    rig.right(rig.answer(frame))


@case("N-036 N-111", "a once INFER without flag CRC, in a session whose OPEN had none, is run and answered without")
def bare_session(rig: Rig) -> None:
    opening = rig.opening()
    session = rig.open(frame=opening.but(flags=0))
    rig.right(rig.ask(rig.infer(session, once=True, flags=ONCE)))


@case("N-145", "a SETTLE with flag ONCE and without flag CRC settles nothing")
def bare_settle(rig: Rig) -> None:
    frame = rig.infer(rig.open(), once=True)
    first = rig.right(rig.ask(frame))
    rig.send(Frame(Opcode.SETTLE, b"", frame.request, ONCE, frame.session).encode())
    rig.put(frame)
    rig.check(rig.answer(frame).body == first.body, "the same answer again", "another")


_UNSEEN: dict[str, tuple[Status, dict[str, Any]]] = {
    "flag 0x8000": (Status.UNSUPPORTED_FLAG, {"flags": CRC | 0x8000}),
    "a length of 4294967295": (Status.TOO_LARGE, {"length": 0xFFFF_FFFF}),
}


@case("N-146", "the refusal of a fragment with {} repeats its header", _UNSEEN)
def refused_header(rig: Rig, refused: tuple[Status, dict[str, Any]]) -> None:
    status, fields = refused
    frame = rig.infer(rig.open())
    size = len(frame.payload) // 2
    if size < 1:
        raise NotApplicableError("the pipeline's input is too short for fragments")
    size = min(size, 512)
    whole = {"length": len(frame.payload) + 4, "fragment_size": size, "fragment": 1}
    piece = frame.but(**{**whole, **fields}, payload=frame.payload[size : 2 * size]).encode()
    rig.send(piece)
    reply = rig.expect(Pattern(opcode=Opcode.RESULT, request=frame.request))
    rig.has_status(reply, status)
    rig.check(reply.refused_header == piece[:HEADER_SIZE], "extension 2 with the header", described(reply))


_LENGTHS = {"max_message + 1": 1, "4294967295": 0}


@case("N-038 N-037", "the first fragment of a request of {} bytes is answered TOO_LARGE", _LENGTHS)
def too_large(rig: Rig, above: int) -> None:
    _too_large(rig, above, 0)


@case("N-038", "a fragment in the middle of a request of {} bytes is answered TOO_LARGE", _LENGTHS)
def too_large_middle(rig: Rig, above: int) -> None:
    _too_large(rig, above, 7)


def _too_large(rig: Rig, above: int, fragment: int) -> None:
    session = rig.open()
    length = session.opened["max_message"] + above if above else 0xFFFF_FFFF
    body = bytes(512)
    frame = Frame(Opcode.INFER, body, rig.number(), 0, session.number, rig.work.handle)
    rig.send(frame.but(length=length, fragment=fragment, fragment_size=len(body)).encode())
    rig.has_status(rig.expect(Pattern(opcode=Opcode.RESULT, request=frame.request)), Status.TOO_LARGE)


# ---- extensions ------------------------------------------------------------------------------------------------------

_UNKNOWN = {
    "one": struct.pack(">IHH", 16, 0x7777, 5) + b"hello" + bytes(3),
    "an empty block": struct.pack(">I", 4),
    "three": struct.pack(">I", 28) + (struct.pack(">HH", 0xFF01, 4) + b"test") * 3,
    "a block of 1024 bytes": struct.pack(">IHH", MAX_EXTENSION_BLOCK, 0xFFFF, 1016) + bytes(1016),
}


@case("N-042", "unknown extensions are passed over: {}", _UNKNOWN)
def unknown_extensions(rig: Rig, block: bytes) -> None:
    session = rig.open()
    frame = rig.infer(session, flags=CRC | EXTENDED, payload=block + rig.work.body)
    rig.right(rig.ask(frame))


_BROKEN = {
    "block_size 0": struct.pack(">I", 0) + bytes(60),
    "block_size 3": struct.pack(">I", 3) + bytes(60),
    "block_size 10, no multiple of 4": struct.pack(">I", 10) + bytes(60),
    "block_size 1028": struct.pack(">IHH", 1028, 1, 1020) + bytes(1020),
    "a block longer than the message": struct.pack(">IHH", 200, 1, 192) + bytes(60),
    "an extension that ends behind its block": struct.pack(">IHH", 16, 1, 9) + bytes(60),
}


@case("N-043", "an INFER with {} is answered MALFORMED", _BROKEN)
def broken_extensions(rig: Rig, block: bytes) -> None:
    session = rig.open()
    rig.refused(rig.infer(session, flags=CRC | EXTENDED, payload=block), Status.MALFORMED)


# ---- trailer ---------------------------------------------------------------------------------------------------------


@case("N-044", "the RESULT of a {} INFER with flag TRAILER has a trailer", CLASSES)
def trailer(rig: Rig, once: bool) -> None:
    frame = rig.infer(rig.open(), once=once, flags=CRC | TRAILED | (ONCE if once else 0))
    reply = rig.ask(frame)
    found = reply.trailer
    if found is None:
        raise rig.fail("a trailer of 64 bytes, and its flag", described(reply))
    rig.right(reply)
    rig.check(found.batch_size >= 1, "a batch of at least one", found.batch_size)
    if rig.work.pipeline:
        expected = int(rig.work.pipeline.model_sha256[:16], 16)
        rig.check(found.model_digest == expected, f"the model's digest {expected:016x}", f"{found.model_digest:016x}")


@case("N-044", "the RESULT of a {} INFER without flag TRAILER has none", CLASSES)
def no_trailer(rig: Rig, once: bool) -> None:
    reply = rig.right(rig.ask(rig.infer(rig.open(), once=once)))
    rig.check(not reply.flags & TRAILED, "no flag TRAILER", described(reply))


_REFUSALS: dict[str, Make] = {
    "a RESULT with WRONG_SIZE or UNDECODABLE": lambda rig: rig.infer(rig.open(), payload=b"x"),
    "a RESULT with UNKNOWN_SESSION": lambda _: Frame(Opcode.INFER, b"x", 0, CRC, 0x1234_5678),
    "a RESULT with UNKNOWN_PIPELINE": lambda rig: Frame(Opcode.INFER, b"x", 0, CRC, rig.open().number, 0xFFFF),
    "CLOSED": lambda _: Frame(Opcode.CLOSE, b"", 0, CRC),
    "OPENED": lambda rig: rig.opening(),
    "CONTROLLED": lambda rig: rig.control("identity"),
}


@case("N-045", "{} has no trailer, though its request has flag TRAILER", _REFUSALS)
def refusal_without_trailer(rig: Rig, make: Make) -> None:
    frame = make(rig)
    reply = rig.ask(frame.but(flags=frame.flags | TRAILED))
    rig.check(not reply.flags & TRAILED, "no flag TRAILER", described(reply))
    if reply.status:
        rig.check(len(reply.body) <= MAX_DETAIL, "a sentence and no trailer", len(reply.body))
    if frame.opcode == Opcode.OPEN:
        rig.open(frame=frame)


# ---- CRC -------------------------------------------------------------------------------------------------------------


@case("N-046", "the CRC at the end of the reply to {} is that of the message", KINDS)
def right_crc(rig: Rig, make: Make) -> None:
    frame = make(rig)
    rig.check(rig.ask(frame).sound, "the CRC-32C over message and header", "another")
    if frame.opcode == Opcode.OPEN:
        rig.open(frame=frame)


@case("N-046", "the CRC of a RESULT with a trailer is that of the message")
def right_crc_trailer(rig: Rig) -> None:
    reply = rig.ask(rig.traced(rig.open()))
    rig.check(reply.sound, "the CRC-32C over body, trailer and header", reply.payload[-4:].hex())


@case("N-048", "{} with a wrong CRC is answered BAD_CRC", KINDS)
def bad_crc(rig: Rig, make: Make) -> None:
    frame = make(rig)
    rig.send(*message(frame, 1400, spoil_crc=True))
    reply = rig.expect(Pattern(opcode=frame.opcode | 0x80, request=frame.request))
    rig.has_status(reply, Status.BAD_CRC)


@case("N-048", "{} too short for its CRC is answered BAD_CRC", KINDS)
def no_crc(rig: Rig, make: Make) -> None:
    frame = make(rig)
    rig.send(frame.but(payload=b"abc").encode())
    reply = rig.expect(Pattern(opcode=frame.opcode | 0x80, request=frame.request))
    rig.has_status(reply, Status.BAD_CRC)


@case("N-048", "a {} INFER in fragments with a wrong CRC is answered BAD_CRC, and can be sent again", CLASSES)
def bad_crc_fragments(rig: Rig, once: bool) -> None:
    frame = rig.infer(rig.open(), once=once)
    size = (len(frame.payload) + 4) // 3 + 1
    if size < 2:
        raise NotApplicableError("the pipeline's input is too short for fragments")
    rig.send(*message(frame, size, spoil_crc=True))
    pattern = Pattern(opcode=Opcode.RESULT, request=frame.request)
    rig.has_status(rig.expect(pattern), Status.BAD_CRC)
    rig.right(rig.ask(frame, size))


@case("N-048", "a {} INFER with a byte of its body flipped is answered BAD_CRC", CLASSES)
def flipped(rig: Rig, once: bool) -> None:
    frame = rig.infer(rig.open(), once=once)
    pdus = message(frame, 1400)
    pdus[0] = pdus[0][:33] + bytes([pdus[0][33] ^ 0x04]) + pdus[0][34:]
    rig.send(*pdus)
    rig.has_status(rig.expect(Pattern(opcode=Opcode.RESULT, request=frame.request)), Status.BAD_CRC)
    rig.right(rig.ask(frame))


_WORSE: dict[str, Frame] = {
    "a broken extension block": Frame(Opcode.INFER, bytes(40), 0, CRC | EXTENDED, 0x1234_5678),
    "an unknown session": Frame(Opcode.INFER, bytes(40), 0, CRC, 0x1234_5678),
    "an unknown opcode": Frame(0x55, bytes(40), 0, CRC),
    "no map in an OPEN": Frame(Opcode.OPEN, bytes(40), 0, CRC),
}


@case("N-047", "a wrong CRC is found before {}", _WORSE)
def crc_first(rig: Rig, frame: Frame) -> None:
    frame = frame.but(request=rig.number())
    rig.send(*message(frame, spoil_crc=True))
    rig.has_status(rig.expect(Pattern(opcode=frame.opcode | 0x80, request=frame.request)), Status.BAD_CRC)


# ---- refusals --------------------------------------------------------------------------------------------------------


_OPCODES = {f"{opcode:#04x}": opcode for opcode in (0x00, 0x05, 0x0F, 0x11, 0x1F, 0x40, 0x7F)}


@case("N-052", "a request with opcode {} is answered UNKNOWN_OPCODE", _OPCODES)
def unknown_opcode(rig: Rig, opcode: int) -> None:
    rig.refused(Frame(opcode, b"", 0, CRC), Status.UNKNOWN_OPCODE)


_SENTENCES: dict[str, Make] = {
    "an unknown opcode": lambda _: Frame(0x55, b"", 0, CRC),
    "an unknown flag": lambda _: Frame(Opcode.OPEN, b"", 0, 0x4000),
    "an OPEN without a map": lambda _: Frame(Opcode.OPEN, b"", 0, CRC),
    "an unknown operation": lambda rig: rig.control("\N{SNOWMAN}" * 400),
    "an unknown session": lambda _: Frame(Opcode.INFER, b"x", 0, CRC, 0x1234_5678),
    "an INFER of the wrong size": lambda rig: rig.infer(rig.open(), payload=b"x"),
}


@case("N-053", "the refusal of {} is UTF-8 text of at most 512 bytes", _SENTENCES)
def sentence(rig: Rig, make: Make) -> None:
    reply = rig.ask(make(rig))
    rig.check(reply.status != Status.OK, "a refusal", described(reply))
    rig.check(len(reply.body) <= MAX_DETAIL, "at most 512 bytes", len(reply.body))
    try:
        reply.body.decode("utf-8")
    except UnicodeDecodeError:
        raise rig.fail("UTF-8 text", reply.body[:64].hex()) from None
    rig.check(TRAILER.size != len(reply.body) or not reply.flags & TRAILED, "no trailer", described(reply))
