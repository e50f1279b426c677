"""A frame's fields by name, and what its message says where that is known."""

import math
from collections import OrderedDict
from typing import Any

import msgpack

from host_sdk.capture.explain import code_name
from host_sdk.capture.frames import format_peer
from host_sdk.capture.sightings import Sighting
from host_sdk.wire.errors import FrameError
from host_sdk.wire.exchange.arrived import Arrived
from host_sdk.wire.message import Message, Trailer, decode_message
from host_sdk.wire.schema import REPLY_BIT, RETRY_AFTER_UNIT_US, STAGES, Flag, Opcode, Status, is_notice

MAX_MESSAGES, MAX_BYTES = 1024, 64 * 1024 * 1024  # that wait for their other fragments
MAX_SHOWN = 256  # bytes of a body that are shown
MAX_TEXT = 4096  # characters of a value in a map that are shown
_MAPS = (Opcode.OPEN, Opcode.CONTROL)  # whose bodies are msgpack maps, and their answers'; and of an ANNOUNCE
_Key = tuple[int, int, int, int, int]


class Decoder:
    """Names fields; collects fragments, so that with the last of them it can say what the message is."""

    def __init__(self) -> None:
        self._parts: OrderedDict[_Key, dict[int, bytes]] = OrderedDict()
        self._bytes = 0

    def fields(self, seen: Sighting) -> dict[str, Any]:
        """Return a frame's fields as plain data; ``message`` is there with the frame that completes one."""
        reply = seen.is_reply
        found: dict[str, Any] = {
            "frame": seen.number,
            "time_ns": seen.time_ns,
            **({"tap": seen.tap} if seen.tap else {}),
            "source": format_peer(seen.source, udp=seen.udp),
            "destination": format_peer(seen.destination, udp=seen.udp),
            "frame_bytes": seen.frame_bytes,
            **({"dropped": seen.reason.name} if seen.reason else {}),
            **({"lost_before": seen.lost} if seen.lost else {}),
            "version": seen.version,
            "opcode": code_name(Opcode, seen.opcode),
            "flags": flag_names(seen.flags),
            "session": seen.session,
            "request": seen.request,
            "length": seen.length,
            "pipeline": seen.pipeline,
            "priority": seen.priority,
            "credits": seen.credits,
            "fragment": seen.fragment,
            "fragments": seen.fragments,
            "fragment_size": seen.fragment_size,
        }
        if reply:
            found |= {
                "status": code_name(Status, seen.status),
                "retry_after_us": seen.retry_after * RETRY_AFTER_UNIT_US,
            }
        else:
            found |= {"deadline_us": seen.deadline}
        if not seen.reason and not seen.flags & Flag.SEALED and seen.tap != "dla":
            payload = self._collect(seen)
            if payload is not None:
                found["message"] = describe_message(seen, payload)
        return found

    def _collect(self, seen: Sighting) -> bytes | None:
        """Return the message that a frame completes."""
        size = min(seen.fragment_size, seen.length - seen.fragment * seen.fragment_size)
        if len(seen.payload) < size:
            return None  # captured in part
        if seen.fragments == 1:
            return seen.payload
        key = (seen.source, seen.destination, seen.session, seen.request, seen.opcode)
        parts = self._parts.setdefault(key, {})
        self._parts.move_to_end(key)
        if seen.fragment not in parts:
            parts[seen.fragment] = seen.payload
            self._bytes += len(seen.payload)
        if len(parts) == seen.fragments:
            self._forget(key)
            joined = b"".join(parts[index] for index in sorted(parts))
            return joined if len(joined) == seen.length else None
        while len(self._parts) > MAX_MESSAGES or self._bytes > MAX_BYTES:
            self._forget(next(iter(self._parts)))
        return None

    def _forget(self, key: _Key) -> None:
        self._bytes -= sum(map(len, self._parts.pop(key).values()))


def flag_names(flags: int) -> list[str]:
    """Return the names of flags; bits that are not known by their number."""
    known = [str(flag.name) for flag in Flag if flags & flag]
    rest = flags & ~sum(Flag)
    return known + ([f"{rest:#06x}"] if rest else [])


def describe_message(seen: Sighting, payload: bytes) -> dict[str, Any]:
    """Return what a whole message says as plain data; ``error`` where it is damaged."""
    try:
        message = decode_message(seen.header, payload)
    except FrameError as error:
        return {"error": str(error)}
    found: dict[str, Any] = {"bytes": len(message.body)}
    if message.extensions:
        found["extensions"] = [{"type": each.type, "value": each.value.hex()} for each in message.extensions]
    if message.trailer:
        found["trailer"] = trailer_fields(message.trailer)
    return found | _body(message)


def trailer_fields(trailer: Trailer) -> dict[str, Any]:
    """Return a trailer as plain data."""
    return {
        "measured_ns": dict(zip(STAGES, trailer.measured_ns, strict=True)),
        "modelled_ns": dict(zip(STAGES, trailer.modelled_ns, strict=True)),
        "energy_nj": trailer.energy_nj,
        "batch_size": trailer.batch_size,
        "firmware_epoch": trailer.firmware_epoch,
        "model_digest": f"{trailer.model_digest:016x}",
    }


def _body(message: Message) -> dict[str, Any]:
    header, body = message.header, message.body
    if is_notice(header.opcode):
        return _notice(header.opcode, body)
    if header.is_reply and header.status:
        return {"text": body.decode(errors="replace")} if body else {}
    opcode = header.opcode & ~REPLY_BIT
    if body and (opcode in _MAPS or header.opcode == Opcode.ANNOUNCE):
        try:
            return {"map": _plain(msgpack.unpackb(body, strict_map_key=False))}
        except (ValueError, RecursionError, msgpack.UnpackException) as error:
            return {"error": f"the body is no msgpack: {error}"}
    if body:
        shown = body[:MAX_SHOWN].hex()
        return {"body": shown if len(body) <= MAX_SHOWN else shown + "…"}
    return {}


def _notice(opcode: int, body: bytes) -> dict[str, Any]:
    if opcode not in (Opcode.GRANT, Opcode.RESEND):
        return {"settled": body.hex()} if opcode == Opcode.SETTLE else {}
    try:
        told = Arrived.decode(body)
    except FrameError as error:
        return {"error": str(error)}
    arrived = {"opcode": code_name(Opcode, told.opcode), "base": told.base, "window": told.window}
    return {"arrived": {**arrived, "bitmap": told.bitmap.hex()}}


def _plain(value: Any) -> Any:
    """Return what msgpack held as JSON can have it."""
    if isinstance(value, dict):
        return {str(_plain(key)): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, bytes):
        shown = value[:MAX_SHOWN].hex()
        return shown if len(value) <= MAX_SHOWN else f"{shown}… ({len(value)} bytes)"
    if isinstance(value, str):
        return value if len(value) <= MAX_TEXT else value[:MAX_TEXT] + "…"
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value if value is None or isinstance(value, bool | int) else str(value)
