"""The demo: appliances and a switch, images through them as raw frames, and a report of what happened."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from host_sdk.cli.demo_docker import run_in_containers
from host_sdk.cli.demo_docker_report import ClusterReport
from host_sdk.cli.demo_images import held_out
from host_sdk.cli.demo_report import summarise
from host_sdk.cli.lab import make_topology, with_node_commands
from host_sdk.cli.loopback import LoopbackNodes
from host_sdk.cli.output import EXIT_FAILED, JsonOption, err, failures, out, print_json
from host_sdk.lab.capability import capability
from host_sdk.lab.file_format import DEFAULT_PROFILE
from host_sdk.lab.lab import Lab
from host_sdk.wire.errors import ConfigError, DeviceError

MIN_ACCURACY = 0.97
MOST_IMAGES = 500  # that the model has not seen
RATE = 250.0  # images a second in containers: slow enough to be watched, quick enough that some are always under way
DIRECTORY = Path("napu-demo")


@dataclass(frozen=True, slots=True)
class Paths:
    """Where the demo's results go."""

    capture: Path
    contact_sheet: Path


def demo(
    docker: Annotated[bool, typer.Option("--docker", help="In containers; one is killed on the way.")] = False,
    nodes: Annotated[int | None, typer.Option(min=1, max=32, help="Appliances; 2 by default, 3 in containers.")] = None,
    images: Annotated[
        int | None,
        typer.Option(min=200, max=100_000, help="Images to send: of 500, and in containers 1000 by default."),
    ] = None,
    pcap: Annotated[Path | None, typer.Option(help=f"Capture to write; {DIRECTORY}/capture.pcap by default.")] = None,
    sheet: Annotated[
        Path | None, typer.Option(help=f"Contact sheet to write; {DIRECTORY}/contact-sheet.png by default.")
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="Save the printed report as an SVG picture too.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Bring up a lab, send it real images as raw Ethernet frames, and show what comes back.

    The lab is network namespaces, a switch and a process for each appliance; as root or with unprivileged user
    namespaces. Where neither is allowed, UDP on loopback carries the same PDUs. Nothing is left behind but the
    capture and the contact sheet. Exit status 1 when fewer than 97 % of the images are classified right.

    With --docker they are containers, which a Docker Engine has to be there for: as one cluster they are sent images,
    one is killed on the way, and nothing is left behind. Exit status 1 also when an image was not answered.
    """
    if docker:
        with failures(as_json=as_json):
            if pcap or sheet or picture:
                raise ConfigError("of containers the demo makes no files; leave --pcap, --sheet and --picture out")
            if nodes == 1:
                raise ConfigError(
                    "in containers one appliance is killed, and another one has to answer; take two or more"
                )
            cluster = run_in_containers(nodes or 3, images or 1000, RATE)
        _show(cluster, as_json=as_json)
        return
    nodes, images = nodes or 2, min(images or MOST_IMAGES, MOST_IMAGES)
    paths = Paths(pcap or DIRECTORY / "capture.pcap", sheet or DIRECTORY / "contact-sheet.png")
    for path in (paths.capture, paths.contact_sheet):
        path.parent.mkdir(parents=True, exist_ok=True)
    with failures(as_json=as_json), _completed(paths.capture) as partial:
        result = _run(nodes, images, partial)
        report = summarise(result, held_out(images), partial, paths.contact_sheet)
    report = replace(report, capture=paths.capture)
    if as_json:
        print_json(report.to_mapping())
    else:
        report.print(out, picture)
    _judge(report.accuracy)


def _show(report: ClusterReport, *, as_json: bool) -> None:
    if as_json:
        print_json(report.to_mapping())
    else:
        report.print(out)
    if report.lost:
        err.print(f"napu: {report.lost} of {report.sent} images were not answered", style="red")
        raise typer.Exit(EXIT_FAILED)
    _judge(report.accuracy)


def _judge(accuracy: float) -> None:
    if accuracy < MIN_ACCURACY:
        err.print(f"napu: accuracy {accuracy:.1%} is below {MIN_ACCURACY:.0%}", style="red")
        raise typer.Exit(EXIT_FAILED)


@contextmanager
def _completed(path: Path) -> Iterator[Path]:
    """Yield a name beside ``path`` to write to; it becomes ``path`` at the end, and is removed if that does not come.

    Raises:
        ConfigError: There is something at ``path`` that is no regular file.
    """
    target = path.resolve()
    if target.exists() and not target.is_file():  # a device must not be replaced, which root could
        raise ConfigError(f"{path} is no regular file, so no capture can take its place; name another one")
    partial = target.with_name(f".{target.name}.partial")
    try:
        yield partial
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _run(nodes: int, images: int, capture: Path) -> dict[str, Any]:
    """Run the host's part somewhere, and return what it found."""
    allowed = capability()
    if allowed.kind == "none":
        err.print(f"no raw Ethernet here, so UDP on loopback carries the frames: {allowed.reason}", style="yellow")
        with LoopbackNodes(nodes, DEFAULT_PROFILE) as targets:
            arguments = ["--link", "udp:127.0.0.1:0", "--tap", str(capture)]
            arguments += [argument for target in targets for argument in ("--target", target)]
            result = _host(_command(images, arguments))
        reason = f"{result['link']}:{result['address']}, as network namespaces are refused here."
        return {**result, "reason": reason, "dropped": 0}
    err.print(f"bringing up a switch, a host and {nodes} appliances in network namespaces …", style="dim")
    topology = make_topology(f"demo-{os.getpid()}", nodes, 1500, "auto", DEFAULT_PROFILE)
    with Lab.up(with_node_commands(topology)) as lab:
        with lab.tap(capture) as tap:
            result = _host(lab.inside(topology.host.name, _command(images, ["--link", "auto:eth0"])))
        return {**result, "dropped": tap.stop().dropped}


def _command(images: int, arguments: list[str]) -> list[str]:
    return [sys.executable, "-m", "host_sdk.cli.demo_host", "--images", str(images), *arguments]


def _host(command: list[str]) -> dict[str, Any]:
    """Run the host's part in a process of its own and return its answer."""
    with _process(command) as process:
        output, _ = process.communicate()
    try:
        result: dict[str, Any] = json.loads(output)
    except ValueError:
        raise DeviceError(f"the demo's host ended with exit status {process.returncode}") from None
    if "error" in result:
        raise DeviceError(result["error"])
    return result


@contextmanager
def _process(command: list[str]) -> Iterator["subprocess.Popen[bytes]"]:
    """Start a process that does not outlive the block, however it is left.

    It has a session of its own: Ctrl-C is for this process to deal with. Python prints a traceback where it comes
    while an interpreter starts.
    """
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(2)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if process.stdout:
            process.stdout.close()
