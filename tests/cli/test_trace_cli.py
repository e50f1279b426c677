"""``napu trace`` against a real node."""

import json
import subprocess
import sys
from pathlib import Path

from host_sdk.capture.fields import header_of
from host_sdk.capture.spans import Observations
from host_sdk.capture.tapped import TappedLink
from host_sdk.client import NapuClient
from host_sdk.operations import InferOptions
from host_sdk.results import Inference
from host_sdk.wire.links.udp import UdpLink
from host_sdk.wire.message import decode_message
from host_sdk.wire.schema import HEADER_SIZE, Flag, Opcode
from host_sdk.wire.trace_context import TraceContext
from tests.capture.test_spans import STAGES, check_chrome
from tests.rig.nodes import node_process
from tests.rig.packages import held_out


def test_a_trace_of_real_requests(tmp_path: Path) -> None:
    images = [tmp_path / f"{number}.jpg" for number in range(12)]
    for path, (_, jpeg) in zip(images, held_out(), strict=False):
        path.write_bytes(jpeg)
    with node_process(tmp_path / "node") as node:
        run = [sys.executable, "-m", "host_sdk.cli.main", "trace", "digits", *map(str, images)]
        where = ["--link", "udp:127.0.0.1:0", "--target", node.address, "--out", str(tmp_path / "t.json"), "--json"]
        done = subprocess.run([*run, *where], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        shown = json.loads(done.stdout)
        assert (shown["requests"], shown["answered"]) == (12, 12)
        link = UdpLink("127.0.0.1", 0, peers=[node.address])
        seen = Observations(link.address)
        context = TraceContext(bytes(range(1, 17)), bytes(range(1, 9)))
        with NapuClient(TappedLink(link, seen), node.address) as client:
            options = InferOptions(extensions=(context.extension(),))
            (answer,) = client.infer_many("digits", [held_out()[0][1]], options=options)
            assert isinstance(answer, Inference)
            assert answer.label == held_out()[0][0]
    trace = json.loads((tmp_path / "t.json").read_text())
    check_chrome(trace, 12)
    for stage in STAGES:
        found = [event for event in trace["traceEvents"] if event["name"] == stage]
        assert len(found) == 12
    dla = [event["dur"] for event in trace["traceEvents"] if event["name"] == "dla"]
    assert min(dla) > 0
    (asked,) = (
        frame.pdu for frame in seen.frames if (header := header_of(frame.pdu)) and header.opcode == Opcode.INFER
    )
    header = header_of(asked)
    assert header
    assert header.flags & Flag.EXTENSION
    assert TraceContext.of(decode_message(header.header, asked[HEADER_SIZE:]).extensions) == context
