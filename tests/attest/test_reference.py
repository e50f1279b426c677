"""The envelope of a reference manifest: put together by hand, attacked, and refused by name."""

import json
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from firmware.image.keys import Signer, read_certificate
from firmware.image.policy import Policy
from firmware.image.reference import MAX_REFERENCE, read_reference, sign_reference, verify_reference
from host_sdk.wire.attest.errors import (
    AttestationError,
    MalformedReferenceError,
    ReferenceExpiredError,
    ReferenceNotSignedError,
    ReferenceOutdatedError,
)
from host_sdk.wire.attest.reference import Reference
from host_sdk.wire.errors import ConfigError
from tests.firmware.images import OTHER_ROOT, OTHER_SIGNING, POLICY, SIGNING, certificate, tlv
from tests.firmware.test_fw_cli import certify, complaint, done, keys

__all__ = ["keys"]

CONTENT = Reference(sequence=3, issued=500, expires=1500, roms=(bytes(range(32)),))
TEXT = json.dumps(CONTENT.as_json()).encode()


def envelope(
    text: bytes = TEXT, chain: bytes | None = None, signer: Ed25519PrivateKey = SIGNING, head: bytes | None = None
) -> bytes:
    """Return a manifest put together field by field from docs/attestation.md, section 6."""
    chain = certificate() if chain is None else chain
    signed = b"NAPUREF\0" + struct.pack(">HHI", 1, 0, len(text)) if head is None else head
    signed += text + tlv(0x101, chain[24:32]) + tlv(0x102, chain)
    return signed + tlv(0x103, signer.sign(signed))


def test_what_is_put_together_by_hand_is_taken() -> None:
    assert verify_reference(envelope(), POLICY) == CONTENT
    assert verify_reference(envelope(), POLICY, 3) == CONTENT


def test_what_is_signed_is_what_is_put_together_by_hand() -> None:
    signer = Signer(SIGNING, read_certificate(certificate()))
    assert sign_reference(CONTENT, signer) == envelope(CONTENT.encode())


@pytest.mark.parametrize(
    ("data", "policy", "error", "why"),
    [
        (envelope(chain=certificate(OTHER_ROOT)), POLICY, ReferenceNotSignedError, "root key with hash"),
        (envelope(signer=OTHER_SIGNING), POLICY, ReferenceNotSignedError, "signature does not match"),
        (envelope(chain=certificate(of=OTHER_SIGNING)), POLICY, ReferenceNotSignedError, "signature does not match"),
        (envelope(chain=certificate()[:-1] + b"\0"), POLICY, ReferenceNotSignedError, "has not signed its certificate"),
        (envelope(), replace(POLICY, revoked=frozenset((7,))), ReferenceNotSignedError, "7, which was revoked"),
        (
            envelope(chain=certificate(kind=1)),
            replace(POLICY, kinds=frozenset((2,))),
            ReferenceNotSignedError,
            "a development key",
        ),
        (envelope(), replace(POLICY, now=1501), ReferenceExpiredError, "the reference expired"),
        (envelope(chain=certificate(not_after=999)), POLICY, ReferenceExpiredError, "certificate expired"),
        (b"", POLICY, MalformedReferenceError, "0 bytes"),
        (envelope(head=b"NAPUFW\0\0" + struct.pack(">HHI", 1, 0, len(TEXT))), POLICY, MalformedReferenceError, "begin"),
        (envelope(head=b"NAPUREF\0" + struct.pack(">HHI", 2, 0, len(TEXT))), POLICY, MalformedReferenceError, "begin"),
        (envelope(head=b"NAPUREF\0" + struct.pack(">HHI", 1, 1, len(TEXT))), POLICY, MalformedReferenceError, "begin"),
        (envelope()[:-1], POLICY, MalformedReferenceError, "announces"),
        (envelope() + b"\0", POLICY, MalformedReferenceError, "announces"),
        (envelope(b"[]"), POLICY, MalformedReferenceError, "exactly"),
        (bytes(MAX_REFERENCE + 1), POLICY, MalformedReferenceError, "begin"),
    ],
)
def test_what_is_refused(data: bytes, policy: Policy, error: type[AttestationError], why: str) -> None:
    with pytest.raises(error, match=f"^{error.code}: .*{why}"):
        verify_reference(data, policy)


def test_another_certificate_of_the_same_key_cannot_be_put_in_place() -> None:
    data = envelope().replace(certificate(), certificate(serial=8))
    with pytest.raises(ReferenceNotSignedError, match="signature does not match"):
        verify_reference(data, POLICY)


def test_an_older_one_than_is_taken() -> None:
    with pytest.raises(ReferenceOutdatedError, match="number is 3, the lowest taken 4"):
        verify_reference(envelope(), POLICY, 4)


def test_without_a_time_nothing_is_verified() -> None:
    with pytest.raises(ConfigError, match="without a time"):
        verify_reference(envelope(), replace(POLICY, now=None))


@given(st.integers(0, len(envelope()) - 1), st.integers(1, 255))
def test_every_byte_is_covered(at: int, change: int) -> None:
    data = bytearray(envelope())
    data[at] ^= change
    with pytest.raises(AttestationError):
        verify_reference(bytes(data), POLICY)


@given(st.binary(max_size=400))
def test_hostile_bytes(data: bytes) -> None:
    for head in (b"", b"NAPUREF\0\0\1\0\0"):
        with pytest.raises(MalformedReferenceError):
            read_reference(head + data)


def test_what_cannot_be_signed() -> None:
    signer = Signer(SIGNING, read_certificate(certificate()))
    for content in (replace(CONTENT, expires=499), replace(CONTENT, sequence=-1), replace(CONTENT, roms=(b"short",))):
        with pytest.raises(ConfigError):
            sign_reference(content, signer)


# ---- napu-fw reference -----------------------------------------------------------------------------------------------


def test_a_reference_of_files_is_built_and_signed_anew(keys: Path, tmp_path: Path) -> None:
    image, plain, signed = (tmp_path / name for name in ("image", "plain.ref", "signed.ref"))
    done("build", image, "--version", "4.5", "--counter", "3")
    digits = Path(__file__).parents[2] / "appliance" / "models" / "digits"
    device = f"napu1={'ab' * 32}"
    options = ("--image", image, "--pipeline", digits, "--pin", "access=mutual", "--device", device, "--this-rom")
    done("reference", "build", plain, "--sequence", "9", "--expires", "2031-01-01", *options)
    done("reference", "sign", plain, signed, "--key", keys / "signing.pem", "--certificate", keys / "signing.cert")
    found, other = (json.loads(done("reference", "inspect", path)) for path in (plain, signed))
    described = json.loads(done("inspect", image, "--json"))
    assert found["images"] == [{"digest": described["digest"], "version": "4.5", "security_counter": 3}]
    assert (found["sequence"], found["expires"], found["key_kind"]) == (9, "2031-01-01T00:00:00Z", "development")
    assert found["configurations"] == [{"access": "mutual"}]
    assert found["devices"] == [{"device": "napu1", "key": "ab" * 32}]
    assert [pipeline["name"] for pipeline in found["pipelines"]] == ["digits"]
    assert len(found["roms"]) == 1
    kept = {key for key in found if not key.startswith(("key_", "root_"))}
    assert {key: found[key] for key in kept} == {key: other[key] for key in kept}
    assert (other["key_kind"], other["key_serial"]) == ("release", 7)


def test_mistakes_with_references(keys: Path, tmp_path: Path) -> None:
    out, junk = tmp_path / "out.ref", tmp_path / "junk"
    junk.write_bytes(b'{"image": 3}')
    build = ("reference", "build", out, "--sequence", "1", "--expires")
    assert "has to expire" in complaint(2, *build, "never")
    assert "is no time" in complaint(2, *build, "soon")
    assert "not what napu attest" in complaint(2, *build, "2031-01-01", "--claims", junk)
    assert "has no =" in complaint(2, *build, "2031-01-01", "--pin", "access")
    assert "in hex" in complaint(2, *build, "2031-01-01", "--device", "napu1=xyz")
    assert "REFERENCE_MALFORMED" in complaint(1, "reference", "inspect", junk)
    done(*certify(keys, "other.cert", serial="8"))
    signing = ("--key", keys / "root.pem", "--certificate", keys / "other.cert")
    assert "belong together" in complaint(2, "reference", "sign", junk, out, *signing)
    assert not out.exists()
