"""The image engine: JPEG and PNG in, pixels of one size and mode out."""

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from appliance.engines.media import MODES
from host_sdk.wire.errors import ConfigError

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
# A progressive JPEG of 256 kB can ask for 15000 passes over all its pixels, seconds of work; real ones need about 10.
MAX_SCANS = 100
_SCAN = b"\xff\xda"  # begins a scan; within a scan's data it cannot occur
# The engine looks at the size in the header itself, against the pipeline's own bound, before anything is decoded.
Image.MAX_IMAGE_PIXELS = None
Image.preinit()  # the decoders are loaded now, and not by the first request
# Texts and profiles in a PNG are unpacked before its size is known; nothing here wants them.
PngImagePlugin.MAX_TEXT_CHUNK = 64 * 1024
PngImagePlugin.MAX_TEXT_MEMORY = 256 * 1024

Step = Callable[[Image.Image], Image.Image]


class MediaError(Exception):
    """A body is not media that the pipeline takes; the message is the answer's detail."""


@dataclass(frozen=True, slots=True)
class ImageEngine:
    """Decodes and scales one image after the other.

    Attributes:
        formats: Pillow's names of the formats taken.
        max_pixels: Width times height of the largest image taken, looked at before anything is decoded.
        steps: What is done to a decoded image, in order; the last leaves it at ``shape``.
        shape: Height, width and channels of the result.
    """

    formats: tuple[str, ...]
    max_pixels: int
    steps: tuple[Step, ...]
    shape: tuple[int, int, int]

    def decode(self, body: bytes) -> tuple[NDArray[np.uint8], int]:
        """Return the pixels, uint8 [height, width, channels], and how many were decoded.

        Raises:
            MediaError: The body is no image of the formats taken, is damaged, or is too large.
        """
        try:
            image: Image.Image = Image.open(io.BytesIO(body), formats=self.formats)
            pixels = image.width * image.height
            if pixels > self.max_pixels:
                raise MediaError(f"image of {image.width}x{image.height} pixels; at most {self.max_pixels} are taken")
            if image.format != "PNG" and body.count(_SCAN) > MAX_SCANS:
                raise MediaError(f"JPEG of more than {MAX_SCANS} scans")
            for step in self.steps:
                image = step(image)
            image.load()
        except UnidentifiedImageError:
            raise MediaError(f"not a {' or '.join(self.formats)} image") from None
        except MediaError:
            raise
        except Exception as error:  # noqa: BLE001 - a decoder fails on damaged files in any way, assertions among them
            raise MediaError(f"the image is damaged: {error or type(error).__name__}") from None
        return np.asarray(image, dtype=np.uint8).reshape(self.shape), pixels

    def decode_batch(self, bodies: list[bytes]) -> tuple[NDArray[np.uint8], NDArray[np.int64], dict[int, str]]:
        """Decode a batch.

        Returns:
            Pixels, uint8 [n, height, width, channels], zeros where decoding failed; decoded pixels of each, int64
            [n]; and the sentence for each that failed, by index.
        """
        images = np.zeros((len(bodies), *self.shape), np.uint8)
        pixels = np.zeros(len(bodies), np.int64)
        failures: dict[int, str] = {}
        for index, body in enumerate(bodies):
            try:
                images[index], pixels[index] = self.decode(body)
            except MediaError as error:
                failures[index] = str(error)
        return images, pixels, failures


def colour(mode: str) -> Step:
    """Return the step that converts to a mode of MODES."""
    if mode not in MODES:
        raise ConfigError(f"colour mode {mode!r}; there are: {', '.join(MODES)}")

    def convert(image: Image.Image) -> Image.Image:
        return image if image.mode == mode else image.convert(mode)

    return convert


def centre_crop() -> Step:
    """Return the step that cuts the largest centred square."""

    def crop(image: Image.Image) -> Image.Image:
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        return image.crop((left, top, left + side, top + side))

    return crop


def resize(width: int, height: int, filter_name: str) -> Step:
    """Return the step that scales to a size in pixels with a filter of FILTERS."""
    if filter_name not in FILTERS:
        raise ConfigError(f"resize filter {filter_name!r}; there are: {', '.join(FILTERS)}")

    def scale(image: Image.Image) -> Image.Image:
        return image.resize((width, height), FILTERS[filter_name])

    return scale
