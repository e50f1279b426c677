"""Discovery and the control plane."""

from typing import Any

import msgpack

from host_sdk.conformance.case import NotApplicableError, Section
from host_sdk.conformance.frames import CRC, Frame
from host_sdk.conformance.patterns import Pattern, described
from host_sdk.conformance.rig import Rig
from host_sdk.wire.schema import Opcode, Status

SECTION = Section("discovery and control")
case = SECTION.case
_FLOOD, _PART = 3000, 100
_REFILL = 1_500_000_000
_DISCOVERS = {"with CRC": (CRC, b""), "without CRC": (0, b""), "with a body": (CRC, b"\x81\xa3who\xa3you")}


@case("N-055", "a DISCOVER {} to the responder alone is answered ANNOUNCE", _DISCOVERS)
def discover(rig: Rig, asked: tuple[int, bytes]) -> None:
    rig.has_status(rig.ask(Frame(Opcode.DISCOVER, asked[1], 0, asked[0])), Status.OK)


_ANNOUNCED: dict[str, tuple[str, type]] = {
    name: (name, kind)
    for name, kind in {
        **dict.fromkeys(("device", "name", "address", "profile", "link", "access"), str),
        **dict.fromkeys(("mtu", "credits", "protocol", "pid"), int),
        **dict.fromkeys(("firmware", "counters"), dict),
        "pipelines": list,
    }.items()
}


@case("N-055", "an ANNOUNCE has `{}`", _ANNOUNCED)
def announced(rig: Rig, key: tuple[str, type]) -> None:
    told = rig.ask(Frame(Opcode.DISCOVER, b"", 0, CRC)).unpacked()
    rig.check(type(told.get(key[0])) is key[1], f"{key[0]} as {key[1].__name__}", repr(told.get(key[0]))[:80])


@case("N-094", "of thousands of DISCOVERs at once not all are answered, and later ones are again")
def discover_flood(rig: Rig) -> None:
    found = 0
    for _ in range(_FLOOD // _PART):
        asked = [rig.number() for _ in range(_PART)]
        rig.send(*[Frame(Opcode.DISCOVER, b"", request).encode() for request in asked])
        rig.fence()
        pattern = Pattern(opcode=Opcode.ANNOUNCE, request=frozenset(asked), fragment=0)
        while rig.port.take(pattern, int(2_000_000 * rig.patience)):
            found += 1
    rig.port.settle(int(_REFILL))
    rig.port.forget()
    rig.check(found < _FLOOD, f"fewer than {_FLOOD} answers", found)
    rig.ask(Frame(Opcode.DISCOVER, b"", 0, CRC))


@case("N-057", "a key of an OPEN that nobody knows is ignored")
def unknown_key_open(rig: Rig) -> None:
    rig.open(weather="fine", answer=42)


@case("N-057", "a key of a CONTROL that nobody knows is ignored")
def unknown_key_control(rig: Rig) -> None:
    rig.has_status(rig.ask(rig.control("identity", weather="fine", nested={"a": [1, 2]})), Status.OK)


_BODIES: dict[str, bytes] = {
    "nothing": b"",
    "a list": b"\x91\xa8identity",
    "text": b"\xa8identity",
    "a key that is no text": msgpack.packb({"op": "identity", 7: 8}),
    "65 keys": msgpack.packb({"op": "identity", **{f"key{number}": 0 for number in range(64)}}),
    "bytes behind the map": msgpack.packb({"op": "identity"}) + b"\0",
    "no `op`": msgpack.packb({"after": 0}),
    "a number under `op`": msgpack.packb({"op": 3}),
    "nil under `op`": msgpack.packb({"op": None}),
    "a map cut short": msgpack.packb({"op": "identity", "after": 0})[:-1],
    "a map of 2^32 - 1": b"\xdf\xff\xff\xff\xff",
}


@case("N-080", "a CONTROL with {} is answered MALFORMED", _BODIES)
def malformed(rig: Rig, body: bytes) -> None:
    rig.needs_control()
    rig.refused(Frame(Opcode.CONTROL, body, 0, CRC), Status.MALFORMED)


@case("N-080", "a CONTROL with 64 keys is not refused for that")
def many_keys(rig: Rig) -> None:
    keys = {f"key{number}": 0 for number in range(63)}
    rig.has_status(rig.ask(rig.control("identity", **keys)), Status.OK)


_OPERATIONS = {"of another name": "pipelines.all", "in capitals": "IDENTITY", "of no letters": "", "of 500": "x" * 500}


@case("N-081", "an operation {} is answered UNKNOWN_OPERATION", _OPERATIONS)
def unknown_operation(rig: Rig, name: str) -> None:
    rig.refused(rig.control(name), Status.UNKNOWN_OPERATION)


_ARGUMENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "pipeline.remove without name": ("pipeline.remove", {}),
    "pipeline.remove with a number": ("pipeline.remove", {"name": 7}),
    "pipeline.remove with nil": ("pipeline.remove", {"name": None}),
    "pipeline.install with text": ("pipeline.install", {"package": "text"}),
    "logs with limit 0": ("logs", {"limit": 0}),
    "logs with limit 501": ("logs", {"limit": 501}),
    "logs with after -1": ("logs", {"after": -1}),
    "logs with a boolean": ("logs", {"after": True}),
    "logs with a list": ("logs", {"after": [1]}),
    "attest without nonce": ("attest", {}),
    "fw.begin with size 0": ("fw.begin", {"size": 0, "digest": bytes(32)}),
}


@case("N-082", "{} is answered BAD_ARGUMENT", _ARGUMENTS)
def bad_argument(rig: Rig, asked: tuple[str, dict[str, Any]]) -> None:
    rig.refused(rig.control(asked[0], **asked[1]), Status.BAD_ARGUMENT)


_PACKAGES: dict[str, bytes] = {
    "no map": b"\x00" * 64,
    "no manifest": msgpack.packb({"files": {}}),
    "a manifest that is no TOML": msgpack.packb({"manifest": "]", "files": {}}),
    "a model that it has not": msgpack.packb(
        {"manifest": 'name = "conformance"\n[model]\nfile = "m"\nsha256 = ""\n[input]\nkind = "tensor"\n', "files": {}}
    ),
}


@case("N-084", "a package with {} is answered BAD_PIPELINE, and a sentence", _PACKAGES)
def bad_package(rig: Rig, package: bytes) -> None:
    reply = rig.refused(rig.control("pipeline.install", package=package), Status.BAD_PIPELINE)
    rig.check(len(reply.body) > 0, "a sentence that says why", described(reply))


@case("N-084 N-070", "when a package is refused, the pipeline of its name goes on being served")
def bad_replacement(rig: Rig) -> None:
    pipeline = rig.work.pipeline
    if pipeline is None:
        raise NotApplicableError("nobody may ask for the pipeline's name")
    manifest = f'name = "{pipeline.name}"\n[model]\nfile = "m"\nsha256 = "{"0" * 64}"\n[input]\nkind = "tensor"\n'
    package = msgpack.packb({"manifest": manifest, "files": {"m": b"no model"}})
    rig.refused(rig.control("pipeline.install", package=package), Status.BAD_PIPELINE)
    rig.runs(rig.open())


@case("N-142", "fw.activate of the image that runs is answered with reboot 0")
def activate_again(rig: Rig) -> None:
    running = rig.has_status(rig.ask(rig.control("fw.status")), Status.OK).unpacked()
    digest = bytes.fromhex(running["digest"])
    reply = rig.has_status(rig.ask(rig.control("fw.activate", digest=digest)), Status.OK)
    rig.check(reply.unpacked().get("reboot") == 0, "reboot 0", reply.unpacked())


@case("N-142", "fw.rollback that leaves an image that does not run is answered with reboot 0")
def roll_back_again(rig: Rig) -> None:
    reply = rig.has_status(rig.ask(rig.control("fw.rollback", leaving=b"\xa5" * 32)), Status.OK)
    rig.check(reply.unpacked().get("reboot") == 0, "reboot 0", reply.unpacked())
