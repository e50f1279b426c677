"""What the fuzzer and its targets have found, each with a test of its own that needs no input of their making."""

import base64
from dataclasses import replace

import msgpack
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from host_sdk.wire.errors import BadArgumentError, ConfigError
from host_sdk.wire.secure.credentials import Credentials
from tests.access.lab import Appliance, Time
from tests.fuzz.control import known


@pytest.mark.parametrize("part", [1 << 40, -1, "text", [1, 2], None, True])
def test_a_part_of_credentials_that_is_no_bytes(part: object) -> None:
    """A number was taken for the size of so many zeros: gigabytes."""
    parts = {name: getattr(known()["napu1"], name) for name in ("authority", "certificate", "key", "revoked")}
    assert Credentials.decode(msgpack.packb(parts)) == known()["napu1"]
    for name in parts:
        with pytest.raises(ConfigError, match="these are no credentials"):
            Credentials.decode(msgpack.packb({**parts, name: part}))


def test_a_key_of_an_algorithm_that_nobody_knows() -> None:
    algorithm = bytes.fromhex("06 03 2a 03 04")  # 1.2.3.4
    inner = b"\x02\x01\x00" + bytes([0x30, len(algorithm)]) + algorithm + b"\x04\x02\x04\x00"
    der = bytes([0x30, len(inner)]) + inner
    pem = b"-----BEGIN PRIVATE KEY-----\n" + base64.b64encode(der) + b"\n-----END PRIVATE KEY-----\n"
    with pytest.raises(ConfigError, match="certificate and key cannot be used: .*1.2.3.4"):
        replace(known()["napu1"], key=pem).context(server=True)


def misnamed(pem: bytes) -> bytes:
    """Return a certificate whose subject's name is no text any more."""
    certificate = x509.load_pem_x509_certificate(pem)
    name = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value.encode()
    before, found, behind = certificate.public_bytes(Encoding.DER).rpartition(name)
    assert found
    der = before + b"\xff" + name[1:] + behind
    return b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"


def test_a_certificate_whose_name_is_no_text() -> None:
    """Names are read when they are asked for, and not with the certificate; and by OpenSSL, with errors of its own."""
    whole = known()["napu1"]
    with pytest.raises(ConfigError, match="not of this authority"):
        replace(whole, authority=misnamed(whole.authority)).trust()
    for wrong in (
        replace(whole, certificate=misnamed(whole.certificate)),
        replace(whole, authority=misnamed(whole.authority)),
    ):
        with pytest.raises(ConfigError, match="certificate and key cannot be used"):
            wrong.context(server=True)


def test_a_list_or_a_certificate_of_a_version_that_there_is_not() -> None:
    """An administrator's list was an internal error, and one in flash ended the firmware at every boot."""
    whole = known()["napu1"]
    revoked = x509.load_pem_x509_crl(whole.revoked).public_bytes(Encoding.DER)
    authority = x509.load_pem_x509_certificate(whole.authority).public_bytes(Encoding.DER)
    version = b"\x02\x01\x01"
    strange = revoked.replace(version, b"\x02\x01\x41", 1)
    with pytest.raises(ConfigError, match="cannot be read: 65 is not a valid CRL version"):
        replace(whole, revoked=strange).trust()
    appliance = Appliance(whole, Time())
    with pytest.raises(BadArgumentError, match="cannot be read"):
        appliance.services.access.revoke(strange)
    appliance.hal.flash.objects["access/revoked"] = strange
    appliance.boot()
    assert appliance.gate.responder is not None
    der = authority.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x41", 1)
    pem = b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"
    with pytest.raises(ConfigError, match="cannot be read"):
        replace(whole, authority=pem).trust()
