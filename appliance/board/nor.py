"""NOR flash: erased by the block, programmed by the unit, bits only from 1 to 0; kept in one file.

The file, big-endian::

    offset  bytes
         0      8  magic: NAPUNOR, 0
         8      4  bytes of a block: 4096
        12      4  bytes of a program unit: 16
        16      4  blocks: n
        20      4  CRC-32C of the 20 bytes before
        24     4n  how often each block was erased
                   zeros up to a multiple of 4096
                   the blocks

What an operation has done outlives the process, whenever that ends; a crash of the machine that emulates is not
covered. Operations that a cut of the power tears leave what real ones do: see docs/firmware-boot.md.
"""

import fcntl
import os
import random
import struct
from itertools import pairwise
from pathlib import Path

from appliance.board.power import Cut, Moment, Operation, PowerSupply
from host_sdk.wire.crc import crc32c
from host_sdk.wire.errors import DeviceError

BLOCK_SIZE = 4096
UNIT = 16
MAX_BLOCKS = 1 << 14  # 64 MiB
ERASED = 0xFF

_MAGIC = b"NAPUNOR\0"
_HEADER = struct.Struct(">8sIIII")
_WEAR = struct.Struct(">I")
_MAX_WEAR = 2**32 - 1
_CRC = struct.Struct(">I")
_FATES = ("old", "erased", "random", "mixed")


class Nor:
    """A NOR flash chip. For one thread at a time, and one process: the file is locked.

    Args:
        path: The file; made with all blocks erased if missing.
        blocks: Blocks of the chip, 1 to MAX_BLOCKS.
        power: The board's power.

    Attributes:
        block_size: Bytes of a block, the unit of erasing.
        unit: Bytes of a program unit.
        size: Bytes of the chip.
        operations: Reads, programs and erases since the power came on first.

    Raises:
        DeviceError: The file is not such a chip, is used by somebody else, or cannot be used.
    """

    block_size = BLOCK_SIZE
    unit = UNIT

    def __init__(self, path: Path, blocks: int, power: PowerSupply | None = None) -> None:
        if not 1 <= blocks <= MAX_BLOCKS:
            raise DeviceError(f"a NOR flash of {blocks} blocks cannot be made; it has 1 to {MAX_BLOCKS}")
        self.size = blocks * BLOCK_SIZE
        self.operations = 0
        self._path, self._blocks = path, blocks
        self._power = power or PowerSupply()
        self._start = -(-(_HEADER.size + _WEAR.size * blocks) // BLOCK_SIZE) * BLOCK_SIZE
        self._weak: dict[int, int] = {}  # address: bits that read as either value
        self._noise = random.Random(0)  # noqa: S311 - replaced by the cut's own, without which nothing is weak
        self._file = -1
        try:
            if not path.exists():
                self._create()
            self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            self._open()
        except (OSError, DeviceError) as error:
            self.close()
            raise DeviceError(f"NOR flash {path} cannot be used: {error}") from None

    def close(self) -> None:
        """Let go of the file; again does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def read(self, address: int, length: int) -> bytes:
        """Return bytes of the chip.

        Raises:
            DeviceError: They are not all on the chip.
            PowerCutError: There is no power, or no longer.
        """
        self._check(address, length, 1)
        cut = self._begin(Operation.READ)
        data = self._get(address, length)
        if self._weak:
            noisy = bytearray(data)
            for place in self._weak.keys() & set(range(address, address + length)):
                noisy[place - address] ^= self._weak[place] & self._noise.getrandbits(8)
            data = bytes(noisy)
        if cut:
            self._power.fail(Operation.READ)
        return data

    def program(self, address: int, data: bytes) -> None:
        """Turn bits from 1 to 0, so that these bytes stand there.

        Bits that a cut left unstable become stable where they are programmed to 0.

        Args:
            address: A multiple of UNIT.
            data: A multiple of UNIT.

        Raises:
            DeviceError: Address or length is wrong, or a bit would have to turn from 0 to 1; nothing was changed.
            PowerCutError: There is no power, or no longer.
        """
        self._check(address, len(data), UNIT)
        old, new = int.from_bytes(self._get(address, len(data))), int.from_bytes(data)
        if new & ~old:
            raise DeviceError(f"programming at {address:#x} would turn bits from 0 to 1; erase the block first")
        cut = self._begin(Operation.PROGRAM)
        if cut and cut.moment is Moment.INSIDE:
            self._tear_program(address, data, cut.tearing)
        else:
            self._put(address, data)
            self._settle(address, data)
        if cut:
            self._power.fail(Operation.PROGRAM)

    def erase(self, address: int) -> None:
        """Turn all bits of a block to 1.

        Args:
            address: Where the block begins, a multiple of BLOCK_SIZE.

        Raises:
            DeviceError: No block begins there.
            PowerCutError: There is no power, or no longer.
        """
        self._check(address, BLOCK_SIZE, BLOCK_SIZE)
        cut = self._begin(Operation.ERASE)
        self._wear_out(address // BLOCK_SIZE)
        if cut and cut.moment is Moment.INSIDE:
            self._tear_erase(address, cut.tearing)
        else:
            self._put(address, bytes([ERASED]) * BLOCK_SIZE)
            for place in range(address, address + BLOCK_SIZE) if self._weak else ():
                self._weak.pop(place, None)
        if cut:
            self._power.fail(Operation.ERASE)

    def wear(self, block: int) -> int:
        """Return how often a block was erased, whole or torn, over the chip's life.

        Raises:
            DeviceError: There is no such block.
        """
        self._check(block * BLOCK_SIZE, BLOCK_SIZE, BLOCK_SIZE)
        raw = self._read_file(_WEAR.size, _HEADER.size + block * _WEAR.size)
        return int(_WEAR.unpack(raw)[0])

    def _begin(self, operation: Operation) -> Cut | None:
        self.operations += 1
        return self._power.draw(operation)

    def _check(self, address: int, length: int, align: int) -> None:
        if address < 0 or length < 0 or address + length > self.size:
            raise DeviceError(f"{length} bytes at {address:#x} are not all on a NOR flash of {self.size:#x} bytes")
        if address % align or length % align:
            raise DeviceError(f"{length} bytes at {address:#x} are not whole parts of {align} bytes")

    def _tear_program(self, address: int, data: bytes, tearing: random.Random) -> None:
        """Program some units whole and one of them by halves: each of its bits is set, not set, or unstable."""
        units = max(1, len(data) // UNIT)
        edge = tearing.choice((0, tearing.randrange(units), units - 1)) * UNIT
        self._put(address, data[:edge])
        self._settle(address, data[:edge])
        place, rest = address + edge, data[edge : edge + UNIT]
        old, weak = int.from_bytes(self._get(place, len(rest))), self._weakness(place, len(rest))
        falling = old & ~int.from_bytes(rest)
        done, unstable = falling & _some_bits(tearing), falling & _some_bits(tearing)
        self._put(place, (old & ~done).to_bytes(len(rest)))
        self._weaken(place, ((weak | unstable) & ~done).to_bytes(len(rest)), tearing)

    def _tear_erase(self, address: int, tearing: random.Random) -> None:
        """Leave stretches of the block as they were, erased, random, or of bits that are each one of these."""
        old = self._get(address, BLOCK_SIZE)
        ends = [0, *sorted(tearing.randrange(BLOCK_SIZE + 1) for _ in range(2)), BLOCK_SIZE]
        data, mask = b"", b""
        for start, end in pairwise(ends):
            bits, before = 8 * (end - start), int.from_bytes(old[start:end])
            noise = tearing.getrandbits(bits)
            unstable = noise & tearing.getrandbits(bits)
            after, weak = {
                "old": (before, self._weakness(address + start, end - start)),
                "erased": ((1 << bits) - 1, 0),
                "random": (noise, unstable),
                "mixed": (before | noise, unstable),
            }[tearing.choice(_FATES)]
            data += after.to_bytes(end - start)
            mask += weak.to_bytes(end - start)
        self._put(address, data)
        self._weaken(address, mask, tearing)

    def _weakness(self, address: int, length: int) -> int:
        return int.from_bytes(bytes(self._weak.get(place, 0) for place in range(address, address + length)))

    def _weaken(self, address: int, mask: bytes, tearing: random.Random) -> None:
        self._noise = tearing
        for place, bits in enumerate(mask, address):
            self._weak.pop(place, None)
            if bits:
                self._weak[place] = bits

    def _settle(self, address: int, data: bytes) -> None:
        for place in self._weak.keys() & set(range(address, address + len(data))) if self._weak else ():
            self._weak[place] &= data[place - address]

    def _wear_out(self, block: int) -> None:
        raw = _WEAR.pack(min(self.wear(block) + 1, _MAX_WEAR))
        self._write_file(raw, _HEADER.size + block * _WEAR.size)

    def _get(self, address: int, length: int) -> bytes:
        return self._read_file(length, self._start + address)

    def _put(self, address: int, data: bytes) -> None:
        self._write_file(data, self._start + address)

    def _read_file(self, length: int, offset: int) -> bytes:
        try:
            data = os.pread(self._file, length, offset)
        except OSError as error:
            raise DeviceError(f"NOR flash {self._path} cannot be read: {error}") from None
        if len(data) != length:
            raise DeviceError(f"NOR flash {self._path} was cut short at {offset + len(data)} bytes")
        return data

    def _write_file(self, data: bytes, offset: int) -> None:
        try:
            done = os.pwrite(self._file, data, offset)
        except OSError as error:
            raise DeviceError(f"NOR flash {self._path} cannot be written: {error}") from None
        if done != len(data):
            raise DeviceError(f"NOR flash {self._path} took {done} of {len(data)} bytes")

    def _header(self) -> bytes:
        header = _HEADER.pack(_MAGIC, BLOCK_SIZE, UNIT, self._blocks, 0)[: -_CRC.size]
        return header + _CRC.pack(crc32c(header))

    def _create(self) -> None:
        # Under another name first, so that a process that is killed here leaves no part of a chip.
        partial = self._path.with_name(self._path.name + "~")
        with partial.open("wb") as file:
            file.write(self._header().ljust(self._start, b"\0"))
            for _ in range(self._blocks):
                file.write(bytes([ERASED]) * BLOCK_SIZE)
        partial.replace(self._path)

    def _open(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DeviceError("another process uses it") from None
        if os.pread(self._file, _HEADER.size, 0) != self._header():
            raise DeviceError(f"it is no NOR flash of {self._blocks} blocks")
        if (size := os.fstat(self._file).st_size) != self._start + self.size:
            raise DeviceError(f"it has {size} bytes instead of {self._start + self.size}")


def _some_bits(tearing: random.Random) -> int:
    """Return bits of a unit: none, few, any, nearly all or all; the last to turn are what matters most."""
    every, few = (1 << 8 * UNIT) - 1, sum({1 << tearing.randrange(8 * UNIT) for _ in range(3)})
    return tearing.choice((0, few, tearing.getrandbits(8 * UNIT), every ^ few, every))
