"""What every command shares: exit statuses, printing, and which lab or link to use."""

import json
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from host_sdk.access.identity import Identity
from host_sdk.client import NapuClient
from host_sdk.cluster.client import NapuCluster
from host_sdk.lab.driver import RunningLab
from host_sdk.lab.labs import all_labs, find_lab
from host_sdk.lab.port import INTERFACE
from host_sdk.operations import Timeout
from host_sdk.wire.errors import ConfigError, NapuError, NapuTimeoutError
from host_sdk.wire.links.packet import PacketLink

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_SILENT = 3

IDENTITY = "NAPU_IDENTITY"  # names the directory of the identity where --identity does not
INSIDE = "NAPU_INSIDE_LAB"  # names the lab whose host this process already is

Opened = TypeVar("Opened", bound=NapuClient)

_UNBROKEN = 1000  # columns where nobody looks at a screen: lines are not broken, so that grep and awk find them whole
out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else _UNBROKEN)
err = Console(stderr=True, highlight=False, soft_wrap=True)

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
LinkOption = Annotated[
    str, typer.Option(help="What carries frames: auto, auto:IFACE, xdp:IFACE, packet:IFACE, udp, udp:HOST[:PORT].")
]
TargetOption = Annotated[
    list[str] | None,
    typer.Option(help="Address of an appliance, repeatable; by default all that answer a broadcast."),
]
LabOption = Annotated[
    str,
    typer.Option(
        help="Act as the host of this lab, or LAB/HOST as another one of its hosts; by default as that of the only lab "
        "that is up, if --link is not given."
    ),
]
IdentityOption = Annotated[
    Path | None,
    typer.Option(help="Directory of the identity to ask as; by default that in NAPU_IDENTITY.", file_okay=False),
]
TimeoutOption = Annotated[float, typer.Option(min=0.01, max=3600, help="Seconds to wait for an answer.")]


def exit_status(error: BaseException) -> int:
    """Return the exit status that an error stands for."""
    if isinstance(error, ConfigError):
        return EXIT_USAGE
    return EXIT_SILENT if isinstance(error, NapuTimeoutError) else EXIT_FAILED


def print_json(value: dict[str, Any]) -> None:
    """Print one JSON object."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def table(*columns: str) -> Table:
    """Return an empty table in the project's plain style; addresses and numbers are never cut."""
    shown = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        shown.add_column(column, overflow="fold")
    return shown


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show on a terminal how far long work is; yield what is told of each step how far it went.

    Args:
        what: What is counted.
        total: How many there are.
    """
    # Here, as commands without long work do not need it.
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as shown:
        task = shown.add_task(what, total=total)
        yield lambda count: shown.advance(task, count)


@contextmanager
def client(
    link: str, target: list[str] | None, lab: str, timeout: float = 5.0, identity: Path | None = None
) -> Iterator[NapuClient]:
    """Open a client on the link, or as the host of a lab; it asks as an identity where there is one.

    Raises:
        NapuError: The lab is not up, the identity is none, or the link cannot be opened.
    """
    with _opened(NapuClient, link, target, lab, (timeout, identity)) as opened:
        yield opened


@contextmanager
def cluster(
    link: str, target: list[str] | None, lab: str, timeout: float = 5.0, identity: Path | None = None
) -> Iterator[NapuCluster]:
    """Open a client of all appliances that are named, or that answer, as one; else as :func:`client`."""
    with _opened(NapuCluster, link, target or None, lab, (timeout, identity)) as opened:
        yield opened


@contextmanager
def client_for(
    link: str, target: list[str] | None, lab: str, timeout: float = 5.0, identity: Path | None = None
) -> Iterator[NapuClient]:
    """Open a client for inferences: of a cluster, unless exactly one appliance is named."""
    kind = NapuClient if target and len(target) == 1 else NapuCluster
    with _opened(kind, link, target or None, lab, (timeout, identity)) as opened:
        yield opened


@contextmanager
def _opened(
    kind: type[Opened], link: str, target: list[str] | None, lab: str, asks: tuple[float, Path | None]
) -> Iterator[Opened]:
    timeout, identity = asks
    place = as_host(lab, link)
    directory = identity or os.environ.get(IDENTITY)
    who = Identity.load(directory) if directory else None
    with kind(place, target, timeout=Timeout(request=timeout, control=timeout), identity=who) as opened:
        if isinstance(opened.link, PacketLink) and opened.link.behind_xdp:
            err.print(
                "an XDP program runs on this interface; if it is that of another napu client, it takes all answers: "
                "end that client, or have it use --link packet:IFACE",
                style="yellow",
            )
        yield opened


def as_host(lab: str, link: str) -> str:
    """Return the link to act over, as the host of a lab where one is chosen: then in a process in its namespace.

    Raises:
        NapuError: The lab is not up, or it is not clear which.
    """
    name = _choose_lab(lab, link)
    if name:
        become_host(name)
    # Not xdp, which would take the frames of all other commands that run on this host.
    return f"packet:{inside_interface()}" if os.environ.get(INSIDE) and link == "auto" else link


def inside_interface() -> str:
    """Return the interface of the lab's host that this process is: a container's may come back under another name."""
    return next((name for _, name in socket.if_nameindex() if name != "lo"), INTERFACE)


def addresses(napu: NapuClient, target: list[str] | None) -> list[str]:
    """Return the addresses that were named, or those of all appliances that answer.

    Raises:
        ConfigError: None answers.
    """
    found = target or [entry.address for entry in napu.discover()]
    if not found:
        raise ConfigError("no appliance answered; is one on this link? 'napu lab up' makes some")
    return found


def _choose_lab(lab: str, link: str) -> str:
    if os.environ.get(INSIDE):
        return ""
    if lab or link != "auto":
        return lab
    names = sorted(all_labs())
    if len(names) > 1:
        raise ConfigError(f"several labs are up ({', '.join(names)}); choose one with --lab, or give a --link")
    if names:
        err.print(f"as the host of lab {names[0]}; give --link to act outside of it", style="dim")
    return names[0] if names else ""


def chosen_lab(name: str) -> RunningLab:
    """Return the lab of a name, or the only one that is up.

    Raises:
        ConfigError: There is none, or several and no name.
    """
    if name:
        return find_lab(name)
    labs = all_labs()
    if len(labs) != 1:
        raise ConfigError(
            f"several labs are up ({', '.join(sorted(labs))}); choose one with --lab" if labs else "no lab is up"
        )
    return next(iter(labs.values()))


def become_host(name: str) -> NoReturn:
    """Run this same command in the namespace of a lab's host, or of ``LAB/HOST``, in place of this process."""
    lab_name, _, host = name.partition("/")
    lab = find_lab(lab_name)
    again = [sys.executable, "-m", "host_sdk.cli.main", *sys.argv[1:]]
    command = lab.inside(host or lab.status().host.name, again)
    sys.stdout.flush()
    os.execve(command[0], command, {**os.environ, INSIDE: lab_name})  # noqa: S606 - our own interpreter


@contextmanager
def failures(*, as_json: bool) -> Iterator[None]:
    """Turn the project's errors into a sentence and an exit status."""
    try:
        yield
    except NapuError as error:
        if as_json:
            print_json({"error": type(error).__name__, "message": str(error)})
        err.print(f"napu: {error}", style="red", markup=False)
        raise typer.Exit(exit_status(error)) from None
