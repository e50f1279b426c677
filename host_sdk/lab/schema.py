"""The published schema of lab files, and the tables of their documentation; both are made from the file format.

``python -m host_sdk.lab.schema docs/labs.md`` renews ``lab.schema.json`` beside this module, and in that page
each table between ``<!-- generated: SHAPE -->`` and ``<!-- end -->``.
"""

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from host_sdk.lab.file_format import LAB, SHAPES

SCHEMA_FILE: Final = Path(__file__).with_name("lab.schema.json")
_BLOCK: Final = re.compile(r"(<!-- generated: ([a-z]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def lab_schema() -> dict[str, Any]:
    """Return the JSON Schema of lab files."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "description": "A lab of network-attached inference appliances, for 'napu lab up FILE'.",
        **LAB.schema(),
    }


def schema_text() -> str:
    """Return the schema as the file has it."""
    return json.dumps(lab_schema(), indent=2) + "\n"


def with_tables(page: str) -> str:
    """Return a page of Markdown with its tables as the file format has them."""
    tables = {shape.name: shape.table() for shape in SHAPES}
    return _BLOCK.sub(lambda match: f"{match[1]}{tables[match[2]]}\n{match[3]}", page)


def main(pages: Sequence[str]) -> None:
    """Renew the schema, and the tables of the pages that are named."""
    SCHEMA_FILE.write_text(schema_text(), encoding="utf-8")
    for page in map(Path, pages):
        page.write_text(with_tables(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
