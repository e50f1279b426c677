"""``napu-fw``: builds, shows and verifies firmware images."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from firmware.image import build_image, read_image
from firmware.version import VERSION
from host_sdk.wire.errors import DeviceError

app = typer.Typer(help="Build, show and verify firmware images.", no_args_is_help=True, add_completion=False)
ImagePath = Annotated[Path, typer.Argument(help="The image file.", show_default=False)]


@app.command()
def build(
    out: Annotated[Path, typer.Argument(help="File to write the image to.", show_default=False)],
    version: Annotated[str, typer.Option(help="Version that the firmware shall report.")] = VERSION,
) -> None:
    """Build an image from this installation's firmware."""
    image = build_image(version)
    temporary = out.with_name(out.name + "~")
    temporary.write_bytes(image)
    temporary.replace(out)
    typer.echo(f"{out}: version {version}, {len(image)} bytes, digest {read_image(image).digest.hex()}")


@app.command()
def inspect(
    image: ImagePath,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what is in an image."""
    description = _describe(image)
    if as_json:
        typer.echo(json.dumps(description))
        return
    for key, value in description.items():
        typer.echo(f"{key:<14}{value}")


@app.command()
def verify(image: ImagePath) -> None:
    """Verify an image; the exit code is 1 if it would not boot."""
    description = _describe(image)
    typer.echo(f"{image}: good, version {description['version']}, digest {description['digest']}")


def _describe(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    image = read_image(data)
    return {
        "name": image.name,
        "version": image.version,
        "entry": image.entry,
        "size": len(data),
        "payload_size": len(image.payload),
        "digest": image.digest.hex(),
        "build": image.build,
    }


def run() -> None:
    """Run the command line; mistakes of the user's end it with a sentence and exit code 1."""
    try:
        app()
    except (DeviceError, OSError) as error:
        typer.echo(f"napu-fw: {error}", err=True)
        sys.exit(1)
