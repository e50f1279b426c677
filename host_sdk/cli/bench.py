"""The benchmark command."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from host_sdk.bench.machine import choose_cores
from host_sdk.bench.models import Model, find_models
from host_sdk.bench.options import Chosen
from host_sdk.bench.report import COLUMNS, LEFT_ALIGNED, Report, cells
from host_sdk.cli.output import EXIT_FAILED, err, failures, out, table
from host_sdk.lab.file_format import JUMBO_MTU, MAX_MTU
from host_sdk.wire.errors import ConfigError
from host_sdk.wire.schema import MIN_MTU

MODELS_VARIABLE = "NAPU_MODELS"
_BESIDE = Path(__file__).resolve().parents[3] / "shared" / "models"  # beside the checkout
_QUICK = (1, 0.4)  # repeats, seconds
_FULL = (3, 1.5)


def bench(
    systems: Annotated[str, typer.Option(help="Systems to measure, with commas between; by default all.")] = "",
    models: Annotated[str, typer.Option(help="Models to measure, with commas between; by default all there are.")] = "",
    json_file: Annotated[
        str, typer.Option("--json", help="File to write the results to as JSON; - is standard output.")
    ] = "",
    plot: Annotated[Path | None, typer.Option(help="PNG file to draw the results into.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A look within a minute: one appliance, few points.")] = False,
    repeats: Annotated[int, typer.Option(min=0, max=99, help="Repeats of each point; 3, or 1 with --quick.")] = 0,
    seconds: Annotated[float, typer.Option(min=0, max=60, help="Seconds of each load; 1.5, or less with --quick.")] = 0,
    model_dir: Annotated[
        Path | None, typer.Option(help=f"Directory of the MLPerf Tiny models; by default ${MODELS_VARIABLE}.")
    ] = None,
    mtu: Annotated[
        int, typer.Option(min=MIN_MTU, max=MAX_MTU, help="Bytes of the largest PDU on the cables of Ethernet labs.")
    ] = JUMBO_MTU,
    seed: Annotated[int, typer.Option(min=0, help="Of random inputs and of the times of requests.")] = 1,
) -> None:
    """Measure appliances beside inference servers: one core for the server, one for the load, outputs compared first.

    Peers are installed into a cache of their own when they are first asked for. Exit status 1 when a system that
    came up could not be measured.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that nothing is left behind then either
    with failures(as_json=False):
        count, length = _QUICK if quick else _FULL
        chosen = Chosen(_names(systems), repeats or count, seconds or length, quick=quick, seed=seed, mtu=mtu)
        for path in (plot, Path(json_file)):
            if path and not path.absolute().parent.is_dir():
                raise ConfigError(f"{path} cannot be written, as {path.parent} is no directory; make it first")
        draw = _drawing() if plot else None
        report = _measure(chosen, _find(model_dir, _names(models)))
        found = report.to_mapping()
        _show(found, err if json_file == "-" else out)
        if json_file == "-":
            sys.stdout.write(report.to_json())
        elif json_file:
            Path(json_file).write_text(report.to_json(), encoding="utf-8")
        if plot and draw:
            draw(found, plot)
    if report.failed:
        raise typer.Exit(EXIT_FAILED)


def _names(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (name.strip() for name in text.split(","))))


def _find(model_dir: Path | None, names: tuple[str, ...]) -> list[Model]:
    """Return the models to measure, and say so where the reference models are missing.

    Raises:
        ConfigError: A directory or a name is wrong.
    """
    asked = model_dir or os.environ.get(MODELS_VARIABLE)
    directory = Path(asked).resolve() if asked else _BESIDE
    if asked and not directory.is_dir():
        raise ConfigError(f"{directory} is no directory; name that of the MLPerf Tiny models")
    if not directory.is_dir():
        text = f"no reference models here (name them by --model-dir or {MODELS_VARIABLE}), so only the project's own"
        err.print(text, style="yellow")
    return find_models(directory if directory.is_dir() else None, names)


def _measure(chosen: Chosen, models: list[Model]) -> Report:
    """Measure, on two cores.

    Raises:
        ConfigError: A library that only the benchmark needs is missing.
        NapuError: A system that was asked for cannot be had.
    """
    try:
        from host_sdk.bench.run import Run
    except ModuleNotFoundError as error:
        raise ConfigError(f"the benchmark needs {error.name}; install napu[bench]") from None
    cores = choose_cores(os.sched_getaffinity(0))
    if cores[0] == cores[1]:
        err.print("only one core may be used, so load and server share it: the figures say little", style="yellow")
    run = Run(models, chosen, cores, lambda text: err.print(text, style="dim", markup=False))
    os.sched_setaffinity(0, {cores[0]})  # what this process still does must not meet the server
    return run.run()


def _drawing() -> Callable[[dict[str, Any], Path], None]:
    try:
        from host_sdk.bench.plot import draw
    except ModuleNotFoundError as error:
        raise ConfigError(f"--plot needs {error.name}; install napu[bench]") from None
    return draw


def _show(found: dict[str, Any], console: Console) -> None:
    shown = table(*COLUMNS)
    for column in shown.columns[LEFT_ALIGNED:]:
        column.justify = "right"
    for row in cells(found["rows"]):
        shown.add_row(*row)
    console.print(shown)
    for name, reason in {**found["left_out"], **found["failed"]}.items():
        console.print(f"left out: {name}: {reason}", style="yellow", markup=False)
