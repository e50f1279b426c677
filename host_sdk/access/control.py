"""The client's side of secure control: streams of TLS records in CONTROL messages, one request at a time in each."""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import msgpack
from cryptography import x509

from host_sdk.access.identity import Identity
from host_sdk.results import unpack_map
from host_sdk.wire.errors import (
    NotAuthenticatedError,
    RemoteProtocolError,
    UnknownOperationError,
    UnknownSessionError,
    status_error,
)
from host_sdk.wire.exchange.answers import Announced, Event
from host_sdk.wire.exchange.request import Request
from host_sdk.wire.header import Header
from host_sdk.wire.schema import Flag, Opcode, Status
from host_sdk.wire.secure.certificates import Subject
from host_sdk.wire.secure.channel import Channel
from host_sdk.wire.secure.credentials import Credentials

Steps = Generator[Request, list[Event], bytes]
_NUMBER_BITS = 62


@dataclass(slots=True)
class _Stream:
    """One stream: its number, its end of TLS, and how many bytes of records went each way."""

    number: int
    channel: Channel
    sent: int = 0
    received: int = 0


class SecureControl:
    """Secure control of any number of appliances as one identity.

    Streams are opened when they are needed and used again; as many are open as operations were under way at once.

    Args:
        identity: Who asks.
        draw: Gives so many random bits: numbers of streams and of requests.
        wall: Seconds since 1970, against which the appliances' certificates are held.

    Raises:
        ConfigError: The identity cannot be used.
    """

    def __init__(self, identity: Identity, draw: Callable[[int], int], wall: Callable[[], float]) -> None:
        credentials = Credentials(identity.authority, identity.certificate, identity.key, identity.revoked)
        self._authority, self._context = credentials.trust(), credentials.context(server=False)
        self._expected, self._draw, self._wall = identity.devices, draw, wall
        self._devices: dict[int, str] = {}
        self._idle: dict[int, list[_Stream]] = {}

    def announced(self, peer: int, device: str) -> None:
        """Note which device says that it is at a peer's address; one that has proved it first is not replaced."""
        self._devices.setdefault(peer, device)

    def ask(
        self, peer: int, address: str, body: dict[str, Any], timeout_ns: int
    ) -> Generator[Request, list[Event], dict[str, Any]]:
        """Run an operation and return its answer; a generator of requests that is sent what became of them.

        After a restart of the firmware the operation is asked for again in a new stream, with the same number, so that
        a firmware that has carried it out already gives the same answer again.

        Args:
            peer: The appliance.
            address: The same, as people write it.
            body: The operation under ``op``, and its arguments.
            timeout_ns: Of each message.

        Raises:
            StatusError: The appliance refuses, or one of both is not who it should be.
            NapuTimeoutError: It does not answer.
        """
        request = msgpack.packb({**body, "id": self._draw(_NUMBER_BITS)})
        idle = self._idle.setdefault(peer, [])
        try:
            stream = idle.pop() if idle else (yield from self._open(peer, address, timeout_ns))
            answer = yield from self._exchange(stream, peer, request, timeout_ns)
        except UnknownSessionError:
            idle.clear()
            stream = yield from self._open(peer, address, timeout_ns)
            answer = yield from self._exchange(stream, peer, request, timeout_ns)
        # One that failed, or was given up, is out of step and is not used again.
        idle.append(stream)
        return _unpack(answer)

    def export(self, peer: int, label: bytes, length: int) -> bytes:
        """Return key material of an idle stream, which the appliance has too, by a label of its use.

        Raises:
            NotAuthenticatedError: No stream is open.
        """
        return self.idle_stream(peer).channel.export(label, length)

    def idle_stream(self, peer: int) -> _Stream:
        """Return the stream that was used last.

        Raises:
            NotAuthenticatedError: None is open.
        """
        idle = self._idle.get(peer)
        if not idle:
            raise NotAuthenticatedError("no secure stream to this appliance is open")
        return idle[-1]

    def device(self, peer: int) -> str:
        """Return the device that has proved by its certificate that it is at a peer's address.

        Raises:
            NotAuthenticatedError: No stream is open, or the certificate does not count any more.
        """
        return self.idle_stream(peer).channel.recheck().name

    def _open(self, peer: int, address: str, timeout_ns: int) -> Generator[Request, list[Event], _Stream]:
        channel = Channel(self._context, self._check, server=False)
        stream = _Stream(self._draw(_NUMBER_BITS) + 1, channel)
        channel.feed(b"")
        try:
            while records := channel.take():
                channel.feed((yield from self._carry(stream, peer, records, timeout_ns)))
        except UnknownOperationError:
            raise NotAuthenticatedError(
                f"access to {address} is open: it asks nobody who they are; to control it as anybody, give no identity"
            ) from None
        subject = channel.recheck()
        expected = self._expected.get(address) or self._devices.setdefault(peer, subject.name)
        if subject.name != expected:
            raise NotAuthenticatedError(f"{address} is device {subject.name}; expected was {expected}")
        return stream

    def _exchange(self, stream: _Stream, peer: int, request: bytes, timeout_ns: int) -> Steps:
        stream.channel.write(request)
        stream.channel.feed((yield from self._carry(stream, peer, stream.channel.take(), timeout_ns)))
        answer = stream.channel.read()
        if not answer:
            raise RemoteProtocolError("the stream holds no answer")
        return answer

    def _carry(self, stream: _Stream, peer: int, records: bytes, timeout_ns: int) -> Steps:
        """Send records of a stream; return those that come back."""
        body = msgpack.packb({"op": "secure", "stream": stream.number, "offset": stream.sent, "records": records})
        (event,) = yield Request(peer, Header(Opcode.CONTROL, 0, Flag.CRC), body, timeout_ns)
        if isinstance(event, Announced):
            raise RemoteProtocolError("an announcement is no answer to an operation")
        if event.error is not None:
            raise event.error
        answer = unpack_map(event.bodies[0].tobytes())
        found = answer.get("records")
        if not isinstance(found, bytes) or answer.get("offset") != stream.received:
            raise RemoteProtocolError("the answer does not go on with the stream")
        stream.sent += len(records)
        stream.received += len(found)
        return found

    def _check(self, certificate: x509.Certificate) -> Subject:
        return self._authority.device(certificate, self._wall())


def _unpack(answer: bytes) -> dict[str, Any]:
    """Return the map that an operation was answered with.

    Raises:
        StatusError: It was refused.
    """
    found = unpack_map(answer)
    status, body = found.get("status"), found.get("body")
    if type(status) is not int or not isinstance(body, bytes):
        raise RemoteProtocolError("the answer in the stream has no status and body")
    if status != Status.OK:
        raise status_error(status, body.decode("utf-8", "replace"))
    return unpack_map(body)
