"""What captures are written to: one pcapng file, or a ring of them, that says what it lost."""

import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from host_sdk.capture.blocks import lost_option, packet_blocks
from host_sdk.capture.frames import CapturedFrames
from host_sdk.capture.packet import Interface, InterfaceStatistics
from host_sdk.capture.pcapng import file_head, metadata_block, statistics_block
from host_sdk.wire.errors import CaptureError, ConfigError

MIN_FILE_BYTES = 65536
_STATISTICS_SIZE = 24 + 5 * 12 + 4  # bytes of a statistics block with all that we write


@dataclass(frozen=True, slots=True)
class Target:
    """Where a capture goes.

    Attributes:
        path: The file; of a ring, files are called ``name-00001.pcapng`` and so on.
        files: Files of a ring, of which the oldest makes room for the next; 1 is no ring.
        file_bytes: Bytes that a file may have; 0 is no bound, and there is no ring without.
        snap: Bytes that are kept of a frame; 0 keeps all.
        private: Whether nobody but its owner can read a file.

    Raises:
        ConfigError: A ring without a bound, a bound that is too small, a negative number.
    """

    path: Path
    files: int = 1
    file_bytes: int = 0
    snap: int = 0
    private: bool = False

    def __post_init__(self) -> None:
        if self.files < 1 or self.snap < 0:
            raise ConfigError("a capture has one file or more, and keeps 0 bytes of a frame (all) or more")
        if self.files > 1 and not self.file_bytes:
            raise ConfigError("a ring of files needs the size of a file: give --file-size")
        if self.file_bytes and self.file_bytes < MIN_FILE_BYTES:
            raise ConfigError(f"a capture file of {self.file_bytes} bytes; give {MIN_FILE_BYTES} or more")


@dataclass(slots=True)
class Counts:
    """What became of the frames at one interface: received = written + filtered out + dropped.

    Attributes:
        received: All of them.
        filtered_out: That the filter did not let through.
        dropped: That were lost: by the kernel, a full queue, or a full file.
        written: That are in the file, or were in one that has made room.
    """

    received: int = 0
    filtered_out: int = 0
    dropped: int = 0
    written: int = 0

    def statistics(self) -> InterfaceStatistics:
        """Return the counts as a file has them; what was lost, no filter has seen."""
        return InterfaceStatistics(self.received, self.dropped, self.received - self.dropped - self.filtered_out)


class CaptureWriter:
    """Writes frames of some interfaces, and at the end what was lost; one thread at a time.

    Args:
        target: Where to.
        interfaces: The interfaces.
        metadata: What is kept about lab and nodes.
        time_ns: Time of the statistics, ns since 1970.

    Attributes:
        counts: Of each interface.
        full: Whether a frame did not fit any more: nothing else is written.
        paths: The files that there are, oldest first.

    Raises:
        ConfigError: The file cannot be written.
        CaptureError: The metadata is too long.
    """

    def __init__(
        self,
        target: Target,
        interfaces: Sequence[Interface],
        metadata: Mapping[str, Any],
        time_ns: Callable[[], int],
    ) -> None:
        self._target, self._interfaces, self._time_ns = target, interfaces, time_ns
        self._head = file_head(interfaces)
        self.describe(metadata)
        self._started = time_ns()
        self.counts = [Counts() for _ in interfaces]
        self._lost = [0] * len(interfaces)
        self.full = False
        self.paths: deque[Path] = deque()
        self._number = 0
        self._file: BinaryIO | None = None
        self._begin()

    def describe(self, metadata: Mapping[str, Any]) -> None:
        """Say, in place of what was said before, what is kept about lab and nodes.

        Raises:
            CaptureError: It is too long.
        """
        made = metadata_block(metadata) if metadata else b""
        tail_size = len(made) + len(self._interfaces) * _STATISTICS_SIZE
        if self._target.file_bytes and len(self._head) + tail_size > self._target.file_bytes // 2:
            raise CaptureError(f"files of {self._target.file_bytes} bytes are too small for what they say of the lab")
        self._metadata, self._tail_size = made, tail_size

    def write(
        self,
        interface: int,
        frames: CapturedFrames,
        ids: NDArray[np.uint64] | None = None,
        more: bytes = b"",
        heads: NDArray[np.uint8] | None = None,
    ) -> None:
        """Write frames that were received at an interface, cut at the snap length; see :func:`packet_blocks`.

        Raises:
            CaptureError: The file cannot be written.
        """
        count = len(frames)
        self.counts[interface].received += count
        if count == 0:
            return
        if self._lost[interface]:
            lost, self._lost[interface] = self._lost[interface], 0
            one = None if heads is None else heads[:1]
            self._blocks(
                interface, frames.take(np.arange(1)), ids if ids is None else ids[:1], more + lost_option(lost), one
            )
            if count == 1:
                return
            rest = np.arange(1, count)
            frames, ids = frames.take(rest), ids if ids is None else ids[1:]
            heads = None if heads is None else heads[1:]
        self._blocks(interface, frames, ids, more, heads)

    def lost(self, interface: int, count: int) -> None:
        """Count frames that were lost at an interface; the next one there says so."""
        self.counts[interface].received += count
        self.counts[interface].dropped += count
        self._lost[interface] += count

    def filtered(self, interface: int, count: int) -> None:
        """Count frames that the filter did not let through."""
        self.counts[interface].received += count
        self.counts[interface].filtered_out += count

    def flush(self) -> None:
        """Hand what was written to the kernel.

        Raises:
            CaptureError: It does not take it.
        """
        if self._file is not None:
            try:
                self._file.flush()
            except OSError as error:
                raise self._failed(error) from None

    def close(self) -> None:
        """Complete the file; a second call does nothing.

        Raises:
            CaptureError: The file cannot be written.
        """
        if self._file is None:
            return
        file, self._file = self._file, None
        now = self._time_ns()
        try:
            with file:
                for index, counts in enumerate(self.counts):
                    file.write(statistics_block(index, now, self._started, counts.statistics()))
                file.write(self._metadata)
        except OSError as error:
            raise self._failed(error) from None

    def _begin(self) -> None:
        """Begin the next file; the oldest of a ring makes room for it."""
        target = self._target
        self._number += 1
        path = target.path
        if target.files > 1:
            path = path.with_name(f"{path.stem}-{self._number:05d}{path.suffix}")
            if len(self.paths) == target.files:
                self.paths.popleft().unlink(missing_ok=True)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            self._file = os.fdopen(os.open(path, flags, 0o600 if target.private else 0o666), "wb")
            self._file.write(self._head)
        except OSError as error:
            raise ConfigError(f"{path} cannot be written: {error.strerror}") from None
        self.paths.append(path)
        self._size = len(self._head)

    def _blocks(
        self,
        interface: int,
        frames: CapturedFrames,
        ids: NDArray[np.uint64] | None,
        more: bytes,
        heads: NDArray[np.uint8] | None,
    ) -> None:
        snap = self._target.snap
        if snap:
            room = max(0, snap - (0 if heads is None else heads.shape[1]))
            frames.captured = np.minimum(frames.captured, room)
        blocks, ends = packet_blocks(interface, frames, ids, more, heads)
        counts, written = self.counts[interface], 0
        while written < len(frames) and not self.full:
            begin = int(ends[written - 1]) if written else 0
            fits = len(frames)
            if self._target.file_bytes:
                room = self._target.file_bytes - self._tail_size - self._size
                fits = int(np.searchsorted(ends, begin + room, "right"))
            if fits > written:
                self._put(blocks[begin : int(ends[fits - 1])])
                written = fits
            elif self._target.files > 1 and self._size > len(self._head):
                self.close()
                self._begin()
            else:  # one file that is full, or a frame that no file has room for
                self.full = self._target.files == 1
                break
        counts.written += written
        counts.dropped += len(frames) - written
        self._lost[interface] += len(frames) - written

    def _put(self, content: NDArray[np.uint8]) -> None:
        if self._file is None:
            raise CaptureError(f"the capture to {self._target.path} was closed")
        try:
            self._file.write(content.data)
        except OSError as error:
            raise self._failed(error) from None
        self._size += len(content)

    def _failed(self, error: OSError) -> CaptureError:
        return CaptureError(f"the capture to {self._target.path} failed and is not complete: {error.strerror}")
