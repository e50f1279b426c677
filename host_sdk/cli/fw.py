"""Commands that update the firmware of appliances over the wire: flash, status, confirm, rollback."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from host_sdk.cli.manage import find_node, printable
from host_sdk.cli.output import (
    EXIT_FAILED,
    IdentityOption,
    JsonOption,
    LabOption,
    LinkOption,
    client,
    err,
    exit_status,
    failures,
    out,
    print_json,
    table,
)
from host_sdk.client import NapuClient
from host_sdk.upgrade import PATIENCE_S, FirmwareImage, Step, Upgrade, Upgraded
from host_sdk.wire.errors import NapuError

fw_app = typer.Typer(help="Update the firmware of appliances, one by one.", no_args_is_help=True)

NodesArgument = Annotated[
    list[str], typer.Argument(help="Addresses or names of appliances, in order.", metavar="NODE…")
]
PatienceOption = Annotated[float, typer.Option(min=1, max=3600, help="Seconds that an appliance may be silent.")]
Work = Callable[[Upgrade], Upgraded]


@fw_app.command()
def flash(
    nodes: NodesArgument,
    image: Annotated[Path, typer.Option(help="The image file, as napu-fw makes it.", show_default=False)],
    confirm: Annotated[
        bool, typer.Option(help="Keep the image once it answers and serves what was served before.")
    ] = True,
    patience: PatienceOption = PATIENCE_S,
    link: LinkOption = "auto",
    lab: LabOption = "",
    identity: IdentityOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring appliances to an image, one after the other; stops at the first that fails.

    Inference goes on meanwhile. What was sent by an earlier run is not sent again; an appliance that runs the image is
    left alone. An image that does not come up, or does not answer here, is given up by the appliance itself.
    """
    with failures(as_json=as_json):
        content = FirmwareImage.read(image)
    work = partial(Upgrade.run, image=content, confirm=confirm)
    _roll(nodes, work, (link, lab, identity, patience), as_json=as_json)


@fw_app.command()
def rollback(
    nodes: NodesArgument,
    patience: PatienceOption = PATIENCE_S,
    link: LinkOption = "auto",
    lab: LabOption = "",
    identity: IdentityOption = None,
    as_json: JsonOption = False,
) -> None:
    """Boot the image of the other slot, on one appliance after the other; stops at the first that fails."""
    _roll(nodes, Upgrade.roll_back, (link, lab, identity, patience), as_json=as_json)


@fw_app.command()
def confirm(
    nodes: NodesArgument,
    link: LinkOption = "auto",
    lab: LabOption = "",
    identity: IdentityOption = None,
    as_json: JsonOption = False,
) -> None:
    """Keep the images that run, where they are on trial."""

    def keep(upgrade: Upgrade) -> Upgraded:
        upgrade.confirm()
        after = upgrade.status()
        return Upgraded(after["version"], after["version"], False, after["state"] == "confirmed")

    _roll(nodes, keep, (link, lab, identity, PATIENCE_S), as_json=as_json)


@fw_app.command()
def status(
    nodes: Annotated[
        list[str] | None, typer.Argument(help="Addresses or names; by default all that answer.", metavar="NODE…")
    ] = None,
    link: LinkOption = "auto",
    lab: LabOption = "",
    identity: IdentityOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print which image each appliance runs and why, and what is in its slots."""
    with failures(as_json=as_json), client(link, None, lab, identity=identity) as napu:
        named = nodes or [appliance.address for appliance in napu.discover()]
        addresses = [find_node(napu, node) for node in named]
        found = {address: Upgrade(_control(napu, address)).status() for address in addresses}
    if as_json:
        print_json({"appliances": found})
        return
    shown = table("APPLIANCE", "SLOT", "VERSION", "STATE", "EPOCH", "IMAGE", "WHY")
    for address, entry in found.items():
        shown.add_row(*_row(address, entry))
        for name, slot in entry["slots"].items():
            if name != entry["slot"]:
                shown.add_row("", *(Text(printable(text)) for text in _slot(name, slot)))
    out.print(shown)


def _row(address: str, entry: dict[str, Any]) -> list[Text]:
    trial = f", {entry['trial_ms'] / 1000:.0f} s left" if entry.get("trial_ms") else ""
    cells = (address, f"{entry['slot']} runs", entry["version"], f"{entry['state']}{trial}", str(entry["epoch"]))
    return [Text(printable(cell)) for cell in (*cells, entry["digest"][:16], entry["detail"])]


def _slot(name: str, slot: dict[str, Any]) -> tuple[str, ...]:
    written = f", {slot['written']} of {slot['size']} bytes" if "written" in slot else ""
    version, digest = str(slot.get("version", "")), str(slot.get("digest", ""))[:16]
    return (name, version, f"{slot.get('state')}{written}", "", digest, "")


def _control(napu: NapuClient, address: str) -> Callable[..., dict[str, Any]]:
    return lambda operation, **arguments: napu.control(operation, target=address, **arguments)


def _roll(nodes: list[str], work: Work, where: tuple[str, str, Path | None, float], *, as_json: bool) -> None:
    """Do a work on one appliance after the other, and say what became of each."""
    link, lab, identity, patience = where
    results: list[dict[str, Any]] = []
    failed: NapuError | None = None
    with failures(as_json=as_json), client(link, None, lab, identity=identity) as napu:
        addresses = [find_node(napu, node) for node in nodes]
        for address in addresses:
            if failed:
                results.append({"address": address, "result": "not begun"})
                continue
            try:
                with _progress(address, shown=not as_json) as step:
                    done = work(Upgrade(_control(napu, address), step, patience))
            except NapuError as error:
                failed = error
                results.append({"address": address, "result": "failed", "error": type(error).__name__})
                results[-1]["message"] = str(error)
            else:
                results.append({"address": address, "result": _result(done), **asdict(done)})
            if not as_json:
                _tell(results[-1])
    if as_json:
        print_json({"appliances": results})
    elif failed:
        left = sum(entry["result"] == "not begun" for entry in results)
        err.print(f"napu: stopped at the first failure; {left} of {len(results)} not begun", style="red")
    if failed:
        raise typer.Exit(exit_status(failed) or EXIT_FAILED)


def _result(done: Upgraded) -> str:
    if not done.confirmed:
        return "on trial"
    return "confirmed" if done.changed else "unchanged"


def _tell(entry: dict[str, Any]) -> None:
    versions = f": {entry['before']} → {entry['after']}" if entry.get("changed") else ""
    message = f": {entry['message']}" if "message" in entry else ""
    out.print(Text(printable(f"{entry['address']}: {entry['result']}{versions}{message}")))


@contextmanager
def _progress(address: str, *, shown: bool) -> Iterator[Step]:
    """Show how far one appliance is, where somebody looks."""
    if not shown or not sys.stderr.isatty():
        yield lambda *_: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task(address, total=None)

        def step(what: str, done: int, size: int) -> None:
            progress.update(task, description=f"{address} {what}", completed=done, total=size or None)

        yield step
