"""What one end of TLS holds: its certificate and key, the authority that it trusts, the list of those revoked."""

from dataclasses import dataclass
from typing import Any

import msgpack
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL
from OpenSSL.crypto import X509
from OpenSSL.crypto import Error as CryptoError

from host_sdk.wire.errors import ConfigError
from host_sdk.wire.secure.certificates import UNREADABLE, Authority

_Codes = SSL.X509VerificationCodes
_TIMES = (_Codes.ERR_CERT_NOT_YET_VALID, _Codes.ERR_CERT_HAS_EXPIRED)
_STRANGERS = (
    _Codes.ERR_UNABLE_TO_GET_ISSUER_CERT,
    _Codes.ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY,
    _Codes.ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE,
    _Codes.ERR_CERT_SIGNATURE_FAILURE,
    _Codes.ERR_DEPTH_ZERO_SELF_SIGNED_CERT,
    _Codes.ERR_SELF_SIGNED_CERT_IN_CHAIN,
)


@dataclass(frozen=True, slots=True)
class Credentials:
    """Certificates and key as PEM, and the list of revoked certificates as PEM or DER, perhaps empty."""

    authority: bytes
    certificate: bytes
    key: bytes
    revoked: bytes = b""

    def encode(self) -> bytes:
        """Return the credentials as one msgpack map, as they lie in a device's flash."""
        packed: bytes = msgpack.packb({name: getattr(self, name) for name in self.__slots__})
        return packed

    @classmethod
    def decode(cls, data: bytes) -> "Credentials":
        """Read what :meth:`encode` has written.

        Raises:
            ConfigError: It is something else.
        """
        try:
            found = msgpack.unpackb(data)
            parts = {name: found[name] for name in cls.__slots__}
        except (ValueError, TypeError, KeyError, msgpack.exceptions.UnpackException):
            raise ConfigError("these are no credentials") from None
        if not all(isinstance(part, bytes) for part in parts.values()):
            raise ConfigError("these are no credentials: one of their parts is no bytes")
        return cls(**parts)

    def trust(self) -> Authority:
        """Return the authority, with the list of those revoked.

        Raises:
            ConfigError: One of them cannot be read.
        """
        return Authority(self.authority, self.revoked)

    def fingerprint(self) -> bytes:
        """Return the SHA-256 of the authority's certificate in DER, 32 bytes.

        Raises:
            ConfigError: It cannot be read.
        """
        try:
            return x509.load_pem_x509_certificate(self.authority).fingerprint(SHA256())
        except ValueError as error:
            raise ConfigError(f"the authority's certificate cannot be read: {error}") from None

    def own(self) -> x509.Certificate:
        """Return this end's own certificate.

        Raises:
            ConfigError: It cannot be read.
        """
        try:
            return x509.load_pem_x509_certificate(self.certificate)
        except UNREADABLE as error:
            raise ConfigError(f"the certificate cannot be read: {error}") from None

    def context(self, *, server: bool) -> SSL.Context:
        """Return what connections are made from: TLS 1.3 alone, certificates from both ends, nothing resumed.

        Raises:
            ConfigError: Certificate and key cannot be read, or do not belong together.
        """
        context = SSL.Context(SSL.TLS_SERVER_METHOD if server else SSL.TLS_CLIENT_METHOD)
        context.set_min_proto_version(SSL.TLS1_3_VERSION)
        context.set_max_proto_version(SSL.TLS1_3_VERSION)
        # A resumed session would get by without a look at the certificate, so there are no tickets and no cache.
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_COMPRESSION)
        context.set_mode(SSL.MODE_RELEASE_BUFFERS)
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _verify)
        try:
            context.use_certificate(self.own())
            key: Any = load_pem_private_key(self.key, None)
            context.use_privatekey(key)
            context.check_privatekey()
            store = context.get_cert_store()
            if store is not None:
                store.add_cert(X509.from_cryptography(x509.load_pem_x509_certificate(self.authority)))
        except (SSL.Error, CryptoError, *UNREADABLE) as error:
            raise ConfigError(f"certificate and key cannot be used: {error}") from None
        return context


def _verify(connection: SSL.Connection, certificate: X509, code: int, depth: int, good: int) -> bool:
    """Decide on one certificate of the chain: OpenSSL has to be content, and the channel's owner with its time."""
    verdict = connection.get_app_data()
    if not good and code not in _TIMES:
        verdict.refuse(_reason(code))
        return False
    return depth > 0 or bool(verdict.accepts(certificate.to_cryptography()))


def _reason(code: int) -> str:
    if code in _STRANGERS:
        return "the certificate is of another authority"
    if code == _Codes.ERR_INVALID_PURPOSE:
        return "the certificate is not that of the kind which is asked for, a user's or a device's"
    return f"the certificate does not count (X.509 error {code})"
