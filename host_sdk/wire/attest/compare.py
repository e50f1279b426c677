"""Comparing what a device claims with a reference: one finding for each thing that was measured."""

import hashlib
from dataclasses import dataclass
from enum import StrEnum

from host_sdk.wire.attest.events import encode_facts
from host_sdk.wire.attest.evidence import Claims, Pipeline
from host_sdk.wire.attest.reference import Reference


class Verdict(StrEnum):
    """What became of one comparison."""

    GOOD = "GOOD"
    NOT_COMPARED = "NOT_COMPARED"  # there is no reference
    DEVICE_KEY_NOT_PINNED = "DEVICE_KEY_NOT_PINNED"  # nobody vouches for the key
    WRONG_DEVICE = "WRONG_DEVICE"  # the quote is of another device than the one that was asked
    WRONG_DEVICE_KEY = "WRONG_DEVICE_KEY"
    UNKNOWN_ROM = "UNKNOWN_ROM"
    UNKNOWN_IMAGE = "UNKNOWN_IMAGE"
    WRONG_CONFIGURATION = "WRONG_CONFIGURATION"
    UNKNOWN_PIPELINE = "UNKNOWN_PIPELINE"
    UNKNOWN_MODEL = "UNKNOWN_MODEL"


OPEN = frozenset((Verdict.NOT_COMPARED, Verdict.DEVICE_KEY_NOT_PINNED))  # neither good nor bad


@dataclass(frozen=True, slots=True)
class Finding:
    """One comparison.

    Attributes:
        what: What was measured, for people.
        found: The digest, or key, in hex.
        expected: What the reference has, in words or hex; empty where there is none.
        verdict: What became of it.
    """

    what: str
    found: str
    expected: str
    verdict: Verdict


def compare(
    claims: Claims, reference: Reference | None, device_key: bytes | None = None, device: str = ""
) -> list[Finding]:
    """Compare everything that a device claims.

    Args:
        claims: What it claims, checked.
        reference: What is good; its signature is checked already. None compares the device key alone.
        device_key: The key that the device must have, 32 bytes; None for what the reference says of it.
        device: The device that was asked, as its certificate says; empty where it has shown none.

    Returns:
        A finding for the device, where it is known which it must be, for its key, the ROM, the image, the
        configuration, and every pipeline and model of the log.
    """
    findings = [_device(claims, device)] if device else []
    findings += [_key(claims, reference, device_key), _rom(claims, reference), _image(claims, reference)]
    findings.append(_configuration(claims, reference))
    for pipeline in claims.pipelines:
        gone = "" if claims.served.get(pipeline.name) == pipeline else " (served no longer)"
        findings += _pipeline(pipeline, gone, reference)
    return findings


def _judged(what: str, found: bytes, expected: list[str], *, good: bool, bad: Verdict) -> Finding:
    shown = found.hex() if good else " or ".join(expected) or "none"
    return Finding(what, found.hex(), shown, Verdict.GOOD if good else bad)


def _unjudged(what: str, found: bytes) -> Finding:
    return Finding(what, found.hex(), "", Verdict.NOT_COMPARED)


def _device(claims: Claims, device: str) -> Finding:
    good = claims.quote.device == device
    return Finding("device", claims.quote.device, device, Verdict.GOOD if good else Verdict.WRONG_DEVICE)


def _key(claims: Claims, reference: Reference | None, device_key: bytes | None) -> Finding:
    what = f"device key of {claims.quote.device}"
    listed = reference.devices if reference else ()
    if device_key is None and not listed:
        return Finding(what, claims.key.hex(), "", Verdict.DEVICE_KEY_NOT_PINNED)
    allowed = [entry.key for entry in listed if entry.device == claims.quote.device]
    good = (device_key in (None, claims.key)) and (not listed or claims.key in allowed)
    expected = [device_key.hex()] if device_key else [key.hex() for key in allowed]
    return _judged(what, claims.key, expected, good=good, bad=Verdict.WRONG_DEVICE_KEY)


def _rom(claims: Claims, reference: Reference | None) -> Finding:
    if reference is None:
        return _unjudged("boot ROM", claims.rom)
    expected = [rom.hex() for rom in reference.roms]
    good = claims.rom in reference.roms
    return _judged("boot ROM", claims.rom, expected, good=good, bad=Verdict.UNKNOWN_ROM)


def _image(claims: Claims, reference: Reference | None) -> Finding:
    facts, digest = claims.image.facts, claims.image.digest
    what = f"image {facts.get('version', '?')} in slot {facts.get('slot', '?')}"
    if reference is None:
        return _unjudged(what, digest)
    shown = (digest, facts.get("version", ""), facts.get("security_counter", ""))
    known = [(image.digest, image.version, str(image.counter)) for image in reference.images]
    expected = [f"{image.version} {image.digest.hex()}" for image in reference.images]
    return _judged(what, digest, expected, good=shown in known, bad=Verdict.UNKNOWN_IMAGE)


def _configuration(claims: Claims, reference: Reference | None) -> Finding:
    found = hashlib.sha256(encode_facts(claims.configuration)).digest()
    if reference is None:
        return _unjudged("configuration", found)
    facts = claims.configuration.items()
    good = any(pinned.items() <= facts for pinned in reference.configurations)
    # Of what is pinned, what is otherwise here.
    expected = [
        " ".join(f"{key}={value}" for key, value in sorted(pinned.items() - facts))
        for pinned in reference.configurations
    ]
    return _judged("configuration", found, expected, good=good, bad=Verdict.WRONG_CONFIGURATION)


def _pipeline(pipeline: Pipeline, gone: str, reference: Reference | None) -> list[Finding]:
    package, model = f"pipeline {pipeline.name}{gone}", f"model of {pipeline.name}{gone}"
    if reference is None:
        return [_unjudged(package, pipeline.package), _unjudged(model, pipeline.model)]
    named = [entry for entry in reference.pipelines if entry.name == pipeline.name]
    packages, models = [entry.package.hex() for entry in named], [entry.model.hex() for entry in named]
    known = pipeline.package.hex() in packages
    return [
        _judged(package, pipeline.package, packages, good=known, bad=Verdict.UNKNOWN_PIPELINE),
        _judged(model, pipeline.model, models, good=pipeline.model.hex() in models, bad=Verdict.UNKNOWN_MODEL),
    ]
