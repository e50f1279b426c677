"""One end of a TLS 1.3 connection over memory: bytes and a time in, bytes out, no I/O."""

from collections.abc import Callable

from cryptography import x509
from OpenSSL import SSL

from host_sdk.wire.errors import MalformedError, NapuError, NotAuthenticatedError, TooLargeError
from host_sdk.wire.schema import MAX_MESSAGE
from host_sdk.wire.secure.certificates import Subject

Check = Callable[[x509.Certificate], Subject]
LENGTH = 4  # bytes of the length before a message in the stream, big-endian
_CHUNK = 1 << 18  # bytes that are taken out of OpenSSL at once
_RECORD = 1 << 14


class _Verdict:
    """What was found about the other side's certificate. Holds no connection, so that none is kept alive."""

    def __init__(self, check: Check) -> None:
        self._check = check
        self.error: NapuError | None = None

    def refuse(self, reason: str) -> None:
        """Note why the certificate does not count."""
        self.error = NotAuthenticatedError(reason)

    def accepts(self, certificate: x509.Certificate) -> bool:
        """Check a certificate; return whether it counts."""
        try:
            self._check(certificate)
        except NapuError as error:
            self.error = error
        return self.error is None


class Channel:
    """One end of one connection.

    Args:
        context: From :meth:`host_sdk.wire.secure.credentials.Credentials.context`.
        check: Returns whom the other side's certificate is about, or raises NotAuthenticatedError.
        server: Whether this end answers.

    Attributes:
        subject: Whom the other end's certificate is about; None until the handshake is over.
    """

    def __init__(self, context: SSL.Context, check: Check, *, server: bool) -> None:
        self.subject: Subject | None = None
        self._check = check
        self._verdict = _Verdict(check)
        self._connection = SSL.Connection(context, None)
        self._connection.set_app_data(self._verdict)
        if server:
            self._connection.set_accept_state()
        else:
            self._connection.set_connect_state()

    def feed(self, records: bytes) -> None:
        """Take records of the other end in, and bring the handshake on; with nothing, a client begins.

        Raises:
            NotAuthenticatedError: The handshake has failed. The channel is of no more use.
        """
        try:
            if records:
                self._connection.bio_write(records)
            if self.subject is None:
                self._handshake()
        except SSL.Error as error:
            raise self._failure(error) from None

    def recheck(self) -> Subject:
        """Check the other end's certificate anew, as time has passed and others may have been revoked.

        Raises:
            NotAuthenticatedError: It does not count any more, or there is none yet.
        """
        certificate = self._connection.get_peer_certificate(as_cryptography=True)
        if self.subject is None or certificate is None:
            raise NotAuthenticatedError("the other side has shown no certificate")
        self.subject = self._check(certificate)
        return self.subject

    def read(self) -> bytes:
        """Return the message that has come: its length went before it, and nothing follows it.

        Returns:
            The message; empty where nothing has come.

        Raises:
            NotAuthenticatedError: A record was not made by the other end.
            MalformedError: What has come is not one whole message.
            TooLargeError: It is longer than a message may be.
        """
        data = bytearray()
        try:
            while len(data) <= MAX_MESSAGE + LENGTH:
                data += self._connection.recv(_RECORD)
        except SSL.WantReadError:
            pass
        except SSL.ZeroReturnError:
            raise NotAuthenticatedError("the other side has ended the stream") from None
        except SSL.Error as error:
            raise self._failure(error) from None
        if len(data) > MAX_MESSAGE + LENGTH:
            raise TooLargeError(f"more than {MAX_MESSAGE} bytes in the stream at once")
        if data and (len(data) < LENGTH or int.from_bytes(data[:LENGTH], "big") != len(data) - LENGTH):
            raise MalformedError("the records hold something else than one whole message behind its length")
        return bytes(data[LENGTH:])

    def write(self, message: bytes) -> None:
        """Put a message into the stream; :meth:`take` has its records.

        Raises:
            NotAuthenticatedError: The stream is broken.
        """
        data = memoryview(len(message).to_bytes(LENGTH, "big") + message)
        try:
            while data:
                data = data[self._connection.send(data) :]
        except SSL.Error as error:
            raise self._failure(error) from None

    def take(self) -> bytes:
        """Return the records to send; empty where there are none."""
        found = bytearray()
        try:
            while True:
                found += self._connection.bio_read(_CHUNK)
        except SSL.Error:  # WantReadError: there are no more
            return bytes(found)

    def export(self, label: bytes, length: int) -> bytes:
        """Return ``length`` bytes that both ends have and nobody else (RFC 8446, section 7.5), by a label of their use.

        Raises:
            NotAuthenticatedError: The handshake is not over.
        """
        if self.subject is None:
            raise NotAuthenticatedError("there are no keys before the handshake is over")
        return bytes(self._connection.export_keying_material(label, length))

    def _handshake(self) -> None:
        try:
            self._connection.do_handshake()
        except SSL.WantReadError:
            return
        certificate = self._connection.get_peer_certificate(as_cryptography=True)
        if certificate is None:
            raise NotAuthenticatedError("the other side has shown no certificate")
        self.subject = self._check(certificate)

    def _failure(self, error: SSL.Error) -> NapuError:
        """Return why a connection has failed: what was wrong with the certificate, or OpenSSL's own words."""
        if self._verdict.error:
            return self._verdict.error
        reasons = error.args[0] if error.args and isinstance(error.args[0], list) else []
        words = ", ".join(str(reason[-1]) for reason in reasons) or type(error).__name__
        return NotAuthenticatedError(f"TLS: {words}")
