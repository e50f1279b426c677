"""What a requester knows of one appliance."""

from dataclasses import dataclass, replace

from host_sdk.wire.exchange.course import Shared
from host_sdk.wire.exchange.opening import Opening
from host_sdk.wire.exchange.pace import Bounds, RequesterLimits, RoundTrip
from host_sdk.wire.exchange.window import RequestWindow
from host_sdk.wire.links.base import SEALED_PEER
from host_sdk.wire.schema import FIRST_FRAGMENTS, HEADER_SIZE, MIN_MTU, SEAL_OVERHEAD, Opcode

SMALL = MIN_MTU - HEADER_SIZE  # bytes of a message that fits one PDU on any path
_CONTROLS = 64  # that may be outstanding at one appliance


@dataclass(slots=True)
class KnownAppliance:
    """One appliance.

    Attributes:
        window: Its inferences.
        control: Its operations.
        round_trip: What is known of the way there.
        opening: The session that is being opened.
        path_mtu: Bytes of the largest PDU that got through; None before any did.
        resume: The session to go on with; 0 for none.
        overhead: Bytes by which the link makes its frames longer.
        kept: Whether its session stays open when the owner leaves.
    """

    window: RequestWindow
    control: RequestWindow
    round_trip: RoundTrip
    opening: Opening | None = None
    path_mtu: int | None = None
    resume: int = 0
    overhead: int = 0
    kept: bool = False

    @classmethod
    def new(cls, peer: int, limits: RequesterLimits, shared: Shared) -> "KnownAppliance":
        """Return one of which nothing is known yet."""
        round_trip = RoundTrip(limits)
        window = RequestWindow(peer, Opcode.INFER, limits, round_trip, shared)
        own = replace(limits, window=_CONTROLS)
        control = RequestWindow(peer, Opcode.CONTROL, own, RoundTrip(own, measures=False), shared)
        control.opened(Bounds(0, 1, _CONTROLS, _CONTROLS, FIRST_FRAGMENTS, SMALL), whole_only=True)
        return cls(window, control, round_trip, overhead=SEAL_OVERHEAD if peer >= SEALED_PEER else 0)
