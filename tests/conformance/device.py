"""The real device within this process, under the suite: a switch in memory, a virtual clock, the real control plane.

The clock moves by a µs whenever it is looked at, so that two executions of a request differ in their trailers, and
leaps when the suite waits: a case that waits for seconds takes none.
"""

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from appliance.board.keys import GrantedKeys
from appliance.board.mailbox import Letter as Mail
from appliance.clock import VirtualClock
from appliance.dataplane.grants import Granting
from appliance.device import Device
from firmware.hal import Letter
from firmware.main import Firmware
from firmware.services.access import MODE_OBJECT, OPEN
from host_sdk.conformance.connect import choose_work, described, greet
from host_sdk.conformance.rig import Rig
from host_sdk.conformance.target import Target
from host_sdk.wire.links.base import FrameBatch
from host_sdk.wire.links.memory import MemoryLink, MemorySwitch
from host_sdk.wire.roles import Grant, Role
from host_sdk.wire.sealed.keys import SealKey
from tests.firmware.fake_hal import FakeHal
from tests.rig.port import make_device
from tests.rig.sealed import HOUR, material
from tests.rig.wires import fill

TICK_NS = 1000
KEY = 7  # number of the key that is granted
_STEP_NS = 20_000_000  # by which a wait moves the clock at most before the device may look at its timers


class TickingClock(VirtualClock):
    """A virtual clock that moves on by a tick whenever it is looked at."""

    def now_ns(self) -> int:
        self.advance(TICK_NS)
        return super().now_ns()


class SteppedLink:
    """The suite's end of a switch in memory, whose waiting lets the device work, and time pass.

    Everything that is not here is the memory link's own.
    """

    smallest = 46  # as on Ethernet, so that padding can be looked at

    def __init__(self, inner: MemoryLink, step: Callable[[], bool], clock: TickingClock) -> None:
        self._inner, self._step, self._clock = inner, step, clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def wait(self, timeout_ns: int | None) -> bool:
        end = self._clock.now_ns() + (timeout_ns or 0)
        while True:
            while self._step():
                pass
            if self._inner.wait(0):
                return True
            left = end - self._clock.now_ns()
            if left <= 0:
                return False
            self._clock.advance(min(left, _STEP_NS))


Alter = Callable[[int, bytes], Iterable[tuple[int, bytes]]]
"""What becomes of a frame, by its peer and PDU: frames in its place, with theirs."""


class NodeLink:
    """The device's end, which takes up to 46 bytes for padding, as Ethernet's do; the rest is the memory link's own.

    Attributes:
        hear: What becomes of frames on their way to the device; None: they arrive as they are.
        tell: What becomes of frames that the device sends; None: they leave as they are.
    """

    def __init__(self, inner: MemoryLink) -> None:
        self._inner = inner
        self.smallest = 46
        self.hear: Alter | None = None
        self.tell: Alter | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def receive(self) -> FrameBatch:
        batch = self._inner.receive()
        if self.hear is None or not len(batch):
            return batch
        heard = altered(batch, self.hear)
        memory, starts = np.zeros((len(heard) + 1) * self.mtu, np.uint8), np.arange(len(heard)) * self.mtu
        for start, (_, pdu) in zip(starts.tolist(), heard, strict=True):
            memory[start : start + len(pdu)] = np.frombuffer(pdu, np.uint8)
        lengths = np.array([len(pdu) for _, pdu in heard], np.int64)
        return FrameBatch(memory, starts.astype(np.int64), lengths, np.array([peer for peer, _ in heard], np.uint64))

    def send(self, batch: FrameBatch) -> int:
        if self.tell is None:
            return self._inner.send(batch)
        told = altered(batch, self.tell)
        for peer, pdu in told:
            one = self._inner.allocate(1)
            fill(one, [pdu], peer)
            self._inner.send(one)
        return len(batch)


def altered(batch: FrameBatch, alter: Alter) -> list[tuple[int, bytes]]:
    """Return what becomes of the frames of a batch."""
    frames = [(int(batch.peers[index]), batch.pdu(index).tobytes()) for index in range(len(batch))]
    return [new for peer, pdu in frames for new in alter(peer, pdu)]


class FirmwareInside:
    """The mailbox with the real firmware's control plane behind it, answered at once."""

    def __init__(self, device: Device, clock: TickingClock, *, mutual: bool) -> None:
        hal = FakeHal()
        hal.hardware = device  # type: ignore[assignment]  # it has what the services ask for
        hal.flash.objects[MODE_OBJECT] = OPEN.encode()
        self._firmware = Firmware(hal, "ab" * 32, clock.now_ns, lambda: 0.0)  # type: ignore[arg-type]
        self._sent: list[Mail] = []
        self._inner = device._mailbox
        if mutual:  # what it says of itself; there is no TLS here
            self._firmware._services.identity._constant["access"] = "mutual"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def post(self, letter: Mail) -> bool:
        answer = self._firmware._answer(Letter(letter.peer, letter.message))
        self._sent.append(Mail(answer.peer, answer.message))
        return True

    def collect(self) -> list[Mail]:
        sent, self._sent = self._sent, []
        return sent


class Running:
    """A board whose firmware is always up."""

    firmware_ready, epoch = True, 3

    def stop(self) -> None:
        pass


def granted_key(device: Device, clock: TickingClock, address: int, node: int) -> SealKey:
    """Grant a key to an address, as the firmware would, and return its other end."""
    grants = device._state.grants
    assert grants is not None
    granting = Granting(KEY, address, material(KEY), Grant(Role.VIEWER), "01", HOUR)
    GrantedKeys(grants, device._dataplane, clock).grant(granting)
    return SealKey(KEY, node, material(KEY), responder=False, expires_ns=clock.now_ns() + HOUR)


@dataclass
class World:
    """A rig, the device that it is at, and the device's end of the wire."""

    rig: Rig
    device: Device
    link: NodeLink

    def get_ready(self, pipeline: str = "") -> None:
        """Find out about the target what the suite needs."""
        greet(self.rig, "the device")
        choose_work(self.rig, described(self.rig) if self.rig.target.open_access else [], pipeline)


@contextmanager
def device_world(
    directory: Path, *packages: bytes, mtu: int = 1500, mutual: bool = False, **limits: int
) -> Iterator[World]:
    """Give a device that serves these packages, and a rig at it; nothing was asked yet."""
    switch, clock = MemorySwitch(), TickingClock(10**9)
    inner = switch.attach(mtu=mtu)
    link = NodeLink(inner)
    device = make_device(directory, link, clock, mutual=mutual, **limits)  # type: ignore[arg-type]
    try:
        for package in packages:
            device.load_pipeline(package)
        device._way._mailbox = FirmwareInside(device, clock, mutual=mutual)  # type: ignore[assignment]
        device._way.board = Running()  # type: ignore[assignment]
        step = device._dataplane.step
        one, two = (SteppedLink(switch.attach(mtu=mtu, queue=8192), step, clock) for _ in range(2))

        def forge(source: int, pdu: bytes) -> None:
            batch = inner.allocate(1)
            fill(batch, [pdu], inner.address)
            inner.enqueue(batch, np.array([0]), source)

        target = Target(one, inner.address, clock.now_ns, two, forge, lossless=True)  # type: ignore[arg-type]
        if mutual:
            target.key = granted_key(device, clock, one.address, inner.address)
        yield World(Rig(target, generator=random.Random(1)), device, link)
    finally:
        device.close()
