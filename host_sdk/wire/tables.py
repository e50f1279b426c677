"""The tables and the picture in ``docs/protocol.md``, made from the schema.

``python -m host_sdk.wire.tables docs/protocol.md`` rewrites what stands between the document's markers;
with ``--check`` it changes nothing, and its exit code is 1 where that would differ.
"""

import argparse
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from pathlib import Path
from typing import TypeVar

from host_sdk.wire.exchange.states import (
    REQUEST_ACTION_MEANING,
    REQUEST_EVENT_MEANING,
    REQUEST_RULES,
    REQUEST_STATE_MEANING,
    SLOT_ACTION_MEANING,
    SLOT_EVENT_MEANING,
    SLOT_RULES,
    SLOT_STATE_MEANING,
)
from host_sdk.wire.schema import (
    ARRIVED,
    DROP_MEANING,
    EXTENSION,
    EXTENSION_BLOCK,
    FLAG_MEANING,
    OPCODE_MEANING,
    REPLY_BIT,
    REPLY_HEADER,
    REQUEST_HEADER,
    SEAL,
    STATUS_MEANING,
    TRAILER,
    Field,
    Flag,
    Layout,
    Opcode,
    is_notice,
)

Code = TypeVar("Code", bound=IntEnum)
State = TypeVar("State", bound=IntEnum)
Event = TypeVar("Event", bound=IntEnum)
Action = TypeVar("Action", bound=IntEnum)

WORD = 4  # bytes in a row of the picture
_CELL = 2  # characters of a bit
_BLOCK = re.compile(r"(<!-- generated: (?P<name>[a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def layout_table(layout: Layout, begin: int = 0) -> str:
    """Return a table of a layout's fields, from the one at byte ``begin`` on."""
    rows = [
        (str(offset), str(field.size), f"`{field.name}`", field.meaning)
        for field, offset in layout.placed()
        if offset >= begin
    ]
    return markdown_table(("Offset", "Bytes", "Field", "Meaning"), rows)


def code_table(head: str, meanings: Mapping[Code, str]) -> str:
    """Return a table of the members of an enumeration."""
    rows = [(str(int(code)), f"`{code.name}`", meaning) for code, meaning in meanings.items()]
    return markdown_table((head, "Name", "Meaning"), rows)


def opcode_table() -> str:
    """Return a table with one row for each request and its reply."""
    rows = []
    for opcode in Opcode:
        if not opcode & REPLY_BIT and not is_notice(opcode):
            reply = Opcode(opcode | REPLY_BIT)
            codes = (f"0x{opcode:02x}", f"`{opcode.name}`", OPCODE_MEANING[opcode])
            rows.append((*codes, f"0x{reply:02x}", f"`{reply.name}`", OPCODE_MEANING[reply]))
    return markdown_table(("Request", "Name", "Meaning", "Reply", "Name", "Meaning"), rows)


def notice_table() -> str:
    """Return a table with one row for each notice: who sends it, and what it means."""
    rows = []
    for opcode in Opcode:
        if is_notice(opcode):
            sender = "responder" if opcode & REPLY_BIT else "requester"
            rows.append((f"0x{opcode:02x}", f"`{opcode.name}`", sender, OPCODE_MEANING[opcode]))
    return markdown_table(("Notice", "Name", "Sent by", "Meaning"), rows)


def rules_table(
    rules: Mapping[tuple[State, Event], tuple[Action, State]],
    states: Mapping[State, str],
    events: Mapping[Event, str],
    actions: Mapping[Action, str],
) -> str:
    """Return a state machine: one row for each event that does anything in a state, and what becomes of it."""
    rows = []
    for (state, event), (action, after) in rules.items():
        if action or state != after:
            then = "stays" if state == after else after.name.lower()
            rows.append((state.name.lower(), events[event], actions[action], then))
    meanings = [(state.name.lower(), meaning) for state, meaning in states.items()]
    return (
        markdown_table(("State", "Meaning"), meanings)
        + "\n"
        + markdown_table(("State", "Event", "What is done", "State then"), rows)
    )


def flag_table() -> str:
    """Return a table of the flags."""
    rows = [(f"0x{int(flag):04x}", f"`{flag.name}`", FLAG_MEANING[flag]) for flag in Flag]
    return markdown_table(("Bit", "Name", "Meaning"), rows)


def picture(fields: Sequence[Field]) -> str:
    """Return fields as the boxes that RFCs draw, 32 bits in a row; they begin and end at a row's edge."""
    width = _CELL * 8 * WORD - 1
    rule = "+" + "-+" * (8 * WORD) + "\n"
    text, row = rule, "|"
    for field in fields:
        if field.size > WORD:
            names = (field.name, *[""] * (field.size // WORD - 1))
            text += f"+{'':{width}}+\n".join(f"|{name:^{width}}|\n" for name in names) + rule
            continue
        row += f"{field.name:^{_CELL * 8 * field.size - 1}}|"
        if len(row) == width + 2:
            text, row = f"{text}{row}\n{rule}", "|"
    return text


def header_picture() -> str:
    """Return the picture of the header: a request's, and the row that differs in a reply's."""
    tens = " ".join(str(bit // 10) if bit % 10 == 0 else " " for bit in range(8 * WORD)).rstrip()
    ones = " ".join(str(bit % 10) for bit in range(8 * WORD))
    differing = [field for field in REPLY_HEADER.fields if field not in REQUEST_HEADER.fields]
    return (
        f"```text\n {tens}\n {ones}\n{picture(REQUEST_HEADER.fields)}"
        f"\nin replies, the last row:\n{picture(differing)}```\n"
    )


def generated() -> dict[str, str]:
    """Return everything that is generated, by the name in its marker."""
    last = REPLY_HEADER.size - WORD
    return {
        "header-picture": header_picture(),
        "header": layout_table(REQUEST_HEADER),
        "reply-header": layout_table(REPLY_HEADER, last),
        "trailer": layout_table(TRAILER),
        "extension": layout_table(EXTENSION_BLOCK) + "\n" + layout_table(EXTENSION),
        "opcodes": opcode_table(),
        "notices": notice_table(),
        "seal": layout_table(SEAL),
        "arrived": layout_table(ARRIVED),
        "slot-states": rules_table(SLOT_RULES, SLOT_STATE_MEANING, SLOT_EVENT_MEANING, SLOT_ACTION_MEANING),
        "request-states": rules_table(
            REQUEST_RULES, REQUEST_STATE_MEANING, REQUEST_EVENT_MEANING, REQUEST_ACTION_MEANING
        ),
        "flags": flag_table(),
        "statuses": code_table("Status", STATUS_MEANING),
        "drop-reasons": code_table("Reason", DROP_MEANING),
    }


def renew(text: str) -> str:
    """Return a document with everything between its markers as it is generated now.

    Raises:
        ValueError: A marker names nothing that is generated, or something generated has no marker.
    """
    parts = generated()
    found = {match["name"] for match in _BLOCK.finditer(text)}
    if found != set(parts):
        raise ValueError(f"markers missing or unknown: {', '.join(sorted(found ^ set(parts)))}")
    return _BLOCK.sub(lambda match: f"{match[1]}\n{parts[match['name']]}\n{match[3]}", text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Renew or check a document; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m host_sdk.wire.tables", description=__doc__)
    parser.add_argument("document", type=Path)
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 where something would")
    options = parser.parse_args(arguments)
    document: Path = options.document
    text = document.read_text(encoding="utf-8")
    new = renew(text)
    if new == text:
        return 0
    if options.check:
        sys.stderr.write(f"{document} is stale; python -m host_sdk.wire.tables {document} renews it\n")
        return 1
    document.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
