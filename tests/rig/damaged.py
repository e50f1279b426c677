"""A virtual device behind a cable that damages frames both ways, and the SDK's engine at its other end."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import tests.rig.port  # noqa: F401 - tries each model once
from appliance.profile import load_profile
from appliance.virtual import VirtualDevice
from host_sdk.capture.tapped import TappedLink
from host_sdk.engine import Engine
from host_sdk.operations import InferOptions
from host_sdk.wire.exchange.answers import Answers
from host_sdk.wire.links.base import FrameBatch, Link
from host_sdk.wire.links.faults import parse_faults
from host_sdk.wire.links.faulty import FaultyLink

FIRST_TOKEN = 1 << 32
SECOND = 1_000_000_000
STEP_NS = 2_000  # that a frame takes there and back, besides what faults add
PATIENCE_NS = 3_600 * SECOND  # of virtual time


class VirtualWire:
    """A device and the SDK's engine at the ends of a cable, on one virtual clock.

    Args:
        packages: What the device serves.
        wrap: Puts another link around the device's port; gets the port and the clock in ns.
        seed: Of the requests' ids.

    Attributes:
        virtual: The device.
        engine: The SDK's.
    """

    def __init__(
        self, packages: list[bytes], wrap: Callable[[Link, Callable[[], int]], Link] | None = None, seed: int = 1
    ) -> None:
        self.virtual = VirtualDevice(load_profile("napu-s"), packages, wrap=wrap)
        self.engine = Engine(self.virtual.attach(), generator=random.Random(seed), now=self.virtual.clock.now_ns)

    def ask(self, name: str, bodies: NDArray[np.uint8], options: InferOptions | None = None) -> list[Answers]:
        """Ask for every body, uint8 [n, size], and return what became of the requests, in the order in which it did."""
        (handle,) = (int(str(entry["handle"])) for entry in self.virtual.device.pipelines() if entry["name"] == name)
        header = (options or InferOptions()).header(handle)
        tokens = np.arange(len(bodies), dtype=np.int64) + FIRST_TOKEN
        self.engine.infer(self.virtual.address, header, bodies, tokens, PATIENCE_NS)
        events: list[Answers] = []
        left = len(bodies)
        while left:
            self._turn()
            for event in self.engine.events():
                assert isinstance(event, Answers)
                events.append(event)
                left -= len(event)
        return events

    def timer(self) -> int | None:
        """Return when something is due on the cable itself, ns."""
        return None

    def _turn(self) -> None:
        clock = self.virtual.clock
        self.engine.flush()
        self.virtual.settle()
        self.engine.drain()
        timers = [self.virtual.device.next_timer(), self.timer()]
        if (pause := self.engine.timer_ns()) is not None:
            timers.append(clock.now_ns() + pause)
        due = [timer for timer in timers if timer is not None]
        assert due, "requests are outstanding, and nobody waits for anything"
        self.virtual.advance_to(max(clock.now_ns() + STEP_NS, min(due)))

    def close(self) -> None:
        self.engine.close()
        self.virtual.close()


class DamagedWire(VirtualWire):
    """A cable that damages frames by chance.

    Attributes:
        faulty: The damage.
        tap: The capture, between device and damage, so that it has what the device got.
    """

    def __init__(self, capture: Path, packages: list[bytes], faults: tuple[str, str], seed: int) -> None:
        def wrap(port: Link, now: Callable[[], int]) -> Link:
            self.faulty = FaultyLink(port, parse_faults(faults[1]), parse_faults(faults[0]), seed, now, queue=4096)
            self.tap = TappedLink(self.faulty, capture, now)
            return self.tap

        super().__init__(packages, wrap, seed)

    def timer(self) -> int | None:
        return self.faulty.next_timer()


class Flipper:
    """A link that flips one bit of one frame.

    Args:
        link: The link around which it is.

    Attributes:
        hits: Frames that were damaged since it was made.
    """

    def __init__(self, link: Link) -> None:
        self._link, self._armed, self.hits = link, (0, -1, 0), 0
        self.kind, self.address, self.mtu, self.smallest = link.kind, link.address, link.mtu, link.smallest
        self.capacity = link.capacity
        self.fileno, self.wait, self.allocate = link.fileno, link.wait, link.allocate
        self.format_address, self.parse_address = link.format_address, link.parse_address
        self.expect, self.statistics, self.close = link.expect, link.statistics, link.close

    def flip(self, opcode: int, frame: int, bit: int) -> None:
        """Flip a bit of frame ``frame`` of those of an opcode from now on; bits count from a byte's highest."""
        self._armed = (opcode, frame, bit)

    def receive(self) -> FrameBatch:
        return self._damage(self._link.receive())

    def send(self, batch: FrameBatch) -> int:
        return self._link.send(self._damage(batch))

    def _damage(self, batch: FrameBatch) -> FrameBatch:
        for index in range(len(batch)):
            opcode, frame, bit = self._armed
            pdu = batch.pdu(index)
            if pdu[1] != opcode:
                continue
            if frame == 0:
                pdu[bit // 8] ^= 0x80 >> bit % 8
                self.hits += 1
            self._armed = (opcode, frame - 1, bit)
        return batch


@contextmanager
def damaged_wire(
    capture: Path, packages: list[bytes], faults: tuple[str, str] = ("", ""), seed: int = 1
) -> Iterator[DamagedWire]:
    """Make a damaged wire; it is closed at the end, and its capture is whole then.

    Args:
        capture: File of the capture.
        packages: What the device serves.
        faults: Of what reaches the device, and of what it sends.
        seed: Of the damage and of the requests' ids.
    """
    wire = DamagedWire(capture, packages, faults, seed)
    try:
        yield wire
    finally:
        wire.close()
