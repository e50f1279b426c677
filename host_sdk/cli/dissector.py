"""Commands that give Wireshark and tshark the protocol's dissector."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from host_sdk.capture.dissector.install import Placed
from host_sdk.capture.dissector.install import install as place
from host_sdk.capture.dissector.install import uninstall as remove
from host_sdk.capture.dissector.product import committed
from host_sdk.cli.output import JsonOption, failures, out, print_json

dissector_app = typer.Typer(help="Wireshark's dissector: install, print, uninstall.", no_args_is_help=True)

DirOption = Annotated[
    Path | None,
    typer.Option("--dir", help="Directory of Lua plugins; by default the one where Wireshark looks.", file_okay=False),
]


def _report(placed: Placed, done: str, nothing: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"path": str(placed.path), "changed": placed.changed})
    else:
        out.print(f"{placed.path}: {done if placed.changed else nothing}", markup=False)


@dissector_app.command()
def install(directory: DirOption = None, as_json: JsonOption = False) -> None:
    """Write the dissector where Wireshark and tshark find it; running ones take it with Ctrl-Shift-L."""
    with failures(as_json=as_json):
        _report(place(directory), "installed", "is there already", as_json=as_json)


@dissector_app.command()
def uninstall(directory: DirOption = None, as_json: JsonOption = False) -> None:
    """Remove the dissector again."""
    with failures(as_json=as_json):
        _report(remove(directory), "removed", "is not there", as_json=as_json)


@dissector_app.command("print")
def print_dissector() -> None:
    """Print the dissector, as for `tshark -X lua_script:FILE`."""
    sys.stdout.write(committed())
