"""The reliable exchange as tables: what each side does about every event in every state of a request.

Both sides' code looks its decisions up here, the tables of ``docs/protocol.md`` are made from here, and the explorer of
the tests walks through them. Code that decides by itself is a defect.
"""

from enum import IntEnum


class SlotState(IntEnum):
    """What a responder knows of a *once* request of id n, from the slot n mod window of its session."""

    NEW = 0
    PENDING = 1
    ANSWERED = 2
    RELEASED = 3
    OUTDATED = 4


SLOT_STATE_MEANING = {
    SlotState.NEW: "the slot is empty, or has a lower id",
    SlotState.PENDING: "the slot has this id, and there is no answer yet",
    SlotState.ANSWERED: "the slot has this id and its answer",
    SlotState.RELEASED: "the slot has this id; its answer was settled",
    SlotState.OUTDATED: "the slot has a higher id",
}


class SlotEvent(IntEnum):
    """What happens to a *once* request at its responder."""

    REQUEST = 0
    RESEND = 1
    CANCEL = 2
    SETTLE = 3
    DONE = 4
    DISPLACED = 5


SLOT_EVENT_MEANING = {
    SlotEvent.REQUEST: "the whole request; once it was taken, any fragment of a copy",
    SlotEvent.RESEND: "RESEND",
    SlotEvent.CANCEL: "CANCEL",
    SlotEvent.SETTLE: "a SETTLE that names it",
    SlotEvent.DONE: "its answer is ready",
    SlotEvent.DISPLACED: "its room is taken by a higher priority, before its work began",
}


class SlotAction(IntEnum):
    """What a responder does about it."""

    IGNORE = 0
    TAKE = 1
    WORKING = 2
    ANSWER = 3
    REPLAY = 4
    MISSING = 5
    UNKNOWN = 6
    END = 7
    REMEMBER = 8
    RELEASE = 9
    DROP_OUTDATED = 10
    DROP_NOT_KNOWN = 11
    REFUSE = 12


SLOT_ACTION_MEANING = {
    SlotAction.IGNORE: "nothing",
    SlotAction.TAKE: "take it and execute it; if it is refused, answer so and leave the slot as it was",
    SlotAction.WORKING: "send WORKING",
    SlotAction.ANSWER: "send the answer and keep it",
    SlotAction.REPLAY: "send the kept answer again",
    SlotAction.MISSING: "send the fragments of the kept answer that are missing",
    SlotAction.UNKNOWN: "send UNKNOWN",
    SlotAction.END: "end it before its next stage and answer CANCELLED",
    SlotAction.REMEMBER: "keep CANCELLED as its answer",
    SlotAction.RELEASE: "forget the answer, keep the id",
    SlotAction.DROP_OUTDATED: "drop it (OUTDATED)",
    SlotAction.DROP_NOT_KNOWN: "drop it (NOT_KNOWN)",
    SlotAction.REFUSE: "answer BUSY; the slot then has id *n* less `window`, released",
}

_S, _E, _A = SlotState, SlotEvent, SlotAction
SLOT_RULES: dict[tuple[SlotState, SlotEvent], tuple[SlotAction, SlotState]] = {
    (_S.NEW, _E.REQUEST): (_A.TAKE, _S.PENDING),
    (_S.NEW, _E.RESEND): (_A.UNKNOWN, _S.NEW),
    (_S.NEW, _E.CANCEL): (_A.REMEMBER, _S.ANSWERED),
    (_S.NEW, _E.SETTLE): (_A.IGNORE, _S.NEW),
    (_S.NEW, _E.DONE): (_A.IGNORE, _S.NEW),
    (_S.NEW, _E.DISPLACED): (_A.IGNORE, _S.NEW),
    (_S.PENDING, _E.REQUEST): (_A.WORKING, _S.PENDING),
    (_S.PENDING, _E.RESEND): (_A.WORKING, _S.PENDING),
    (_S.PENDING, _E.CANCEL): (_A.END, _S.PENDING),
    (_S.PENDING, _E.SETTLE): (_A.IGNORE, _S.PENDING),
    (_S.PENDING, _E.DONE): (_A.ANSWER, _S.ANSWERED),
    (_S.PENDING, _E.DISPLACED): (_A.REFUSE, _S.NEW),
    (_S.ANSWERED, _E.REQUEST): (_A.REPLAY, _S.ANSWERED),
    (_S.ANSWERED, _E.RESEND): (_A.MISSING, _S.ANSWERED),
    (_S.ANSWERED, _E.CANCEL): (_A.IGNORE, _S.ANSWERED),
    (_S.ANSWERED, _E.SETTLE): (_A.RELEASE, _S.RELEASED),
    (_S.ANSWERED, _E.DONE): (_A.IGNORE, _S.ANSWERED),
    (_S.ANSWERED, _E.DISPLACED): (_A.IGNORE, _S.ANSWERED),
    (_S.RELEASED, _E.REQUEST): (_A.DROP_OUTDATED, _S.RELEASED),
    (_S.RELEASED, _E.RESEND): (_A.DROP_NOT_KNOWN, _S.RELEASED),
    (_S.RELEASED, _E.CANCEL): (_A.IGNORE, _S.RELEASED),
    (_S.RELEASED, _E.SETTLE): (_A.IGNORE, _S.RELEASED),
    (_S.RELEASED, _E.DONE): (_A.IGNORE, _S.RELEASED),
    (_S.RELEASED, _E.DISPLACED): (_A.IGNORE, _S.RELEASED),
    (_S.OUTDATED, _E.REQUEST): (_A.DROP_OUTDATED, _S.OUTDATED),
    (_S.OUTDATED, _E.RESEND): (_A.DROP_NOT_KNOWN, _S.OUTDATED),
    (_S.OUTDATED, _E.CANCEL): (_A.DROP_NOT_KNOWN, _S.OUTDATED),
    (_S.OUTDATED, _E.SETTLE): (_A.IGNORE, _S.OUTDATED),
    (_S.OUTDATED, _E.DONE): (_A.IGNORE, _S.OUTDATED),
    (_S.OUTDATED, _E.DISPLACED): (_A.IGNORE, _S.OUTDATED),
}


class RequestState(IntEnum):
    """What a requester knows of one of its requests."""

    WAITING = 0
    SENT = 1
    HELD = 2
    PAUSED = 3
    PARTIAL = 4
    SETTLED = 5


REQUEST_STATE_MEANING = {
    RequestState.WAITING: "not sent: it waits for session, credit or window",
    RequestState.SENT: "sent, at least in part; nothing says that it arrived whole",
    RequestState.HELD: "the responder has it whole",
    RequestState.PAUSED: "refused for now",
    RequestState.PARTIAL: "parts of its answer have arrived",
    RequestState.SETTLED: "it has its answer, or was given up",
}


class RequestEvent(IntEnum):
    """What happens to a request at its requester."""

    ROOM = 0
    TIMEOUT = 1
    GRANT = 2
    WORKING = 3
    UNKNOWN = 4
    PART = 5
    ANSWER = 6
    REFUSED = 7
    GIVEN_UP = 8


REQUEST_EVENT_MEANING = {
    RequestEvent.ROOM: "session, credit and window allow it",
    RequestEvent.TIMEOUT: "its retransmission timeout, or the end of its pause",
    RequestEvent.GRANT: "GRANT",
    RequestEvent.WORKING: "WORKING",
    RequestEvent.UNKNOWN: "UNKNOWN",
    RequestEvent.PART: "a fragment of its answer, others missing",
    RequestEvent.ANSWER: "its answer is whole, with a final status",
    RequestEvent.REFUSED: "its answer says that it can be sent again (section 6)",
    RequestEvent.GIVEN_UP: "its user's time is over, or its user cancels it",
}


class RequestAction(IntEnum):
    """What a requester does about it."""

    IGNORE = 0
    SEND = 1
    PROBE = 2
    FILL = 3
    HOLD = 4
    RESTART = 5
    COLLECT = 6
    ASK = 7
    DELIVER = 8
    PAUSE = 9
    FAIL = 10
    FAIL_UNSENT = 11


REQUEST_ACTION_MEANING = {
    RequestAction.IGNORE: "nothing",
    RequestAction.SEND: "send its fragments, as many as may be under way",
    RequestAction.PROBE: "back off; send its last fragment, which always gets an answer",
    RequestAction.FILL: "send the missing fragments, as many as may be under way",
    RequestAction.HOLD: "wait on, without back-off, for retry_after at least",
    RequestAction.RESTART: "forget what has arrived on either side; send its fragments",
    RequestAction.COLLECT: "keep the fragment; send RESEND where section 11.2 says so",
    RequestAction.ASK: "back off; send RESEND",
    RequestAction.DELIVER: "give the answer to the user",
    RequestAction.PAUSE: "wait for retry_after, or for the retransmission timeout where there is none",
    RequestAction.FAIL: "tell the user; send CANCEL",
    RequestAction.FAIL_UNSENT: "tell the user",
}

_R, _V, _D = RequestState, RequestEvent, RequestAction
_ALIKE: dict[RequestEvent, tuple[RequestAction, RequestState]] = {
    _V.ROOM: (_D.IGNORE, _R.SENT),
    _V.TIMEOUT: (_D.PROBE, _R.SENT),
    _V.GRANT: (_D.FILL, _R.SENT),
    _V.WORKING: (_D.HOLD, _R.HELD),
    _V.UNKNOWN: (_D.RESTART, _R.SENT),
    _V.PART: (_D.COLLECT, _R.PARTIAL),
    _V.ANSWER: (_D.DELIVER, _R.SETTLED),
    _V.REFUSED: (_D.PAUSE, _R.PAUSED),
    _V.GIVEN_UP: (_D.FAIL, _R.SETTLED),
}
REQUEST_RULES: dict[tuple[RequestState, RequestEvent], tuple[RequestAction, RequestState]] = {
    **{(_R.WAITING, event): (_D.IGNORE, _R.WAITING) for event in _V},
    (_R.WAITING, _V.ROOM): (_D.SEND, _R.SENT),
    (_R.WAITING, _V.GIVEN_UP): (_D.FAIL_UNSENT, _R.SETTLED),
    **{(_R.SENT, event): rule for event, rule in _ALIKE.items()},
    **{(_R.HELD, event): rule for event, rule in _ALIKE.items()},
    (_R.HELD, _V.ROOM): (_D.IGNORE, _R.HELD),
    (_R.HELD, _V.TIMEOUT): (_D.PROBE, _R.HELD),
    **{(_R.PAUSED, event): rule for event, rule in _ALIKE.items()},
    (_R.PAUSED, _V.ROOM): (_D.IGNORE, _R.PAUSED),
    (_R.PAUSED, _V.TIMEOUT): (_D.RESTART, _R.SENT),
    (_R.PAUSED, _V.WORKING): (_D.IGNORE, _R.PAUSED),  # of a copy that was taken before; the end of the pause will tell
    (_R.PAUSED, _V.UNKNOWN): (_D.IGNORE, _R.PAUSED),  # it begins anew as it is, and not before its pause is over
    (_R.PAUSED, _V.GRANT): (_D.IGNORE, _R.PAUSED),  # a refused request was forgotten; what it had says nothing
    (_R.PAUSED, _V.REFUSED): (_D.IGNORE, _R.PAUSED),  # the refusal of another copy does not make it wait anew
    **{(_R.PARTIAL, event): rule for event, rule in _ALIKE.items()},
    (_R.PARTIAL, _V.ROOM): (_D.IGNORE, _R.PARTIAL),
    (_R.PARTIAL, _V.TIMEOUT): (_D.ASK, _R.PARTIAL),
    (_R.PARTIAL, _V.GRANT): (_D.IGNORE, _R.PARTIAL),
    (_R.PARTIAL, _V.WORKING): (_D.IGNORE, _R.PARTIAL),
    (_R.PARTIAL, _V.REFUSED): (_D.IGNORE, _R.PARTIAL),  # of another copy: this one is being answered
    **{(_R.SETTLED, event): (_D.IGNORE, _R.SETTLED) for event in _V},
}
