"""What becomes of a request that an appliance did not answer well: the table of docs/cluster.md."""

from enum import IntEnum

from host_sdk.wire.errors import (
    BusyError,
    NapuError,
    UnavailableError,
    UncertainError,
    UnknownPipelineError,
    UnknownSessionError,
)


class Cause(IntEnum):
    """Why there is no good answer."""

    NEVER_SENT = 0
    BUSY = 1
    UNAVAILABLE = 2
    UNKNOWN_PIPELINE = 3
    UNKNOWN_SESSION = 4
    UNANSWERED = 5
    FINAL = 6


class Verdict(IntEnum):
    """What is done."""

    MOVE = 0
    LEARN_AND_MOVE = 1
    MOVE_UNLESS_STRICT = 2
    END = 3


CAUSE_MEANING = {
    Cause.NEVER_SENT: "its appliance went, or its session did, before it was sent",
    Cause.BUSY: "BUSY, of a request or of a session",
    Cause.UNAVAILABLE: "UNAVAILABLE",
    Cause.UNKNOWN_PIPELINE: "UNKNOWN_PIPELINE: the appliance has loaded its pipelines anew, or not yet",
    Cause.UNKNOWN_SESSION: "UNKNOWN_SESSION, to a request that was sent once: the appliance has restarted",
    Cause.UNANSWERED: "sent, and its appliance is down, or has restarted since",
    Cause.FINAL: "any other status, a bad answer, or the caller's time is over",
}
VERDICT_MEANING = {
    Verdict.MOVE: "asked for elsewhere",
    Verdict.LEARN_AND_MOVE: "asked for elsewhere; what that appliance serves is learnt anew",
    Verdict.MOVE_UNLESS_STRICT: "asked for elsewhere; with `strict` it ends with UncertainError",
    Verdict.END: "told to the caller",
}
RETRY_RULES = {
    Cause.NEVER_SENT: Verdict.MOVE,
    Cause.BUSY: Verdict.MOVE,
    Cause.UNAVAILABLE: Verdict.MOVE,
    Cause.UNKNOWN_PIPELINE: Verdict.LEARN_AND_MOVE,
    Cause.UNKNOWN_SESSION: Verdict.MOVE,
    Cause.UNANSWERED: Verdict.MOVE_UNLESS_STRICT,
    Cause.FINAL: Verdict.END,
}
_REFUSALS: dict[type[NapuError], Cause] = {
    BusyError: Cause.BUSY,
    UnavailableError: Cause.UNAVAILABLE,
    UnknownPipelineError: Cause.UNKNOWN_PIPELINE,
    UnknownSessionError: Cause.UNKNOWN_SESSION,
}


def cause_of(error: NapuError, *, replied: bool, transmissions: int, once: bool) -> Cause:
    """Return why a request has no good answer.

    Args:
        error: What it failed with.
        replied: Whether the appliance answered so to this very request.
        transmissions: Times that it was sent, at least in part.
        once: Whether it is a *once* request, whose copies are known as such within one session.
    """
    if isinstance(error, UncertainError):
        return Cause.UNANSWERED if transmissions else Cause.NEVER_SENT
    cause = _REFUSALS.get(type(error), Cause.FINAL)
    if cause is Cause.FINAL:
        return cause
    if not transmissions:
        return cause if cause is Cause.BUSY else Cause.NEVER_SENT
    # An earlier copy may have been executed: in an earlier life of the appliance, or unless copies are told apart.
    sent_once = transmissions == 1
    if not replied or not (sent_once or (once and cause is not Cause.UNKNOWN_SESSION)):
        return Cause.UNANSWERED
    return cause
