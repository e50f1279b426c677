"""Captures made by hand: frames of tests.rig.frames at chosen times, in files of our format."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from host_sdk.capture.analysis import Analysis, histories
from host_sdk.capture.file import CaptureFile
from host_sdk.capture.history import RequestHistory
from host_sdk.capture.packet import CapturedPacket, Interface
from host_sdk.capture.pcapng import file_head, packet_block
from host_sdk.capture.sightings import Sightings

REQUESTER, RESPONDER, EVERYBODY = b"\x02\0\0\0\0\x01", b"\x02\0\0\0\0\x02", b"\xff" * 6
BEGIN_NS = 1_700_000_000_000_000_000
US = 1000


@dataclass
class Script:
    """Frames that pass one point, by µs from the beginning."""

    packets: list[CapturedPacket] = field(default_factory=list)
    interfaces: Sequence[Interface] = (Interface("br0"),)

    def ask(self, at_us: float, *pdus: bytes, to: bytes = RESPONDER, **fields: object) -> "Script":
        """Add frames of the requester."""
        return self._add(at_us, to + REQUESTER, pdus, fields)

    def say(self, at_us: float, *pdus: bytes, **fields: object) -> "Script":
        """Add frames of the responder."""
        return self._add(at_us, REQUESTER + RESPONDER, pdus, fields)

    def _add(self, at_us: float, addresses: bytes, pdus: Sequence[bytes], fields: dict[str, object]) -> "Script":
        for pdu in pdus:
            frame = addresses + b"\x88\xb5" + pdu + bytes(max(0, 46 - len(pdu)))
            shared = {"interface": 0, "length": len(frame), **fields}
            self.packets.append(CapturedPacket(time_ns=BEGIN_NS + round(at_us * US), data=frame, **shared))  # type: ignore[arg-type]
        return self

    def save(self, path: Path) -> Path:
        """Write the frames, in the order of their times."""
        ordered = sorted(self.packets, key=lambda packet: packet.time_ns)
        path.write_bytes(file_head(self.interfaces) + b"".join(map(packet_block, ordered)))
        return path

    def histories(self, folder: Path, analysis: Analysis | None = None) -> list[RequestHistory]:
        """Return what the analysis makes of them, by way of a file."""
        with CaptureFile(self.save(folder / "script.pcapng")) as capture:
            return list(histories(Sightings(capture), analysis or Analysis()))
