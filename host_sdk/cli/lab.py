"""Commands that make labs, and the link command."""

import os
import sys
from dataclasses import asdict, replace
from typing import Annotated

import typer

from host_sdk.cli.output import INSIDE, JsonOption, become_host, err, failures, out, print_json, table
from host_sdk.lab.file_format import DEFAULT_MTU
from host_sdk.lab.lab import Lab
from host_sdk.lab.state import NodeState
from host_sdk.lab.topology import Appliance, Topology, default_mac
from host_sdk.wire.errors import ConfigError, NapuError
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
        *("--faults-in", appliance.faults_in, "--faults-out", appliance.faults_out),
        *("--fault-seed", str(appliance.fault_seed), "--fault-socket", "{faults}"),
        *appliance.arguments,
    ]


def make_topology(
    name: str, nodes: int, mtu: int, link: str, profile: str, faults: tuple[str, str, int] = ("", "", 0)
) -> Topology:
    """Return a lab of ``nodes`` equal appliances; ``faults`` are those in and out, and their seed.

    Raises:
        ConfigError: A value is out of range.
    """
    plain = [Appliance(f"napu{index}", default_mac(index), profile) for index in range(1, nodes + 1)]
    there, back, seed = faults
    appliances = tuple(
        # Each its own seed: appliances that lose the same frames would be one cable.
        replace(each, faults_in=there, faults_out=back, fault_seed=seed + index)
        for index, each in enumerate(plain)
    )
    topology = Topology(name, appliances, mtu=mtu, link=link)
    return topology.with_commands(lambda appliance: node_command(appliance, link))


@lab_app.command()
def up(
    nodes: Annotated[int, typer.Option(min=1, max=254, help="Appliances.")] = 2,
    name: NameOption = DEFAULT_LAB,
    mtu: Annotated[int, typer.Option(help="Bytes of the largest PDU on the cables.")] = DEFAULT_MTU,
    link: Annotated[str, typer.Option(help="What carries the appliances' frames: auto, xdp or packet.")] = "auto",
    profile: Annotated[str, typer.Option(help="Hardware profile of the appliances.")] = DEFAULT_PROFILE,
    faults_in: Annotated[str, typer.Option(help="Damage to frames that reach the appliances: loss=5%,…")] = "",
    faults_out: Annotated[str, typer.Option(help="Damage to frames that they send.")] = "",
    fault_seed: Annotated[int, typer.Option(min=0, help="Seed of the damage.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Bring up a lab: a switch, a host and appliances, and leave it running.

    While one lab is up, discover, infer, pipelines and stats act as its host.
    """
    with failures(as_json=as_json):
        if not as_json:
            err.print(f"bringing up lab {name}: a switch, a host, {nodes} appliances …", style="dim")
        faults = (faults_in, faults_out, fault_seed)
        state = Lab.up(make_topology(name, nodes, mtu, link, profile, faults), detach=True).status()
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
def fault(
    node: Annotated[str, typer.Argument(help="Name of an appliance, as 'napu lab status' shows it.")],
    faults_in: Annotated[str | None, typer.Option("--in", help="Damage to frames that reach it: loss=5%,…")] = None,
    faults_out: Annotated[str | None, typer.Option("--out", help="Damage to frames that it sends.")] = None,
    clear: Annotated[bool, typer.Option("--clear", help="No damage any more.")] = False,
    lab: Annotated[str, typer.Option(help="The lab; by default the only one that is up.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Change the damage that an appliance of a lab does to frames, at once; without an option, show it."""
    with failures(as_json=as_json):
        if clear and (faults_in is not None or faults_out is not None):
            raise ConfigError("--clear takes all faults away; leave --in and --out out")
        wanted = ("", "") if clear else (faults_in, faults_out)
        there, back = Lab.find(lab or _only_lab()).faults(node, *wanted)
    if as_json:
        print_json({"node": node, "faults_in": there, "faults_out": back})
    else:
        out.print(f"{node}: in {there or 'no faults'}; out {back or 'no faults'}")


def _only_lab() -> str:
    names = sorted(Lab.names())
    if len(names) != 1:
        raise ConfigError(
            f"several labs are up ({', '.join(names)}); choose one with --lab" if names else "no lab is up"
        )
    return names[0]


def _shown_faults(lab: Lab, node: NodeState) -> dict[str, str] | None:
    """Return the faults of an appliance; None where it cannot say."""
    try:
        there, back = lab.faults(node.name)
    except NapuError:
        return None
    return {"in": there, "out": back}


@lab_app.command()
def status(as_json: JsonOption = False) -> None:
    """Show the labs that are up and their nodes."""
    with failures(as_json=as_json):
        labs = {name: Lab.find(name) for name in sorted(Lab.names())}
        states = {name: lab.status() for name, lab in labs.items()}
    faults = {
        name: {node.name: _shown_faults(labs[name], node) for node in state.appliances if node.exit_code is None}
        for name, state in states.items()
    }
    if as_json:
        print_json({"labs": {name: {**asdict(state), "faults": faults[name]} for name, state in states.items()}})
        return
    if not states:
        out.print("no lab is up")
    for name, state in states.items():
        shown = table(f"LAB {name}", "ADDRESS", "PID", "LINK", "STATE", "FAULTS IN", "FAULTS OUT")
        for node in state.nodes:
            link = str((node.announcement or {}).get("link", ""))
            how = "up" if node.exit_code is None else f"ended with {node.exit_code}"
            damage = faults[name].get(node.name) or {"in": "", "out": ""}
            shown.add_row(node.name, node.mac, str(node.pid), link, how, damage["in"], damage["out"])
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
