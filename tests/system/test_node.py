"""A real node over UDP on loopback, used as its users do: through the SDK."""

import asyncio
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest

from appliance.dla.backends import load_backend
from host_sdk.aio import AsyncNapuClient
from host_sdk.client import NapuClient
from host_sdk.operations import InferOptions, Timeout
from host_sdk.results import Inference
from host_sdk.wire.errors import (
    BadPipelineError,
    ClosedError,
    ConfigError,
    DeadlineExceededError,
    NapuError,
    UndecodableError,
    UnknownOperationError,
    UnknownPipelineError,
)
from tests.rig import tiny_models
from tests.rig.frames import INFER, OK, Pdu, Wire, next_request
from tests.rig.nodes import NodeProcess, node_process
from tests.rig.packages import (
    LABELS,
    digits_model,
    held_out,
    image_package,
    padded_jpeg,
    tensor_package,
    to_png,
)

WRONG = {105, 185, 393, 452}  # held-out images that the model gets wrong, as its card says


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    with node_process(tmp_path_factory.mktemp("node"), "--name", "bench-7") as running:
        yield running


@pytest.fixture
def client(node: NodeProcess) -> Iterator[NapuClient]:
    with node.client() as opened:
        yield opened


def install(client: NapuClient, package: bytes) -> dict[str, Any]:
    return dict(client.control("pipeline.install", package=package)["pipeline"])


def test_discovery_finds_the_node(node: NodeProcess, client: NapuClient) -> None:
    (found,) = client.discover()
    assert found.address == node.address
    assert (found.name, found.profile, found.link, found.credits) == ("bench-7", "napu-s", "udp", 64)
    assert found.mtu == node.facts["mtu"]
    assert "digits" in found.pipelines
    assert found.firmware["epoch"] >= 1
    assert len(bytes.fromhex(found.firmware["digest"])) == 32
    assert Path(f"/proc/{found.firmware['pid']}").exists()


def test_pipelines_are_described(client: NapuClient) -> None:
    digits = next(pipeline for pipeline in client.pipelines() if pipeline.name == "digits")
    assert digits.model_sha256 == hashlib.sha256(digits_model()).hexdigest()
    assert (digits.input, digits.formats, digits.max_bytes) == (None, ("jpeg", "png"), 262144)
    assert [(tensor.name, tensor.dtype, tensor.shape) for tensor in digits.outputs] == [
        ("class", "uint16", (3,)),
        ("score", "float32", (3,)),
        ("label", "S5", (3,)),
    ]


@pytest.mark.parametrize("index", [0, 1, 2, 17])
def test_jpeg_and_png(node: NodeProcess, client: NapuClient, index: int) -> None:
    label, jpeg = held_out()[index]
    for body in (jpeg, to_png(jpeg)):
        answer = client.infer("digits", body)
        assert answer.label == label
        assert answer.appliance == node.address
        assert [LABELS[number] for number in answer.outputs["class"]] == list(answer.labels)
        assert answer.transmissions >= 1
        assert answer.latency_us > 0


def test_all_held_out_images_in_their_order(client: NapuClient) -> None:
    images = held_out()
    answers = list(client.infer_many("digits", (jpeg for _, jpeg in images)))
    wrong = {
        index
        for index, ((label, _), answer) in enumerate(zip(images, answers, strict=True))
        if isinstance(answer, Inference) and answer.label != label
    }
    assert wrong == WRONG


def test_window_bounds_what_is_outstanding(client: NapuClient) -> None:
    taken = 0

    def items() -> Iterator[bytes]:
        nonlocal taken
        for _, jpeg in held_out()[:60]:
            taken += 1
            yield jpeg

    answered, most = 0, 0
    for _ in client.infer_many("digits", items(), window=5):
        most = max(most, taken - answered)
        answered += 1
    assert answered == taken == 60
    assert most == 5


def test_errors_take_the_place_of_answers(client: NapuClient) -> None:
    (label, good), bad = held_out()[0], b"no image"
    first, second, third = client.infer_many("digits", [good, bad, good], return_errors=True)
    assert isinstance(first, Inference)
    assert isinstance(third, Inference)
    assert (first.label, third.label) == (label, label)
    assert isinstance(second, UndecodableError)
    with pytest.raises(UndecodableError, match="not a JPEG or PNG image"):
        list(client.infer_many("digits", [good, bad, good]))
    assert client.infer("digits", good).label == label


def test_asyncio_client_does_the_same(node: NodeProcess) -> None:
    async def use() -> tuple[Any, ...]:
        async with AsyncNapuClient("udp:127.0.0.1:0", node.address) as client:
            appliances, pipelines = await asyncio.gather(client.discover(), client.pipelines())
            one = await client.infer("digits", held_out()[0][1])
            stats = await client.stats()
            many = [answer async for answer in client.infer_many("digits", [jpeg for _, jpeg in held_out()[:100]])]
            with pytest.raises(UndecodableError):
                await client.infer("digits", b"no image")
            return appliances, pipelines, one, stats, many

    appliances, pipelines, one, stats, many = asyncio.run(use())
    assert [appliance.address for appliance in appliances] == [node.address]
    assert "digits" in {pipeline.name for pipeline in pipelines}
    assert one.label == held_out()[0][0]
    assert stats["hardware"]["inferences"] > 0
    assert [answer.label for answer in many] == [label for label, _ in held_out()[:100]]


def test_tensors_as_arrays_and_bytes_are_bit_equal_to_the_library(client: NapuClient) -> None:
    install(client, tensor_package("raw"))
    inputs = np.random.default_rng(5).integers(-128, 128, (8, 16, 16, 1), dtype=np.int8)
    (expected,) = load_backend("litert")(digits_model(), 1).invoke(inputs)
    for one, logits in zip(inputs, expected, strict=True):
        for data in (one, one[None], one.tobytes()):
            (answer,) = client.infer("raw", data).outputs.values()
            assert answer.dtype == np.int8
            np.testing.assert_array_equal(answer, logits)


@pytest.mark.parametrize(
    "data",
    [
        np.zeros((16, 16, 1), np.uint8),
        np.zeros((16, 16), np.int8),
        np.zeros((2, 16, 16, 1), np.int8),
        bytes(255),
        b"",
        "text",
        None,
    ],
    ids=["other type", "other shape", "two", "short", "empty", "text", "nothing"],
)
def test_data_that_the_pipeline_does_not_take_never_leaves_the_host(client: NapuClient, data: Any) -> None:
    install(client, tensor_package("raw"))
    with pytest.raises(ConfigError, match="pipeline raw takes"):
        client.infer("raw", data)
    with pytest.raises(ConfigError, match="pipeline digits takes encoded media"):
        client.infer("digits", np.zeros((16, 16, 1), np.int8))


def test_an_input_that_the_model_fails_on_is_an_error_and_the_node_goes_on(
    node: NodeProcess, client: NapuClient
) -> None:
    install(client, tensor_package("rows", tiny_models.embedding(np.arange(20.0).reshape(10, 2)), batch=4))
    rows = np.array([[1], [99], [3], [-1], [5]], np.int32)
    answers = list(client.infer_many("rows", rows, return_errors=True))
    assert [type(answer).__name__ for answer in answers] == [
        "Inference",
        "InternalError",
        "Inference",
        "InternalError",
        "Inference",
    ]
    assert "out of bounds" in str(answers[1])
    assert node.process.poll() is None


def test_a_pipeline_that_is_replaced_under_load_loses_no_request(node: NodeProcess) -> None:
    images = held_out()[:100]

    async def load(client: AsyncNapuClient, done: asyncio.Event) -> int:
        answered = 0
        while not done.is_set():
            async for answer in client.infer_many("moving", [jpeg for _, jpeg in images], window=16):
                assert isinstance(answer, Inference)
                assert answer.label == images[answered % len(images)][0]
                answered += 1
        return answered

    async def replace() -> tuple[int, set[int]]:
        handles, done = set(), asyncio.Event()
        async with (
            AsyncNapuClient("udp:127.0.0.1:0", node.address) as client,
            AsyncNapuClient("udp:127.0.0.1:0", node.address) as operator,
        ):
            await operator.control("pipeline.install", package=image_package("moving", batch=1))
            task = asyncio.create_task(load(client, done))
            for batch in (2, 4, 8):
                answer = await operator.control("pipeline.install", package=image_package("moving", batch=batch))
                handles.add(answer["pipeline"]["handle"])
                await asyncio.sleep(0.2)
            done.set()
            return await task, handles

    answered, handles = asyncio.run(replace())
    assert answered >= len(images)
    assert len(handles) == 3


def test_a_pipeline_that_was_removed_is_unknown(client: NapuClient) -> None:
    install(client, image_package("passing"))
    label, jpeg = held_out()[0]
    assert client.infer("passing", jpeg).label == label
    client.control("pipeline.remove", name="passing")
    with pytest.raises(UnknownPipelineError, match=r"serves no pipeline 'passing'; it serves: .*digits"):
        client.infer("passing", jpeg)
    with pytest.raises(UnknownPipelineError, match="there is no pipeline 'passing'"):
        client.control("pipeline.remove", name="passing")


def test_what_was_installed_survives_a_restart_of_the_node(tmp_path: Path) -> None:
    with node_process(tmp_path) as first, first.client() as client:
        install(client, image_package("kept"))
        client.control("pipeline.remove", name="digits")
        epoch = client.control("identity")["firmware"]["epoch"]
    with node_process(tmp_path) as second, second.client() as client:
        assert [pipeline.name for pipeline in client.pipelines()] == ["kept"]
        assert client.infer("kept", held_out()[0][1]).label == held_out()[0][0]
        assert client.control("identity")["firmware"]["epoch"] == epoch + 1


def test_a_package_that_cannot_run_is_refused_and_what_had_its_name_still_serves(client: NapuClient) -> None:
    install(client, image_package("firm"))
    broken = msgpack.unpackb(image_package("firm"))
    broken["files"]["model.tflite"] = broken["files"]["model.tflite"][:-1] + b"\0\0"
    with pytest.raises(BadPipelineError, match="has SHA-256"):
        install(client, msgpack.packb(broken))
    assert client.infer("firm", held_out()[0][1]).label == held_out()[0][0]


def test_a_deadline_that_has_passed_is_not_served(node: NodeProcess, client: NapuClient) -> None:
    install(client, image_package("patient", delay_us=1_000_000))
    before = node.hardware()
    with pytest.raises(DeadlineExceededError):
        client.infer("patient", held_out()[0][1], deadline=1e-6)
    after = node.hardware()
    assert after["answers_deadline_exceeded"] == before["answers_deadline_exceeded"] + 1
    assert after["inferences"] == before["inferences"]


def test_a_batch_starts_early_enough_for_its_first_deadline(client: NapuClient) -> None:
    """Alone, a request would wait a second for others to share its batch."""
    install(client, image_package("punctual", delay_us=1_000_000))
    options = InferOptions(deadline=0.1)
    # Not all: on a busy machine the node may wake too late for many. One that waits for others is never in time.
    in_time = tries = 0
    while in_time < 5:
        assert tries < 50, f"{in_time} of {tries} were in time"
        (answer,) = client.infer_many("punctual", [held_out()[0][1]], options=options, return_errors=True)
        in_time, tries = in_time + isinstance(answer, Inference), tries + 1


@pytest.mark.parametrize(("deadline", "priority"), [(0.0, 0), (-1.0, 0), (5000.0, 0), (None, -1), (None, 256)])
def test_options_out_of_range_are_refused(client: NapuClient, deadline: float | None, priority: int) -> None:
    with pytest.raises(ConfigError, match=r"deadline of|priority"):
        client.infer("digits", held_out()[0][1], deadline=deadline, priority=priority)


def test_higher_priority_overtakes(node: NodeProcess, client: NapuClient) -> None:
    handle = install(client, image_package("ranked", batch=2))["handle"]
    priorities = [0, 0, 0, 0, 9, 200, 200, 9]
    with Wire(node.host_port) as wire:
        session = wire.open()
        requests = {next_request(): priority for priority in priorities}
        # All of them are in the socket before the node sees the first.
        os.kill(node.process.pid, signal.SIGSTOP)
        try:
            for request, priority in requests.items():
                jpeg = held_out()[0][1]
                pdu = Pdu(INFER, jpeg, request, session=session, pipeline=handle, priority=priority)
                wire.send(pdu.encode())
        finally:
            os.kill(node.process.pid, signal.SIGCONT)
        replies = [wire.receive() for _ in requests]
    assert all(reply.status == OK for reply in replies)
    assert [reply.priority for reply in replies] == sorted(priorities, reverse=True)
    lowest = [request for request, priority in requests.items() if priority == 0]
    assert [reply.request for reply in replies if reply.priority == 0] == lowest


def test_a_jpeg_of_many_fragments(node: NodeProcess, client: NapuClient) -> None:
    label, jpeg = held_out()[0]
    large = padded_jpeg(jpeg, 100_000)
    assert len(large) >= 100_000
    before = node.hardware()["rx_frames"]
    for crc in (True, False):
        assert client.infer("digits", large, crc=crc).label == label
    assert node.hardware()["rx_frames"] - before >= 2 * len(large) // 1440


@pytest.mark.parametrize("crc", [True, False])
@pytest.mark.parametrize("trailer", [True, False])
def test_crc_and_trailer_are_chosen_by_the_client(node: NodeProcess, crc: bool, trailer: bool) -> None:
    label, jpeg = held_out()[0]
    with node.client() as client:
        answer = client.infer("digits", jpeg, crc=crc, trailer=trailer)
        options = InferOptions(crc=crc, trailer=trailer)
        assert [getattr(got, "label", got) for got in client.infer_many("digits", [jpeg] * 5, options=options)] == [
            label
        ] * 5
    assert answer.label == label
    if not trailer:
        assert answer.trailer is None
        assert answer.stages_us == {}
        return
    assert answer.trailer is not None
    assert answer.trailer.model_digest == int(hashlib.sha256(digits_model()).hexdigest()[:16], 16)
    assert answer.trailer.batch_size == 1
    assert answer.trailer.energy_nj > 0
    assert answer.trailer.firmware_epoch >= 1
    assert all(ns > 0 for ns in answer.trailer.modelled_ns[2:4])
    assert answer.stages_us["pre"] > 0


def test_batches_form_while_requests_wait(client: NapuClient) -> None:
    install(client, image_package("pooled", delay_us=200_000, batch=8))
    answers = list(client.infer_many("pooled", [jpeg for _, jpeg in held_out()[:16]]))
    sizes = [answer.trailer.batch_size for answer in answers if isinstance(answer, Inference) and answer.trailer]
    assert sizes == [8] * 16


def test_requests_spread_over_appliances(node: NodeProcess, tmp_path: Path) -> None:
    with (
        node_process(tmp_path) as other,
        NapuClient("udp:127.0.0.1:0", [node.address, other.address]) as client,
    ):
        assert {found.address for found in client.discover()} == {node.address, other.address}
        answers = list(client.infer_many("digits", [jpeg for _, jpeg in held_out()[:200]]))
        assert [getattr(answer, "label", None) for answer in answers][:100] == [label for label, _ in held_out()[:100]]
        share = sum(getattr(answer, "appliance", "") == other.address for answer in answers)
        assert 20 <= share <= 180


def test_unknown_pipeline_and_operation_list_the_known_ones(client: NapuClient) -> None:
    with pytest.raises(UnknownPipelineError, match=r"serves no pipeline 'absent'; it serves: .*digits"):
        client.infer("absent", b"x")
    with pytest.raises(UnknownOperationError, match=r"there are .*pipeline\.install"):
        client.control("self.destruct")


def test_a_closed_client_says_so(node: NodeProcess) -> None:
    client = node.client()
    client.close()
    client.close()
    with pytest.raises(ClosedError):
        client.infer("digits", held_out()[0][1])


def test_nobody_there_is_a_timeout() -> None:
    with NapuClient("udp:127.0.0.1:0", "127.0.0.1:9", timeout=Timeout(0.2, 0.2, 0.1)) as client:
        assert client.discover() == []
        with pytest.raises(TimeoutError, match=r"no answer within 0\.2 s"):
            client.control("identity")
        with pytest.raises(NapuError):
            client.infer("digits", b"x")
    with (
        NapuClient("udp:127.0.0.1:0", timeout=Timeout(discovery=0.1)) as client,
        pytest.raises(TimeoutError, match=r"no appliance answered within 0\.1 s"),
    ):
        client.pipelines()


def test_an_idle_node_sleeps(node: NodeProcess, client: NapuClient) -> None:
    client.infer("digits", held_out()[0][1])
    before = node.cpu_ticks()
    time.sleep(1.5)
    assert node.cpu_ticks() - before <= 15  # of 150 ticks that a spinning loop would use


def test_counters_agree_with_each_other(node: NodeProcess) -> None:
    counters = node.hardware()
    frames = sum(value for name, value in counters.items() if name.startswith("frames_"))
    assert counters["rx_frames"] == counters["link_rx_frames"] == frames
    answers = sum(value for name, value in counters.items() if name.startswith("answers_"))
    assert counters["link_tx_frames"] + counters["tx_dropped"] >= answers
    assert counters["waiting"] == counters["reassembling"] == 0
    assert counters["bus_faults"] == counters["bus_broken"] == 0


@pytest.mark.parametrize("mode", ["block", "adaptive", "busy"])
def test_every_way_of_waiting_answers_and_only_busy_burns_an_idle_core(tmp_path: Path, mode: str) -> None:
    name, jpeg = held_out()[0]
    with node_process(tmp_path, "--poll", mode) as node, node.client() as client:
        for _ in range(3):
            assert str(client.infer("digits", jpeg).label) in name
        before = node.cpu_ticks()
        time.sleep(1)
        ticks = node.cpu_ticks() - before  # of 100 in a second
        assert (ticks > 20) == (mode == "busy")


def test_an_unknown_way_of_waiting_is_a_sentence(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "appliance.cli",
        "--flash",
        str(tmp_path),
        "--link",
        "udp:127.0.0.1:0",
        "--access",
        "open",
        "--poll",
        "x",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert "block, adaptive, busy" in done.stderr
    assert "Traceback" not in done.stderr
