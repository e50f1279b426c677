"""Image format 1: header, payload, protected TLVs, signature TLVs. docs/firmware-image.md is its normative text."""

import hashlib
import re
import struct
from dataclasses import dataclass, field

from firmware.image.errors import (
    ImageError,
    NotAnImageError,
    OversizeError,
    TamperedError,
    TruncatedImageError,
    WrongKeyError,
)
from firmware.image.keys import (
    CERTIFICATE_SIZE,
    KEY_ID_SIZE,
    NEVER,
    SIGNATURE_SIZE,
    Certificate,
    Signer,
    read_certificate,
)
from firmware.image.keys import key_id as id_of
from firmware.image.tlv import HEAD, MAX_VALUE, encode_tlvs, read_tlvs
from host_sdk.wire.errors import ConfigError

IMAGE_OBJECT = "firmware/image.napufw"  # name of the flash object that the boot ROM starts
MAGIC = b"NAPUFW\0\0"
FORMAT = 1
HEADER = struct.Struct(">8sHHIIIII32s32s")
MAX_PAYLOAD = 8 * 1024 * 1024
MAX_PROTECTED = 64 * 1024
MAX_COUNTER = 2**32 - 1
DIGEST_SIZE = hashlib.sha256().digest_size

# Types of TLVs; those that are protected stand below 0x100.
NAME, ENTRY, BUILD, DIGEST, ISSUED, EXPIRES = range(1, 7)
PROTECTED = (NAME, ENTRY, BUILD, DIGEST, ISSUED, EXPIRES)
KEY_ID, CERTIFICATE, SIGNATURE = range(0x101, 0x104)
SIGNATURES = (KEY_ID, CERTIFICATE, SIGNATURE)

_SIGNATURE_TLV = HEAD.size + SIGNATURE_SIZE
SIGNATURES_SIZE = HEAD.size + KEY_ID_SIZE + HEAD.size + CERTIFICATE_SIZE + _SIGNATURE_TLV
MAX_IMAGE = HEADER.size + MAX_PAYLOAD + MAX_PROTECTED + SIGNATURES_SIZE

HARDWARE = "napu-board-1"  # the board that is emulated here
ISSUED_BY_DEFAULT = 1767225600  # 2026-01-01: fixed, as the same sources shall give the same bytes

_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+_-]{0,31}")
_HARDWARE = re.compile(r"[a-z0-9][a-z0-9.-]{0,31}")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_ENTRY = re.compile(r"[a-z_][a-z0-9_.]{0,119}:[a-z_][a-z0-9_]{0,119}")
_BUILD_LINE = re.compile(r"([a-z][a-z0-9._-]{0,63})=([\x20-\x7e]{0,255})")
_TIME = struct.Struct(">Q")


@dataclass(frozen=True, slots=True)
class Terms:
    """Where and for how long an image may be booted.

    Attributes:
        hardware: Id of the hardware that it is built for.
        counter: Security counter: a board takes none below its own.
        issued: When it was issued, in seconds since 1970 in UTC.
        expires: Last second in which it may be booted, likewise; NEVER for no end.
    """

    hardware: str = HARDWARE
    counter: int = 0
    issued: int = ISSUED_BY_DEFAULT
    expires: int = NEVER


@dataclass(frozen=True, slots=True)
class Content:
    """What an image is, apart from its terms and signature.

    Attributes:
        name: What it is for.
        version: Version of the firmware.
        entry: ``module:function`` that the boot ROM calls.
        build: What it was built from; nothing that varies from build to build.
        payload: Zip of the sources.
    """

    name: str
    version: str
    entry: str
    build: dict[str, str]
    payload: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Image(Content):
    """An image that was taken apart. Only :func:`firmware.image.verify.verify_image` says whether to trust it.

    Attributes:
        terms: Where and for how long it may be booted.
        certificate: Of the key that signed it.
        signed: The bytes that are signed: all before the TLV of the signature.
        signature: The signature, 64 bytes.
        digest: SHA-256 of the whole image, 32 bytes.
    """

    terms: Terms
    certificate: Certificate = field(repr=False)
    signed: bytes = field(repr=False)
    signature: bytes = field(repr=False)
    digest: bytes


@dataclass(frozen=True, slots=True)
class _Header:
    payload_size: int
    protected_size: int
    counter: int
    version: str
    hardware: str


def encode_image(content: Content, terms: Terms, signer: Signer) -> bytes:
    """Return the bytes of a signed image.

    Raises:
        ConfigError: A text, number or size is not one that an image can have.
    """
    if not _VERSION.fullmatch(content.version):
        raise ConfigError(f"{content.version[:64]!r} is no version: it must be of the form {_VERSION.pattern}")
    if not _HARDWARE.fullmatch(terms.hardware):
        raise ConfigError(f"{terms.hardware[:64]!r} is no hardware id: it must be of the form {_HARDWARE.pattern}")
    if not 0 <= terms.counter <= MAX_COUNTER or not 0 <= terms.issued <= terms.expires <= NEVER:
        raise ConfigError(
            f"security counter {terms.counter} must be 0 to {MAX_COUNTER}, and an image must expire after it was issued"
        )
    build = "".join(f"{key}={value}\n" for key, value in sorted(content.build.items())).encode()
    if len(content.payload) > MAX_PAYLOAD or len(build) > MAX_VALUE:
        raise ConfigError(
            f"a payload of {len(content.payload)} and build facts of {len(build)} bytes; "
            f"at most {MAX_PAYLOAD} and {MAX_VALUE} are taken"
        )
    protected = {
        NAME: content.name.encode(),
        ENTRY: content.entry.encode(),
        BUILD: build,
        DIGEST: bytes(DIGEST_SIZE),
        ISSUED: _TIME.pack(terms.issued),
        EXPIRES: _TIME.pack(terms.expires),
    }
    header = HEADER.pack(
        *(MAGIC, FORMAT, HEADER.size, 0, len(content.payload), len(encode_tlvs(protected)), SIGNATURES_SIZE),
        *(terms.counter, content.version.encode(), terms.hardware.encode()),
    )
    protected[DIGEST] = hashlib.sha256(header + content.payload).digest()
    image = _signed(header + content.payload + encode_tlvs(protected), signer)
    try:
        read = read_image(image)
    except ImageError as error:
        raise ConfigError(f"no image can be built of this: {error}") from None
    if read.build != content.build:  # an = in a key, or an end of line in a value
        raise ConfigError(f"a build fact is not of the form {_BUILD_LINE.pattern}")
    return image


def sign_image(data: bytes, signer: Signer) -> bytes:
    """Return an image signed anew; the signature that it had is not looked at.

    Raises:
        ImageError: It is no image, or is damaged.
    """
    read_image(data)
    return _signed(data[:-SIGNATURES_SIZE], signer)


def _signed(unsigned: bytes, signer: Signer) -> bytes:
    certificate = signer.certificate
    signed = unsigned + encode_tlvs({KEY_ID: id_of(certificate.key), CERTIFICATE: certificate.data})
    return signed + encode_tlvs({SIGNATURE: signer.key.sign(signed)})


def read_image(data: bytes) -> Image:
    """Take an image apart and compare its digest. No signature is looked at, so nothing in it can be trusted.

    Raises:
        NotAnImageError: It is no image of format 1.
        TruncatedImageError: It ends early.
        OversizeError: It goes on behind its end, or a part is too large.
        TamperedError: Header or payload does not match the digest, or a field is not of its form.
        WrongKeyError: The ids of its key contradict each other.
    """
    header = _read_header(data)
    protected_at = HEADER.size + header.payload_size
    signatures_at = protected_at + header.protected_size
    name, entry, build, digest, issued, expires = read_tlvs(data[protected_at:signatures_at], PROTECTED, "protected")
    key_id, certificate_data, signature = read_tlvs(data[signatures_at:], SIGNATURES, "signature")
    if len(signature) != SIGNATURE_SIZE:
        raise TamperedError(f"a signature of {len(signature)} bytes; one has {SIGNATURE_SIZE}")
    terms = Terms(header.hardware, header.counter, _time(issued, "issue"), _time(expires, "expiry"))
    name_text, entry_text, facts = _text(name, "name", _NAME), _text(entry, "entry", _ENTRY), _read_build(build)
    certificate = read_certificate(certificate_data)
    if key_id != id_of(certificate.key):
        raise WrongKeyError(f"signed with key {key_id.hex()}, the certificate is of {id_of(certificate.key).hex()}")
    if hashlib.sha256(data[:protected_at]).digest() != digest:
        raise TamperedError("header or payload does not match the digest; build or copy it again")
    return Image(
        name=name_text,
        version=header.version,
        entry=entry_text,
        build=facts,
        payload=data[HEADER.size : protected_at],
        terms=terms,
        certificate=certificate,
        signed=data[:-_SIGNATURE_TLV],
        signature=signature,
        digest=hashlib.sha256(data).digest(),
    )


def _read_header(data: bytes) -> _Header:
    if data[: len(MAGIC)] != MAGIC[: len(data)]:
        raise NotAnImageError("it does not begin as one; build one with napu-fw build")
    if len(data) < HEADER.size:
        raise TruncatedImageError(f"{len(data)} bytes; its header alone has {HEADER.size}")
    _, form, size, flags, payload, protected, signatures, counter, version, hardware = HEADER.unpack_from(data)
    if form != FORMAT or size != HEADER.size or flags:
        raise NotAnImageError(
            f"format {form} with a header of {size} bytes and flags {flags:#x}; format {FORMAT} is known here"
        )
    if payload > MAX_PAYLOAD or protected > MAX_PROTECTED or signatures != SIGNATURES_SIZE:
        raise OversizeError(
            f"payload of {payload}, protected TLVs of {protected} and signature TLVs of {signatures} bytes; "
            f"at most {MAX_PAYLOAD} and {MAX_PROTECTED}, and exactly {SIGNATURES_SIZE} are taken"
        )
    expected = HEADER.size + payload + protected + signatures
    if len(data) < expected:
        raise TruncatedImageError(f"{len(data)} bytes, its header announces {expected}; copy it again")
    if len(data) > expected:
        raise OversizeError(f"{len(data)} bytes, its header announces {expected}; copy it again")
    return _Header(
        payload, protected, counter, _padded(version, "version", _VERSION), _padded(hardware, "hardware id", _HARDWARE)
    )


def _padded(raw: bytes, what: str, form: re.Pattern[str]) -> str:
    return _text(raw.rstrip(b"\0"), what, form)


def _text(raw: bytes, what: str, form: re.Pattern[str]) -> str:
    text = raw.decode("ascii", "replace")
    if not form.fullmatch(text):
        raise TamperedError(f"its {what} is not of the form {form.pattern}")
    return text


def _time(raw: bytes, what: str) -> int:
    if len(raw) != _TIME.size:
        raise TamperedError(f"its {what} time has {len(raw)} bytes; one has {_TIME.size}")
    return int.from_bytes(raw, "big")


def _read_build(raw: bytes) -> dict[str, str]:
    """Return the build facts: lines of key=value, keys ascending, each once."""
    facts: dict[str, str] = {}
    text = raw.decode("ascii", "replace")
    lines = text.split("\n")
    if lines.pop():
        raise TamperedError("its last build fact has no end of line")
    last = ""
    for line in lines:
        match = _BUILD_LINE.fullmatch(line)
        if not match or match[1] <= last:
            raise TamperedError("a build fact is not of the form key=value, with keys ascending")
        last = match[1]
        facts[last] = match[2]
    return facts
