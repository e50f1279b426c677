"""Commands of ``napu lab`` that are about one node: exec, logs, kill, pause and the like."""

import os
import signal as signals
import sys
from typing import Annotated

import typer

from host_sdk.cli.output import JsonOption, chosen_lab, failures, out, print_json
from host_sdk.lab import tap as switch_tap
from host_sdk.wire.errors import ConfigError

NodeArgument = Annotated[str, typer.Argument(help="Name of a node, as 'napu lab status' shows it.", metavar="NODE")]
LabOption = Annotated[str, typer.Option(help="The lab; by default the only one that is up.")]


def exec_(
    node: NodeArgument,
    command: Annotated[list[str], typer.Argument(help="The command and its arguments, behind --.", metavar="-- CMD…")],
    lab: LabOption = "",
) -> None:
    """Run a command in a node, and end as it does.

    In a lab of namespaces it has the node's network, and this machine's files and user; in one of containers it runs
    in the container, with all that is there.
    """
    with failures(as_json=False):
        line = chosen_lab(lab).exec_command(node, command)
    sys.stdout.flush()
    os.execv(line[0], line)  # noqa: S606 - our own interpreter


def logs(
    node: NodeArgument,
    lab: LabOption = "",
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with new lines until it ends, or Ctrl-C.")
    ] = False,
) -> None:
    """Print what a node has written."""
    with failures(as_json=False):
        for line in chosen_lab(lab).logs(node, follow=follow):
            sys.stdout.write(line + "\n")
            if follow:
                sys.stdout.flush()


def kill(
    node: NodeArgument,
    signal: Annotated[str, typer.Option(help="Signal to send, by name.")] = "KILL",
    lab: LabOption = "",
    as_json: JsonOption = False,
) -> None:
    """Send a signal to a node's process."""
    with failures(as_json=as_json):
        name = f"SIG{signal.upper().removeprefix('SIG')}"
        if name not in signals.Signals.__members__:
            raise ConfigError(f"{signal!r} is no signal; give KILL, TERM, STOP, CONT, HUP or another one")
        chosen_lab(lab).signal(node, signals.Signals[name])
    _done(node, f"got {name}", as_json=as_json)


def pause(node: NodeArgument, lab: LabOption = "", as_json: JsonOption = False) -> None:
    """Stop a node, with all its processes, until it is resumed."""
    with failures(as_json=as_json):
        chosen_lab(lab).pause(node)
    _done(node, "paused", as_json=as_json)


def resume(node: NodeArgument, lab: LabOption = "", as_json: JsonOption = False) -> None:
    """Let a paused node go on."""
    with failures(as_json=as_json):
        chosen_lab(lab).resume(node)
    _done(node, "resumed", as_json=as_json)


def unplug(node: NodeArgument, lab: LabOption = "", as_json: JsonOption = False) -> None:
    """Pull the cable of a node out of the switch."""
    with failures(as_json=as_json):
        chosen_lab(lab).unplug(node)
    _done(node, "unplugged", as_json=as_json)


def plug(node: NodeArgument, lab: LabOption = "", as_json: JsonOption = False) -> None:
    """Put the cable of an unplugged node back."""
    with failures(as_json=as_json):
        chosen_lab(lab).plug(node)
    _done(node, "plugged in", as_json=as_json)


def _done(node: str, what: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"node": node, "done": what})
    else:
        out.print(f"{node}: {what}")


def tap(interface: Annotated[str, typer.Argument(help="Interface, or any.")]) -> None:
    """Write the frames of an interface to standard output as pcap, until SIGTERM; what there was to standard error."""
    raise typer.Exit(switch_tap.main(["--interface", interface, "--file-fd=1", "--ready-fd=2", "--report-fd=2"]))


def add_to(lab_app: typer.Typer) -> None:
    """Add the commands to ``napu lab``."""
    lab_app.command("exec", context_settings={"ignore_unknown_options": True})(exec_)
    for command in (logs, kill, pause, resume, unplug, plug):
        lab_app.command()(command)
    lab_app.command(hidden=True)(tap)  # what a capture of a lab of containers runs in one
