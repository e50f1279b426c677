"""Capture files of either format, read as a stream of packets."""

import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Self

from host_sdk.capture.packet import CapturedPacket, Interface, InterfaceStatistics
from host_sdk.capture.pcapng import MAX_BLOCK, PcapngReader
from host_sdk.wire.errors import CaptureError

# First 4 bytes of a pcap file: byte order, ns in a tick.
_MAGICS = {
    b"\xd4\xc3\xb2\xa1": ("<", 1000),
    b"\xa1\xb2\xc3\xd4": (">", 1000),
    b"\x4d\x3c\xb2\xa1": ("<", 1),
    b"\xa1\xb2\x3c\x4d": (">", 1),
}
_HEAD = 24
_LINK_TYPE = 0xFFFF  # the other bits tell of frame check sequences


class PcapReader:
    """Reads packets from a pcap file; as :class:`PcapngReader` otherwise."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        head = file.read(_HEAD)
        if len(head) < _HEAD or head[:4] not in _MAGICS:
            raise CaptureError("the file is neither pcap nor pcapng")
        self._order, self._tick_ns = _MAGICS[head[:4]]
        snap, link_type = struct.unpack(self._order + "II", head[16:])
        self.interfaces = [Interface("", link_type & _LINK_TYPE, snap)]
        self.statistics: dict[int, InterfaceStatistics] = {}

    def __iter__(self) -> Iterator[CapturedPacket]:
        """Yield the packets in the order of the file.

        Raises:
            CaptureError: The file is damaged or cut off; what came before was yielded.
        """
        record = struct.Struct(self._order + "4I")
        while head := self._file.read(record.size):
            if len(head) < record.size:
                raise CaptureError("the file ends within the head of a packet")
            seconds, fraction, captured, length = record.unpack(head)
            if captured > MAX_BLOCK:
                raise CaptureError(f"a packet of {captured} bytes; at most {MAX_BLOCK} are taken")
            data = self._file.read(captured)
            if len(data) < captured:
                raise CaptureError("the file ends within a packet")
            yield CapturedPacket(0, seconds * 1_000_000_000 + fraction * self._tick_ns, data, length)


class CaptureFile:
    """A capture file, pcap or pcapng; a context manager that closes it. Iterate it once.

    Args:
        path: The file.

    Raises:
        CaptureError: It cannot be read, or is neither.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._skimmed: PcapngReader | None = None
        try:
            self._file: BinaryIO = path.open("rb")
        except OSError as error:
            raise CaptureError(f"{path} cannot be read as a capture: {error.strerror}") from None
        try:
            pcap = self._file.read(4) in _MAGICS
            self._file.seek(0)
            self._reader: PcapReader | PcapngReader = (PcapReader if pcap else PcapngReader)(self._file)
        except (OSError, CaptureError) as error:
            self._file.close()
            raise CaptureError(f"{path} cannot be read as a capture: {error}") from None

    @property
    def interfaces(self) -> list[Interface]:
        """Interfaces that were described so far."""
        return self._reader.interfaces

    def metadata(self) -> dict[str, Any]:
        """Return what the file says of the lab and its nodes, wherever it does; nothing in files of others.

        Raises:
            CaptureError: The file is damaged.
        """
        return self._skim().metadata if isinstance(self._reader, PcapngReader) else {}

    def all_interfaces(self) -> list[Interface]:
        """Return the interfaces that are described anywhere in the file.

        Raises:
            CaptureError: The file is damaged.
        """
        return self._skim().interfaces if isinstance(self._reader, PcapngReader) else self.interfaces

    def _skim(self) -> PcapngReader:
        """Return a reader that has passed over the packets; what a file that was cut off says before that counts."""
        if self._skimmed is None:
            try:
                with self.path.open("rb") as file:
                    self._skimmed = PcapngReader(file, packets=False)
                    with suppress(CaptureError):  # who reads the packets is told
                        for _ in self._skimmed:
                            pass
            except OSError as error:
                raise CaptureError(f"{self.path} cannot be read as a capture: {error.strerror}") from None
        return self._skimmed

    @property
    def statistics(self) -> dict[int, InterfaceStatistics]:
        """Interface to its statistics; complete when all packets were read."""
        return self._reader.statistics

    def __iter__(self) -> Iterator[CapturedPacket]:
        """Yield the packets in the order of the file.

        Raises:
            CaptureError: The file is damaged, cut off or over a bound; what came before was yielded.
        """
        try:
            yield from self._reader
        except (OSError, CaptureError) as error:
            raise CaptureError(f"{self.path} cannot be read as a capture: {error}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
