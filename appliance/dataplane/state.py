"""What the rooms of the dataplane share."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from appliance.dataplane.answers import AnswerWindows
from appliance.dataplane.counters import Counters
from appliance.dataplane.sessions import SessionTable
from appliance.dataplane.table import PipelineTable
from appliance.dataplane.tenants import TenantTable
from host_sdk.wire.exchange.reassembly import Reassembler
from host_sdk.wire.links.base import FrameBatch
from host_sdk.wire.message import Message

if TYPE_CHECKING:  # ciphers take memory that an open appliance can do without
    from appliance.dataplane.grants import GrantTable


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


class Tap(Protocol):
    """Who is shown what passes within the dataplane; everything has to be copied before it returns."""

    def classified(self, batch: FrameBatch, reasons: NDArray[np.uint8]) -> None:
        """Take frames and what the check of their headers says of each: DropReason values, uint8 [n]."""

    def began(self, peers: NDArray[np.uint64], headers: NDArray[np.void]) -> None:
        """Take requests whose batch begins: who asks, uint64 [n], and a header for each, HEADER_DTYPE [n].

        The headers are made for the whole message: its length is that of the body, which is left out.
        """


@dataclass(frozen=True, slots=True)
class State:
    """What the rooms of the dataplane share.

    Attributes:
        frames: PDUs that the link can hold; what is granted to sessions is cut from it.
        answer_row: Bytes of the longest PDU whose answer is kept in a row.
        session_fragments: Fragments of one session's requests that may be under way.
        discovery_per_s: DISCOVER queries that are answered in a second.
        queue_wait_ns: How long a request may have to wait, by what the pipeline took lately.
        session_idle_ns: After so long an idle session is closed.
        grants: Whom keys were granted to; None with open access, where nobody has one.
        tap: Who is shown what passes; None for nobody.
    """

    counters: Counters
    sessions: SessionTable
    answers: AnswerWindows
    tenants: TenantTable
    table: PipelineTable
    reassembler: Reassembler
    control: ControlPlane
    frames: int
    answer_row: int
    session_fragments: int
    discovery_per_s: int
    queue_wait_ns: int
    session_idle_ns: int
    grants: "GrantTable | None" = None
    tap: Tap | None = None

    @property
    def credits(self) -> int:
        """Requests that a session may have outstanding."""
        return self.sessions.granted
