"""Commands that make labs, and the link command."""

import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from host_sdk.cli import lab_graph, lab_nodes
from host_sdk.cli.output import (
    INSIDE,
    JsonOption,
    become_host,
    chosen_lab,
    err,
    failures,
    inside_interface,
    out,
    print_json,
    table,
)
from host_sdk.lab.driver import RunningLab
from host_sdk.lab.file_format import DEFAULT_MTU, DEFAULT_PROFILE, DRIVERS, MUTUAL
from host_sdk.lab.lab import DEFAULT_TIMEOUT_S
from host_sdk.lab.labs import DEFAULT_DRIVER, DOCKER, all_labs, find_lab, up_lab
from host_sdk.lab.state import LabState, NodeState
from host_sdk.lab.topology import Appliance, Topology, default_mac
from host_sdk.wire.errors import ClosedError, ConfigError, DeviceError, NapuError
from host_sdk.wire.links.auto import default_interface, probe

lab_app = typer.Typer(help="Labs of network namespaces or of containers.", no_args_is_help=True)
DEFAULT_LAB = "lab"
TIMEOUT_EACH_S = 2.0  # more for each appliance: they start all at once

NameOption = Annotated[str, typer.Option(help="Name of the lab.")]


def node_command(appliance: Appliance, link: str) -> list[str]:
    """Return the command line of a lab's appliance in a network namespace."""
    command = [
        *(sys.executable, "-m", "appliance.cli"),
        *("--flash", "{flash}", "--ready-fd", "{ready_fd}"),
        *("--access", appliance.access),
        *("--link", f"{link}:eth0", "--profile", appliance.profile, "--name", appliance.name),
        *("--faults-in", appliance.faults_in, "--faults-out", appliance.faults_out),
        *("--fault-seed", str(appliance.fault_seed), "--fault-socket", "{faults}"),
    ]
    for pipeline in appliance.pipelines:
        command += ["--pipeline", pipeline]
    command += ["--firmware", appliance.firmware] if appliance.firmware else []
    command += ["--credentials", appliance.credentials] if appliance.access == MUTUAL else []
    return [*command, *appliance.arguments]


def with_node_commands(topology: Topology) -> Topology:
    """Return a topology whose appliances have the command of theirs in a network namespace."""
    return topology.with_commands(lambda appliance: node_command(appliance, topology.link))


def make_topology(
    name: str, nodes: int, mtu: int, link: str, profile: str, faults: tuple[str, str, int] = ("", "", 0)
) -> Topology:
    """Return a lab of ``nodes`` equal appliances, without commands; ``faults`` are those in and out, and their seed.

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
    return Topology(name, appliances, mtu=mtu, link=link)


@lab_app.command()
def up(
    file: Annotated[
        Path | None, typer.Argument(help="Lab file; without one the lab is as the options say.", dir_okay=False)
    ] = None,
    driver: Annotated[str, typer.Option(help=f"What makes it: {', '.join(DRIVERS)}; before the file's.")] = "",
    nodes: Annotated[int | None, typer.Option(min=1, max=254, help="Appliances; 2 by default.")] = None,
    name: Annotated[str, typer.Option(help=f"Name of the lab; {DEFAULT_LAB}, or the file's, by default.")] = "",
    mtu: Annotated[
        int | None, typer.Option(help=f"Bytes of the largest PDU on the cables; {DEFAULT_MTU} by default.")
    ] = None,
    link: Annotated[str, typer.Option(help="What carries the appliances' frames: auto, xdp or packet.")] = "",
    profile: Annotated[
        str, typer.Option(help=f"Hardware profile of the appliances; {DEFAULT_PROFILE} by default.")
    ] = "",
    faults_in: Annotated[str, typer.Option(help="Damage to frames that reach the appliances: loss=5%,…")] = "",
    faults_out: Annotated[str, typer.Option(help="Damage to frames that they send.")] = "",
    fault_seed: Annotated[int, typer.Option(min=0, help="Seed of the damage.")] = 0,
    timeout: Annotated[
        float | None, typer.Option(min=1, max=3600, help="Seconds that appliances have until they serve.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Bring up a lab: a switch, hosts and appliances, and leave it running.

    While one lab is up, discover, infer, pipelines and stats act as its first host.
    """
    with failures(as_json=as_json):
        if file:
            if nodes or mtu or link or profile or faults_in or faults_out or fault_seed:
                raise ConfigError(f"{file} says what the lab is; leave out the options that say it as well")
            described = lab_graph.load(file)
            topology = replace(described, name=name) if name else described
        else:
            faults = (faults_in, faults_out, fault_seed)
            wanted = (nodes or 2, mtu or DEFAULT_MTU, link or "auto", profile or DEFAULT_PROFILE)
            topology = make_topology(name or DEFAULT_LAB, *wanted, faults)
        state = _bring_up(topology, driver or topology.driver or DEFAULT_DRIVER, timeout, quiet=as_json)
    if as_json:
        print_json(asdict(state))
    else:
        out.print(f"lab {state.name} is up with {len(state.appliances)} appliances; try: napu discover")


def _bring_up(topology: Topology, driver: str, timeout: float | None, *, quiet: bool) -> LabState:
    if driver not in DRIVERS:
        raise ConfigError(f"driver {driver!r} is not known; give {', '.join(DRIVERS)}")
    hosts, appliances = len(topology.hosts), len(topology.appliances)
    what = f"bringing up lab {topology.name}: a switch, {hosts} host{'s' * (hosts > 1)}, {appliances} appliances"
    timeout_s = timeout or DEFAULT_TIMEOUT_S + TIMEOUT_EACH_S * appliances
    wanted = topology if driver == DOCKER else with_node_commands(topology)
    if quiet or not err.is_terminal:
        if not quiet:
            err.print(f"{what} …", style="dim")
        return up_lab(wanted, driver, timeout_s=timeout_s).status()
    with err.status(f"{what} …") as shown:
        return up_lab(
            wanted, driver, timeout_s=timeout_s, progress=lambda words: shown.update(f"{what}: {words} …")
        ).status()


@lab_app.command()
def down(
    name: NameOption = DEFAULT_LAB,
    driver: Annotated[str, typer.Option(help="What made it, where both drivers have a lab of this name.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Take a lab down; nothing of it is left."""
    with failures(as_json=as_json):
        find_lab(name, driver).down()
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
        there, back = chosen_lab(lab).faults(node, *wanted)
    if as_json:
        print_json({"node": node, "faults_in": there, "faults_out": back})
    else:
        out.print(f"{node}: in {there or 'no faults'}; out {back or 'no faults'}")


def _shown_faults(lab: RunningLab, node: NodeState) -> dict[str, str] | None:
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
        labs, states = all_labs(), {}
        for name, lab in sorted(labs.items()):
            try:
                states[name] = lab.status()
            except ClosedError:
                continue  # it was just taken down
            except DeviceError as error:
                err.print(f"napu: {error}", style="yellow", markup=False)
    faults = {
        name: {
            node.name: _shown_faults(labs[name], node)
            for node in state.appliances
            if node.condition in ("up", "unplugged", "unhealthy")
        }
        for name, state in states.items()
    }
    if as_json:
        print_json({"labs": {name: {**asdict(state), "faults": faults[name]} for name, state in states.items()}})
        return
    if not states:
        out.print("no lab is up")
    for name, state in states.items():
        shown = table(f"LAB {name} ({state.driver})", "ADDRESS", "PID", "LINK", "STATE", "FAULTS IN", "FAULTS OUT")
        for node in state.nodes:
            link = str((node.announcement or {}).get("link", ""))
            how = node.condition if node.exit_code is None else f"ended with {node.exit_code}"
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
        name = interface or (inside_interface() if os.environ.get(INSIDE) else found.name if found else "lo")
        probes = probe(name)
    if as_json:
        print_json({"interface": name, "links": [entry._asdict() for entry in probes]})
        return
    shown = table("LINK", "WORKS", f"ON {name}")
    for entry in probes:
        shown.add_row(entry.kind, "yes" if entry.usable else "no", entry.reason)
    out.print(shown)


lab_nodes.add_to(lab_app)
lab_graph.add_to(lab_app)
