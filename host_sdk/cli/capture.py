"""``napu capture``: frames of an interface, or of a lab's switch or node, into pcapng files."""

import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from host_sdk.capture.filter import FrameFilter
from host_sdk.capture.live import LiveCapture, Selection, stopped_by_signals
from host_sdk.capture.packet import Interface
from host_sdk.capture.writer import CaptureWriter, Target
from host_sdk.cli.output import INSIDE, JsonOption, chosen_lab, err, failures, out, print_json
from host_sdk.lab.driver import FrameRing, RunningLab
from host_sdk.lab.file_format import SWITCH
from host_sdk.lab.lab import Lab
from host_sdk.lab.port import BRIDGE, INTERFACE
from host_sdk.lab.ring import ALL_PROTOCOLS, Ring
from host_sdk.lab.state import NodeState
from host_sdk.wire.errors import ConfigError
from host_sdk.wire.schema import UDP_PORT

ASK_S = 20.0
LOOPBACK = "lo"

UdpPortOption = Annotated[
    list[int] | None,
    typer.Option("--udp-port", min=1, max=65535, help="UDP port of the protocol besides 34997, repeatable."),
]


def capture(
    file: Annotated[Path, typer.Argument(help="File to write, pcapng; an old one is replaced.", dir_okay=False)],
    interface: Annotated[str, typer.Option(help="Interface to capture at.")] = "",
    lab: Annotated[str, typer.Option(help="Capture in this lab; by default in the only one that is up.")] = "",
    at: Annotated[str, typer.Option(help="Where in the lab: switch, or the link of a node by its name.")] = SWITCH,
    filter_text: Annotated[
        str, typer.Option("--filter", help="Frames to take, as in 'opcode=INFER,RESULT peer=02:…:01 status!=OK'.")
    ] = "",
    snap: Annotated[int, typer.Option(min=0, help="Bytes to keep of a frame; 0 keeps all.")] = 0,
    seconds: Annotated[float | None, typer.Option(min=0.01, help="End after so long; else with Ctrl-C.")] = None,
    files: Annotated[int, typer.Option(min=1, help="Files of a ring; the oldest makes room for the next.")] = 1,
    file_size: Annotated[int, typer.Option(min=0, help="Bytes of a file; without a ring the capture ends there.")] = 0,
    everything: Annotated[bool, typer.Option("--all", help="Take frames of all protocols.")] = False,
    udp_port: UdpPortOption = None,
    metadata_fd: Annotated[int, typer.Option(hidden=True)] = -1,
    as_json: JsonOption = False,
) -> None:
    """Capture frames at an interface, a lab's switch or a node's link, until Ctrl-C.

    What could not be kept is counted, in the file and at the end.
    """
    with failures(as_json=as_json):
        if everything and filter_text:
            raise ConfigError("--all takes all frames; leave it or --filter out")
        chosen = None if everything else FrameFilter.parse(filter_text)
        target = Target(file, files, file_size, snap)
        source = _source(interface, lab, at, metadata_fd)
        selection = Selection(
            chosen, (UDP_PORT, *(udp_port or ())), both_ways=interface != LOOPBACK, directed=source.directed
        )
        metadata = {**source.metadata}
        metadata |= {"capture": {"interface": source.interface, "filter": filter_text, "all": everything, "snap": snap}}
        metadata |= {"udp_ports": list(selection.ports), **_machine()}
        writer = _run(source, target, selection, metadata, seconds)
    _report(writer, as_json=as_json)


@dataclass(frozen=True, slots=True)
class _Source:
    """Where frames come from.

    Attributes:
        ring: The frames.
        interface: What they are taken at.
        lab: Name of the lab that this is in; empty where it is in none.
        directed: Whether it is known which way frames went.
        metadata: What is said of the lab.
    """

    ring: FrameRing
    interface: str
    lab: str
    directed: bool
    metadata: dict[str, Any]


def _source(interface: str, lab: str, at: str, metadata_fd: int) -> _Source:
    """Begin to take frames; where that has to be inside of a lab, in this command run there anew.

    Raises:
        NapuError: There is no such lab or point, or it cannot be captured at.
    """
    inside = os.environ.get(INSIDE, "")
    metadata = _read_metadata(metadata_fd) if metadata_fd >= 0 else {}
    if not interface and not inside:
        chosen = chosen_lab(lab)
        if isinstance(chosen, Lab):
            _enter(chosen, at)
        metadata = _describe(chosen)
        ring = chosen.ring(at)
        if ring is None:
            raise ConfigError(f"lab {chosen.name} cannot be captured from outside; give --interface")
        return _Source(ring, BRIDGE if at == SWITCH else INTERFACE, chosen.name, at != SWITCH, metadata)
    taken = interface or (BRIDGE if at == SWITCH else INTERFACE)
    return _Source(Ring(taken, ALL_PROTOCOLS), taken, inside, taken != BRIDGE or not inside, metadata)


def _run(
    source: _Source, target: Target, selection: Selection, metadata: dict[str, Any], seconds: float | None
) -> CaptureWriter:
    ring = source.ring
    try:
        described = Interface(source.lab + ":" * bool(source.lab) + source.interface, snap=target.snap)
        writer = CaptureWriter(target, [described], metadata, time.time_ns)
        try:
            with stopped_by_signals() as stop:
                hint = "" if seconds else "; Ctrl-C ends it"
                LiveCapture(ring, writer, selection).run(
                    stop, seconds, lambda: err.print(f"capturing at {described.name}{hint}", style="dim")
                )
        finally:
            writer.close()
    finally:
        ring.close()
    return writer


def _report(writer: CaptureWriter, *, as_json: bool) -> None:
    counts, paths = writer.counts[0], [str(path) for path in writer.paths]
    if as_json:
        print_json({"files": paths, **asdict(counts), "full": writer.full})
        return
    size = sum(path.stat().st_size for path in writer.paths)
    what = f"{counts.written} frames written, {counts.filtered_out} filtered out, {counts.dropped} lost"
    out.print(f"{what}; {size} bytes in {', '.join(paths)}")
    if writer.full:
        err.print("the file is full; give --files for a ring", style="yellow")
    if counts.dropped:
        err.print(f"{counts.dropped} of {counts.received} frames are not in the file; it says where", style="yellow")


def _machine() -> dict[str, Any]:
    """Return what a capture says of where it was made."""
    return {
        "versions": {"napu": version("napu"), "python": platform.python_version(), "kernel": platform.release()},
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _enter(lab: Lab, at: str) -> NoReturn:
    """Run this same command where in a lab it shall capture, in place of this process.

    What is said of the lab is found out here: its directory cannot be read from all the namespaces that it has.
    """
    described = json.dumps(_describe(lab)).encode()
    descriptor = os.memfd_create("capture-metadata", 0)  # inherited by what follows
    os.write(descriptor, described)
    again = [sys.executable, "-m", "host_sdk.cli.main", *sys.argv[1:], "--metadata-fd", str(descriptor)]
    command = lab.inside(at, again)
    sys.stdout.flush()
    os.execve(command[0], command, {**os.environ, INSIDE: lab.name})  # noqa: S606 - our own interpreter


def _read_metadata(descriptor: int) -> dict[str, Any]:
    with os.fdopen(descriptor, "rb") as file:
        file.seek(0)
        found = json.loads(file.read())
    return dict(found)


def _describe(lab: RunningLab) -> dict[str, Any]:
    """Return what a capture says of a lab: its topology, its nodes' commands with their seeds, and what they run."""
    state = lab.status()
    nodes = [_describe_node(node) for node in state.nodes]
    topology = {"name": state.name, "cabling": state.cabling, "mtu": state.mtu, "link": state.link, "nodes": nodes}
    appliances = _ask(lab, "discover").get("appliances", [])
    served = _ask(lab, "pipelines").get("appliances", {}) if appliances else {}
    kept = ("name", "handle", "digest", "model_sha256", "backend")
    pipelines = {at: [{key: entry.get(key) for key in kept} for entry in each] for at, each in served.items()}
    return {"lab": topology, "appliances": appliances, "pipelines": pipelines}


def _ask(lab: RunningLab, command: str) -> dict[str, Any]:
    """Return what a command says of a lab's appliances; nothing where it fails: a capture can be had all the same."""
    ask = [sys.executable, "-m", "host_sdk.cli.main", command, "--lab", lab.name, "--json"]
    try:
        done = subprocess.run(ask, capture_output=True, timeout=ASK_S, check=False)
        return dict(json.loads(done.stdout)) if done.returncode == 0 else {}
    except (subprocess.TimeoutExpired, ValueError):
        return {}


def _describe_node(node: NodeState) -> dict[str, Any]:
    arguments = list(node.command)
    seed = arguments[arguments.index("--fault-seed") + 1] if "--fault-seed" in arguments[:-1] else None
    return {"name": node.name, "address": node.mac, "command": arguments, "fault_seed": seed}
