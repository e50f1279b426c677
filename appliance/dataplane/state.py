"""What the rooms of the dataplane share."""

from dataclasses import dataclass
from typing import Protocol

from appliance.dataplane.counters import Counters
from appliance.dataplane.sessions import SessionTable
from appliance.dataplane.table import PipelineTable
from host_sdk.wire.exchange.reassembly import Reassembler
from host_sdk.wire.message import Message


class ControlPlane(Protocol):
    """The way to the firmware, as the dataplane sees it."""

    @property
    def ready(self) -> bool:
        """Whether the firmware is up."""

    @property
    def epoch(self) -> int:
        """Boots of the firmware, modulo 65536."""

    @property
    def reply_fd(self) -> int:
        """Descriptor that polls readable when collect has something."""

    def post(self, peer: int, message: Message) -> bool:
        """Put a control message into the mailbox; False when it is full."""

    def collect(self) -> list[tuple[int, Message]]:
        """Return what the firmware wants sent, with its peer."""


@dataclass(frozen=True, slots=True)
class State:
    """What the rooms of the dataplane share.

    Attributes:
        credits: Requests that a session may have outstanding.
        discovery_per_s: DISCOVER queries that are answered in a second.
    """

    counters: Counters
    sessions: SessionTable
    table: PipelineTable
    reassembler: Reassembler
    control: ControlPlane
    credits: int
    discovery_per_s: int
