"""The image format of the firmware: building, signing, reading, verifying."""

from firmware.image.build import build_image
from firmware.image.development import DEVELOPMENT_POLICY
from firmware.image.errors import ImageError
from firmware.image.format import IMAGE_OBJECT, MAX_IMAGE, Image, Terms, read_image
from firmware.image.policy import Policy
from firmware.image.verify import verify_image

__all__ = [
    "DEVELOPMENT_POLICY",
    "IMAGE_OBJECT",
    "MAX_IMAGE",
    "Image",
    "ImageError",
    "Policy",
    "Terms",
    "build_image",
    "read_image",
    "verify_image",
]
