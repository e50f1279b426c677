"""A lab's authority with some identities, and both ends of secure control joined without a network."""

from collections.abc import Generator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import msgpack
import numpy as np

from firmware.control import Control, Services
from firmware.hal import Hal
from firmware.secure.gate import MutualGate
from host_sdk.access.ca import LabCa
from host_sdk.access.control import SecureControl
from host_sdk.access.identity import Identity
from host_sdk.wire.errors import status_error
from host_sdk.wire.exchange.answers import Answers, Event
from host_sdk.wire.exchange.request import Request
from host_sdk.wire.roles import Grant, Role
from host_sdk.wire.schema import Status
from host_sdk.wire.secure.credentials import Credentials
from tests.firmware.fake_hal import FakeHal

BEGAN = datetime(2030, 1, 1, tzinfo=UTC)  # far from the machine's own time, which must not count
PEER, OTHER_PEER = 0x0200_0000_0007, 0x0200_0000_0008
SECOND = 1_000_000_000
USERS = {"vera": Role.VIEWER, "oleg": Role.OPERATOR, "ada": Role.ADMIN}


@dataclass
class Time:
    """Both clocks of a test: seconds since BEGAN."""

    seconds: float = 60.0

    def utc(self) -> datetime:
        return BEGAN + timedelta(seconds=self.seconds)

    def wall(self) -> float:
        return self.utc().timestamp()

    def monotonic(self) -> int:
        return round(self.seconds * SECOND)


class AccessLab:
    """An authority, a user for each role, a device."""

    def __init__(self, directory: Path, time: Time) -> None:
        self.directory, self.time = directory, time
        self.ca = LabCa.create(directory / "ca", time.utc)
        for name, role in USERS.items():
            self.ca.issue_user(name, Grant(role), directory / name)
        self.ca.issue_device("napu1", directory / "napu1")

    def identity(self, name: str) -> Identity:
        return Identity.load(self.directory / name)

    def credentials(self, name: str) -> Credentials:
        found = self.identity(name)
        return Credentials(found.authority, found.certificate, found.key, found.revoked)

    def appliance(self, device: str = "napu1") -> "Appliance":
        return Appliance(self.credentials(device), self.time)

    def client(self, name: str, seed: int = 1) -> SecureControl:
        generator = np.random.default_rng([seed, *name.encode()])
        return SecureControl(self.identity(name), lambda bits: int(generator.integers(1 << bits)), self.time.wall)


class Appliance:
    """The firmware's gate over fake hardware; it can be booted anew."""

    def __init__(self, credentials: Credentials, time: Time) -> None:
        self.hal, self.time = FakeHal(), time
        self.hal.flash.objects["board/credentials"] = credentials.encode()
        self.boot()

    def boot(self) -> None:
        hal = cast("Hal", self.hal)
        self.services = Services.on(hal, "ab" * 32, self.time.monotonic)
        self.access = self.services.access
        self.gate = MutualGate(Control(self.services), self.access, self.time.monotonic, self.time.wall)

    def secure(self, records: bytes, *, stream: int = 7, offset: int = 0, peer: int = PEER) -> tuple[Status, Any]:
        """Carry records of a stream; return the status, and the answer's map or sentence."""
        body = msgpack.packb({"op": "secure", "stream": stream, "offset": offset, "records": records})
        status, answer = self.gate.handle(peer, body)
        return status, msgpack.unpackb(answer) if status is Status.OK else answer.decode()

    @property
    def streams(self) -> int:
        assert self.gate.responder is not None
        return len(self.gate.responder.table)


@dataclass
class Wire:
    """Carries a client's requests to an appliance's gate, and notes them."""

    appliance: Appliance
    peer: int = PEER
    bodies: list[bytes] = field(default_factory=list)

    def run(self, operation: "Generator[Request, list[Event], dict[str, Any]]") -> dict[str, Any]:
        request = next(operation)
        while True:
            self.bodies.append(request.body)
            status, body = self.appliance.gate.handle(self.peer, request.body)
            try:
                if status is Status.OK:
                    row = np.frombuffer(body, np.uint8).reshape(1, -1)
                    zeros = np.zeros(1, np.int64)
                    request = operation.send([Answers(request.peer, zeros, zeros, zeros, row)])
                else:
                    error = status_error(status, body.decode())
                    request = operation.send([Answers.failed(request.peer, 1, error)])
            except StopIteration as stop:
                return cast("dict[str, Any]", stop.value)

    def ask(self, client: SecureControl, op: str, **arguments: Any) -> dict[str, Any]:
        return self.run(client.ask(1, "napu1's address", {"op": op, **arguments}, SECOND))
