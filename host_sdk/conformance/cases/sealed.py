"""Sealed frames, where a responder has keys: with mutual access."""

import struct

from host_sdk.conformance.case import NotApplicableError, Section
from host_sdk.conformance.frames import CRC, Frame
from host_sdk.conformance.patterns import Pattern
from host_sdk.conformance.rig import Rig
from host_sdk.wire.schema import Flag, Opcode, Status

SECTION = Section("sealed frames")
case = SECTION.case
_SEALED = int(Flag.SEALED)


def _mutual(rig: Rig) -> None:
    if rig.target.open_access:
        raise NotApplicableError("with open access nobody has keys")


_SEALS = {
    "a key that nobody has": struct.pack(">QQ", 0x1122_3344_5566_7788, 1),
    "key 0": struct.pack(">QQ", 0, 1),
    "sequence 0": struct.pack(">QQ", 0x1122_3344_5566_7788, 0),
}


@case("N-129", "a sealed frame with {} gets nothing but the hint UNKNOWN_KEY", _SEALS)
def unknown_key(rig: Rig, seal: bytes) -> None:
    _mutual(rig)
    frame = Frame(Opcode.CLOSE, seal + bytes(16), rig.number(), CRC | _SEALED, length=4, fragment_size=4)
    rig.send(frame.but(payload=seal + bytes(4 + 16)).encode())
    allowed = Pattern(request=frame.request, status=Status.UNKNOWN_KEY)
    rig.fence()
    while reply := rig.port.take(Pattern(request=frame.request), 15_000_000):
        rig.check(allowed.matches(reply), "the hint UNKNOWN_KEY alone", reply.status)
        rig.check(reply.payload == b"", "a hint with an empty body", reply.payload.hex())


@case("N-136 N-137", "an INFER in the clear, for a pipeline that takes sealed requests alone, is answered NOT_SEALED")
def not_sealed(rig: Rig) -> None:
    _mutual(rig)
    sealed = [entry for entry in rig.target.announced.get("pipelines", ()) if entry.get("sealed")]
    if not sealed:
        raise NotApplicableError("it has no pipeline that takes sealed requests alone")
    frame = Frame(Opcode.INFER, b"x", rig.number(), CRC, rig.open().number, sealed[0]["handle"])
    rig.refused(frame, Status.NOT_SEALED)


@case("N-138", "with open access no pipeline takes sealed requests alone")
def open_pipelines(rig: Rig) -> None:
    if not rig.target.open_access:
        raise NotApplicableError("access is mutual")
    for entry in rig.target.announced.get("pipelines", ()):
        rig.check(entry.get("sealed") is False, "sealed false", entry)
