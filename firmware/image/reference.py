"""The envelope of a reference manifest: signed as an image is, by a key that the root key delegated to.

docs/attestation.md is its normative text; what it holds is read by :mod:`host_sdk.wire.attest.reference`.
"""

import struct
from dataclasses import dataclass, field

from firmware.image.errors import ExpiredError, ImageError
from firmware.image.keys import (
    CERTIFICATE_SIZE,
    KEY_ID_SIZE,
    SIGNATURE_SIZE,
    Certificate,
    Signer,
    key_id,
    read_certificate,
)
from firmware.image.policy import Policy
from firmware.image.tlv import HEAD, encode_tlvs, read_tlvs
from firmware.image.verify import KEY_CHECKS, check_expiry
from host_sdk.wire.attest.errors import (
    MalformedReferenceError,
    ReferenceExpiredError,
    ReferenceNotSignedError,
    ReferenceOutdatedError,
)
from host_sdk.wire.attest.reference import MAX_CONTENT, Reference
from host_sdk.wire.errors import ConfigError

_MAGIC = b"NAPUREF\0"
_HEADER = struct.Struct(">8sHHI")  # magic, format, 0, bytes of the content
_FORMAT = 1
_KEY_ID, _CERTIFICATE, _SIGNATURE = range(0x101, 0x104)
_SIGNATURE_TLV = HEAD.size + SIGNATURE_SIZE
_SIGNATURES_SIZE = 2 * HEAD.size + KEY_ID_SIZE + CERTIFICATE_SIZE + _SIGNATURE_TLV
MAX_REFERENCE = _HEADER.size + MAX_CONTENT + _SIGNATURES_SIZE


@dataclass(frozen=True, slots=True)
class SignedReference:
    """A reference manifest that was taken apart. Only :func:`verify_reference` says whether to trust it.

    Attributes:
        content: What it says.
        certificate: Of the key that signed it.
        signed: The bytes that are signed: all before the TLV of the signature.
        signature: The signature, 64 bytes.
    """

    content: Reference
    certificate: Certificate = field(repr=False)
    signed: bytes = field(repr=False)
    signature: bytes = field(repr=False)


def sign_reference(content: Reference, signer: Signer) -> bytes:
    """Return the bytes of a signed reference manifest.

    Raises:
        ConfigError: A value is of a form that none has, or it expires before it was issued.
    """
    if content.expires < content.issued:
        raise ConfigError("a reference must expire after it was issued")
    try:
        data = content.encode()
    except MalformedReferenceError as error:
        raise ConfigError(str(error)) from None
    certificate = signer.certificate
    signed = _HEADER.pack(_MAGIC, _FORMAT, 0, len(data)) + data
    signed += encode_tlvs({_KEY_ID: key_id(certificate.key), _CERTIFICATE: certificate.data})
    return signed + encode_tlvs({_SIGNATURE: signer.key.sign(signed)})


def read_reference(data: bytes) -> SignedReference:
    """Take a reference manifest apart. No signature is looked at, so nothing in it can be trusted.

    Raises:
        MalformedReferenceError: It is none of format 1.
    """
    if len(data) < _HEADER.size:
        raise MalformedReferenceError(f"{len(data)} bytes; its header alone has {_HEADER.size}")
    magic, form, zero, size = _HEADER.unpack_from(data)
    if magic != _MAGIC or form != _FORMAT or zero or size > MAX_CONTENT:
        raise MalformedReferenceError("it does not begin as one of format 1; make one with napu-fw reference")
    if len(data) != (expected := _HEADER.size + size + _SIGNATURES_SIZE):
        raise MalformedReferenceError(f"{len(data)} bytes, its header announces {expected}")
    try:
        name, certified, signature = read_tlvs(
            data[_HEADER.size + size :], (_KEY_ID, _CERTIFICATE, _SIGNATURE), "signature"
        )
        certificate = read_certificate(certified)
    except ImageError as error:
        raise MalformedReferenceError(error.why) from None
    if name != key_id(certificate.key) or len(signature) != SIGNATURE_SIZE:
        raise MalformedReferenceError("its key id is not that of its certificate, or its signature has another size")
    content = Reference.decode(data[_HEADER.size : _HEADER.size + size])
    return SignedReference(content, certificate, data[:-_SIGNATURE_TLV], signature)


def verify_reference(data: bytes, policy: Policy, lowest_sequence: int = 0) -> Reference:
    """Take a reference manifest apart and make sure that it holds.

    Args:
        data: The whole manifest.
        policy: Root key, kinds and revoked numbers that are taken, and the time, which must be given.
        lowest_sequence: Lowest sequence number that is taken.

    Raises:
        MalformedReferenceError: It is none.
        ReferenceNotSignedError: No key that is taken has signed it.
        ReferenceExpiredError: It, or the certificate of its key, is past its time.
        ReferenceOutdatedError: Its sequence number is too low.
        ConfigError: The policy has no time, without which nothing expires.
    """
    if policy.now is None:
        raise ConfigError("a reference cannot be verified without a time")
    reference = read_reference(data)
    content = reference.content
    try:
        for _, check in KEY_CHECKS:
            check(reference, policy)
        check_expiry("its key's certificate", reference.certificate.not_after, policy.now)
        check_expiry("the reference", content.expires, policy.now)
    except ExpiredError as error:
        raise ReferenceExpiredError(error.why) from None
    except ImageError as error:
        raise ReferenceNotSignedError(error.why) from None
    if content.sequence < lowest_sequence:
        raise ReferenceOutdatedError(f"its sequence number is {content.sequence}, the lowest taken {lowest_sequence}")
    return content
