"""What the reference responder keeps: sessions, their slots, and the requests that wait."""

from dataclasses import dataclass, field

from host_sdk.wire.exchange.states import SlotState
from host_sdk.wire.header import Header
from host_sdk.wire.message import Message

Encoded = tuple[Header, bytes]  # the header that the fragments share, and the message's bytes


@dataclass(frozen=True)
class ResponderLimits:
    """What it grants.

    Attributes:
        window: Slots of a session, a power of two.
        credits: INFER requests that a session may have outstanding.
        fragments: Fragments of a session's requests that may be under way.
        jobs: Requests that wait at once.
        kept: *Once* requests of a session whose answers it has room for; None for as many as there are slots.
        mtu: Of its link.
        retry_after: What it says with BUSY, in units of 100 µs.
    """

    window: int = 8
    credits: int = 4
    fragments: int = 8
    jobs: int = 16
    kept: int | None = None
    mtu: int = 1500
    retry_after: int = 20


@dataclass
class Slot:
    """What is known of the id that has a slot; ``answer`` is None for a CANCELLED that is remembered."""

    id: int
    state: SlotState
    answer: Encoded | None = None


@dataclass
class Session:
    """An open session."""

    number: int
    peer: int
    base: int
    fragment_size: int
    unasked: int
    slots: dict[int, Slot] = field(default_factory=dict)
    highest: int = 0  # once id that was seen


@dataclass
class Job:
    """A request that was taken."""

    peer: int
    message: Message
    began: int
    cancelled: bool = False
