"""Firmware that is killed or stopped while inference goes on: no request notices, and control comes back."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from host_sdk.results import Inference
from host_sdk.wire.errors import BusyError, NapuTimeoutError
from tests.rig.frames import CONTROL, CRC_FLAG, UNAVAILABLE, Pdu, Wire, message, next_request
from tests.rig.nodes import NodeProcess, node_process, within
from tests.rig.packages import held_out

BACK_S = 2.0  # what users were promised


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    with node_process(tmp_path_factory.mktemp("node")) as running:
        yield running


class Load(threading.Thread):
    """Steady inference over a client of its own, until it is told to stop.

    Attributes:
        answered: Inferences whose answers came, right and in their order.
        epochs: Firmware epochs that the answers named, in the order in which they came up.
        failure: What went wrong, if anything did.
    """

    def __init__(self, node: NodeProcess) -> None:
        super().__init__(name="load")
        self._node = node
        self._stopping = threading.Event()
        self.answered = 0
        self.epochs: list[int] = []
        self.failure: BaseException | None = None

    def run(self) -> None:
        images = held_out()[:100]

        def endless() -> Iterator[bytes]:
            while not self._stopping.is_set():
                yield images[self._sent % len(images)][1]
                self._sent += 1

        self._sent = 0
        try:
            with self._node.client() as client:
                for answer in client.infer_many("digits", endless()):
                    assert isinstance(answer, Inference)
                    assert answer.label == images[self.answered % len(images)][0]
                    assert answer.trailer is not None
                    self.answered += 1
                    if answer.trailer.firmware_epoch not in self.epochs:
                        self.epochs.append(answer.trailer.firmware_epoch)
            assert self.answered == self._sent
        except BaseException as error:  # noqa: BLE001 - raised where the test ends the load
            self.failure = error

    def goes_on(self, count: int = 1000) -> bool:
        """Return whether so many more inferences are answered soon."""
        target = self.answered + count
        return within(20, lambda: self.answered >= target or self.failure is not None) and self.failure is None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self.join(20)
        if self.failure:
            raise self.failure


def firmware_epoch(node: NodeProcess, timeout: float = 5.0) -> int:
    with node.client(control=timeout) as client:
        return int(client.control("identity")["firmware"]["epoch"])


def test_no_inference_notices_that_the_firmware_was_killed(node: NodeProcess) -> None:
    epoch, pid = firmware_epoch(node), node.firmware_pid()
    with Load(node) as load:
        assert load.goes_on()
        os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        while firmware_epoch(node) == epoch:
            assert time.monotonic() - killed < BACK_S
        took = time.monotonic() - killed
        assert load.goes_on()
    assert took < BACK_S
    assert load.answered >= 2000
    assert load.epochs == [epoch, epoch + 1]
    assert node.firmware_pid() != pid
    assert not Path(f"/proc/{pid}").exists()
    assert node.hardware()["firmware_resets"] == 1


def test_pipelines_are_served_without_being_loaded_again(node: NodeProcess) -> None:
    with node.client() as client:
        handle = client.pipelines()[0].handle
        before = firmware_epoch(node)
        os.kill(node.firmware_pid(), signal.SIGKILL)
        assert within(BACK_S, lambda: firmware_epoch(node) == before + 1)
        assert client.pipelines()[0].handle == handle


def test_while_there_is_no_firmware_control_is_unavailable_and_inference_is_not(node: NodeProcess) -> None:
    """Killed twice in a row, the second time it is started after a pause; what is asked then is answered at once."""
    label, jpeg = held_out()[0]
    with node.client() as client, Wire(node.host_port) as wire:
        assert client.infer("digits", jpeg).label == label
        statuses = set()
        for _ in range(2):
            os.kill(node.firmware_pid(), signal.SIGKILL)
            end = time.monotonic() + BACK_S
            while UNAVAILABLE not in statuses and time.monotonic() < end:
                request = next_request()
                wire.send(*message(Pdu(CONTROL, b"\x81\xa2op\xa8identity", request, CRC_FLAG)))
                try:
                    statuses.add(wire.answer(request, 0.5).status)
                except TimeoutError:  # the firmware died with the letter
                    continue
                assert client.infer("digits", jpeg).label == label
        assert UNAVAILABLE in statuses
    assert firmware_epoch(node) >= 1


def test_inference_goes_on_while_the_firmware_is_stopped(node: NodeProcess) -> None:
    pid = node.firmware_pid()
    with Load(node) as load:
        assert load.goes_on()
        os.kill(pid, signal.SIGSTOP)
        try:
            assert load.goes_on(3000)
            with node.client(control=0.5) as client, pytest.raises(NapuTimeoutError, match=r"no answer within 0\.5 s"):
                client.control("identity")
            assert load.goes_on()
        finally:
            os.kill(pid, signal.SIGCONT)
        assert within(5, lambda: node.firmware_pid() == pid)


def test_a_mailbox_that_nobody_reads_refuses_and_drains_later(node: NodeProcess) -> None:
    pid = node.firmware_pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        with Wire(node.host_port) as wire:
            for _ in range(100):
                wire.send(*message(Pdu(CONTROL, b"\x81\xa2op\xa8identity", next_request(), CRC_FLAG)))
            refused = wire.pending()
            assert 30 <= len(refused) <= 50
            assert {reply.text for reply in refused} == {"the firmware's mailbox is full"}
            assert all(reply.retry_after > 0 for reply in refused)
            with node.client(control=0.3) as client, pytest.raises(BusyError, match="the firmware's mailbox is full"):
                client.control("identity")
            os.kill(pid, signal.SIGCONT)
            answered = [wire.receive(10) for _ in range(100 - len(refused))]
            assert all(reply.status == 0 for reply in answered)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert node.firmware_pid() == pid
