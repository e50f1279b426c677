"""Takes records of TLS out of control messages, and gives records back: one end of every secure stream."""

import hashlib
import logging
from collections.abc import Callable

from cryptography import x509

from firmware.secure.streams import Stream, StreamLimits, StreamTable
from host_sdk.wire.errors import (
    BadArgumentError,
    InternalError,
    MalformedError,
    NapuError,
    TooLargeError,
    UnknownSessionError,
)
from host_sdk.wire.schema import MAX_HANDSHAKE
from host_sdk.wire.secure.certificates import Authority, Subject
from host_sdk.wire.secure.channel import Channel
from host_sdk.wire.secure.credentials import Credentials

_log = logging.getLogger(__name__)
Export = Callable[[bytes, int], bytes]
Serve = Callable[[Subject, int, Export, bytes], bytes]


class Responder:
    """All secure streams of this appliance.

    Args:
        credentials: The device's own.
        authority: Whose certificates count.
        serve: Answers a request: who asks, its peer, what exports key material of the stream, and the request's bytes;
            returns those of the answer.
        clock: Monotonic ns.
        wall: Seconds since 1970, against which certificates are held.
        limits: Bounds.

    Raises:
        ConfigError: The credentials cannot be used.
    """

    def __init__(
        self,
        credentials: Credentials,
        authority: Authority,
        serve: Serve,
        clock: Callable[[], int],
        wall: Callable[[], float],
        limits: StreamLimits | None = None,
    ) -> None:
        self._context = credentials.context(server=True)
        self._authority, self._serve, self._clock, self._wall = authority, serve, clock, wall
        self.table = StreamTable(limits or StreamLimits())

    def take(self, peer: int, number: int, offset: int, records: bytes) -> tuple[int, bytes]:
        """Take records of a stream in; return where the records to answer with begin, and these.

        Args:
            peer: Who sent them. The same number of another peer is another stream.
            number: The stream.
            offset: How many bytes of records came before these.
            records: The records.

        Raises:
            UnknownSessionError: There is no such stream; one begins at offset 0.
            BusyError: Too many streams begin.
            BadArgumentError: These are not the stream's next records; the stream goes on.
            StatusError: The stream has ended: NOT_AUTHENTICATED, TOO_LARGE or MALFORMED.
        """
        if not records:
            raise BadArgumentError("argument records is empty")
        now = self._clock()
        stream = self.table.find((peer, number), now)
        digest = hashlib.sha256(records).digest()
        if stream is None and offset:
            raise UnknownSessionError("there is no such stream here, or there is none any more; begin one anew")
        if stream and (offset, digest) == (stream.last, stream.digest):
            return stream.answered_at, stream.answer
        if stream and offset != stream.received:
            raise BadArgumentError(f"these are records at {offset}; the stream goes on at {stream.received}")
        if (stream is None or stream.channel.subject is None) and offset + len(records) > MAX_HANDSHAKE:
            if stream:
                self.table.end(stream)
            raise TooLargeError(f"a handshake has at most {MAX_HANDSHAKE} bytes")
        stream = stream or self.table.begin((peer, number), self._make_channel, now)
        self._advance(stream, records, now)
        stream.last, stream.digest, stream.received = offset, digest, offset + len(records)
        return stream.answered_at, stream.answer

    def export(self, peer: int, number: int, label: bytes, length: int) -> bytes:
        """Return key material that the stream's other end has too, by a label of its use.

        Raises:
            UnknownSessionError: There is no such stream.
            NotAuthenticatedError: Its handshake is not over.
        """
        stream = self.table.find((peer, number), self._clock())
        if stream is None:
            raise UnknownSessionError("there is no such stream")
        return stream.channel.export(label, length)

    def who(self, peer: int, number: int) -> Subject | None:
        """Return whose stream it is; None where that is not known."""
        stream = self.table.find((peer, number), self._clock())
        return stream.channel.subject if stream else None

    def _make_channel(self) -> Channel:
        return Channel(self._context, self._check, server=True)

    def _check(self, certificate: x509.Certificate) -> Subject:
        return self._authority.user(certificate, self._wall())

    def _advance(self, stream: Stream, records: bytes, now: int) -> None:
        """Bring a stream on; whatever is wrong with it ends it."""
        channel, known = stream.channel, stream.channel.subject is not None
        try:
            channel.feed(records)
            if channel.subject:
                if not known:
                    self.table.establish(stream)
                self.table.use(stream, now)
                self._answer(stream, needed=known)
        except NapuError:
            self.table.end(stream)
            raise
        except Exception as error:  # noqa: BLE001 - a stranger's bytes must not end the firmware
            self.table.end(stream)
            _log.exception("a secure stream failed")
            raise InternalError(f"{type(error).__name__}; the log says more") from None
        stream.answered_at, stream.answer = stream.sent, channel.take()
        stream.sent += len(stream.answer)

    def _answer(self, stream: Stream, *, needed: bool) -> None:
        """Answer the request that has come; one has to, but at the end of the handshake."""
        channel = stream.channel
        request = channel.read()
        if request:
            channel.write(self._serve(channel.recheck(), stream.key[0], channel.export, request))
        elif needed:
            raise MalformedError("the records hold no request")
