"""Spans of requests, from frames made by hand, and the two formats that they are written in."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host_sdk.capture.spans import Observed, parts_of, request_spans, shortest_ways_back
from host_sdk.capture.trace import chrome_trace, otlp_requests, post_otlp
from host_sdk.wire.errors import ConfigError, LinkError, LocalProtocolError
from host_sdk.wire.message import Extension
from host_sdk.wire.trace_context import TraceContext
from tests.rig.frames import CRC_FLAG, INFER, REPLY, TRAILER_FLAG, Pdu, message

PEER, SESSION, FLAGS = 7, 0x1234_0001, CRC_FLAG | TRAILER_FLAG
STAGES = ("rx", "queue", "pre", "dla", "post", "tx")
MEASURED = (1000, 2000, 3000, 40_000, 5000, 600)
WORKING = 0xA0
CONTEXT = TraceContext(bytes(range(16)), bytes(range(8)))


def address(key: int) -> str:
    return f"peer {key}"


def trailer(measured: tuple[int, ...] = MEASURED) -> bytes:
    return b"".join(value.to_bytes(4, "big") for value in (*measured, *range(6), 9)) + bytes([0, 3, 0, 1]) + bytes(8)


def asked(time_us: int, number: int, body: bytes = b"body", size: int = 1400) -> list[Observed]:
    pdu = Pdu(INFER, body, number, flags=FLAGS, session=SESSION, pipeline=257)
    return [Observed(time_us * 1000, PEER, True, frame) for frame in message(pdu, size)]


def answered(time_us: int, number: int, status: int = 0, measured: tuple[int, ...] = MEASURED) -> list[Observed]:
    flags, body = (FLAGS, b"answer" + trailer(measured)) if status == 0 else (CRC_FLAG, b"why")
    pdu = Pdu(INFER | REPLY, body, number, flags=flags, session=SESSION, tail=status << 16)
    return [Observed(time_us * 1000, PEER, False, frame) for frame in message(pdu)]


def test_what_is_in_no_stage_is_half_there_and_half_back() -> None:
    (span,) = request_spans(asked(100, 1) + answered(200, 1))
    parts = list(parts_of(span, 0))
    inside = sum(MEASURED)
    way = (100_000 - inside) // 2
    assert [(part.name, part.end - part.begin) for part in parts] == [
        ("way there", way),
        ("appliance", inside),
        *zip(STAGES, MEASURED, strict=True),
        ("way back", way),
    ]
    assert (parts[0].begin, parts[-1].end) == (100_000, 200_000)
    assert [part.measured for part in parts] == ["derived"] * 2 + ["appliance"] * 6 + ["derived"]
    assert span.trailer
    assert (span.trailer.energy_nj, span.trailer.batch_size) == (9, 3)


def test_of_a_request_that_was_sent_again_the_way_back_is_the_shortest_seen() -> None:
    first, again, late = asked(100, 1), asked(700, 1), answered(800, 1)
    spans = request_spans(asked(0, 2) + answered(80, 2) + first + again + late + late)
    back = (80_000 - sum(MEASURED)) // 2
    assert shortest_ways_back(spans) == {PEER: back}
    span = spans[1]
    assert (span.transmissions, span.frames, span.events) == (2, 2, [(700_000, "fragment 0 again")])
    assert [part.end - part.begin for part in parts_of(span, back)][-1] == back
    assert span.received == 800_000  # a second copy of the answer changes nothing


def test_events_in_between_are_told_and_damage_is_no_answer() -> None:
    notice = Pdu(WORKING, b"", 1, session=SESSION).encode()
    broken = answered(500, 1)[0]
    broken = Observed(broken.time_ns, PEER, False, broken.pdu[:-1] + b"\0")
    frames = asked(100, 1, bytes(100), 40) + answered(200, 1, 16) + [Observed(300_000, PEER, False, notice)]
    (span,) = request_spans([*frames, *asked(400, 1, bytes(100), 40)[2:], broken, *answered(600, 1)])
    assert [what for _, what in span.events] == ["BUSY", "WORKING", "fragment 2 again", "damaged answer"]
    assert (span.frames, span.transmissions, span.received) == (4, 2, 600_000)
    assert request_spans(asked(1, 1)) == []
    (refused,) = request_spans(asked(1, 1) + answered(2, 1, 50))
    assert refused.status.name == "WRONG_SIZE"
    assert list(parts_of(refused, 0)) == []


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 300), st.integers(0, 2**32 - 1)), max_size=8))
def test_parts_lie_within_their_request_and_requests_of_a_lane_apart(times: list[tuple[int, int, int]]) -> None:
    frames = []
    for number, (begin, took, dla) in enumerate(times, 1):
        frames += asked(begin, number) + answered(begin + took, number, measured=(1, 2, 3, dla, 4, 5))
    spans = request_spans(sorted(frames, key=lambda frame: (frame.time_ns, not frame.sent)))
    assert len(spans) == len(times)
    check_chrome(chrome_trace(spans, "digits", address), len(times))


def check_chrome(trace: dict[str, Any], count: int) -> None:
    """Hold a trace against Chrome's format, and its parts against their requests."""
    json.dumps(trace, allow_nan=False)
    complete = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    lanes = {event["tid"] for event in complete}
    named = {event["tid"] for event in trace["traceEvents"] if event["name"] == "thread_name"}
    assert lanes == named
    requests = 0
    for lane in lanes:
        open_until: list[float] = []
        for event in [each for each in complete if each["tid"] == lane]:
            begin, end = round(event["ts"] * 1000), round((event["ts"] + event["dur"]) * 1000)
            depth = {"request": 0, "way": 1, "stage": 2}[event["cat"]]
            del open_until[depth:]
            if depth == 0:
                requests += 1
            else:
                assert end <= open_until[depth - 1]
            assert begin <= end
            open_until.append(end)
    assert requests == count


def test_context_is_carried_in_25_bytes() -> None:
    extension = CONTEXT.extension()
    assert (extension.type, extension.value) == (1, bytes(range(16)) + bytes(range(8)) + b"\1")
    assert TraceContext.of((Extension(9, b"x"), extension)) == CONTEXT
    for value in (b"", bytes(25), extension.value + b"\0"):
        assert TraceContext.of((Extension(1, value),)) is None
    with pytest.raises(LocalProtocolError, match="span id"):
        TraceContext(bytes(range(16)), bytes(8))


class Endpoint(BaseHTTPRequestHandler):
    """Takes what OTLP exporters send."""

    taken: list[tuple[str, dict[str, Any]]]
    status = 200

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.headers["Content-Type"] == "application/json"
        self.taken.append((self.path, json.loads(body)))
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def endpoint() -> Iterator[tuple[str, type[Endpoint]]]:
    handler = type("Handler", (Endpoint,), {"taken": []})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", handler
        server.shutdown()
        thread.join()


def test_otlp_has_a_root_and_below_it_each_request_with_its_parts(endpoint: tuple[str, type[Endpoint]]) -> None:
    url, handler = endpoint
    numbers = iter(range(1, 1000))
    spans = request_spans(asked(100, 1) + answered(200, 1) + asked(300, 2) + answered(350, 2, 50))
    bodies = otlp_requests(spans, "digits", CONTEXT, 10**18, lambda size: next(numbers).to_bytes(size, "big"), address)
    post_otlp(url, bodies)
    ((path, body),) = handler.taken
    assert path == "/v1/traces"
    (resource,) = body["resourceSpans"]
    made = resource["scopeSpans"][0]["spans"]
    by_id = {span["spanId"]: span for span in made}
    assert len(by_id) == len(made) == 1 + (1 + 9) + 1
    assert {span["traceId"] for span in made} == {bytes(range(16)).hex()}
    root = by_id[bytes(range(8)).hex()]
    assert "parentSpanId" not in root
    for span in made[1:]:
        parent = by_id[span["parentSpanId"]]
        assert parent["name"] == {"request": "digits"}.get(
            span["name"], "appliance" if span["name"] in STAGES else "request"
        )
        assert int(parent["startTimeUnixNano"]) <= int(span["startTimeUnixNano"])
        assert int(span["endTimeUnixNano"]) <= int(parent["endTimeUnixNano"])
    asked_spans = [span for span in made if span["name"] == "request"]
    assert [span["status"] for span in asked_spans] == [{}, {"code": 2, "message": "WRONG_SIZE"}]
    assert asked_spans[0]["startTimeUnixNano"] == str(10**18 + 100_000)


def test_an_endpoint_that_is_none_or_refuses_is_named(endpoint: tuple[str, type[Endpoint]]) -> None:
    url, handler = endpoint
    handler.status = 503
    with pytest.raises(LinkError, match="does not take the trace"):
        post_otlp(f"{url}/own/path", [{}])
    assert handler.taken[0][0] == "/own/path"
    for wrong in ("file:///etc/passwd", "127.0.0.1:4318", "http://"):
        with pytest.raises(ConfigError, match="endpoint"):
            post_otlp(wrong, [{}])
