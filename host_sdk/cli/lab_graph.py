"""Commands of ``napu lab`` that show or write a topology: graph, export, schema."""

import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.live import Live
from rich.text import Text

from host_sdk.cli.output import JsonOption, chosen_lab, failures, out, print_json
from host_sdk.lab.driver import RunningLab
from host_sdk.lab.graph import LinkRates, link_rates, tree
from host_sdk.lab.state import LabState
from host_sdk.lab.topology import Topology
from host_sdk.wire.errors import ConfigError

FileArgument = Annotated[
    Path | None, typer.Argument(help="Lab file; without one it is about a lab that is up.", dir_okay=False)
]
LabOption = Annotated[str, typer.Option(help="The lab; by default the only one that is up.")]
SAMPLE_S = 1.0  # what a picture of a lab that is up measures rates over


def graph(
    file: FileArgument = None,
    lab: LabOption = "",
    live: Annotated[bool, typer.Option("--live", help="Show what goes over each cable, until Ctrl-C.")] = False,
    interval: Annotated[float, typer.Option(min=0.1, max=60, help="Seconds between two looks of --live.")] = 1.0,
    seconds: Annotated[float | None, typer.Option(min=0.1, help="End --live after so long.")] = None,
    svg: Annotated[Path | None, typer.Option(help="Draw a picture, SVG.", dir_okay=False)] = None,
    png: Annotated[Path | None, typer.Option(help="Draw a picture, PNG.", dir_okay=False)] = None,
    as_json: JsonOption = False,
) -> None:
    """Show a lab: its switch, its nodes, what is special about their cables; of one that is up also how it is."""
    with failures(as_json=as_json):
        running = None if file else chosen_lab(lab)
        topology = running.topology() if running else load(file)
        if live:
            if running is None:
                raise ConfigError("--live is about a lab that is up; leave the file out")
            _show_live(running, topology, interval, seconds)
            return
        state = running.status() if running else None
        if svg or png:
            rates = _sample(running) if running else {}
            _draw([path for path in (svg, png) if path], topology, state, rates)
    if as_json:
        print_json({"topology": topology.to_mapping()})
    else:
        out.print(Text("\n".join(tree(topology, state))))


def load(file: Path | None) -> Topology:
    """Return the topology of a lab file.

    Raises:
        ConfigError: It is none, or no file can be read here.
    """
    if file is None:
        raise ConfigError("name a lab file")
    try:
        from host_sdk.lab.lab_file import load_lab_file
    except ImportError:
        raise ConfigError("lab files need PyYAML; install it with 'pip install napu[lab]'") from None
    return load_lab_file(file)


def _sample(lab: RunningLab) -> dict[str, LinkRates]:
    before, begin = lab.counters(), time.monotonic()
    time.sleep(SAMPLE_S)
    return link_rates(before, lab.counters(), time.monotonic() - begin)


def _draw(paths: list[Path], topology: Topology, state: LabState | None, rates: dict[str, LinkRates]) -> None:
    try:
        from host_sdk.lab.graph_picture import draw
    except ImportError:
        raise ConfigError("pictures need matplotlib; install it with 'pip install napu[bench]'") from None
    for path in paths:
        draw(path, topology, state, rates)


def _show_live(lab: RunningLab, topology: Topology, interval: float, seconds: float | None) -> None:
    end = None if seconds is None else time.monotonic() + seconds
    before, begin = lab.counters(), time.monotonic()
    with Live(console=out, auto_refresh=False, transient=False) as screen:
        while True:
            time.sleep(interval)
            after, now = lab.counters(), time.monotonic()
            lines = tree(topology, lab.status(), link_rates(before, after, now - begin))
            if out.is_terminal:
                screen.update(Text("\n".join(lines)), refresh=True)
            else:
                sys.stdout.write("\n".join(lines) + "\n")
                sys.stdout.flush()
            before, begin = after, now
            if end is not None and now >= end:
                return


def export(
    file: FileArgument = None,
    lab: LabOption = "",
    compose: Annotated[Path | None, typer.Option(help="Write a compose file.", dir_okay=False)] = None,
    containerlab: Annotated[Path | None, typer.Option(help="Write a topology of containerlab.", dir_okay=False)] = None,
) -> None:
    """Write a lab as a file for Docker Compose or containerlab."""
    with failures(as_json=False):
        if not compose and not containerlab:
            raise ConfigError("say what to write: --compose FILE or --containerlab FILE")
        topology = load(file) if file else chosen_lab(lab).topology()
        from host_sdk.lab import export as exports

        for path, text in ((compose, exports.compose), (containerlab, exports.containerlab)):
            if path:
                exports.write(path, text(topology, path.parent))
                out.print(f"lab {topology.name} is in {path}")


def schema() -> None:
    """Print the JSON Schema of lab files, for editors."""
    from host_sdk.lab.schema import schema_text

    sys.stdout.write(schema_text())


def add_to(lab_app: typer.Typer) -> None:
    """Add the commands to ``napu lab``."""
    for command in (graph, export, schema):
        lab_app.command()(command)
