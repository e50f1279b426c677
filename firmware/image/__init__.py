"""The image format of the firmware: building, reading, checking."""

from firmware.image.build import build_image
from firmware.image.format import IMAGE_OBJECT, Image, read_image

__all__ = ["IMAGE_OBJECT", "Image", "build_image", "read_image"]
