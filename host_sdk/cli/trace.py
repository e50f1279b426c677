"""``napu trace``: where the time of requests went."""

import json
import os
import time
from pathlib import Path
from typing import Annotated

import typer

from host_sdk.capture.spans import Observations, request_spans
from host_sdk.capture.tapped import TappedLink
from host_sdk.capture.trace import chrome_trace, otlp_requests, post_otlp
from host_sdk.cli.files import read_input
from host_sdk.cli.output import (
    JsonOption,
    LabOption,
    LinkOption,
    TargetOption,
    TimeoutOption,
    as_host,
    failures,
    out,
    print_json,
)
from host_sdk.client import NapuClient
from host_sdk.operations import InferOptions, Timeout
from host_sdk.results import Inference
from host_sdk.wire.errors import ConfigError, NapuError
from host_sdk.wire.links.auto import open_link
from host_sdk.wire.trace_context import SPAN_ID_SIZE, TRACE_ID_SIZE, TraceContext


def trace(
    pipeline: Annotated[str, typer.Argument(help="Name of the pipeline.")],
    files: Annotated[
        list[Path], typer.Argument(help="Media files, .npy arrays, or raw tensors.", exists=True, dir_okay=False)
    ],
    save: Annotated[Path, typer.Option("--out", help="Trace file, for ui.perfetto.dev or chrome://tracing.")] = Path(
        "trace.json"
    ),
    otlp: Annotated[str, typer.Option(help="OTLP/HTTP endpoint that gets the spans as well.")] = "",
    link: LinkOption = "auto",
    target: TargetOption = None,
    lab: LabOption = "",
    timeout: TimeoutOption = 5.0,
    as_json: JsonOption = False,
) -> None:
    """Run a pipeline on each file, and write where the time of every request went.

    Exit status 0 when all were answered; else that of the first that was not.
    """
    with failures(as_json=as_json):
        place = as_host(lab, link)
        opened = open_link(place, port=0, peers=target or []).link
        seen = Observations(opened.address)
        context = TraceContext(os.urandom(TRACE_ID_SIZE), os.urandom(SPAN_ID_SIZE))
        options = InferOptions(extensions=(context.extension(),))
        items = [read_input(file) for file in files]
        tapped = TappedLink(opened, seen, time.monotonic_ns)
        with NapuClient(tapped, target, timeout=Timeout(request=timeout, control=timeout)) as napu:
            answers = list(napu.infer_many(pipeline, items, options=options, return_errors=True))
        spans = request_spans(seen.frames)
        try:
            save.write_text(json.dumps(chrome_trace(spans, pipeline, opened.format_address)))
        except OSError as error:
            raise ConfigError(f"{save} cannot be written: {error.strerror}") from None
        if otlp:
            offset = time.time_ns() - time.monotonic_ns()
            post_otlp(otlp, otlp_requests(spans, pipeline, context, offset, os.urandom, opened.format_address))
    answered = sum(isinstance(answer, Inference) for answer in answers)
    if as_json:
        print_json({"trace": context.trace.hex(), "out": str(save), "requests": len(spans), "answered": answered})
    else:
        out.print(f"{len(spans)} requests, {answered} answered; trace {context.trace.hex()} is in {save}")
    with failures(as_json=False):
        for answer in answers:
            if isinstance(answer, NapuError):
                raise answer
