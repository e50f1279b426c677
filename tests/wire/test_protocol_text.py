"""The normative text: generated parts are fresh, rules are numbered, and what it states of the schema is so."""

import re
from pathlib import Path

import pytest

from appliance.board.regmap import ResetReason
from firmware.boot.layout import Slot
from firmware.boot.slots import Reason
from host_sdk.wire import schema, tables
from host_sdk.wire.schema import DropReason, Flag, Opcode, Status

PATH = Path(__file__).parents[2] / "docs" / "protocol.md"
TEXT = PATH.read_text(encoding="utf-8")


def rules() -> list[str]:
    """Return every list item and paragraph outside code and tables, each as one line."""
    prose = re.sub(r"```.*?```|^[|#<].*?$|^    .*?$", "", TEXT, flags=re.DOTALL | re.MULTILINE)
    items = re.split(r"\n\s*\n|\n(?=- )", prose)
    return [" ".join(item.split()) for item in items if item.strip()]


def test_generated_parts_are_fresh() -> None:
    assert tables.renew(TEXT) == TEXT, "run: python -m host_sdk.wire.tables docs/protocol.md"


def test_the_command_renews_a_stale_document_and_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "protocol.md"
    copy.write_text(TEXT.replace("| 16 | `BUSY` |", "| 17 | `BUSY` |"))
    assert tables.main([str(copy), "--check"]) == 1
    assert "is stale" in capsys.readouterr().err
    assert tables.main([str(copy)]) == 0
    assert copy.read_text() == TEXT
    assert tables.main([str(copy), "--check"]) == 0


def test_a_document_without_a_marker_is_refused() -> None:
    with pytest.raises(ValueError, match="opcodes"):
        tables.renew(TEXT.replace("<!-- generated: opcodes -->", ""))
    with pytest.raises(ValueError, match="colours"):
        tables.renew(TEXT + "<!-- generated: colours -->\n<!-- end -->\n")


def test_every_rule_has_a_number_of_its_own() -> None:
    numbers = []
    for rule in rules():
        if rule.startswith("MUST, MUST NOT, SHOULD"):
            continue  # says what the words mean
        count = len(re.findall(r"\bMUST\b", rule))
        match = re.match(r"- \[(N-\d{3})\] ", rule)
        assert count == (1 if match else 0), f"one number for one MUST: {rule}"
        if match:
            numbers.append(match[1])
    assert len(numbers) > 80
    assert len(set(numbers)) == len(numbers)


def test_names_in_capitals_exist() -> None:
    known = {member.name for group in (Opcode, Flag, Status, DropReason, ResetReason) for member in group}
    words = {"MUST", "NOT", "SHOULD", "MAY", "RFC", "PDU", "MTU", "UDP", "MAC", "CRC", "NIP", "SDK", "ASCII", "IEEE"}
    words |= {entry.name for group in (Slot, Reason) for entry in group}
    words |= {"NAPU", "TOML", "SHA", "DLA", "UTF", "JPEG", "PNG", "RGB", "II", "TLS", "AES", "GCM", "IV", "NIST", "SP"}
    used = set(re.findall(r"\b[A-Z][A-Z_]+\b", TEXT))
    assert used - known - words == set()
    assert known - used == set()


def test_numbers_in_the_text_are_those_of_the_schema() -> None:
    for stated in (
        f"header of {schema.HEADER_SIZE} bytes",
        f"EtherType 0x{schema.ETHERTYPE:04X}",
        f"port {schema.UDP_PORT}",
        f"at least {schema.MIN_MTU} bytes",
        f"({schema.MAX_MESSAGE} bytes)",
        f"longer than {schema.MAX_EXTENSION_BLOCK} bytes",
        f"trailer, {schema.TRAILER.size} bytes",
        f"at most {schema.MAX_DETAIL} bytes",
        f"integer, {schema.MIN_MTU - schema.HEADER_SIZE} to {schema.MAX_FRAGMENT_SIZE}",
        f"units of {schema.RETRY_AFTER_UNIT_US} µs",
    ):
        assert stated in " ".join(TEXT.split()), stated


def test_the_picture_has_every_field_at_its_place() -> None:
    rows = [line for line in tables.header_picture().splitlines() if line.startswith("|")]
    for layout in (schema.REQUEST_HEADER, schema.REPLY_HEADER):
        for field, offset in layout.placed():
            row = rows[offset // 4 + (layout is schema.REPLY_HEADER and offset >= 28)]
            cell = row[offset % 4 * 16 : (offset % 4 + min(field.size, 4)) * 16 + 1]
            assert cell.strip("| ") == field.name
            assert cell[0] == cell[-1] == "|"
