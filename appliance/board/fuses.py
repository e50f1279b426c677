"""Fuses: words of 32 bits that are blown once, from 0 to 1; what the board trusts before it has read anything else.

::

    word     meaning
     0       lifecycle: 0 is development, anything else release
     1 - 8   SHA-256 of the root key
     9       its CRC-32C, blown last
    10 - 41  16 revocations: a serial number, and its complement
    42 - 49  security counter: as many bits as it counts
    50 - 63  none

The file is the words, big-endian. Blowing a word may be torn by a cut of the power: some of its bits are blown then,
and blowing the same again completes them. So each value says by itself whether it is complete.
"""

import os
import struct
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

from appliance.board.power import Moment, Operation, PowerSupply
from host_sdk.wire.crc import crc32c
from host_sdk.wire.errors import DeviceError

WORDS = 64
WORD_MASK = 0xFFFF_FFFF
HASH_SIZE = 32
MAX_REVOKED = 16
MAX_SECURITY_COUNTER = 256

_LIFECYCLE = 0
_HASH = range(1, 9)
_HASH_CRC = 9
_REVOKED = range(10, 10 + 2 * MAX_REVOKED, 2)
_COUNTER = range(42, 50)
_WORD = struct.Struct(">I")


class Lifecycle(Enum):
    """What the board is: on a developer's desk, or in the field."""

    DEVELOPMENT = "development"
    RELEASE = "release"


class Fuses:
    """The fuses of one board. For one thread at a time.

    Args:
        path: The file; made with no fuse blown if missing.
        power: The board's power.

    Attributes:
        max_security_counter: Where the security counter ends.

    Raises:
        DeviceError: The file does not hold fuses, or cannot be used.
    """

    max_security_counter = MAX_SECURITY_COUNTER

    def __init__(self, path: Path, power: PowerSupply | None = None) -> None:
        self._path = path
        self._power = power or PowerSupply()
        try:
            if not path.exists():
                partial = path.with_name(path.name + "~")
                partial.write_bytes(bytes(WORDS * _WORD.size))
                partial.replace(path)
            self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise DeviceError(f"fuses {path} cannot be used: {error}") from None
        if (size := os.fstat(self._file).st_size) != WORDS * _WORD.size:
            self.close()
            raise DeviceError(f"fuses {path} cannot be used: {size} bytes instead of {WORDS * _WORD.size}")

    def close(self) -> None:
        """Let go of the file; again does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def read(self, word: int) -> int:
        """Return a word.

        Raises:
            DeviceError: There is no such word, or the file cannot be read.
            PowerCutError: There is no power, or no longer.
        """
        cut = self._power.draw(Operation.READ)
        value = self._get(word)
        if cut:
            self._power.fail(Operation.READ)
        return value

    def blow(self, word: int, bits: int) -> None:
        """Turn bits of a word to 1; those that are 1 stay so.

        Raises:
            DeviceError: There is no such word, the bits are none of a word, or the file cannot be written.
            PowerCutError: There is no power, or no longer; a cut inside has blown any of the bits.
        """
        if not 0 <= bits <= WORD_MASK:
            raise DeviceError(f"{bits:#x} does not fit into a word of fuses")
        before = self._get(word)
        cut = self._power.draw(Operation.BLOW)
        if cut and cut.moment is Moment.INSIDE:
            bits &= cut.tearing.getrandbits(32)
        try:
            os.pwrite(self._file, _WORD.pack(before | bits), word * _WORD.size)
        except OSError as error:
            raise DeviceError(f"fuses {self._path} cannot be written: {error}") from None
        if cut:
            self._power.fail(Operation.BLOW)

    @property
    def lifecycle(self) -> Lifecycle:
        """What the board is. One fuse is enough for release, so that a torn word errs to the safe side."""
        return Lifecycle.RELEASE if self.read(_LIFECYCLE) else Lifecycle.DEVELOPMENT

    def release(self) -> None:
        """Make this a board in the field, for ever.

        Raises:
            PowerCutError: There is no power, or no longer.
        """
        self.blow(_LIFECYCLE, WORD_MASK)

    @property
    def root_key_hash(self) -> bytes | None:
        """SHA-256 of the root key, 32 bytes; None before it was blown.

        Raises:
            DeviceError: It was blown by half; blow the same again.
            PowerCutError: There is no power, or no longer.
        """
        digest = b"".join(_WORD.pack(self.read(word)) for word in _HASH)
        check = self.read(_HASH_CRC)
        if not any(digest) and not check:
            return None
        if check != crc32c(digest):
            raise DeviceError("the root key's hash in the fuses is not complete; blow the same again")
        return digest

    def blow_root_key_hash(self, digest: bytes) -> None:
        """Set the hash of the root key; again with the same completes what a cut of the power has torn.

        Raises:
            DeviceError: It is not 32 bytes, or another one was blown; nothing was changed.
            PowerCutError: There is no power, or no longer.
        """
        if len(digest) != HASH_SIZE:
            raise DeviceError(f"{len(digest)} bytes are no SHA-256")
        wanted = {
            **{word: value for word, (value,) in zip(_HASH, _WORD.iter_unpack(digest), strict=True)},
            _HASH_CRC: crc32c(digest),
        }
        if any(self.read(word) & ~value for word, value in wanted.items()):
            raise DeviceError("the fuses hold another root key's hash")
        for word, value in wanted.items():
            self.blow(word, value)

    @property
    def revoked(self) -> frozenset[int]:
        """Serial numbers of the keys that were revoked.

        Raises:
            PowerCutError: There is no power, or no longer.
        """
        return frozenset(serial for _, serial, complement in self._revocations() if serial ^ complement == WORD_MASK)

    def revoke(self, serial: int) -> None:
        """Revoke a key for ever; again does nothing.

        What a cut of the power has torn is completed by revoking the same serial number again, and is an entry that
        is lost by revoking another.

        Raises:
            DeviceError: It is no serial number of 32 bits, or all entries are taken.
            PowerCutError: There is no power, or no longer.
        """
        if not 0 <= serial <= WORD_MASK:
            raise DeviceError(f"{serial} is no serial number of 32 bits")
        if serial in self.revoked:
            return
        for word, first, second in self._revocations():
            if not first & ~serial and not second & serial:
                self.blow(word, serial)
                self.blow(word + 1, serial ^ WORD_MASK)
                return
        raise DeviceError(f"the fuses hold {MAX_REVOKED} revoked keys and have no room for another")

    @property
    def security_counter(self) -> int:
        """Lowest security counter that an image may have.

        Raises:
            PowerCutError: There is no power, or no longer.
        """
        return sum(self.read(word).bit_count() for word in _COUNTER)

    def raise_security_counter(self, value: int) -> None:
        """Raise the security counter to a value; it never falls, and a lower value changes nothing.

        Raises:
            DeviceError: The fuses do not count that far; nothing was changed.
            PowerCutError: There is no power, or no longer; the counter is between what it was and the value.
        """
        if value > MAX_SECURITY_COUNTER:
            raise DeviceError(f"the fuses count to {MAX_SECURITY_COUNTER}, not to {value}")
        missing = value - self.security_counter
        for word in _COUNTER:
            if missing <= 0:
                return
            blown = self.read(word)
            free = [1 << place for place in range(32) if not blown >> place & 1][:missing]
            if free:
                self.blow(word, sum(free))
            missing -= len(free)

    def _revocations(self) -> Iterator[tuple[int, int, int]]:
        return ((word, self.read(word), self.read(word + 1)) for word in _REVOKED)

    def _get(self, word: int) -> int:
        if not 0 <= word < WORDS:
            raise DeviceError(f"there is no word {word} of fuses, only 0 to {WORDS - 1}")
        try:
            raw = os.pread(self._file, _WORD.size, word * _WORD.size)
        except OSError as error:
            raise DeviceError(f"fuses {self._path} cannot be read: {error}") from None
        if len(raw) != _WORD.size:
            raise DeviceError(f"fuses {self._path} were cut short")
        return int(_WORD.unpack(raw)[0])
