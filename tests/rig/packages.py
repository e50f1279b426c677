"""Pipeline packages made for tests."""

import hashlib
import io
import zipfile
from functools import cache
from pathlib import Path

import msgpack
from PIL import Image

from tests.rig.nodes import MODELS, ROOT

DIGITS = ROOT / "appliance" / "models" / "digits"
LABELS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

IMAGE_STAGES = """
[[pre]]
stage = "decode"
[[pre]]
stage = "colour"
mode = "L"
[[pre]]
stage = "resize"
width = 16
height = 16
filter = "bilinear"
[[pre]]
stage = "normalise"
mean = [0.0]
scale = [255.0]
[[pre]]
stage = "quantise"
"""
POST_STAGES = """
[[post]]
stage = "dequantise"
[[post]]
stage = "softmax"
[[post]]
stage = "top_k"
k = 3
[[post]]
stage = "labels"
file = "labels.txt"
"""


def pack(manifest: str, files: dict[str, bytes]) -> bytes:
    """Return the package of a manifest and its files."""
    packed: bytes = msgpack.packb({"manifest": manifest, "files": files})
    return packed


def model_section(model: bytes) -> str:
    return f'[model]\nfile = "model.tflite"\nsha256 = "{hashlib.sha256(model).hexdigest()}"\n'


def image_manifest(
    model: bytes, name: str = "digits", *, delay_us: int = 0, batch: int = 16, max_bytes: int = 262144
) -> str:
    """Return the manifest of the digits model as an image pipeline."""
    return (
        f'name = "{name}"\ndescription = "made for a test"\n{model_section(model)}'
        f'[input]\nkind = "image"\nformats = ["jpeg", "png"]\nmax_bytes = {max_bytes}\nmax_pixels = 4194304\n'
        f"[batch]\nmax = {batch}\nmax_delay_us = {delay_us}\n{IMAGE_STAGES}{POST_STAGES}"
    )


def tensor_manifest(
    model: bytes, name: str, *, delay_us: int = 0, batch: int = 16, dtype: str = "", stages: str = ""
) -> str:
    """Return the manifest of a model as a pipeline that takes its input tensor."""
    chosen = f'dtype = "{dtype}"\n' if dtype else ""
    return (
        f'name = "{name}"\ndescription = "made for a test"\n{model_section(model)}'
        f'[input]\nkind = "tensor"\n{chosen}[batch]\nmax = {batch}\nmax_delay_us = {delay_us}\n{stages}'
    )


@cache
def digits_model() -> bytes:
    """Return the digits model that ships with the project."""
    return (DIGITS / "model.tflite").read_bytes()


@cache
def digits_labels() -> bytes:
    return (DIGITS / "labels.txt").read_bytes()


def image_package(name: str = "digits", *, delay_us: int = 0, batch: int = 16, max_bytes: int = 262144) -> bytes:
    """Return the digits model as an image pipeline."""
    model = digits_model()
    manifest = image_manifest(model, name, delay_us=delay_us, batch=batch, max_bytes=max_bytes)
    return pack(manifest, {"model.tflite": model, "labels.txt": digits_labels()})


def tensor_package(
    name: str, model: bytes | None = None, *, delay_us: int = 0, batch: int = 16, dtype: str = "", stages: str = ""
) -> bytes:
    """Return a model, by default that of the digits, as a tensor pipeline."""
    model = digits_model() if model is None else model
    manifest = tensor_manifest(model, name, delay_us=delay_us, batch=batch, dtype=dtype, stages=stages)
    return pack(manifest, {"model.tflite": model, "labels.txt": digits_labels()})


@cache
def held_out() -> tuple[tuple[str, bytes], ...]:
    """Return the held-out digits: label and JPEG of each."""
    with zipfile.ZipFile(DIGITS / "held_out.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".jpg")]
        return tuple((name.split("-")[1].removesuffix(".jpg"), archive.read(name)) for name in names)


@cache
def reference_model(name: str) -> bytes | None:
    """Return a reference model's bytes, None where it is absent."""
    path: Path = MODELS / name
    return path.read_bytes() if path.is_file() else None


def to_png(jpeg: bytes) -> bytes:
    """Return an image as PNG."""
    with Image.open(io.BytesIO(jpeg)) as picture, io.BytesIO() as sink:
        picture.save(sink, "PNG")
        return sink.getvalue()


def padded_jpeg(jpeg: bytes, size: int) -> bytes:
    """Return a JPEG with comment segments added until it has at least ``size`` bytes; its pixels are the same."""
    filler = b""
    while len(jpeg) + len(filler) < size:
        filler += b"\xff\xfe" + (60002).to_bytes(2, "big") + bytes(60000)
    return jpeg[:2] + filler + jpeg[2:]
