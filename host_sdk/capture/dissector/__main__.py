"""``python -m host_sdk.capture.dissector`` makes ``nip.lua`` anew; with ``--check`` it exits with 1 if it is stale."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from host_sdk.capture.dissector.product import PRODUCT, made


def main(arguments: Sequence[str] | None = None) -> int:
    """Make or check the dissector; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m host_sdk.capture.dissector", description=__doc__)
    parser.add_argument("file", type=Path, nargs="?", default=Path(__file__).parent / PRODUCT)
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 where something would")
    options = parser.parse_args(arguments)
    file: Path = options.file
    new = made()
    if file.exists() and file.read_text(encoding="utf-8") == new:
        return 0
    if options.check:
        sys.stderr.write(f"{file} is stale; python -m host_sdk.capture.dissector renews it\n")
        return 1
    file.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
