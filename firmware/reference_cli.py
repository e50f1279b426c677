"""``napu-fw reference``: makes, signs and shows reference manifests, which ``napu attest`` compares appliances with."""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from firmware.boot.rom_digest import rom_digest
from firmware.image.development import development_signer
from firmware.image.errors import ImageError
from firmware.image.files import read_bounded, write_file
from firmware.image.format import MAX_IMAGE, read_image
from firmware.image.keys import CERTIFICATE_SIZE, NEVER, Signer, key_id, read_certificate, read_private_pem, root_hash
from firmware.image.reference import MAX_REFERENCE, SignedReference, read_reference, sign_reference
from firmware.image.times import parse_time, source_date, time_text
from host_sdk.wire.attest.reference import Reference, ReferenceDevice, ReferenceImage, ReferencePipeline
from host_sdk.wire.errors import ConfigError

MAX_TEXT_FILE = 64 * 1024  # bytes of a key
MAX_CLAIMS = 1 << 20  # bytes of what napu attest --json has printed

_T = TypeVar("_T")

reference_app = typer.Typer(no_args_is_help=True, help="Make, sign and show reference manifests for napu attest.")

OutPath = Annotated[Path, typer.Argument(help="File to write.", show_default=False)]
ReferencePath = Annotated[Path, typer.Argument(help="The reference manifest.", show_default=False)]


@reference_app.command()
def build(
    out: OutPath,
    sequence: Annotated[int, typer.Option(min=0, help="Number, higher than that of the one it replaces.")],
    expires: Annotated[str, typer.Option(help="When it shall hold no more: 2027-01-31.", show_default=False)],
    claims: Annotated[
        list[Path] | None, typer.Option("--claims", help="What napu attest --json printed of a good appliance.")
    ] = None,
    images: Annotated[list[Path] | None, typer.Option("--image", help="Image file that is good.")] = None,
    pipelines: Annotated[list[Path] | None, typer.Option("--pipeline", help="Directory with pipeline.toml.")] = None,
    pins: Annotated[
        list[str] | None, typer.Option("--pin", help="KEY=VALUE of a configuration, in place of all that claims have.")
    ] = None,
    devices: Annotated[list[str] | None, typer.Option("--device", help="DEVICE=KEY, the key in hex.")] = None,
    this_rom: Annotated[bool, typer.Option("--this-rom", help="This installation's boot ROM is good.")] = False,
) -> None:
    """Make a reference manifest of files and of what good appliances claim, signed with the development key."""
    good = _Good(roms=[rom_digest()] if this_rom else [])
    for path in claims or ():
        _take_claims(path, good)
    good.images += [_image(path) for path in images or ()]
    good.pipelines += [_pipeline(path) for path in pipelines or ()]
    good.devices += [_device(text) for text in devices or ()]
    if pins:
        good.configurations = [dict(_pair(pin, "--pin") for pin in pins)]
    end = parse_time(expires, "--expires")
    if end == NEVER:
        raise ConfigError("a reference has to expire, so that nobody can keep a newer one back for ever")
    merged = Reference(
        sequence=sequence,
        issued=source_date(int(time.time())),
        expires=end,
        roms=_once(good.roms),
        images=_once(good.images),
        configurations=_once(good.configurations),
        pipelines=_once(good.pipelines),
        devices=_once(good.devices),
    )
    write_file(out, sign_reference(merged, development_signer()))
    parts = ("roms", "images", "configurations", "pipelines", "devices")
    counts = ", ".join(f"{len(getattr(merged, part))} {part}" for part in parts)
    typer.echo(f"{out}: sequence number {sequence}, {counts}; signed with the development key")


@reference_app.command()
def sign(
    reference: ReferencePath,
    out: OutPath,
    key: Annotated[Path, typer.Option(help="The signing key, private.", show_default=False)],
    certificate: Annotated[Path, typer.Option(help="The certificate of the key.", show_default=False)],
) -> None:
    """Sign a reference manifest anew, in place of the signature that it has: nothing else of it changes."""
    try:
        chain = read_certificate(read_bounded(certificate, CERTIFICATE_SIZE))
    except ImageError as error:
        raise ConfigError(f"{certificate}: {error.why}") from None
    signer = Signer(read_private_pem(read_bounded(key, MAX_TEXT_FILE)), chain)
    content = _read(reference).content
    write_file(out, sign_reference(content, signer))
    typer.echo(f"{out}: signed with {chain.kind.name.lower()} key {key_id(chain.key).hex()}")


@reference_app.command()
def inspect(reference: ReferencePath) -> None:
    """Show what a reference manifest says of itself, as JSON; no signature is looked at."""
    found = _read(reference)
    signed_with = {
        "key_id": key_id(found.certificate.key).hex(),
        "key_kind": found.certificate.kind.name.lower(),
        "key_serial": found.certificate.serial,
        "root_hash": root_hash(found.certificate.root).hex(),
    }
    times = {"issued": time_text(found.content.issued), "expires": time_text(found.content.expires)}
    typer.echo(json.dumps({**found.content.as_json(), **times, **signed_with}, indent=1))


@dataclass(slots=True)
class _Good:
    """What a reference is made of."""

    roms: list[bytes] = field(default_factory=list)
    images: list[ReferenceImage] = field(default_factory=list)
    configurations: list[Mapping[str, str]] = field(default_factory=list)
    pipelines: list[ReferencePipeline] = field(default_factory=list)
    devices: list[ReferenceDevice] = field(default_factory=list)


def _read(path: Path) -> SignedReference:
    return read_reference(read_bounded(path, MAX_REFERENCE))


def _once(entries: list[_T]) -> tuple[_T, ...]:
    return tuple(entry for at, entry in enumerate(entries) if entry not in entries[:at])


def _take_claims(path: Path, good: _Good) -> None:
    """Take over what ``napu attest --json`` has printed, where proof and signature held."""
    data = read_bounded(path, MAX_CLAIMS)
    try:
        found = json.loads(data)
        image = found["image"]
        good.roms.append(bytes.fromhex(found["rom"]))
        good.images.append(
            ReferenceImage(bytes.fromhex(image["digest"]), image["version"], int(image["security_counter"]))
        )
        good.configurations.append(dict(found["configuration"]))
        good.devices.append(ReferenceDevice(found["device"], bytes.fromhex(found["device_key"])))
        good.pipelines += [
            ReferencePipeline(entry["name"], bytes.fromhex(entry["digest"]), bytes.fromhex(entry["model"]))
            for entry in found["pipelines"]
            if entry["served"]
        ]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ConfigError(f"{path} is not what napu attest --json prints") from None


def _image(path: Path) -> ReferenceImage:
    image = read_image(read_bounded(path, MAX_IMAGE))
    return ReferenceImage(image.digest, image.version, image.terms.counter)


def _pipeline(directory: Path) -> ReferencePipeline:
    # Here, as those who only sign images have no need of it.
    from appliance.pipelines.package import pack_directory, unpack

    data = pack_directory(directory)
    package = unpack(data)
    model = package.file(package.manifest.model_file)
    return ReferencePipeline(package.manifest.name, hashlib.sha256(data).digest(), hashlib.sha256(model).digest())


def _device(text: str) -> ReferenceDevice:
    device, key = _pair(text, "--device")
    try:
        return ReferenceDevice(device, bytes.fromhex(key))
    except ValueError:
        raise ConfigError(f"--device {text[:100]!r} has no key in hex") from None


def _pair(text: str, what: str) -> tuple[str, str]:
    key, found, value = text.partition("=")
    if not found:
        raise ConfigError(f"{what} {text[:100]!r} has no =")
    return key, value
