"""Why an image is refused: one class for each cause.

::

    DeviceError
    └── ImageError              an image is refused
        ├── NotAnImageError     it is no image of format 1
        ├── TruncatedImageError it ends before its header says
        ├── OversizeError       it goes on behind its end, or announces more than is taken
        ├── TamperedError       header, payload, TLVs or certificate are not what was built and signed
        ├── WrongKeyError       its keys do not lead to the root key in the board's fuses
        ├── KeyKindError        signed with a kind of key that the board does not take
        ├── RevokedKeyError     signed with a key whose serial number was revoked
        ├── ExpiredError        the image or its certificate is past its time
        ├── WrongHardwareError  built for other hardware
        └── RollbackError       its security counter is below the board's
"""

from host_sdk.wire.errors import DeviceError


class ImageError(DeviceError):
    """An image is refused.

    Attributes:
        why: The reason alone.
    """

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(f"firmware image refused: {why}")


class NotAnImageError(ImageError):
    """The bytes are no image of the format that is known here."""


class TruncatedImageError(ImageError):
    """The image ends before its header says that it does."""


class OversizeError(ImageError):
    """The image goes on behind its end, or announces a part that is larger than any that is taken."""


class TamperedError(ImageError):
    """Header, payload, a TLV or the certificate is not what was built and signed."""


class WrongKeyError(ImageError):
    """The image's keys do not lead to the root key in the board's fuses."""


class KeyKindError(ImageError):
    """The image was signed with a kind of key that the board does not take."""


class RevokedKeyError(ImageError):
    """The image was signed with a key whose serial number was revoked."""


class ExpiredError(ImageError):
    """The image, or the certificate of its key, is past its time: somebody may be keeping a newer one back."""


class WrongHardwareError(ImageError):
    """The image was built for other hardware."""


class RollbackError(ImageError):
    """The image's security counter is below the lowest that the board takes."""
