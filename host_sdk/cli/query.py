"""Commands that ask appliances: discover, infer, pipelines, stats."""

from pathlib import Path
from typing import Annotated, Any

import typer

from host_sdk.cli.files import read_input
from host_sdk.cli.output import (
    IdentityOption,
    JsonOption,
    LabOption,
    LinkOption,
    TargetOption,
    TimeoutOption,
    addresses,
    client,
    client_for,
    failures,
    out,
    print_json,
    table,
)
from host_sdk.operations import InferOptions
from host_sdk.results import Inference
from host_sdk.wire.errors import NapuError

pipelines_app = typer.Typer(help="List, install and remove pipelines.", no_args_is_help=False)


def discover(
    link: LinkOption = "auto", target: TargetOption = None, lab: LabOption = "", as_json: JsonOption = False
) -> None:
    """Ask everybody on the link who they are. Exit status 3 when nobody answers."""
    with failures(as_json=as_json), client(link, target, lab) as napu:
        found = napu.discover()
        kind = napu.link.kind
    if as_json:
        print_json({"link": kind, "appliances": [_fields(entry) for entry in found]})
    elif found:
        shown = table("ADDRESS", "NAME", "PROFILE", "LINK", "MTU", "CREDITS", "ACCESS", "FIRMWARE", "PIPELINES")
        for entry in found:
            firmware = f"{entry.firmware['version']} ({entry.firmware['digest'][:8]}, epoch {entry.firmware['epoch']})"
            numbers = (str(entry.mtu), str(entry.credits))
            names = ", ".join(f"{name} (sealed)" if name in entry.sealed else name for name in entry.pipelines)
            access = "[yellow]open[/yellow]" if entry.access == "open" else "mutual"
            shown.add_row(entry.address, entry.name, entry.profile, entry.link, *numbers, access, firmware, names)
        out.print(shown)
    else:
        hint = "" if target or kind != "udp" else "; over UDP there is no broadcast: name appliances with --target"
        out.print(f"nobody answered on {kind}{hint}")
    if not found:
        raise typer.Exit(3)


def infer(
    pipeline: Annotated[str, typer.Argument(help="Name of the pipeline.")],
    files: Annotated[
        list[Path], typer.Argument(help="Media files, .npy arrays, or raw tensors.", exists=True, dir_okay=False)
    ],
    link: LinkOption = "auto",
    target: TargetOption = None,
    lab: LabOption = "",
    identity: IdentityOption = None,
    timeout: TimeoutOption = 5.0,
    deadline: Annotated[float | None, typer.Option(help="Seconds after which the answer is worthless.")] = None,
    priority: Annotated[int, typer.Option(min=0, max=255, help="Higher goes first.")] = 0,
    once: Annotated[bool, typer.Option(help="Execute each at most once, however often it is sent.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Run a pipeline on each file and print what comes out, in the files' order.

    Exit status 0 when all were answered; else that of the first that was not.
    """
    options = InferOptions(deadline, priority, once=once)
    with failures(as_json=as_json), client_for(link, target, lab, timeout, identity) as napu:
        items = [read_input(file) for file in files]
        answers = list(napu.infer_many(pipeline, items, options=options, return_errors=True))
    if as_json:
        print_json({"pipeline": pipeline, "answers": [_answer(*pair) for pair in zip(files, answers, strict=True)]})
    else:
        _print_answers(files, answers)
    with failures(as_json=False):
        for answer in answers:
            if isinstance(answer, NapuError):
                raise answer


def _answer(file: Path, answer: Inference | NapuError) -> dict[str, Any]:
    if isinstance(answer, NapuError):
        return {"file": str(file), "error": type(answer).__name__, "message": str(answer)}
    outputs = {
        name: [text.decode("utf-8", "replace") for text in value.tolist()]
        if value.dtype.kind == "S"
        else value.tolist()
        for name, value in answer.outputs.items()
    }
    energy = answer.trailer.energy_nj / 1000 if answer.trailer else None
    epoch, digest = answer.made_by or (None, None)
    return {
        "file": str(file),
        "outputs": outputs,
        "appliance": answer.appliance,
        "latency_us": answer.latency_us,
        "transmissions": answer.transmissions,
        "sealed": answer.sealed,
        "stages_us": answer.stages_us,
        "energy_uj_modelled": energy,
        "firmware_epoch": epoch,
        "model_digest": digest.hex() if digest else None,
    }


def _print_answers(files: list[Path], answers: list[Inference | NapuError]) -> None:
    shown = table("FILE", "ANSWER", "APPLIANCE", "LATENCY µs", "SEALED")
    for file, answer in zip(files, answers, strict=True):
        if isinstance(answer, NapuError):
            shown.add_row(str(file), f"[red]{answer}", "", "", "")
            continue
        sealed = "yes" if answer.sealed else "no"
        shown.add_row(str(file), _summary(answer), answer.appliance, f"{answer.latency_us:.0f}", sealed)
    out.print(shown)


def _summary(answer: Inference) -> str:
    """Return the labels with their scores, or the outputs' shapes where there are none."""
    if answer.labels and "score" in answer.outputs:
        pairs = zip(answer.labels, answer.outputs["score"].tolist(), strict=True)
        return ", ".join(f"{label} {score:.3f}" for label, score in pairs)
    return ", ".join(f"{name} {value.dtype}{list(value.shape)}" for name, value in answer.outputs.items())


def stats(
    link: LinkOption = "auto",
    target: TargetOption = None,
    lab: LabOption = "",
    identity: IdentityOption = None,
    every: Annotated[bool, typer.Option("--all", help="Print counters that are 0 as well.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Print the counters of each appliance: of its hardware and of its firmware."""
    with failures(as_json=as_json), client(link, target, lab, identity=identity) as napu:
        counters = {address: napu.stats(address) for address in addresses(napu, target)}
    if as_json:
        print_json({"appliances": counters})
        return
    for address, parts in counters.items():
        shown = table(address, "")
        for part, values in parts.items():
            for name, value in values.items():
                if value or every:
                    shown.add_row(f"{part}.{name}", str(value))
        out.print(shown)


@pipelines_app.callback(invoke_without_command=True)
def pipelines(
    context: typer.Context,
    link: LinkOption = "auto",
    target: TargetOption = None,
    lab: LabOption = "",
    identity: IdentityOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the pipelines of each appliance."""
    if context.invoked_subcommand:
        return
    with failures(as_json=as_json), client(link, target, lab, identity=identity) as napu:
        listed = {address: napu.pipelines(address) for address in addresses(napu, target)}
    if as_json:
        print_json({"appliances": {address: [_fields(entry) for entry in found] for address, found in listed.items()}})
        return
    shown = table("APPLIANCE", "NAME", "HANDLE", "INPUT", "OUTPUTS", "MACS", "BATCH", "BACKEND", "SEALED", "DIGEST")
    for address, found in listed.items():
        for entry in found:
            source = entry.input
            takes = f"{source.dtype}{list(source.shape)}" if source else "/".join(entry.formats)
            gives = ", ".join(f"{tensor.name} {tensor.dtype}{list(tensor.shape)}" for tensor in entry.outputs)
            numbers = (
                f"{entry.macs:,}",
                str(entry.max_batch),
                entry.backend,
                "yes" if entry.sealed else "no",
                entry.digest[:12],
            )
            shown.add_row(address, entry.name, f"{entry.handle:#06x}", takes, gives, *numbers)
    out.print(shown)


@pipelines_app.command()
def install(
    directory: Annotated[Path, typer.Argument(help="Directory with pipeline.toml and its files.", file_okay=False)],
    link: LinkOption = "auto",
    target: TargetOption = None,
    lab: LabOption = "",
    identity: IdentityOption = None,
    as_json: JsonOption = False,
) -> None:
    """Install a pipeline on each appliance; one of the same name is replaced."""
    from appliance.pipelines.package import pack_directory

    with failures(as_json=as_json), client(link, target, lab, 30.0, identity) as napu:
        package = pack_directory(directory)
        answers = {
            address: napu.control("pipeline.install", target=address, package=package)
            for address in addresses(napu, target)
        }
    if as_json:
        print_json({"appliances": answers})
    else:
        for address in answers:
            out.print(f"{address}: installed, {len(package)} bytes")


@pipelines_app.command()
def remove(
    name: Annotated[str, typer.Argument(help="Name of the pipeline.")],
    link: LinkOption = "auto",
    target: TargetOption = None,
    lab: LabOption = "",
    identity: IdentityOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove a pipeline from each appliance."""
    with failures(as_json=as_json), client(link, target, lab, identity=identity) as napu:
        answers = {
            address: napu.control("pipeline.remove", target=address, name=name) for address in addresses(napu, target)
        }
    if as_json:
        print_json({"appliances": answers})
    else:
        for address in answers:
            out.print(f"{address}: {name} removed")


def _fields(value: Any) -> Any:
    """Return a value object as plain data."""
    if hasattr(value, "__dataclass_fields__"):
        return {name: _fields(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, list | tuple):
        return [_fields(entry) for entry in value]
    return value
