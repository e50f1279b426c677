"""Commands that make labs, and the link command."""

import os
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from host_sdk.cli.output import INSIDE, JsonOption, become_host, err, failures, out, print_json, table
from host_sdk.lab.lab import Lab
from host_sdk.lab.topology import DEFAULT_MTU, Appliance, Topology, default_mac
from host_sdk.wire.links.auto import default_interface, probe

lab_app = typer.Typer(help="Labs in network namespaces of this machine.", no_args_is_help=True)
DEFAULT_LAB = "lab"
DEFAULT_PROFILE = "napu-s"

NameOption = Annotated[str, typer.Option(help="Name of the lab.")]


def node_command(appliance: Appliance, link: str) -> list[str]:
    """Return the command line of a lab's appliance."""
    return [
        *(sys.executable, "-m", "appliance.cli"),
        *("--flash", "{flash}", "--ready-fd", "{ready_fd}"),
        *("--access", "open"),
        *("--link", f"{link}:eth0", "--profile", appliance.profile, "--name", appliance.name),
        *appliance.arguments,
    ]


def make_topology(name: str, nodes: int, mtu: int, link: str, profile: str) -> Topology:
    """Return a lab of ``nodes`` equal appliances.

    Raises:
        ConfigError: A value is out of range.
    """
    appliances = tuple(Appliance(f"napu{index}", default_mac(index), profile) for index in range(1, nodes + 1))
    topology = Topology(name, appliances, mtu=mtu, link=link)
    return topology.with_commands(lambda appliance: node_command(appliance, link))


@lab_app.command()
def up(
    nodes: Annotated[int, typer.Option(min=1, max=254, help="Appliances.")] = 2,
    name: NameOption = DEFAULT_LAB,
    mtu: Annotated[int, typer.Option(help="Bytes of the largest PDU on the cables.")] = DEFAULT_MTU,
    link: Annotated[str, typer.Option(help="What carries the appliances' frames: auto, xdp or packet.")] = "auto",
    profile: Annotated[str, typer.Option(help="Hardware profile of the appliances.")] = DEFAULT_PROFILE,
    as_json: JsonOption = False,
) -> None:
    """Bring up a lab: a switch, a host and appliances, and leave it running.

    While one lab is up, discover, infer, pipelines and stats act as its host.
    """
    with failures(as_json=as_json):
        if not as_json:
            err.print(f"bringing up lab {name}: a switch, a host, {nodes} appliances …", style="dim")
        state = Lab.up(make_topology(name, nodes, mtu, link, profile), detach=True).status()
    if as_json:
        print_json(asdict(state))
    else:
        out.print(f"lab {name} is up with {len(state.appliances)} appliances; try: napu discover")


@lab_app.command()
def down(name: NameOption = DEFAULT_LAB, as_json: JsonOption = False) -> None:
    """Take a lab down; nothing of it is left."""
    with failures(as_json=as_json):
        Lab.find(name).down()
    if as_json:
        print_json({"lab": name, "up": False})
    else:
        out.print(f"lab {name} is down")


@lab_app.command()
def status(as_json: JsonOption = False) -> None:
    """Show the labs that are up and their nodes."""
    with failures(as_json=as_json):
        labs = {name: Lab.find(name).status() for name in sorted(Lab.names())}
    if as_json:
        print_json({"labs": {name: asdict(state) for name, state in labs.items()}})
        return
    if not labs:
        out.print("no lab is up")
    for name, state in labs.items():
        shown = table(f"LAB {name}", "ADDRESS", "PID", "LINK", "STATE")
        for node in (state.host, *state.appliances):
            link = str((node.announcement or {}).get("link", ""))
            how = "up" if node.exit_code is None else f"ended with {node.exit_code}"
            shown.add_row(node.name, node.mac, str(node.pid), link, how)
        out.print(shown)


def link(
    interface: Annotated[str, typer.Argument(help="Interface; by default that of the default route.")] = "",
    lab: Annotated[str, typer.Option(help="Look from the host of this lab.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Say which links work on an interface, best first, and why others do not."""
    with failures(as_json=as_json):
        if lab and not os.environ.get(INSIDE):
            become_host(lab)
        found = default_interface()
        name = interface or ("eth0" if os.environ.get(INSIDE) else found.name if found else "lo")
        probes = probe(name)
    if as_json:
        print_json({"interface": name, "links": [entry._asdict() for entry in probes]})
        return
    shown = table("LINK", "WORKS", f"ON {name}")
    for entry in probes:
        shown.add_row(entry.kind, "yes" if entry.usable else "no", entry.reason)
    out.print(shown)
