"""Messages as long as the protocol allows, there and back, over every link and over a wire that loses some of them."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from host_sdk.client import NapuClient
from host_sdk.operations import InferOptions, Timeout
from host_sdk.results import Inference
from host_sdk.wire.schema import CRC_SIZE, MAX_MESSAGE, TRAILER
from tests.rig.netns import Namespace, veth
from tests.rig.nodes import node_process
from tests.rig.packages import pack, tensor_manifest, tensor_package
from tests.rig.tiny_models import doubler, head
from tests.rig.wires import needs_root

FAULTS = "loss=2%,duplicate=1%,reorder=2%"
DAMAGED = ("--faults-in", FAULTS, "--faults-out", FAULTS, "--fault-seed", "7")
PATIENCE = Timeout(request=100.0, control=100.0)
LARGEST_PACKAGE = 15 * 1024 * 1024
FRAGMENT = 1472 - 32  # bytes of a message in one datagram
FLOAT = 4
LONG = 64 * FRAGMENT // FLOAT

Place = contextlib.AbstractContextManager[NapuClient]
faults = pytest.mark.parametrize("options", [pytest.param((), id="clean"), pytest.param(DAMAGED, id="damaged")])


@contextlib.contextmanager
def over_udp(directory: Path, *options: str) -> Iterator[NapuClient]:
    with (
        node_process(directory, *options) as node,
        NapuClient("udp:127.0.0.1:0", node.address, timeout=PATIENCE) as client,
    ):
        yield client


def over_ethernet(kind: str) -> Callable[..., Place]:
    """Return what runs a node and a client at the two ends of a cable, in a namespace each."""

    @contextlib.contextmanager
    def place(directory: Path, *options: str) -> Iterator[NapuClient]:
        with contextlib.ExitStack() as stack:
            host, appliance = (stack.enter_context(Namespace()) for _ in range(2))
            veth(host, "eth0", appliance, "eth0")
            with appliance.entered():
                node = stack.enter_context(node_process(directory, *options, link=f"{kind}:eth0"))
            with host.entered():
                client = NapuClient(f"{kind}:eth0", node.address, timeout=PATIENCE)
            yield stack.enter_context(client)

    return place


PLACES = [
    pytest.param(over_udp, id="udp"),
    pytest.param(over_ethernet("packet"), id="packet", marks=needs_root),
    pytest.param(over_ethernet("xdp"), id="xdp", marks=needs_root),
]


def floats(count: int) -> np.ndarray:
    return np.random.default_rng(count).standard_normal((1, count)).astype(np.float32)


def output(answer: object) -> bytes:
    """Return the bytes of an answer's only tensor."""
    assert isinstance(answer, Inference)
    (tensor,) = answer.outputs.values()
    return tensor.tobytes()


def assert_every_frame_is_counted(client: NapuClient) -> None:
    counters = client.stats()["hardware"]
    assert counters["rx_frames"] == sum(value for key, value in counters.items() if key.startswith("frames_"))


@pytest.mark.timeout(240)
@faults
@pytest.mark.parametrize("place", PLACES)
def test_the_longest_request_and_the_longest_answer(
    tmp_path: Path, place: Callable[..., Place], options: tuple[str, ...]
) -> None:
    size = (MAX_MESSAGE - CRC_SIZE) // FLOAT
    kept = (MAX_MESSAGE - CRC_SIZE - TRAILER.size) // FLOAT
    assert (size * FLOAT + CRC_SIZE, kept * FLOAT + TRAILER.size + CRC_SIZE) == (MAX_MESSAGE, MAX_MESSAGE)
    body = floats(size)
    with place(tmp_path, *options) as client:
        client.control("pipeline.install", package=tensor_package("long", head(size, kept), batch=1))
        assert output(client.infer("long", body)) == body[:, :kept].tobytes()
        assert client.stats()["hardware"]["inferences"] == 1
        assert_every_frame_is_counted(client)


@pytest.mark.timeout(240)
@faults
def test_messages_of_all_sizes(tmp_path: Path, options: tuple[str, ...]) -> None:
    counts = [fragments * FRAGMENT // FLOAT + more for fragments in (1, 32, 33, 64, 256) for more in (-1, 0, 1)]
    with over_udp(tmp_path, *options) as client:
        for count in [1, *counts, 1 << 18]:
            name = f"twice-{count}"
            client.control("pipeline.install", package=tensor_package(name, doubler((1, count)), batch=1))
            body = floats(count)
            # Of an answer that nobody keeps all fragments have to come at once, which on a bad wire long ones never do.
            for once in (True, False) if count < LONG or not options else (True,):
                assert output(client.infer(name, body, once=once)) == (2 * body).tobytes()
        assert_every_frame_is_counted(client)


@pytest.mark.timeout(240)
@faults
def test_several_long_requests_at_once(tmp_path: Path, options: tuple[str, ...]) -> None:
    count = 1 << 20  # 4 MiB each: more than a peer's share of the memory together
    bodies = [floats(count) + number for number in range(10)]
    with over_udp(tmp_path, *options) as client:
        client.control("pipeline.install", package=tensor_package("twice", doubler((1, count)), batch=1))
        answers = client.infer_many("twice", bodies, options=InferOptions(crc=True))
        for body, answer in zip(bodies, answers, strict=True):
            assert output(answer) == (2 * body).tobytes()
        assert client.stats()["hardware"]["inferences"] == len(bodies)
        assert_every_frame_is_counted(client)


@pytest.mark.timeout(240)
@faults
def test_the_largest_package_is_installed(tmp_path: Path, options: tuple[str, ...]) -> None:
    model = doubler((1, 8))
    manifest, files = tensor_manifest(model, "largest"), {"model.tflite": model, "filler": b""}
    spare = LARGEST_PACKAGE - len(pack(manifest, files)) - 3  # three bytes more tell the filler's size
    package = pack(manifest, {**files, "filler": np.random.default_rng(1).bytes(spare)})
    assert len(package) == LARGEST_PACKAGE
    with over_udp(tmp_path, *options) as client:
        client.control("pipeline.install", package=package)
        body = floats(8)
        assert output(client.infer("largest", body)) == (2 * body).tobytes()
        assert_every_frame_is_counted(client)
