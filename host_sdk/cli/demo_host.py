"""The host's part of the demo, run where the lab's host is: finds appliances, sends images, says what came back.

``python -m host_sdk.cli.demo_host``: one JSON object on standard output, progress on standard error.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from host_sdk.capture.tapped import TappedLink
from host_sdk.cli.demo_images import held_out
from host_sdk.client import NapuClient
from host_sdk.results import Inference
from host_sdk.wire.errors import NapuError, NapuTimeoutError
from host_sdk.wire.links.auto import open_link
from host_sdk.wire.links.base import Link

PIPELINE = "digits"
OUTSTANDING_PER_NODE = 4  # keeps every appliance busy without measuring one's own queue


def main(
    images: Annotated[int, typer.Option()],
    link: Annotated[str, typer.Option()],
    target: Annotated[list[str] | None, typer.Option()] = None,
    tap: Annotated[Path | None, typer.Option()] = None,
) -> None:
    """Find appliances, send images, say what came back."""
    try:
        choice = open_link(link, peers=target or ())
        opened: Link = choice.link if tap is None else TappedLink(choice.link, tap)
        with NapuClient(opened, target) as napu:
            address = opened.format_address(opened.address)
            result = {"link": opened.kind, "address": address, "reason": choice.reason, **_run(napu, images)}
    except NapuError as error:
        result = {"error": str(error)}
    sys.stdout.write(json.dumps(result))


def _run(napu: NapuClient, images: int) -> dict[str, Any]:
    nodes = napu.discover()
    if not nodes:
        raise NapuTimeoutError("no appliance answered the broadcast")
    items = held_out(images)
    answers: list[dict[str, Any]] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"images over {napu.link.kind} to {len(nodes)} appliances", total=len(items))
        window = OUTSTANDING_PER_NODE * len(nodes)
        for answer in napu.infer_many(PIPELINE, (item.jpeg for item in items), window=window, return_errors=True):
            answers.append(_answer(answer))
            progress.advance(task)
    stats = {node.address: napu.stats(node.address) for node in nodes}
    return {"nodes": [asdict(node) for node in nodes], "answers": answers, "stats": stats}


def _answer(answer: Inference | NapuError) -> dict[str, Any]:
    if isinstance(answer, NapuError) or answer.trailer is None:
        return {"label": "", "error": str(answer)}
    return {
        "label": answer.label,
        "score": float(answer.outputs["score"][0]),
        "appliance": answer.appliance,
        "latency_us": answer.latency_us,
        "transmissions": answer.transmissions,
        "measured_ns": answer.trailer.measured_ns,
        "modelled_ns": answer.trailer.modelled_ns,
        "energy_nj": answer.trailer.energy_nj,
        "batch_size": answer.trailer.batch_size,
    }


if __name__ == "__main__":
    typer.run(main)
