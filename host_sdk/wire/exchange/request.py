"""What a requester's owner asks for outside sessions."""

from dataclasses import dataclass

from host_sdk.wire.header import Header
from host_sdk.wire.schema import Opcode


@dataclass(frozen=True, slots=True)
class Request:
    """What the owner asks for outside sessions.

    Attributes:
        peer: Peer key of the appliance, or links.base.BROADCAST for a DISCOVER.
        header: Opcode, CONTROL or DISCOVER, and flags; the rest is filled in.
        body: The message's body.
        timeout_ns: Time from submission after which the request fails, or a DISCOVER is over.
    """

    peer: int
    header: Header
    body: bytes = b""
    timeout_ns: int = 2_000_000_000

    @property
    def gathers(self) -> bool:
        """Whether every answer until the timeout counts."""
        return self.header.opcode == Opcode.DISCOVER
