"""Spans as others read them: Chrome's trace format, which Perfetto opens, and OTLP/HTTP in JSON."""

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from host_sdk.capture.spans import Part, RequestSpan, parts_of, shortest_ways_back
from host_sdk.wire.errors import ConfigError, LinkError
from host_sdk.wire.schema import STAGES
from host_sdk.wire.trace_context import SPAN_ID_SIZE, TraceContext

OTLP_S = 10.0  # that an endpoint has
OTLP_BATCH = 512  # requests in one POST
_CLIENT_KIND, _INTERNAL_KIND = 3, 1
_ERROR = 2
_PROCESS = 1
_MEASURED = {
    "request": "client: from before its first frame is handed to the link until its answer is taken from it",
    "stages": "appliance: how long each took; when it began is derived",
    "ways": "derived: what is in no stage, half there and half back; of requests sent again, the shortest way back",
}


def _attributes(span: RequestSpan) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "request": str(span.header.request),  # as numbers they are too large for JavaScript
        "session": f"{span.header.session:#010x}",
        "pipeline": span.header.pipeline,
        "status": span.status.name,
        "frames_sent": span.frames,
        "transmissions": span.transmissions,
    }
    if span.trailer:
        modelled = dict(zip(STAGES, span.trailer.modelled_ns, strict=True))
        shown |= {f"modelled_{stage}_ns": ns for stage, ns in modelled.items()}
        shown |= {"energy_nj": span.trailer.energy_nj, "batch_size": span.trailer.batch_size}
    return shown


def chrome_trace(spans: Sequence[RequestSpan], name: str, address: Callable[[int], str]) -> dict[str, Any]:
    """Return a trace in Chrome's JSON format, times in µs from the first frame on.

    Requests that overlap are on lanes of their own, so that the parts of each lie within it.

    Args:
        spans: The requests, in the order of their first frames.
        name: Of each of them.
        address: Writes a peer key as people do.
    """
    zero = min((span.sent for span in spans), default=0)
    backs = shortest_ways_back(spans)
    events: list[dict[str, Any]] = [_metadata("process_name", 0, "napu client")]
    free: list[int] = []  # by lane: when it is
    for span in spans:
        end = span.received or span.sent
        lane = next((index for index, until in enumerate(free) if until <= span.sent), len(free))
        if lane == len(free):
            free.append(end)
            events.append(_metadata("thread_name", lane + 1, f"lane {lane + 1}"))
        free[lane] = end
        where = {"pid": _PROCESS, "tid": lane + 1}

        def complete(title: str, kind: str, begin: int, until: int, where: dict[str, int] = where) -> dict[str, Any]:
            shown = {"name": title, "cat": kind, "ph": "X", "ts": (begin - zero) / 1000, "dur": (until - begin) / 1000}
            return {**shown, **where}

        arguments = {**_attributes(span), "appliance": address(span.peer), "measured": "client"}
        events.append({**complete(name, "request", span.sent, end), "args": arguments})
        for part in parts_of(span, backs.get(span.peer, 0)):
            kind = "stage" if part.inner else "way"
            events.append({**complete(part.name, kind, part.begin, part.end), "args": {"measured": part.measured}})
        events += [
            {"name": what, "cat": "event", "ph": "i", "s": "t", "ts": (time_ns - zero) / 1000, **where}
            for time_ns, what in span.events
        ]
    return {"traceEvents": events, "displayTimeUnit": "ns", "otherData": _MEASURED}


def _metadata(name: str, thread: int, value: str) -> dict[str, Any]:
    return {"name": name, "ph": "M", "pid": _PROCESS, "tid": thread, "args": {"name": value}}


# ---- OpenTelemetry ---------------------------------------------------------------------------------------------------


def otlp_requests(
    spans: Sequence[RequestSpan],
    name: str,
    context: TraceContext,
    offset_ns: int,
    draw: Callable[[int], bytes],
    address: Callable[[int], str],
) -> list[dict[str, Any]]:
    """Return the bodies of OTLP/HTTP requests in JSON: a root span, and below it each request with its parts.

    Args:
        spans: The requests.
        name: Of the root.
        context: The trace, and the root's span, which the requests carried.
        offset_ns: What is to be added to times, to have them since 1970.
        draw: Gives random bytes, for ids.
        address: Writes a peer key as people do.
    """
    backs, made = shortest_ways_back(spans), []
    trace = context.trace.hex()

    def made_span(title: str, span: bytes, parent: bytes, begin: int, end: int, **more: Any) -> dict[str, Any]:
        shown = {"traceId": trace, "spanId": span.hex(), "name": title, "kind": _INTERNAL_KIND}
        times = {"startTimeUnixNano": str(begin + offset_ns), "endTimeUnixNano": str(end + offset_ns)}
        return {**shown, **({"parentSpanId": parent.hex()} if parent else {}), **times, **more}

    begin = min((span.sent for span in spans), default=0)
    made.append([made_span(name, context.span, b"", begin, max((span.received or 0 for span in spans), default=0))])
    for span in spans:
        own, inside = draw(SPAN_ID_SIZE), draw(SPAN_ID_SIZE)
        attributes = _otlp_attributes({**_attributes(span), "appliance": address(span.peer), "measured": "client"})
        events = [{"timeUnixNano": str(time_ns + offset_ns), "name": what} for time_ns, what in span.events]
        status = {"code": _ERROR, "message": span.status.name} if span.status else {}
        more = {"kind": _CLIENT_KIND, "attributes": attributes, "events": events, "status": status}
        family = [made_span("request", own, context.span, span.sent, span.received or span.sent, **more)]
        for part in parts_of(span, backs.get(span.peer, 0)):
            number = inside if part.name == "appliance" else draw(SPAN_ID_SIZE)
            family.append(_part_span(made_span, part, number, inside if part.inner else own))
        made.append(family)
    return [_envelope(made[at : at + OTLP_BATCH]) for at in range(0, len(made), OTLP_BATCH)]


def _part_span(made_span: Callable[..., dict[str, Any]], part: Part, number: bytes, parent: bytes) -> dict[str, Any]:
    attributes = _otlp_attributes({"measured": part.measured})
    return made_span(part.name, number, parent, part.begin, part.end, attributes=attributes)


def _envelope(families: Sequence[list[dict[str, Any]]]) -> dict[str, Any]:
    spans = [span for family in families for span in family]
    resource = {"attributes": _otlp_attributes({"service.name": "napu"})}
    return {"resourceSpans": [{"resource": resource, "scopeSpans": [{"scope": {"name": "napu"}, "spans": spans}]}]}


def _otlp_attributes(values: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"key": key, "value": {"intValue": str(value)} if isinstance(value, int) else {"stringValue": str(value)}}
        for key, value in values.items()
    ]


def post_otlp(url: str, bodies: Sequence[dict[str, Any]]) -> None:
    """Send OTLP/HTTP requests to an endpoint, ``/v1/traces`` being added where the URL has no path.

    Raises:
        ConfigError: The URL is none of http or https.
        LinkError: The endpoint does not take them.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ConfigError(f"{url!r} is no endpoint; write it as http://127.0.0.1:4318")
    place = url if parts.path.strip("/") else url.rstrip("/") + "/v1/traces"
    for body in bodies:
        data = json.dumps(body).encode()
        asked = urllib.request.Request(place, data, {"Content-Type": "application/json"})  # noqa: S310 - seen above
        try:
            with urllib.request.urlopen(asked, timeout=OTLP_S) as answer:  # noqa: S310
                answer.read(65536)
        except (urllib.error.URLError, OSError) as error:
            raise LinkError(f"{place} does not take the trace: {error}") from None
