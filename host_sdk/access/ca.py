"""A lab's authority: a directory with its key, and every certificate that it has issued.

::

    authority.pem         its certificate
    authority-key.pem     its key, which nobody else may read
    revoked.pem           its list of revoked certificates; each has a number one above the last
    issued/SERIAL.pem     every certificate, by its number in hexadecimal
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from host_sdk.access.identity import AUTHORITY_FILE, CERTIFICATE_FILE, KEY_FILE, REVOKED_FILE
from host_sdk.wire.errors import ConfigError
from host_sdk.wire.roles import MAX_PIPELINES, NAME, Grant
from host_sdk.wire.schema import MAX_TENANT
from host_sdk.wire.secure.certificates import GRANT_OID, wrap_grant

AUTHORITY_KEY_FILE = "authority-key.pem"
ISSUED = "issued"
MAX_DAYS = 3650
_SKEW = timedelta(minutes=5)  # that a device's clock may be behind
_LIST_LIFE = timedelta(days=MAX_DAYS)  # devices go by its number; the field is not optional
_SERIAL = re.compile(r"[0-9a-f]{1,40}")


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate that was issued.

    Attributes:
        serial: Its number.
        kind: ``user`` or ``device``.
        expires: When it ends.
        revoked: Whether it is on the list.
    """

    name: str
    serial: int
    kind: str
    expires: datetime
    revoked: bool


class LabCa:
    """The authority of one lab.

    Args:
        directory: Where it is.
        now: Gives the time; in UTC.

    Raises:
        ConfigError: There is none, or it cannot be read.
    """

    def __init__(self, directory: Path, now: Callable[[], datetime]) -> None:
        self.directory, self._now = directory, now
        try:
            self._certificate = x509.load_pem_x509_certificate((directory / AUTHORITY_FILE).read_bytes())
            key = load_pem_private_key((directory / AUTHORITY_KEY_FILE).read_bytes(), None)
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(f"{directory} holds no authority: {error}; 'napu ca init' makes one") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ConfigError(f"the key in {directory} is of another kind than this program makes")
        self._key = key

    @classmethod
    def create(cls, directory: Path, now: Callable[[], datetime], days: int = 365) -> "LabCa":
        """Make an authority in a directory that is new or empty.

        Raises:
            ConfigError: The directory cannot be made or is in use, or the days are out of range.
        """
        _check_days(days)
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory.chmod(0o700)
            if any(directory.iterdir()):
                raise ConfigError(f"{directory} is not empty; an authority needs a directory of its own")
            (directory / ISSUED).mkdir(mode=0o700)
        except OSError as error:
            raise ConfigError(f"{directory} cannot be used: {error.strerror}") from None
        key, name = ec.generate_private_key(ec.SECP256R1()), _name("napu lab authority")
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        builder = _builder(name, name, key, now(), days).add_extension(x509.BasicConstraints(True, 0), True)
        certificate = builder.add_extension(usage, True).sign(key, SHA256())
        _write(directory / AUTHORITY_KEY_FILE, _pem_key(key))
        _write(directory / AUTHORITY_FILE, certificate.public_bytes(Encoding.PEM))
        made = cls(directory, now)
        made._write_list(1, [])
        return made

    def issue_user(self, name: str, grant: Grant, directory: Path, days: int = 7) -> int:
        """Make a user's identity in a new directory; return the certificate's number.

        Raises:
            ConfigError: A value is out of range, or the directory is there already.
        """
        if len(grant.tenant.encode()) > MAX_TENANT or len(grant.pipelines) > MAX_PIPELINES:
            raise ConfigError(f"a tenant has at most {MAX_TENANT} bytes, and a grant {MAX_PIPELINES} pipelines")
        extension = x509.UnrecognizedExtension(GRANT_OID, wrap_grant(grant))
        return self._issue(name, ExtendedKeyUsageOID.CLIENT_AUTH, directory, days, extension)

    def issue_device(self, name: str, directory: Path, days: int = 90) -> int:
        """Make a device's identity in a new directory; arguments and errors as for :meth:`issue_user`."""
        return self._issue(name, ExtendedKeyUsageOID.SERVER_AUTH, directory, days)

    def issued(self) -> list[Issued]:
        """Return all certificates, the ones that end last at the end.

        Raises:
            ConfigError: One cannot be read.
        """
        _, revoked = self._list()
        found = []
        for path in (self.directory / ISSUED).glob("*.pem"):
            try:
                certificate = x509.load_pem_x509_certificate(path.read_bytes())
                usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
                name = str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
            except (OSError, ValueError, x509.ExtensionNotFound, IndexError) as error:
                raise ConfigError(f"{path} cannot be read: {error}") from None
            kind = "device" if ExtendedKeyUsageOID.SERVER_AUTH in usages else "user"
            serial = certificate.serial_number
            found.append(Issued(name, serial, kind, certificate.not_valid_after_utc, serial in revoked))
        return sorted(found, key=lambda entry: (entry.expires, entry.serial))

    def revoke(self, which: str) -> list[Issued]:
        """Put certificates on the list of revoked ones: all of a name, or the one with a number in hexadecimal.

        Raises:
            ConfigError: There is none that is not revoked.
        """
        number = int(which, 16) if _SERIAL.fullmatch(which) else None
        chosen = [entry for entry in self.issued() if entry.name == which or entry.serial == number]
        fresh = [entry for entry in chosen if not entry.revoked]
        if not fresh:
            raise ConfigError(f"no certificate of {which!r} is in force; 'napu ca list' shows which are")
        last, revoked = self._list()
        self._write_list(last + 1, [*revoked, *(entry.serial for entry in fresh)])
        return fresh

    def revoked_list(self) -> bytes:
        """Return the list of revoked certificates, PEM.

        Raises:
            ConfigError: It cannot be read.
        """
        try:
            return (self.directory / REVOKED_FILE).read_bytes()
        except OSError as error:
            raise ConfigError(f"the list of revoked certificates cannot be read: {error.strerror}") from None

    def _issue(
        self,
        name: str,
        usage: x509.ObjectIdentifier,
        directory: Path,
        days: int,
        extension: x509.UnrecognizedExtension | None = None,
    ) -> int:
        _check_days(days)
        if not NAME.fullmatch(name):
            raise ConfigError(f"{name!r} is no name; use the form {NAME.pattern}")
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_name(name), self._certificate.subject, key, self._now(), days)
        builder = builder.add_extension(x509.BasicConstraints(False, None), True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), True)
        if extension:
            builder = builder.add_extension(extension, False)
        certificate = builder.sign(self._key, SHA256())
        pem = certificate.public_bytes(Encoding.PEM)
        try:
            directory.mkdir(mode=0o700, parents=True)
        except OSError as error:
            raise ConfigError(f"{directory} cannot be made: {error.strerror}; give another with --out") from None
        # First where the authority finds it again, so that there is none that cannot be revoked.
        _write(self.directory / ISSUED / f"{certificate.serial_number:x}.pem", pem)
        _write(directory / KEY_FILE, _pem_key(key))
        _write(directory / CERTIFICATE_FILE, pem)
        _write(directory / AUTHORITY_FILE, self._certificate.public_bytes(Encoding.PEM))
        _write(directory / REVOKED_FILE, self.revoked_list())
        return certificate.serial_number

    def _list(self) -> tuple[int, list[int]]:
        try:
            found = x509.load_pem_x509_crl(self.revoked_list())
            number = found.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        except (ValueError, x509.ExtensionNotFound) as error:
            raise ConfigError(f"the list of revoked certificates cannot be read: {error}") from None
        return number, [entry.serial_number for entry in found]

    def _write_list(self, number: int, serials: list[int]) -> None:
        now = self._now()
        builder = x509.CertificateRevocationListBuilder().issuer_name(self._certificate.subject)
        builder = builder.last_update(now).next_update(now + _LIST_LIFE)
        builder = builder.add_extension(x509.CRLNumber(number), False)
        for serial in serials:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now)
            builder = builder.add_revoked_certificate(entry.build())
        _write(self.directory / REVOKED_FILE, builder.sign(self._key, SHA256()).public_bytes(Encoding.PEM))


def utc_now() -> datetime:
    """Return the time, in UTC: what a composition root gives to :class:`LabCa`."""
    return datetime.now(UTC)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(now - _SKEW).not_valid_after(now + timedelta(days=days))


def _check_days(days: int) -> None:
    if not 1 <= days <= MAX_DAYS:
        raise ConfigError(f"a certificate of {days} days; 1 to {MAX_DAYS} are possible")


def _pem_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write(path: Path, content: bytes) -> None:
    """Write a file that its owner alone may read, as a whole or not at all."""
    torn = path.with_name(path.name + ".new")
    try:
        torn.unlink(missing_ok=True)
        descriptor = os.open(torn, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        torn.replace(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from None
