"""Makes ``nip.lua``: the schema as Lua tables, and behind it the parts beside this file that use them."""

from collections.abc import Iterable, Mapping
from enum import IntEnum, IntFlag
from importlib.resources import files
from typing import Any

from host_sdk.wire import schema
from host_sdk.wire.schema import Field, Layout

PRODUCT = "nip.lua"
PARTS = ("fields.lua", "crc.lua", "msgpack.lua", "history.lua", "message.lua", "pdu.lua")  # each uses those before it
LAYOUTS = {
    "request_header": schema.REQUEST_HEADER,
    "reply_header": schema.REPLY_HEADER,
    "trailer": schema.TRAILER,
    "extension_block": schema.EXTENSION_BLOCK,
    "extension": schema.EXTENSION,
    "arrived": schema.ARRIVED,
    "seal": schema.SEAL,
}
_HEXADECIMAL = frozenset({"opcode", "flags", "session", "request", "type", "key", "model_digest"})
_HEAD = """\
-- NIP, the NAPU inference protocol, for Wireshark and tshark; tested with version 4.0.
-- Made from host_sdk/wire/schema.py and the parts in host_sdk/capture/dissector by
-- `python -m host_sdk.capture.dissector`; change those, not this file.
"""


def lua(value: Any, indent: int = 0) -> str:
    """Return a value of Python as an expression of Lua: numbers, text, booleans, mappings and sequences.

    Raises:
        TypeError: There is no such expression for it.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        return f'"{escaped}"'
    if isinstance(value, Mapping):
        keys = (key if isinstance(key, str) else f"[{int(key)}]" for key in value)
        entries = [f"{key} = {lua(entry, indent + 4)}" for key, entry in zip(keys, value.values(), strict=True)]
    elif isinstance(value, Iterable):
        entries = [lua(entry, indent + 4) for entry in value]
    else:
        raise TypeError(f"no Lua for a {type(value).__name__}")
    flat = "{ " + ", ".join(entries) + " }"
    if indent + len(flat) <= 100 and "\n" not in flat:
        return flat
    margin = " " * indent
    return "{\n" + "".join(f"{margin}    {entry},\n" for entry in entries) + margin + "}"


def _field(field: Field, offset: int) -> dict[str, Any]:
    if field.count != 1:
        raise TypeError(f"{field.name}: the dissector has no arrays")
    return {
        "name": field.name,
        "label": field.name.replace("_", " "),
        "offset": offset,
        "width": field.width,
        "hexadecimal": field.name in _HEXADECIMAL,
        "meaning": field.meaning,
    }


def _layout(layout: Layout) -> dict[str, Any]:
    return {"size": layout.size, "fields": [_field(field, offset) for field, offset in layout.placed()]}


def _names(codes: type[IntEnum]) -> dict[int, str]:
    return {int(code): code.name for code in codes}


def _codes(codes: type[IntEnum] | type[IntFlag]) -> dict[str, int]:
    return {str(code.name): int(code) for code in codes}


def tables() -> dict[str, Any]:
    """Return what the dissector's parts know of the schema."""
    every_flag = sum(int(flag) for flag in schema.Flag)
    return {
        "version": schema.VERSION,
        "ethertype": schema.ETHERTYPE,
        "udp_port": schema.UDP_PORT,
        "reply_bit": schema.REPLY_BIT,
        "first_notice": schema.NOTICES.start,
        "last_notice": schema.NOTICES.stop - 1,
        "max_message": schema.MAX_MESSAGE,
        "max_extension_block": schema.MAX_EXTENSION_BLOCK,
        "max_arrived_bits": schema.MAX_ARRIVED_BITS,
        "crc_size": schema.CRC_SIZE,
        "seal_tag_size": schema.SEAL_TAG_SIZE,
        "seal_frames": schema.SEAL_FRAMES,
        "retry_after_unit_us": schema.RETRY_AFTER_UNIT_US,
        "reserved_flags": 0xFFFF & ~every_flag,
        "stages": schema.STAGES,
        "layouts": {name: _layout(layout) for name, layout in LAYOUTS.items()},
        "flags": [{"name": flag.name, "mask": int(flag), "meaning": schema.FLAG_MEANING[flag]} for flag in schema.Flag],
        "values": {"opcode": _names(schema.Opcode), "status": _names(schema.Status)},
        "status_meanings": schema.STATUS_MEANING,
        "drop_reasons": _names(schema.DropReason),
        "drop_meanings": schema.DROP_MEANING,
        "code": {
            "flag": _codes(schema.Flag),
            "opcode": _codes(schema.Opcode),
            "status": _codes(schema.Status),
            "drop": _codes(schema.DropReason),
        },
    }


def made() -> str:
    """Return the dissector as it is made now."""
    parts = [files(__package__).joinpath(part).read_text(encoding="utf-8") for part in PARTS]
    return "\n".join([_HEAD, f"local SCHEMA = {lua(tables())}\n", *parts])


def committed() -> str:
    """Return the dissector that was made, as it is shipped."""
    return files(__package__).joinpath(PRODUCT).read_text(encoding="utf-8")
