"""Commands of a lab's authority: who may control appliances, and which appliances are who they say."""

from pathlib import Path
from typing import Annotated

import typer

from host_sdk.cli.output import (
    IdentityOption,
    JsonOption,
    LabOption,
    LinkOption,
    TargetOption,
    addresses,
    client,
    failures,
    out,
    print_json,
    table,
)
from host_sdk.wire.errors import ConfigError
from host_sdk.wire.roles import MAX_RATE, WHOLE, Grant, Role

ca_app = typer.Typer(help="A lab's authority: identities of users and devices.", no_args_is_help=True)

DirectoryOption = Annotated[
    Path, typer.Option("--dir", envvar="NAPU_CA", help="Directory of the authority.", file_okay=False)
]
DEFAULT = Path("napu-ca")


@ca_app.command()
def init(
    directory: DirectoryOption = DEFAULT,
    days: Annotated[int, typer.Option(help="Days until the authority ends.")] = 365,
    as_json: JsonOption = False,
) -> None:
    """Make an authority in a new directory, which only its owner may read."""
    from host_sdk.access.ca import LabCa, utc_now

    with failures(as_json=as_json):
        LabCa.create(directory, utc_now, days)
    if as_json:
        print_json({"directory": str(directory)})
    else:
        out.print(f"{directory} is an authority now; keep it: whoever reads it can become anybody")


@ca_app.command()
def device(
    name: Annotated[str, typer.Argument(help="Identity of the device.")],
    directory: DirectoryOption = DEFAULT,
    target: Annotated[Path | None, typer.Option("--out", help="Directory to make; by default devices/NAME.")] = None,
    days: Annotated[int, typer.Option(help="Days until it ends.")] = 90,
    as_json: JsonOption = False,
) -> None:
    """Make the identity of a device, for napu-node --credentials."""
    from host_sdk.access.ca import LabCa, utc_now

    with failures(as_json=as_json):
        path = target or directory / "devices" / name
        serial = LabCa(directory, utc_now).issue_device(name, path, days)
    _print_issued(name, path, serial, as_json=as_json)


@ca_app.command()
def user(
    name: Annotated[str, typer.Argument(help="Name of the user.")],
    role: Annotated[str, typer.Option(help="viewer, operator or admin.")],
    directory: DirectoryOption = DEFAULT,
    target: Annotated[Path | None, typer.Option("--out", help="Directory to make; by default users/NAME.")] = None,
    days: Annotated[int, typer.Option(help="Days until it ends.")] = 7,
    tenant: Annotated[str, typer.Option(help="On whose behalf its requests are made.")] = "",
    pipeline: Annotated[list[str] | None, typer.Option(help="Pipeline it may run, repeatable; by default all.")] = None,
    rate: Annotated[int, typer.Option(min=0, max=MAX_RATE, help="Requests a second; 0 is without limit.")] = 0,
    share: Annotated[int, typer.Option(min=1, max=WHOLE, help="Per cent of a session's credits.")] = WHOLE,
    as_json: JsonOption = False,
) -> None:
    """Make the identity of a user, for --identity."""
    from host_sdk.access.ca import LabCa, utc_now

    with failures(as_json=as_json):
        if role not in ("viewer", "operator", "admin"):
            raise ConfigError(f"there is no role {role!r}; there are viewer, operator and admin")
        grant = Grant(Role[role.upper()], tenant, tuple(pipeline or ()), rate, share)
        path = target or directory / "users" / name
        serial = LabCa(directory, utc_now).issue_user(name, grant, path, days)
    _print_issued(name, path, serial, as_json=as_json)


@ca_app.command("list")
def list_issued(directory: DirectoryOption = DEFAULT, as_json: JsonOption = False) -> None:
    """List every certificate that was issued."""
    from host_sdk.access.ca import LabCa, utc_now

    with failures(as_json=as_json):
        found = LabCa(directory, utc_now).issued()
        now = utc_now()
    rows = [
        {
            "name": entry.name,
            "kind": entry.kind,
            "serial": f"{entry.serial:x}",
            "expires": f"{entry.expires:%Y-%m-%dT%H:%M:%SZ}",
            "state": "revoked" if entry.revoked else "expired" if entry.expires < now else "in force",
        }
        for entry in found
    ]
    if as_json:
        print_json({"certificates": rows})
        return
    shown = table("NAME", "KIND", "SERIAL", "EXPIRES", "STATE")
    for row in rows:
        shown.add_row(*row.values())
    out.print(shown)


@ca_app.command()
def revoke(
    which: Annotated[str, typer.Argument(help="Name, or number of one certificate in hexadecimal.")],
    directory: DirectoryOption = DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """Revoke certificates; push tells the appliances."""
    from host_sdk.access.ca import LabCa, utc_now

    with failures(as_json=as_json):
        revoked = LabCa(directory, utc_now).revoke(which)
    if as_json:
        print_json({"revoked": [f"{entry.serial:x}" for entry in revoked]})
    else:
        out.print(f"{len(revoked)} certificates of {revoked[0].name} revoked; 'napu ca push' tells the appliances")


@ca_app.command()
def push(
    directory: DirectoryOption = DEFAULT,
    link: LinkOption = "auto",
    target: TargetOption = None,
    lab: LabOption = "",
    identity: IdentityOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give each appliance the list of revoked certificates; takes the role admin."""
    from host_sdk.access.ca import LabCa, utc_now

    with failures(as_json=as_json), client(link, target, lab, identity=identity) as napu:
        revoked = LabCa(directory, utc_now).revoked_list()
        answers = {
            address: napu.control("access.revoke", target=address, list=revoked) for address in addresses(napu, target)
        }
    if as_json:
        print_json({"appliances": answers})
    else:
        for address, answer in answers.items():
            out.print(f"{address}: list {answer['number']} is in force")


def _print_issued(name: str, path: Path, serial: int, *, as_json: bool) -> None:
    if as_json:
        print_json({"name": name, "directory": str(path), "serial": f"{serial:x}"})
    else:
        out.print(f"{path} is the identity of {name}, number {serial:x}")
