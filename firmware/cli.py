"""``napu-fw``: makes keys, and builds, signs, verifies and compares firmware images. A composition root."""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from firmware.image.build import build_image
from firmware.image.compare import compare, describe
from firmware.image.development import DEVELOPMENT_POLICY
from firmware.image.errors import ImageError
from firmware.image.files import read_bounded, write_file, write_private
from firmware.image.format import HARDWARE, ISSUED_BY_DEFAULT, MAX_COUNTER, MAX_IMAGE, Terms, read_image, sign_image
from firmware.image.keys import (
    CERTIFICATE_SIZE,
    MAX_SERIAL,
    Signer,
    generate_key,
    key_id,
    private_pem,
    public_bytes,
    public_pem,
    read_certificate,
    read_private_pem,
    read_public_pem,
    root_hash,
)
from firmware.image.keys import (
    certify as certify_key,
)
from firmware.image.policy import Policy, parse_kind, parse_policy, parse_root_hash
from firmware.image.times import parse_time, source_date, time_text
from firmware.image.verify import CHECKS
from firmware.reference_cli import reference_app
from firmware.version import VERSION
from host_sdk.wire.attest.errors import AttestationError
from host_sdk.wire.errors import ConfigError, DeviceError

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
MAX_TEXT_FILE = 64 * 1024  # bytes of a key or policy

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help=(
        "Make keys, and build, sign, verify and compare firmware images. Times are UTC: 2027-01-31, "
        "2027-01-31T12:00:00, or never. Exit status: 0 success, 1 an image is refused or a file cannot be read or "
        "written, 2 wrong arguments; of diff: 0 the same, 1 different, 2 not to be compared."
    ),
)
app.add_typer(reference_app, name="reference")


class _KeyUse(StrEnum):
    root = "root"
    signing = "signing"


class _Kind(StrEnum):
    development = "development"
    release = "release"


ImagePath = Annotated[Path, typer.Argument(help="The image file.", show_default=False)]
OutPath = Annotated[Path, typer.Argument(help="File to write.", show_default=False)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command()
def keygen(
    use: Annotated[_KeyUse, typer.Argument(help="What the key is for.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="File for the private key; the public one: OUT.pub.", show_default=False)],
    force: Annotated[bool, typer.Option("--force", help="Replace a key that is there.")] = False,
) -> None:
    """Make a key: a root key, whose hash goes into fuses, or a signing key. The file is not encrypted: keep it safe."""
    public_path = out.with_name(out.name + ".pub")
    if public_path.exists() and not force:
        raise ConfigError(f"{public_path} is there already; --force replaces it")
    key = generate_key()
    write_private(out, private_pem(key), force=force)
    write_file(public_path, public_pem(key))
    public = public_bytes(key)
    name = f"hash for fuses {root_hash(public).hex()}" if use is _KeyUse.root else f"id {key_id(public).hex()}"
    typer.echo(f"{out}: {use} key, {name}")


@app.command()
def certify(
    out: OutPath,
    root: Annotated[Path, typer.Option(help="The root key, private.", show_default=False)],
    key: Annotated[Path, typer.Option(help="The signing key, public (.pub).", show_default=False)],
    serial: Annotated[
        int, typer.Option(min=0, max=MAX_SERIAL, help="Serial number, never used before: it can be revoked.")
    ],
    kind: Annotated[_Kind, typer.Option(help="What the key may sign.")],
    not_after: Annotated[str, typer.Option(help="When the certificate ends, or never.", show_default=False)],
) -> None:
    """Let a root key delegate to a signing key, by a certificate."""
    certificate = certify_key(
        read_private_pem(read_bounded(root, MAX_TEXT_FILE)),
        read_public_pem(read_bounded(key, MAX_TEXT_FILE)),
        kind=parse_kind(kind),
        serial=serial,
        not_after=parse_time(not_after, "--not-after"),
    )
    write_file(out, certificate.data)
    end = time_text(certificate.not_after)
    typer.echo(f"{out}: {kind} key {key_id(certificate.key).hex()}, serial number {serial}, not after: {end}")


@app.command()
def build(
    out: OutPath,
    version: Annotated[str, typer.Option(help="Version that the firmware shall report.")] = VERSION,
    counter: Annotated[int, typer.Option(min=0, max=MAX_COUNTER, help="Security counter.")] = 0,
    hardware: Annotated[str, typer.Option(help="Id of the hardware that it is for.")] = HARDWARE,
    expires: Annotated[str, typer.Option(help="When it shall be booted no more, or never.")] = "never",
) -> None:
    """Build an image from this installation's firmware, signed with the published development key.

    It says that it was issued at SOURCE_DATE_EPOCH, or on 2026-01-01: the same sources give the same bytes.
    """
    terms = Terms(hardware, counter, source_date(ISSUED_BY_DEFAULT), parse_time(expires, "--expires"))
    image = build_image(version, terms=terms)
    write_file(out, image)
    typer.echo(f"{out}: version {version}, {len(image)} bytes, digest {read_image(image).digest.hex()}")


@app.command()
def sign(
    image: ImagePath,
    out: OutPath,
    key: Annotated[Path, typer.Option(help="The signing key, private.", show_default=False)],
    certificate: Annotated[Path, typer.Option(help="The certificate of the key.", show_default=False)],
) -> None:
    """Sign an image anew, in place of the signature that it has: nothing else of it changes."""
    try:
        chain = read_certificate(read_bounded(certificate, CERTIFICATE_SIZE))
    except ImageError as error:
        raise ConfigError(f"{certificate}: {error}") from None
    signer = Signer(read_private_pem(read_bounded(key, MAX_TEXT_FILE)), chain)
    signed = sign_image(read_bounded(image, MAX_IMAGE), signer)
    write_file(out, signed)
    digest = read_image(signed).digest.hex()
    typer.echo(f"{out}: signed with {chain.kind.name.lower()} key {key_id(chain.key).hex()}, digest {digest}")


@app.command()
def verify(
    image: ImagePath,
    root: Annotated[
        str, typer.Option("--root-hash", help="Root key's hash, 64 hex digits; by default the development root's.")
    ] = "",
    policy: Annotated[Path | None, typer.Option(help="TOML file: what the board takes.", show_default=False)] = None,
    at: Annotated[str, typer.Option(help="Time to verify at; by default the policy's, or now.")] = "",
) -> None:
    """Make every check that the boot ROM makes, and print each; status 1 if one fails."""
    rules = _policy(policy, root, at)
    with _told("format and digest"):
        taken = read_image(read_bounded(image, MAX_IMAGE))
    for name, check in CHECKS:
        with _told(name):
            check(taken, rules)
    typer.echo(f"{image}: good, version {taken.version}, digest {taken.digest.hex()}")


@app.command()
def inspect(image: ImagePath, as_json: JsonOption = False) -> None:
    """Show what an image says of itself; no signature is looked at."""
    description = describe(read_image(read_bounded(image, MAX_IMAGE)))
    if as_json:
        typer.echo(json.dumps(description))
        return
    for key, value in description.items():
        shown = ", ".join(f"{name}={fact}" for name, fact in value.items()) if isinstance(value, dict) else value
        typer.echo(f"{key:<18}{shown}")


@app.command()
def diff(
    first: Annotated[Path, typer.Argument(help="An image file.", show_default=False)],
    second: Annotated[Path, typer.Argument(help="Another.", show_default=False)],
    as_json: JsonOption = False,
) -> None:
    """Compare two images: header, TLVs, files of the payload. Status 0 the same, 1 different, 2 not to be compared."""
    try:
        found = compare(*(read_image(read_bounded(path, MAX_IMAGE)) for path in (first, second)))
    except (DeviceError, OSError) as error:
        typer.echo(f"napu-fw: {error}", err=True)
        raise typer.Exit(EXIT_USAGE) from None
    files = {"added": found.added, "removed": found.removed, "changed": found.changed}
    if as_json:
        typer.echo(json.dumps({"fields": found.fields, **files}))
    else:
        for key, (old, new) in found.fields.items():
            typer.echo(f"{key:<18}{old} -> {new}")
        for what, names in files.items():
            for name in names:
                typer.echo(f"{what:<18}{name}")
    raise typer.Exit(EXIT_FAILED if found else 0)


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Print how a check went."""
    try:
        yield
    except ImageError:
        typer.echo(f"{name:<18}REFUSED")
        raise
    typer.echo(f"{name:<18}ok")


def _policy(path: Path | None, root: str, at: str) -> Policy:
    policy = DEVELOPMENT_POLICY
    if path is not None:
        try:
            policy = parse_policy(read_bounded(path, MAX_TEXT_FILE).decode())
        except UnicodeDecodeError:
            raise ConfigError(f"{path} is no text") from None
    if root:
        policy = replace(policy, root_hash=parse_root_hash(root))
    if at:
        return replace(policy, now=parse_time(at, "--at"))
    return policy if policy.now is not None else replace(policy, now=int(time.time()))


def run() -> None:
    """Run the command line; mistakes of the user's end it with a sentence and an exit status."""
    try:
        app(prog_name="napu-fw")
    except KeyboardInterrupt:
        sys.stderr.write("napu-fw: interrupted\n")
        raise SystemExit(EXIT_INTERRUPTED) from None
    except BrokenPipeError:
        # Whoever read the output has closed it; nothing more can be said there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(EXIT_FAILED) from None
    except ConfigError as error:
        sys.stderr.write(f"napu-fw: {error}\n")
        raise SystemExit(EXIT_USAGE) from None
    except (AttestationError, DeviceError, OSError) as error:
        sys.stderr.write(f"napu-fw: {error}\n")
        raise SystemExit(EXIT_FAILED) from None


if __name__ == "__main__":
    run()
