"""What is explored: a few requests of one session, their window, what may befall them, and the rules they follow."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from host_sdk.wire.exchange.states import (
    REQUEST_RULES,
    SLOT_RULES,
    RequestAction,
    RequestEvent,
    RequestState,
    SlotAction,
    SlotEvent,
    SlotState,
)

SlotRules = Mapping[tuple[SlotState, SlotEvent], tuple[SlotAction, SlotState]]
RequestRules = Mapping[tuple[RequestState, RequestEvent], tuple[RequestAction, RequestState]]


PAST = (SlotState.RELEASED, SlotState.OUTDATED)
COUNTED = [(state, event) for state in PAST for event in (SlotEvent.REQUEST, SlotEvent.RESEND)]
COUNTED.append((SlotState.OUTDATED, SlotEvent.CANCEL))  # N-089, N-100: what comes of these is dropped under a reason
RESTORES = (SlotAction.REFUSE,)  # what stood in the slot before is released


class Fault(Enum):
    """What may befall the two sides, besides what the network does."""

    GIVE_UP = "a user gives up or cancels"
    BUSY = "a whole request is refused for now"
    DISPLACE = "a request that waits is refused because a higher priority takes its room"
    FORGET = "an unfinished request is given up for its age"
    RESTART = "the responder restarts and knows the session no more"


class Habit(Enum):
    """Ways to break a rule of the text that no table states: each must be noticed."""

    WINDOW_IGNORED = "N-110: requests are sent without regard to the window"
    WINDOW_WIDER = "N-110: one id more than the window"
    CREDIT_IGNORED = "N-066: requests are sent without regard to credit"
    SETTLES_EARLY = "N-120: SETTLE names a request that is not settled"
    SETTLES_IDLE_ONLY = "N-121: SETTLE is sent only when nothing is outstanding"
    SETTLES_IN_ORDER = "N-121: SETTLE names no settled request above one that is not"
    DISPLACED_EMPTIES = "a displaced request leaves its slot empty, as if nothing had been there"
    GRANTS_ADD_UP = "what a GRANT says is added to what earlier ones said"
    NOTICES_WITHOUT_CLASS = "N-118: notices about datagram requests are looked up in the slots"
    RESUMES_IN_PLACE = "N-119: a resumed session goes on with the ids that an earlier requester used"
    RESEND_OUT_OF_SESSION_DROPPED = "N-117: a RESEND in a session that is not open is dropped"


@dataclass(frozen=True)
class Shape:
    """One request: fragments of it and of its answer, and its class."""

    fragments: int = 1
    answer: int = 1
    once: bool = True


@dataclass(frozen=True)
class Scenario:
    """A small world.

    Attributes:
        requests: Their ids are their places, from 0. Those of datagrams count as settled in a prefix.
        earlier: How many of the first are an earlier requester's, who is gone: their frames are on their way.
        window: Slots of the session.
        credits: Requests that may be outstanding, and that the responder works on at a time.
        under_way: Fragments of a request that may be under way.
        unasked: Fragments of an answer that come unasked.
        kept: Answers for which the responder has room; None for as many as there are slots.
        chatty: Whether every fragment is granted and asked for; otherwise only the last, and copies.
        patient: Whether a GRANT makes no fragment go out again before a timeout; else it goes out at every GRANT.
        early: Whether a RESEND for each *once* request is on its way from the beginning, from nowhere.
        faults: What may happen.
        habits: What the sides do wrong.
    """

    requests: tuple[Shape, ...]
    earlier: int = 0
    window: int = 2
    credits: int = 2
    under_way: int = 2
    unasked: int = 1
    kept: int | None = None
    chatty: bool = True
    patient: bool = True
    early: bool = False
    faults: frozenset[Fault] = frozenset()
    habits: frozenset[Habit] = frozenset()


@dataclass(frozen=True)
class Rules:
    """The two tables, or changed copies of them."""

    slot: SlotRules = field(default_factory=lambda: SLOT_RULES)
    request: RequestRules = field(default_factory=lambda: REQUEST_RULES)

    def requester_is_deaf_when_settled(self) -> bool:
        """Return whether nothing that arrives for a settled request changes or says anything."""
        rows = [self.request[RequestState.SETTLED, event] for event in RequestEvent]
        return all(row == (RequestAction.IGNORE, RequestState.SETTLED) for row in rows)

    def responder_is_deaf_when_past(self) -> bool:
        """Return whether nothing that arrives for a released or outdated request changes or says anything."""
        silent = (SlotAction.DROP_OUTDATED, SlotAction.DROP_NOT_KNOWN)
        for (state, event), (action, after) in self.slot.items():
            ignored = action is SlotAction.IGNORE and (state, event) not in COUNTED
            if state in PAST and (after != state or not (action in silent or ignored)):
                return False
            if after != state and (after is SlotState.OUTDATED or (after is SlotState.NEW and action not in RESTORES)):
                return False  # a slot goes back to a lower id, and its frames may matter again
        return True


class Violation(Exception):  # noqa: N818 - the explorer's finding, not an error of the program
    """A property of the protocol does not hold."""
