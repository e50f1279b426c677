"""What has arrived of a message in several fragments: the body of GRANT and RESEND."""

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from host_sdk.wire.errors import FrameError, LocalProtocolError
from host_sdk.wire.schema import ARRIVED, MAX_ARRIVED_BITS, DropReason

_ARRIVED = struct.Struct(ARRIVED.struct_format)


@dataclass(frozen=True, slots=True)
class Arrived:
    """Which fragments of a message its receiver has, and how far its sender may go.

    Attributes:
        opcode: Of the message.
        base: Every fragment before this one has arrived.
        window: Fragments from ``base`` on that may be under way.
        bitmap: Bit 7 - i % 8 of byte i // 8 is set when fragment ``base + i`` has arrived.
    """

    opcode: int
    base: int
    window: int
    bitmap: bytes = b""

    @classmethod
    def of(cls, opcode: int, have: NDArray[np.bool_], window: int) -> "Arrived":
        """Return what ``have``, bool [fragments], says; its bitmap ends with the last fragment that is there."""
        missing = np.flatnonzero(~have)
        base = int(missing[0]) if len(missing) else len(have)
        return cls(opcode, base, max(1, window), _bitmap(have[base : base + MAX_ARRIVED_BITS]))

    @classmethod
    def reaching(cls, opcode: int, base: int, there: NDArray[np.bool_], most: int) -> "Arrived":
        """Return what is to be said where so many fragments may be under way.

        The window reaches over those that have arrived, as far as the bitmap can tell of them: else one that is lost
        at its beginning would hold back nearly all that could be on their way behind it.

        Args:
            opcode: Of the message.
            base: The first fragment that is missing.
            there: Which have arrived from that on, bool [at most MAX_ARRIVED_BITS].
            most: How many may be under way.
        """
        missing = np.flatnonzero(~there)
        reach = int(missing[most - 1]) + 1 if len(missing) >= most > 0 else len(there) + most - len(missing)
        return cls(opcode, base, max(1, most, min(reach, MAX_ARRIVED_BITS)), _bitmap(there))

    def among(self, indices: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which of some fragments, int64 [n], have arrived, bool [n], as far as this says."""
        bits = np.unpackbits(np.frombuffer(self.bitmap, np.uint8)).astype(np.bool_)
        behind = indices - self.base
        have: NDArray[np.bool_] = behind < 0
        told = (behind >= 0) & (behind < len(bits))
        have[told] = bits[behind[told]]
        return have

    @property
    def end(self) -> int:
        """The fragment from which on nothing is said."""
        return self.base + 8 * len(self.bitmap)

    def have(self, fragments: int) -> NDArray[np.bool_]:
        """Return which of a message's fragments have arrived, bool [fragments], as far as this says."""
        have = np.zeros(fragments, np.bool_)
        have[: self.base] = True
        bits = np.unpackbits(np.frombuffer(self.bitmap, np.uint8)).astype(np.bool_)[: max(0, fragments - self.base)]
        have[self.base : self.base + len(bits)] = bits
        return have

    def encode(self) -> bytes:
        """Return the body.

        Raises:
            LocalProtocolError: A value does not fit.
        """
        try:
            return _ARRIVED.pack(self.opcode, 0, self.window, self.base) + self.bitmap
        except struct.error as error:
            raise LocalProtocolError(f"value out of range: {error}") from None

    @classmethod
    def decode(cls, body: bytes) -> "Arrived":
        """Take a body apart.

        Raises:
            FrameError: It is none; the frame falls under NOT_KNOWN.
        """
        if not ARRIVED.size <= len(body) <= ARRIVED.size + MAX_ARRIVED_BITS // 8:
            raise FrameError(DropReason.NOT_KNOWN, f"{len(body)} bytes say nothing of fragments")
        opcode, _, window, base = _ARRIVED.unpack_from(body)
        if window == 0:
            raise FrameError(DropReason.NOT_KNOWN, "a window of no fragments")
        return cls(opcode, base, window, body[ARRIVED.size :])


def _bitmap(there: NDArray[np.bool_]) -> bytes:
    """Return bits as the body has them, up to the last that is set."""
    ones = np.flatnonzero(there)
    return np.packbits(there[: int(ones[-1]) + 1 if len(ones) else 0]).tobytes()
