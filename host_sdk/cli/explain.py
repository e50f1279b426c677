"""``napu decode`` and ``napu explain``: what a capture holds, frame by frame and request by request."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from host_sdk.capture.analysis import Analysis, histories
from host_sdk.capture.decode import Decoder
from host_sdk.capture.explain import Summary, duration, history_fields, honesty, outcome, reasons
from host_sdk.capture.file import CaptureFile
from host_sdk.capture.filter import parse_number
from host_sdk.capture.frames import format_peer
from host_sdk.capture.history import RequestHistory
from host_sdk.capture.sightings import Sighting, Sightings, tap_of
from host_sdk.cli.capture import UdpPortOption
from host_sdk.cli.output import JsonOption, err, failures, out, print_json, table
from host_sdk.wire.errors import CaptureError, ConfigError
from host_sdk.wire.schema import Flag

FileArgument = Annotated[Path, typer.Argument(help="Capture file, pcapng or pcap.", dir_okay=False)]
RequestOption = Annotated[str, typer.Option(help="Only this request id, decimal or 0x….")]
SessionOption = Annotated[str, typer.Option(help="Only this session, decimal or 0x….")]
DEFAULT_TOP = 20


class _Choice:
    """The requests and sessions that were asked for."""

    def __init__(self, request: str, session: str) -> None:
        self._request = parse_number("request", request, (1 << 64) - 1) if request else None
        self._session = parse_number("session", session, (1 << 32) - 1) if session else None

    def __call__(self, entry: Sighting | RequestHistory) -> bool:
        return self._request in (None, entry.request) and self._session in (None, entry.session)


@contextmanager
def _opened(file: Path, ports: list[int] | None) -> Iterator[tuple[CaptureFile, Sightings]]:
    with CaptureFile(file) as capture:
        yield capture, Sightings(capture, ports or ())


def decode(
    file: FileArgument,
    request: RequestOption = "",
    session: SessionOption = "",
    udp_port: UdpPortOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the fields of each frame of this protocol by name; with --json one object in a line."""
    with failures(as_json=as_json), _opened(file, udp_port) as (_, sightings):
        chosen, decoder = _Choice(request, session), Decoder()
        for seen in sightings:
            if chosen(seen):
                fields = decoder.fields(seen)
                sys.stdout.write(json.dumps(fields) + "\n" if as_json else _frame_text(fields))


def _frame_text(fields: dict[str, Any]) -> str:
    """Return a frame's fields as lines: one that sums it up, then one for each field that says anything."""
    head = f"{fields['frame']}  {fields['time_ns'] / 1e9:.9f}  {fields['source']} > {fields['destination']}"
    what = fields["opcode"] + (f" {fields['status']}" if fields.get("status") else "")
    lines = [f"{head}  {what}  {fields['frame_bytes']} bytes"]
    passed_over = ("frame", "time_ns", "source", "destination", "opcode", "frame_bytes")
    for name, value in fields.items():
        if name not in passed_over and value not in (0, "", []):
            lines += _value_lines(name, value, 1)
    return "\n".join(lines) + "\n"


def _value_lines(name: str, value: Any, depth: int) -> Iterator[str]:
    indent = "    " * depth
    if isinstance(value, dict):
        yield f"{indent}{name}:"
        for key, entry in value.items():
            yield from _value_lines(str(key), entry, depth + 1)
    elif isinstance(value, list) and any(isinstance(entry, dict | list) for entry in value):
        for index, entry in enumerate(value):
            yield from _value_lines(f"{name}[{index}]", entry, depth)
    else:
        shown = ", ".join(map(str, value)) if isinstance(value, list) else value
        # What a frame carries is not the terminal's to act on.
        yield f"{indent}{name}: {''.join(c if c.isprintable() else repr(c)[1:-1] for c in str(shown))}"


def explain(
    file: FileArgument,
    request: RequestOption = "",
    session: SessionOption = "",
    top: Annotated[int, typer.Option(min=1, max=10000, help="Remarkable requests to show.")] = DEFAULT_TOP,
    everything: Annotated[bool, typer.Option("--all", help="Show every request, not only remarkable ones.")] = False,
    picture: Annotated[
        Path | None, typer.Option(help="Draw latencies and what happened in time: .png or .svg.", dir_okay=False)
    ] = None,
    udp_port: UdpPortOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what happened to each request and why, as far as a capture at one point can tell."""
    with failures(as_json=as_json), _opened(file, udp_port) as (capture, sightings):
        draw = _drawing(picture) if picture else None
        summary, chosen, watch = Summary(top), _Choice(request, session), _Watch()
        rows: list[dict[str, Any]] = []
        failure = None
        taps = {tap_of(interface) for interface in capture.all_interfaces()}
        analysis = Analysis(wire_in="in" if "in" in taps or "classified" not in taps else "classified")
        try:
            for history in histories(watch.seen(sightings), analysis):
                if chosen(history):
                    summary.take(history)
                    if everything and as_json:
                        rows.append(history_fields(history, dla_tapped="dla" in taps))
                    elif everything:
                        out.print(_line(history, watch.start, dla_tapped="dla" in taps), markup=False)
        except CaptureError as error:  # what came before the damage is worth knowing
            if not sightings.packets:
                raise
            failure = error
            for history in analysis.finish():
                if chosen(history):
                    summary.take(history)
        lost = max(sightings.lost, sum(entry.dropped or 0 for entry in capture.statistics.values()))
        said = list(honesty(lost=lost, tapped=bool(taps - {""}), sealed=watch.sealed))
        frames = {
            "packets": sightings.packets,
            "frames": watch.frames,
            "lost_by_capture": lost,
            "malformed": {reason.name: count for reason, count in analysis.malformed.items()},
            "strays": analysis.strays,
        }
        found = rows if everything else [history_fields(each, dla_tapped="dla" in taps) for each in summary.top()]
        if as_json:
            print_json({"capture": frames, "totals": summary.fields(), "requests": found, "remarks": said})
        else:
            _print_summary(summary, frames, said, watch.start, dla_tapped="dla" in taps, listed=everything)
        if draw and picture:
            draw(summary, summary.top(), picture, f"{file.name}: {summary.requests} requests")
            err.print(f"drawn: {picture}", style="dim")
        if failure:
            raise failure


class _Watch:
    """What is worth knowing of the frames themselves."""

    def __init__(self) -> None:
        self.frames, self.sealed, self.start = 0, False, 0

    def seen(self, sightings: Sightings) -> Iterator[Sighting]:
        """Pass sightings on."""
        for seen in sightings:
            self.start = self.start or seen.time_ns
            self.frames += 1
            self.sealed |= bool(seen.flags & Flag.SEALED)
            yield seen


def _drawing(picture: Path) -> Any:
    """Return what draws.

    Raises:
        ConfigError: The picture cannot be made.
    """
    try:
        from host_sdk.capture.picture import FORMATS, draw
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"a picture needs {error.name}, which the extra 'bench' has: pip install 'napu[bench]'"
        ) from None
    if picture.suffix not in FORMATS:
        raise ConfigError(
            f"{picture} is no picture that can be drawn; give a name that ends with {' or '.join(FORMATS)}"
        )
    return draw


def _line(history: RequestHistory, start: int, *, dla_tapped: bool) -> str:
    """Return a history in one line."""
    latency = "" if history.latency_ns is None else duration(history.latency_ns)
    why = "; ".join(reasons(history, dla_tapped=dla_tapped)) or "-"
    peers = f"{format_peer(history.requester, udp=history.udp)} > {format_peer(history.responder, udp=history.udp)}"
    when = f"{(history.began_ns - start) / 1e9:.6f}"
    return f"{when:>12}  {history.request:>20}  {peers}  {outcome(history):<10}  {latency:>8}  {why}"


def _print_summary(
    summary: Summary, frames: dict[str, Any], said: list[str], start: int, *, dla_tapped: bool, listed: bool
) -> None:
    totals = summary.fields()
    if not listed and (top := summary.top()):
        shown = table("FRAME", "AT s", "REQUEST", "OUTCOME", "LATENCY", "WHAT HAPPENED")
        for history in sorted(top, key=lambda each: each.began_ns):
            latency = "" if history.latency_ns is None else duration(history.latency_ns)
            when, why = (history.began_ns - start) / 1e9, "; ".join(reasons(history, dla_tapped=dla_tapped))
            columns = (str(history.first_frame), f"{when:.6f}", str(history.request), outcome(history), latency, why)
            shown.add_row(*columns)
        out.print(shown)
        out.print()
    what = ", ".join(f"{count} {name}" for name, count in totals["outcomes"].items() if count)
    out.print(f"{totals['requests']} requests: {what or 'none'}; {totals['remarkable']} remarkable")
    if totals["latency_us"]:
        quantiles = (f"{name} {duration(round(value * 1000))}" for name, value in totals["latency_us"].items())
        out.print(f"latency of INFER: {', '.join(quantiles)}")
    if totals["stages_us"]:
        stages = (f"{name} {duration(round(value * 1000))}" for name, value in totals["stages_us"].items())
        out.print(f"median by stage, as measured by the responder: {', '.join(stages)}")
    if totals["sent_again"]["unexplained"] or len(totals["sent_again"]) > 1:
        causes = ", ".join(f"{count} {name}" for name, count in totals["sent_again"].items())
        out.print(f"sent again, by cause: {causes}")
    events = ", ".join(f"{name} {count}" for name, count in totals["events"].items())
    out.print(f"events: {events or 'none'}")
    out.print(f"{frames['frames']} frames of this protocol among {frames['packets']} packets")
    for reason, count in frames["malformed"].items():
        out.print(f"malformed: {count} {reason}")
    if frames["strays"]:
        out.print(f"{frames['strays']} answers or notices to requests that were not captured")
    for sentence in said:
        err.print(sentence, style="dim")
