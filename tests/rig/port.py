"""A device within this process, on a switch in memory and a virtual clock, and a host that makes its frames by hand."""

import functools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

import appliance.device as device_module
from appliance.board.flash import Flash
from appliance.clock import VirtualClock
from appliance.device import Device, DeviceOptions
from appliance.profile import load_profile
from host_sdk.wire.links.base import Link
from host_sdk.wire.links.memory import MemoryLink, MemorySwitch
from tests.rig.frames import INFER, OPEN, Pdu, decode, message

TRAILER_FLAG, CRC_FLAG = 2, 1
# A model is tried in a process of its own before it is loaded, which takes half a second: here once for each model.
device_module.try_model = functools.cache(device_module.try_model)  # type: ignore[assignment]


class Port:
    """A host on the switch that makes its frames by hand."""

    def __init__(
        self,
        switch: MemorySwitch,
        device: Device,
        clock: VirtualClock,
        node: MemoryLink,
        link: Link | None = None,
        peer: int | None = None,
    ) -> None:
        self.switch, self.device, self.clock, self.node = switch, device, clock, node
        self.link = link or switch.attach()
        self.peer = peer or node.address
        (self.opened,) = self.ask([Pdu(OPEN, b"\x81\xadfragment_size\xcd\x05\xbc", 1)])
        self.session = self.opened.session

    def send(self, pdus: list[bytes]) -> None:
        buffers = self.link.allocate(len(pdus))
        assert len(buffers) == len(pdus)
        for index, data in enumerate(pdus):
            start = int(buffers.starts[index])
            buffers.memory[start : start + len(data)] = np.frombuffer(data, np.uint8)
            buffers.lengths[index], buffers.peers[index] = len(data), self.peer
        self.link.send(buffers)

    def exchange(self, pdus: list[bytes]) -> list[bytes]:
        """Send frames as one batch, let the dataplane work, return the frames that come back."""
        self.send(pdus)
        dataplane = self.device._dataplane
        while dataplane.step():
            pass
        batch = self.link.receive()
        return [batch.pdu(index).tobytes() for index in range(len(batch))]

    def ask(self, pdus: list[Pdu]) -> list[Pdu]:
        return [decode(data) for data in self.exchange([data for pdu in pdus for data in message(pdu)])]

    def infer(self, number: int, body: bytes, **fields: int) -> Pdu:
        if "pipeline" not in fields:
            fields["pipeline"] = self.device.pipelines()[0]["handle"]
        shown = {"session": self.session, "flags": TRAILER_FLAG, **fields}
        return Pdu(INFER, body, number, **shown)

    def fast(self) -> int:
        return self.device.counters()["fast_answers"]


def make_device(directory: Path, node: Link, clock: VirtualClock, *, mutual: bool = False, **limits: int) -> Device:
    """Return a device without firmware, whose session ids are the same every time."""
    profile = load_profile("napu-s")
    profile = replace(profile, limits=replace(profile.limits, **limits))

    def no_firmware(_bus: int, _irq: int, _epoch: int) -> object:
        raise OSError("no firmware here")

    flash = Flash(directory, 1 << 24)
    return Device(profile, node, flash, no_firmware, clock, DeviceOptions(seed=1, mutual=mutual))  # type: ignore[arg-type]


def make_port(directory: Path, *packages: bytes, mutual: bool = False, **limits: int) -> Iterator[Port]:
    """Give a device on a virtual clock, without firmware, and a port on its switch."""
    switch, clock = MemorySwitch(), VirtualClock(10**9)
    node = switch.attach()
    device = make_device(directory, node, clock, mutual=mutual, **limits)
    for package in packages:
        device.load_pipeline(package)
    made = Port(switch, device, clock, node)
    yield made
    made.link.close()
    device.close()
