"""Control as strangers and users reach it: plain bodies, TLS records, and what users write into their streams."""

import struct
import tempfile
from collections.abc import Iterable
from functools import cache
from itertools import count
from pathlib import Path
from typing import cast

import msgpack

from firmware.control import SECURE, Control, OpenGate, Services
from firmware.hal import Hal
from firmware.services.access import OPEN
from host_sdk.wire.errors import StatusError, status_error
from host_sdk.wire.schema import MAX_DETAIL, Status
from host_sdk.wire.secure.channel import Channel
from host_sdk.wire.secure.credentials import Credentials
from tests.access.lab import PEER, AccessLab, Appliance, Time
from tests.appliance.board.fake_hardware import FakeHardware
from tests.firmware.fake_hal import FakeHal

SECOND = 1_000_000_000
LENGTH = struct.Struct(">I")


class Hardware(FakeHardware):
    """Takes any package that has the shape of one, as what it holds is not what is fuzzed here."""

    def load_pipeline(self, package: bytes) -> dict[str, object]:
        return {"name": "fuzzed", "handle": 1, "digest": "", "input": {"bytes": len(package)}, "outputs": []}


def plain(body: bytes) -> None:
    """The body of a CONTROL message where access is open."""
    fake = FakeHal()
    fake.hardware = Hardware()
    fake.flash.objects["board/access"] = OPEN.encode()
    hal = cast("Hal", fake)
    ticks = count(0, SECOND)
    services = Services.on(hal, "ab" * 32, lambda: next(ticks))
    answered(*OpenGate(Control(services)).handle(PEER, body))


def answered(status: Status, answer: bytes) -> None:
    """An answer is a map, or says in a sentence what was wrong with the request."""
    if status is Status.OK:
        assert isinstance(msgpack.unpackb(answer), dict)
        return
    assert status is not Status.INTERNAL, answer
    assert answer.decode()
    assert len(answer) <= MAX_DETAIL


@cache
def known() -> dict[str, Credentials]:
    """What a device and an administrator of one lab hold; their keys alone differ from run to run."""
    with tempfile.TemporaryDirectory() as name:
        lab = AccessLab(Path(name), Time())
        return {each: lab.credentials(each) for each in ("napu1", "ada")}


def records(parts: Iterable[bytes]) -> None:
    """Records of a stranger's, one stream's after the other, which begins anew where one was refused."""
    appliance = Appliance(known()["napu1"], Time())
    offset = 0
    for part in parts:
        body = msgpack.packb({"op": SECURE, "stream": 1, "offset": offset, "records": part})
        status, answer = appliance.gate.handle(PEER, body)
        answered(status, answer)
        assert status is not Status.UNKNOWN_SESSION
        offset = offset + len(part) if status is Status.OK else 0
        appliance.time.seconds += 1
    assert appliance.streams <= 1


def hellos() -> list[list[bytes]]:
    """How TLS begins: whole, in two parts, twice, and with what must not follow it."""
    client = client_end()
    client.feed(b"")
    hello = client.take()
    alert, change, data = (bytes([kind, 3, 3, 0, 2, 2, 40]) for kind in (21, 20, 23))
    return [[hello], [hello[:50], hello[50:]], [hello, hello], [hello, change, data], [alert], [hello + alert]]


def client_end() -> Channel:
    context = known()["ada"].context(server=False)
    authority = known()["ada"].trust()
    return Channel(context, lambda certificate: authority.device(certificate, Time().wall()), server=False)


class Session:
    """A stream of an administrator's, whose handshake is over."""

    def __init__(self) -> None:
        self.appliance = Appliance(known()["napu1"], Time())
        self.appliance.hal.hardware = Hardware()
        self.client = client_end()
        self._sent = 0
        self.client.feed(b"")
        while self.client.subject is None or self.appliance.gate.responder is None:
            self.client.feed(self.exchange())
        self.client.feed(self.exchange())

    def exchange(self) -> bytes:
        """Carry what the client has to send; return the records of the answer.

        Raises:
            StatusError: The appliance has refused them.
        """
        sent = self.client.take()
        status, answer = self.appliance.secure(sent, stream=1, offset=self._sent)
        self._sent += len(sent)
        if status is not Status.OK:
            assert status is not Status.INTERNAL, answer
            raise status_error(status, answer)
        return bytes(answer["records"])

    def ask(self, plaintext: bytes) -> None:
        """Write any bytes into the stream, encrypted as they ought to be."""
        while plaintext:
            plaintext = plaintext[self.client._connection.send(plaintext) :]
        self.client.feed(self.exchange())
        found = msgpack.unpackb(self.client.read())
        answered(Status(found["status"]), found["body"])
        gate = self.appliance.gate
        gate._answers.clear()  # else a number that came before would hide what its request is
        assert self.appliance.streams == 1


_sessions: list[Session] = []  # the one that is open, as a handshake takes longer than all else


def requests(plaintext: bytes) -> None:
    """What a user who is known may write into a stream: no frame, half of one, several, any body."""
    if not plaintext:
        return
    session = _sessions.pop() if _sessions else Session()
    try:
        session.ask(plaintext)
    except StatusError as error:
        assert session.appliance.streams == 0, f"{error}, and the stream goes on"
        return
    _sessions.append(session)


def framed(body: bytes) -> bytes:
    """Return a request as users write it, with a number."""
    request = msgpack.packb({"id": 1, **msgpack.unpackb(body)})
    return LENGTH.pack(len(request)) + request
