"""An attestor over fake hardware, and its evidence without a bus."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import msgpack

from appliance.board.attestation import QUOTE_INTERVAL_NS, Attestor, Constants
from appliance.board.device_key import DeviceKey
from appliance.board.flash import Flash
from appliance.board.regmap import AttestCommand, ServiceCommand
from host_sdk.wire.attest.boots import BootedImage
from host_sdk.wire.attest.collected import Evidence
from tests.appliance.board.fake_hardware import FakeHardware, package

SEED = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")  # RFC 8032, 7.1, TEST 1
CONSTANTS = Constants("napu1", hashlib.sha256(b"rom").digest(), {"access": "mutual", "link": "udp"})
NONCE = bytes(range(32))


def image(version: str = "1.2.3", slot: int = 0) -> BootedImage:
    return BootedImage(hashlib.sha256(f"image {version}".encode()).digest(), version, 5, slot)


@dataclass
class Ticks:
    """A clock that stands still until it is moved."""

    ns: int = 0

    def now_ns(self) -> int:
        return self.ns


@dataclass
class Attested:
    """A board's attestor; what it boots and serves is up to the test."""

    directory: Path
    seed: bytes = SEED
    constants: Constants = CONSTANTS
    booted: BootedImage | None = field(default_factory=image)
    epoch: int = 0

    def __post_init__(self) -> None:
        self.hardware, self.clock = FakeHardware(), Ticks()
        self.power_on()

    def power_on(self) -> None:
        """Switch the board on; what it served is gone, its flash is not."""
        self.hardware.served.clear()
        key, flash = DeviceKey(self.seed), Flash(self.directory, 1 << 20)
        self.attestor = Attestor(key, self.constants, lambda: self.booted, self.hardware.pipelines, flash, self.clock)
        plain = {
            ServiceCommand.LOAD_PIPELINE: lambda data: bytes(msgpack.packb(self.hardware.load_pipeline(data))),
            ServiceCommand.UNLOAD_PIPELINE: self._unload,
        }
        self._services = self.attestor.measured(plain)

    def boot(self, reason: int = 0) -> "Attested":
        self.epoch += 1
        assert self.attestor.boot(self.epoch, reason) == ""
        return self

    def load(self, name: str, size: int = 10) -> None:
        self._services[ServiceCommand.LOAD_PIPELINE](package(name, size))

    def unload(self, name: str) -> bool:
        return bool(msgpack.unpackb(self._services[ServiceCommand.UNLOAD_PIPELINE](msgpack.packb([name]))))

    def evidence(self, nonce: bytes = NONCE) -> Evidence:
        self.clock.ns += QUOTE_INTERVAL_NS
        commands = self.attestor.commands()
        quote, signature, key, boots = msgpack.unpackb(commands[AttestCommand.QUOTE](nonce))
        events: list[bytes] = []
        while page := msgpack.unpackb(commands[AttestCommand.LOG](msgpack.packb([len(events)])))[1]:
            events += page
        return Evidence(quote, signature, key, boots, tuple(events))

    def _unload(self, argument: bytes) -> bytes:
        (name,) = msgpack.unpackb(argument)
        return bytes(msgpack.packb(self.hardware.unload_pipeline(name)))
