"""``napu cluster``: several appliances as one."""

import time
from dataclasses import asdict
from typing import Annotated

import typer

from host_sdk.cli.output import (
    EXIT_SILENT,
    IdentityOption,
    JsonOption,
    LabOption,
    LinkOption,
    TargetOption,
    cluster,
    failures,
    out,
    print_json,
    table,
)
from host_sdk.cluster.members import MemberStatus

cluster_app = typer.Typer(help="Several appliances as one: who they are and how they are.", no_args_is_help=True)
_WATCH_S = 1.0


@cluster_app.callback()
def group() -> None:
    """Several appliances as one: who they are and how they are."""


@cluster_app.command()
def status(
    link: LinkOption = "auto",
    target: TargetOption = None,
    lab: LabOption = "",
    identity: IdentityOption = None,
    watch: Annotated[bool, typer.Option(help="Ask again every second, until Ctrl-C.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Ask who is there, and print how each appliance is. Exit status 3 when none is up."""
    with failures(as_json=as_json), cluster(link, target, lab, identity=identity) as napu:
        members = napu.refresh()
        _show(members, as_json=as_json)
        while watch:
            time.sleep(_WATCH_S)
            members = napu.refresh()
            _show(members, as_json=as_json)
    if not any(member.state == "up" for member in members):
        raise typer.Exit(EXIT_SILENT)


def _show(members: list[MemberStatus], *, as_json: bool) -> None:
    if as_json:
        print_json({"members": [asdict(member) for member in members]})
        return
    shown = table("NAME", "DEVICE", "ADDRESS", "STATE", "SINCE s", "CREDITS", "FIRMWARE", "PIPELINES")
    for member in members:
        state = member.state if member.state == "up" else f"[red]{member.state}"
        firmware = f"{member.version} (epoch {member.epoch})" if member.device else ""
        numbers = (f"{member.since_s:.1f}", str(member.credits) if member.device else "")
        names = ", ".join(member.pipelines)
        shown.add_row(member.name, member.device, member.address, state, *numbers, firmware, names)
    out.print(shown if members else "nobody answered")
