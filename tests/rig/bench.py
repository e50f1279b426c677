"""A node with small limits, to be sent what it should not be sent, and to be found well afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.rig import frames
from tests.rig.frames import INFER, REPLY, Pdu, Wire, next_request
from tests.rig.nodes import REASSEMBLY_MS, NodeProcess, node_process, write_profile
from tests.rig.packages import held_out, tensor_package

SESSIONS = 40
REASSEMBLY_BYTES = 1 << 20
DISCOVERY_PER_S = 20
JPEG = held_out()[0][1]


class Bench:
    """A node, a socket with a session at it, and the handles of its pipelines."""

    def __init__(self, node: NodeProcess, wire: Wire) -> None:
        self.node, self.wire = node, wire
        self.session = wire.open()
        with node.client() as client:
            client.control("pipeline.install", package=tensor_package("raw"))
            self.handles = {pipeline.name: pipeline.handle for pipeline in client.pipelines()}

    def infer(self, payload: bytes = JPEG, **fields: Any) -> Pdu:
        """Return a request to the digits pipeline, with some fields changed."""
        chosen = {"session": self.session, "pipeline": self.handles["digits"], "request": next_request()} | fields
        return Pdu(INFER, payload, **chosen)

    def is_well(self) -> bool:
        """Return whether the next good request is answered."""
        good = self.infer()
        self.wire.send(good.encode())
        return self.wire.answer(good.request).status == frames.OK

    @contextmanager
    def counts(self, **rises: int) -> Iterator[None]:
        """Check that counters rise by so much, and that the node is well afterwards."""
        before = self.node.hardware()
        yield
        after = self.node.hardware()
        assert {name: after.get(name, 0) - before.get(name, 0) for name in rises} == rises

    def refuses(self, pdu: Pdu, status: int, counter: str, text: str = "") -> Pdu:
        """Check that a frame is answered with a status, and counted."""
        with self.counts(**{f"answers_{counter}": 1}):
            self.wire.send(pdu.encode())
            reply = self.wire.answer(pdu.request)
            assert (reply.opcode, reply.status) == (pdu.opcode | REPLY, status), reply
            assert text in reply.text
        return reply

    def drops(self, data: bytes, counter: str) -> None:
        """Check that a datagram is not answered, and counted."""
        with self.counts(**{f"frames_{counter}": 1}):
            self.wire.send(data)
            assert self.wire.quiet()

    def check(self) -> None:
        """Check that the node is well, and that its frames are the sum of what became of them."""
        assert self.node.process.poll() is None, self.node.log.read_text()[-2000:]
        assert self.is_well()
        counters = self.node.hardware()
        conserved = sum(value for name, value in counters.items() if name.startswith("frames_"))
        assert counters["rx_frames"] == conserved == counters["link_rx_frames"]


@contextmanager
def running_bench(directory: Path) -> Iterator[Bench]:
    """Start a node with small limits and open a session at it."""
    profile = write_profile(
        directory / "small.toml",
        sessions=SESSIONS,
        reassembly_bytes=REASSEMBLY_BYTES,
        reassembly_timeout_ms=REASSEMBLY_MS,
        discovery_per_s=DISCOVERY_PER_S,
        max_message=1 << 20,
    )
    with node_process(directory, "--profile", str(profile)) as node, Wire(node.host_port) as wire:
        yield Bench(node, wire)
