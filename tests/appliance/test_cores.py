"""DLA cores with threads of their own share one dataplane."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from appliance.board.flash import Flash
from appliance.clock import WallClock
from appliance.device import Device, DeviceOptions
from appliance.profile import load_profile
from host_sdk.wire.links.memory import MemoryLink, MemorySwitch
from tests.rig.frames import INFER, OPEN, REPLY, Pdu, decode, message
from tests.rig.packages import digits_model, tensor_package
from tests.rig.tiny_models import doubler

ONCE, CANCEL, CANCELLED, OK, INTERNAL = 9, 0x20, 20, 0, 19
SIZE = 8


class Host:
    """A device whose dataplane has a thread, as in a node, and a port that talks to it in frames."""

    def __init__(self, device: Device, node: MemoryLink, link: MemoryLink) -> None:
        self.device, self.node, self.link = device, node, link
        self.handles = {str(entry["name"]): int(str(entry["handle"])) for entry in device.pipelines()}
        self.send(message(Pdu(OPEN, b"\x81\xadfragment_size\xcd\x05\xbc", 1)))
        self.session = self.replies(1)[0].session

    def send(self, frames: list[bytes]) -> None:
        buffers = self.link.allocate(len(frames))
        for index, data in enumerate(frames):
            start = int(buffers.starts[index])
            buffers.memory[start : start + len(data)] = np.frombuffer(data, np.uint8)
            buffers.lengths[index], buffers.peers[index] = len(data), self.node.address
        self.link.send(buffers)

    def replies(self, count: int) -> list[Pdu]:
        """Wait for so many frames."""
        found: list[Pdu] = []
        end = time.monotonic() + 20
        while len(found) < count and time.monotonic() < end:
            self.link.wait(100_000_000)
            batch = self.link.receive()
            found += [decode(batch.pdu(index).tobytes()) for index in range(len(batch))]
        assert len(found) == count
        return found

    def infer(self, number: int, name: str, body: bytes) -> list[bytes]:
        pdu = Pdu(INFER, body, 1 + number, flags=ONCE, session=self.session, pipeline=self.handles[name])
        return message(pdu, 1468)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    def no_firmware(_bus: int, _irq: int, _epoch: int) -> object:
        raise OSError("no firmware here")

    switch = MemorySwitch()
    node = switch.attach()
    options = DeviceOptions(seed=1, dla_threads=3)
    flash = Flash(tmp_path, 1 << 24)
    device = Device(load_profile("napu-s"), node, flash, no_firmware, WallClock(), options)  # type: ignore[arg-type]
    device.load_pipeline(tensor_package("raw", batch=4))
    device.load_pipeline(tensor_package("twice", doubler((1, SIZE)), batch=4))
    thread = threading.Thread(target=device.run)
    thread.start()
    link = switch.attach()
    yield Host(device, node, link)
    device.stop()
    thread.join(20)
    assert not thread.is_alive()
    device.close()
    link.close()


def test_every_request_gets_its_own_answer(host: Host) -> None:
    generator = np.random.default_rng(3)
    expected, number = {}, 0
    for _ in range(12):
        frames = []
        for _ in range(20):
            number += 1
            body = generator.standard_normal(SIZE).astype("<f4")
            expected[number] = (2 * body).tobytes()
            frames += host.infer(number, "twice", body.tobytes())
        host.send(frames)
        for reply in host.replies(20):
            assert (reply.opcode, reply.status) == (INFER | REPLY, OK)
            assert expected.pop(reply.request - 1) == reply.payload[:-4]
    assert not expected
    assert host.device.counters()["inferences"] == 240


def test_two_pipelines_at_once_answer_as_the_models_do(host: Host) -> None:
    from appliance.dla import litert

    model = litert.load(digits_model(), 1)
    bodies = np.random.default_rng(4).integers(0, 256, (30, 256), np.uint8)
    frames = [frame for at in range(30) for frame in host.infer(1 + at, "raw", bodies[at].tobytes())]
    twice = np.arange(SIZE, dtype="<f4")
    frames += [frame for at in range(30) for frame in host.infer(31 + at, "twice", (twice + at).tobytes())]
    host.send(frames)
    for reply in host.replies(60):
        at = reply.request - 2
        if at < 30:
            (logits,) = model.invoke(bodies[at].view(np.int8).reshape(1, 16, 16, 1))
            assert reply.payload[:-4] == logits.tobytes()
        else:
            assert reply.payload[:-4] == (2 * (twice + at - 30)).tobytes()


def test_a_cancel_stops_a_request_between_two_stages(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = host.device._state.table.named("twice").pipeline  # type: ignore[union-attr]
    prepare: Callable[..., object] = type(pipeline)._prepare
    entered, go_on = threading.Event(), threading.Event()

    def slowly(*arguments: object) -> object:
        entered.set()
        assert go_on.wait(20)
        return prepare(*arguments)

    monkeypatch.setattr(type(pipeline), "_prepare", slowly)
    host.send(host.infer(1, "twice", bytes(4 * SIZE)))
    assert entered.wait(20)
    host.send(message(Pdu(CANCEL, b"", 2, flags=ONCE, session=host.session), 1468))
    # A copy of the request is answered behind the CANCEL: once its word is here, the CANCEL has been read.
    host.send(host.infer(1, "twice", bytes(4 * SIZE)))
    (working,) = host.replies(1)
    assert working.opcode == 0xA0
    go_on.set()
    (answer,) = host.replies(1)
    assert (answer.opcode, answer.status) == (INFER | REPLY, CANCELLED)
    assert host.device.counters()["inferences"] == 0


def test_a_batch_that_finds_a_bug_is_run_again_one_by_one(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = host.device._state.table.named("twice").pipeline  # type: ignore[union-attr]
    run: Callable[..., object] = type(pipeline).run

    def buggy(one: object, bodies: np.ndarray, *arguments: object) -> object:
        if (bodies == 255).any():
            raise AssertionError("nobody thought of this")
        return run(one, bodies, *arguments)

    monkeypatch.setattr(type(pipeline), "run", buggy)
    bodies = [bytes(4 * SIZE), b"\xff" * 4 * SIZE, bytes(4 * SIZE)]
    host.send([frame for at, body in enumerate(bodies) for frame in host.infer(1 + at, "twice", body)])
    assert {reply.request - 1: reply.status for reply in host.replies(3)} == {1: OK, 2: INTERNAL, 3: OK}
