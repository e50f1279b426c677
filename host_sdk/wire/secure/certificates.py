"""Certificates of users and devices, and the one authority that both sides trust.

A certificate counts where the authority itself has signed it (there are no intermediates), its time has come and is not
over, it is not on the authority's list of revoked ones, and it is of the right kind. TLS has proved by then that the
other side holds its key.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from host_sdk.wire.errors import ConfigError, NotAuthenticatedError, RemoteProtocolError
from host_sdk.wire.roles import NAME, Grant

# Below 2.25 stand UUIDs, which need no registration (ITU-T X.667).
GRANT_OID = x509.ObjectIdentifier("2.25.176624569931862715264598119513361278633")
MAX_LIST = 256 * 1024  # bytes of a list of revoked certificates
# What the library raises of a certificate, list or key that it cannot read, at once or when a part is asked for.
UNREADABLE = (
    *(ValueError, TypeError, UnsupportedAlgorithm),
    *(x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType),
)
_OCTET_STRING = 0x04
_SHORT = 0x80


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom a certificate is about.

    Attributes:
        name: Name of a user, or identity of a device.
        serial: The certificate's number.
        grant: What a user may do; None for a device.
        not_after: Until when the certificate is valid, in seconds since 1970.
    """

    name: str
    serial: int
    grant: Grant | None = None
    not_after: float = 0.0


class Authority:
    """The lab's authority as those see it who trust it.

    Args:
        certificate: Its own certificate, PEM.
        revoked: Its list of revoked certificates, PEM or DER; empty for none.

    Raises:
        ConfigError: They cannot be read, or the list is not this authority's.
    """

    def __init__(self, certificate: bytes, revoked: bytes = b"") -> None:
        try:
            self.certificate = x509.load_pem_x509_certificate(certificate)
        except UNREADABLE as error:
            raise ConfigError(f"the authority's certificate cannot be read: {error}") from None
        self._number = -1
        self._revoked: frozenset[int] = frozenset()
        if revoked:
            self.replace_revoked(revoked)

    @property
    def number(self) -> int:
        """Number of the list of revoked certificates in force; -1 where there is none."""
        return self._number

    def replace_revoked(self, data: bytes) -> None:
        """Let a newer list of revoked certificates be in force.

        Raises:
            ConfigError: It is none, not this authority's, or older than the one in force.
        """
        found = _read_list(data)
        # A public key that cannot have signed this, of another kind, is a TypeError; names are not read before.
        try:
            key, name = self.certificate.public_key(), self.certificate.subject
            ours = found.is_signature_valid(key) and found.issuer == name  # type: ignore[arg-type]
        except UNREADABLE:
            ours = False
        if not ours:
            raise ConfigError("the list of revoked certificates is not of this authority")
        try:
            number = found.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        except (x509.ExtensionNotFound, *UNREADABLE):
            raise ConfigError("the list of revoked certificates has no number") from None
        if number < self._number:
            raise ConfigError(f"the list of revoked certificates is number {number}; number {self._number} is in force")
        self._number, self._revoked = number, frozenset(entry.serial_number for entry in found)

    def user(self, certificate: x509.Certificate, now_s: float) -> Subject:
        """Return the user that a certificate is about.

        Args:
            certificate: What the other side has shown.
            now_s: The time, in seconds since 1970.

        Raises:
            NotAuthenticatedError: It does not count; the sentence says why.
        """
        name = self._check(certificate, now_s, ExtendedKeyUsageOID.CLIENT_AUTH, "user")
        try:
            extension = certificate.extensions.get_extension_for_oid(GRANT_OID).value
            if not isinstance(extension, x509.UnrecognizedExtension):
                raise RemoteProtocolError("the grant is of another kind")
            grant = Grant.decode(_unwrap(extension.value))
        except (x509.ExtensionNotFound, RemoteProtocolError, *UNREADABLE) as error:
            raise NotAuthenticatedError(f"the certificate of {name} grants nothing: {error}") from None
        return Subject(name, certificate.serial_number, grant, self._end(certificate))

    def device(self, certificate: x509.Certificate, now_s: float) -> Subject:
        """Return the device that a certificate is about; arguments and errors as for :meth:`user`."""
        name = self._check(certificate, now_s, ExtendedKeyUsageOID.SERVER_AUTH, "device")
        return Subject(name, certificate.serial_number, not_after=self._end(certificate))

    def is_revoked(self, serial: int) -> bool:
        """Return whether a certificate is on the list of revoked ones."""
        return serial in self._revoked

    def _end(self, certificate: x509.Certificate) -> float:
        """Return until when a certificate, and the authority's, are valid."""
        return min(each.not_valid_after_utc for each in (certificate, self.certificate)).timestamp()

    def _check(self, certificate: x509.Certificate, now_s: float, usage: x509.ObjectIdentifier, kind: str) -> str:
        """Check everything but the grant; return the name."""
        try:
            certificate.verify_directly_issued_by(self.certificate)
        except (InvalidSignature, *UNREADABLE):
            raise NotAuthenticatedError("the certificate is of another authority") from None
        # What follows was signed by the authority, so its words can be repeated.
        name = _common_name(certificate)
        for checked, whose in ((self.certificate, "the authority's certificate"), (certificate, f"that of {name}")):
            now = datetime.fromtimestamp(now_s, UTC)
            if now < checked.not_valid_before_utc:
                raise NotAuthenticatedError(f"{whose} is not valid before {checked.not_valid_before_utc:%F %T} UTC")
            if now > checked.not_valid_after_utc:
                raise NotAuthenticatedError(f"{whose} has expired on {checked.not_valid_after_utc:%F %T} UTC")
        if certificate.serial_number in self._revoked:
            raise NotAuthenticatedError(f"the certificate of {name} is revoked")
        try:
            usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        except (x509.ExtensionNotFound, *UNREADABLE):
            usages = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING])
        if list(usages) != [usage]:
            raise NotAuthenticatedError(f"the certificate of {name} is not that of a {kind}")
        return name


def wrap_grant(grant: Grant) -> bytes:
    """Return the value of a certificate's extension: a DER OCTET STRING that holds the grant."""
    content = grant.encode()
    size = len(content)
    if size < _SHORT:
        return bytes((_OCTET_STRING, size)) + content
    length = size.to_bytes(2, "big")
    return bytes((_OCTET_STRING, _SHORT | len(length))) + length + content


def _unwrap(value: bytes) -> bytes:
    if value[:1] != bytes((_OCTET_STRING,)):
        raise RemoteProtocolError("the grant is no OCTET STRING")
    if value[1:2] == bytes((_SHORT | 2,)):
        size, content = int.from_bytes(value[2:4], "big"), value[4:]
    else:
        size, content = int.from_bytes(value[1:2], "big"), value[2:]
    if size != len(content):
        raise RemoteProtocolError("the grant's length is not that of its OCTET STRING")
    return content


def _common_name(certificate: x509.Certificate) -> str:
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    name = str(names[0].value) if len(names) == 1 else ""
    if not NAME.fullmatch(name):
        raise NotAuthenticatedError("the certificate has no name that could be one")
    return name


def _read_list(data: bytes) -> x509.CertificateRevocationList:
    if len(data) > MAX_LIST:
        raise ConfigError(f"a list of revoked certificates of {len(data)} bytes; at most {MAX_LIST} are taken")
    try:
        if data.startswith(b"-----BEGIN"):
            return x509.load_pem_x509_crl(data)
        return x509.load_der_x509_crl(data)
    except UNREADABLE as error:
        raise ConfigError(f"the list of revoked certificates cannot be read: {error}") from None
