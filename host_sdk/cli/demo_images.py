"""The demo's images: real ones that the model has not seen in training."""

import csv
import io
import zipfile
from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True, slots=True)
class HeldOut:
    """One held-out image: its file name, its JPEG and its true label."""

    name: str
    jpeg: bytes
    label: str


def held_out(count: int) -> list[HeldOut]:
    """Return the first ``count`` held-out images of the digits model."""
    content = (resources.files("appliance.models.digits") / "held_out.zip").read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        rows = csv.DictReader(io.StringIO(archive.read("index.csv").decode()))
        return [HeldOut(row["file"], archive.read(row["file"]), row["label"]) for row, _ in zip(rows, range(count))]  # noqa: B905 - the range is the limit
