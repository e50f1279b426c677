"""From frames to request histories: what happened to each request, and why, as far as one point of capture can tell.

Pure: sightings in, histories out, in memory that does not grow with their number. A capture shows what passed its
point, not what arrived. So a loss is never seen but inferred, from what the ends did next: one that sends a fragment
again because the other said that it misses it (GRANT, RESEND) makes a loss likely; one that sends again because nothing
came tells only that it did not wait any longer.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from host_sdk.capture.history import AnalysisLimits, Cause, Event, Kind, RequestHistory
from host_sdk.capture.sightings import Sighting
from host_sdk.wire.errors import FrameError
from host_sdk.wire.exchange.arrived import Arrived
from host_sdk.wire.links.base import BROADCAST
from host_sdk.wire.message import Trailer
from host_sdk.wire.schema import (
    CRC_SIZE,
    RETRY_AFTER_UNIT_US,
    TRAILER,
    DropReason,
    Flag,
    Opcode,
    Status,
    is_notice,
)

Key = tuple[int, int, int, int]  # requester, responder, session (0 for OPEN), request

# Answers after which the same request is sent again: they do not end it.
PAUSING = frozenset(
    (Status.BUSY, Status.UNAVAILABLE, Status.REASSEMBLY_TIMEOUT, Status.BAD_CRC, Status.FRAGMENT_CONFLICT)
)
_RETRY_NS = RETRY_AFTER_UNIT_US * 1000
_EVERYBODY = 0xFFFFFFFF  # of IPv4
_SEALED = int(Flag.SEALED)
_INNER = ("classified", "dla")
_KNOWN = frozenset(int(code) for code in Opcode)
_NOTICES = {Opcode.WORKING: Kind.WORKING, Opcode.UNKNOWN: Kind.UNKNOWN, Opcode.GRANT: Kind.GRANT}


@dataclass(slots=True)
class _Course:
    """One direction of a request: which fragments passed, and when last."""

    seen: dict[int, int] = field(default_factory=dict)
    highest: int = -1
    told: Arrived | None = None  # what the other end said last of what it has
    told_at: int = 0

    def missed(self, fragment: int) -> bool:
        """Return whether the other end said that it misses a fragment."""
        told = self.told
        if told is None or fragment <= told.base:
            return told is not None and fragment == told.base
        place = fragment - told.base
        return place < 8 * len(told.bitmap) and not told.bitmap[place // 8] >> 7 - place % 8 & 1


@dataclass(slots=True)
class _Open:
    """A request that is followed."""

    history: RequestHistory
    last_ns: int
    request: _Course = field(default_factory=_Course)
    answer: _Course = field(default_factory=_Course)
    why: Cause = Cause.TIMEOUT  # for which it would be sent again now
    asks: int = 0  # frames of the requester that want an answer
    replies: int = 0  # to them
    cancelled: bool = False


class Analysis:
    """Follows requests; give it the sightings in order.

    Args:
        limits: Bounds.
        wire_in: Tap at which a node's requests come in, where the sightings are of one.

    Attributes:
        malformed: Frames that cannot be of this protocol, by reason.
        strays: Answers and notices to requests that were not captured.
    """

    def __init__(self, limits: AnalysisLimits | None = None, wire_in: str = "in") -> None:
        self._limits = limits or AnalysisLimits()
        self._requests, self._answers = ("", wire_in), ("", "out")
        self._open: OrderedDict[Key, _Open] = OrderedDict()
        self._broadcast: dict[tuple[int, int], Key] = {}  # requester and request of a DISCOVER to everybody
        self._sealed: dict[tuple[int, int], Key] = {}  # session and request of one that came sealed
        self._answered_sent: dict[tuple[int, int], int] = {}  # by both ends: when the latest was sent that is answered
        self.malformed: Counter[DropReason] = Counter()
        self.strays = 0

    def take(self, seen: Sighting) -> list[RequestHistory]:
        """Take one sighting; return the requests that it ended the watch over, by its time."""
        over = self._expired(seen.time_ns)
        if seen.tap in _INNER and seen.tap not in self._requests:
            self._within(seen)
        elif seen.reason:
            self.malformed[seen.reason] += 1
        elif not (seen.opcode == Opcode.SETTLE or seen.request == 0):
            if seen.is_reply and seen.tap in self._answers:
                self._reply(seen)
            elif not seen.is_reply and seen.tap in self._requests:
                self._request(seen)
        return over

    def finish(self) -> list[RequestHistory]:
        """Return the requests that are still followed, whatever has become of them."""
        rest = [entry.history for entry in self._open.values()]
        self._open.clear()
        self._broadcast.clear()
        self._sealed.clear()
        return rest

    def _expired(self, now: int) -> list[RequestHistory]:
        over: list[RequestHistory] = []
        while self._open:
            key, entry = next(iter(self._open.items()))
            patience = self._limits.idle_ns if entry.history.ended_ns is None else self._limits.linger_ns
            if len(self._open) < self._limits.open_requests and now - entry.last_ns <= patience:
                # Those behind it were touched later. One that is answered waits for an unanswered one before it, no
                # longer than that one is followed.
                break
            del self._open[key]
            self._sealed.pop((entry.history.session, entry.history.request), None)
            self._broadcast.pop((entry.history.requester, entry.history.request), None)
            over.append(entry.history)
        return over

    # ---- requests ------------------------------------------------------------------------------------------------

    def _request(self, seen: Sighting) -> None:
        key = (seen.source, seen.destination, seen.session, seen.request)
        entry = self._open.get(key)
        if entry is None:
            # One from a responder to its requester was an answer, before its opcode was damaged.
            if is_notice(seen.opcode) or (seen.damaged and (seen.destination, seen.source) in self._answered_sent):
                self.strays += 1
                return
            entry = self._follow(key, seen)
        self._touch(key, entry, seen)
        if is_notice(seen.opcode):
            self._requesters_notice(entry, seen)
            return
        self._describe(entry.history, seen)
        entry.asks += seen.fragment == seen.fragments - 1
        if seen.damaged:
            self._note(entry.history, Event(seen.time_ns, Kind.DAMAGED))
        self._fragment(entry, entry.request, seen)

    def _follow(self, key: Key, seen: Sighting) -> _Open:
        history = RequestHistory(
            seen.requester, seen.responder, seen.udp, seen.session, seen.request, seen.time_ns, seen.number
        )
        entry = self._open[key] = _Open(history, seen.time_ns)
        if seen.flags & _SEALED:
            self._sealed[seen.session, seen.request] = key
        if seen.opcode == Opcode.DISCOVER and (seen.destination == BROADCAST or seen.destination >> 16 == _EVERYBODY):
            self._broadcast[seen.source, seen.request] = key
        return entry

    def _touch(self, key: Key, entry: _Open, seen: Sighting) -> None:
        entry.last_ns = seen.time_ns
        entry.history.frames += 1
        self._open.move_to_end(key)

    def _describe(self, history: RequestHistory, seen: Sighting) -> None:
        if history.opcode:
            return
        history.opcode, history.pipeline, history.flags = seen.opcode, seen.pipeline, seen.flags
        history.deadline_ns, history.fragments = seen.deadline * 1000, seen.fragments
        self._note(history, Event(seen.time_ns, Kind.SENT))

    def _fragment(self, entry: _Open, course: _Course, seen: Sighting) -> None:
        """Take a fragment of the request."""
        fragment, now = seen.fragment, seen.time_ns
        where = None if entry.history.fragments == 1 else fragment
        before = course.seen.get(fragment)
        if before is None:
            if fragment < course.highest:
                late = course.missed(fragment)
                kind = Kind.FRAGMENT_LATE if late else Kind.REORDERED
                cause = Cause.MISSING if late else Cause.NONE
                self._note(entry.history, Event(now, kind, where, 0, cause))
        elif now - before < self._limits.duplicate_ns and not seen.tap:
            self._note(entry.history, Event(now, Kind.DUPLICATED, where, now - before))
        elif now == before:  # at a tap all frames of a batch have one time, which says nothing of when they arrived
            self._note(entry.history, Event(now, Kind.RETRANSMITTED, where, 0, Cause.TOGETHER))
        else:
            self._note(
                entry.history,
                Event(now, Kind.RETRANSMITTED, where, now - before, self._cause(entry, course, fragment, now)),
            )
        if len(course.seen) < self._limits.fragments:
            course.seen[fragment] = now
        course.highest = max(course.highest, fragment)
        if entry.why in (Cause.PAUSE, Cause.UNKNOWN):
            # The whole message is sent anew: only its first fragment is told of, the others begin again.
            course.seen = {fragment: now}
            course.highest, course.told, entry.why = fragment, None, Cause.TIMEOUT

    def _cause(self, entry: _Open, course: _Course, fragment: int, now: int) -> Cause:
        """Return why a fragment of a request is sent again."""
        if entry.why is not Cause.TIMEOUT:
            return entry.why
        if course.missed(fragment):
            return Cause.MISSING
        before = course.seen[fragment]
        if now - before >= self._limits.timeout_ns:
            return Cause.TIMEOUT
        if self._answered_sent.get((entry.history.requester, entry.history.responder), 0) > before:
            return Cause.OVERTAKEN
        # A requester's clock starts when it hands a burst over, which may be before the last of it passes.
        return Cause.TIMEOUT if now - before >= self._limits.timeout_ns // 2 else Cause.UNEXPLAINED

    def _requesters_notice(self, entry: _Open, seen: Sighting) -> None:
        if seen.opcode == Opcode.CANCEL:
            entry.cancelled = True
            self._note(entry.history, Event(seen.time_ns, Kind.CANCEL))
        elif seen.opcode == Opcode.RESEND:
            self._told(entry.answer, seen)
            entry.asks += 1
            self._note(entry.history, Event(seen.time_ns, Kind.RESEND))

    @staticmethod
    def _told(course: _Course, seen: Sighting) -> None:
        if seen.flags & _SEALED:
            return  # nobody but the ends can read it
        size = len(seen.payload) - (CRC_SIZE if seen.flags & Flag.CRC else 0)
        try:
            course.told, course.told_at = Arrived.decode(seen.payload[: max(0, size)]), seen.time_ns
        except FrameError:
            course.told = None  # it was captured in part, or says nothing

    # ---- answers -------------------------------------------------------------------------------------------------

    def _reply(self, seen: Sighting) -> None:
        key, entry = self._asked(seen)
        if entry is None:
            self.strays += 1
            return
        self._touch(key, entry, seen)
        if is_notice(seen.opcode):
            self._responders_notice(entry, seen)
        else:
            self._answer(entry, seen)

    def _asked(self, seen: Sighting) -> tuple[Key, _Open | None]:
        """Return the request that an answer is to."""
        session = 0 if seen.opcode == Opcode.OPENED else seen.session
        key = (seen.destination, seen.source, session, seen.request)
        entry = self._open.get(key)
        if entry is None and seen.opcode == Opcode.ANNOUNCE:
            key = self._broadcast.get((seen.destination, seen.request), key)
            entry = self._open.get(key)
        return key, entry

    def _responders_notice(self, entry: _Open, seen: Sighting) -> None:
        kind = _NOTICES.get(Opcode(seen.opcode)) if seen.opcode in _KNOWN else None
        if kind is None:
            return
        if kind is not Kind.GRANT:
            entry.replies += 1
        if kind is Kind.GRANT:
            self._told(entry.request, seen)
        elif kind is Kind.WORKING:
            entry.why = Cause.WORKING
        else:
            entry.why = Cause.UNKNOWN
            entry.answer = _Course()
        self._note(entry.history, Event(seen.time_ns, kind, after_ns=seen.retry_after * _RETRY_NS))

    def _answer(self, entry: _Open, seen: Sighting) -> None:
        """Take a fragment of an answer."""
        history, course, now = entry.history, entry.answer, seen.time_ns
        entry.replies += seen.fragment == seen.fragments - 1
        if seen.damaged or history.flags & Flag.CRC & ~seen.flags:  # of the latter, its flag CRC was lost (N-050)
            self._note(history, Event(now, Kind.ANSWER_DAMAGED))
            if entry.why is Cause.TIMEOUT:
                entry.why = Cause.DAMAGED
            return
        if history.responder != seen.source:  # of several that were asked by a broadcast
            self._answered(entry, seen)
            return
        where = None if seen.fragments == 1 else seen.fragment
        before = course.seen.get(seen.fragment)
        if before is not None:
            if course.missed(seen.fragment) and course.told_at > before:
                self._note(history, Event(now, Kind.ANSWER_LOST, where, now - before, Cause.MISSING))
            elif entry.replies > entry.asks:
                self._note(history, Event(now, Kind.ANSWER_DUPLICATED, where, now - before))
            elif seen.fragments == 1 or seen.fragment == seen.fragments - 1:
                self._note(history, Event(now, Kind.ANSWERED_AGAIN, None, now - before, status=seen.status))
            course.seen[seen.fragment] = now
            return
        if seen.fragment < course.highest and course.missed(seen.fragment):
            self._note(history, Event(now, Kind.ANSWER_FRAGMENT_LATE, where, 0, Cause.MISSING))
        if len(course.seen) < self._limits.fragments:
            course.seen[seen.fragment] = now
        course.highest = max(course.highest, seen.fragment)
        self._take_trailer(history, seen)
        if len(course.seen) >= seen.fragments:
            self._answered(entry, seen)

    def _answered(self, entry: _Open, seen: Sighting) -> None:
        """Take the last piece of an answer."""
        history, now = entry.history, seen.time_ns
        if seen.status in PAUSING and history.ended_ns is None:
            after = seen.retry_after * _RETRY_NS
            self._note(history, Event(now, Kind.PAUSED, after_ns=after, status=seen.status))
            entry.answer, entry.why = _Course(), Cause.PAUSE
            return
        history.answers += 1
        if history.ended_ns is not None:
            return
        history.ended_ns, history.status, entry.why = now, seen.status, Cause.ANSWERED
        ends, sent = (history.requester, history.responder), max(entry.request.seen.values(), default=0)
        self._answered_sent[ends] = max(sent, self._answered_sent.get(ends, 0))
        self._note(history, Event(now, Kind.ANSWERED, status=seen.status))
        late = now - history.began_ns - history.deadline_ns if history.deadline_ns else 0
        if entry.cancelled or (late > 0 and seen.status == Status.OK):
            self._note(history, Event(now, Kind.ANSWER_LATE, after_ns=max(0, late)))

    @staticmethod
    def _take_trailer(history: RequestHistory, seen: Sighting) -> None:
        if not seen.flags & Flag.TRAILER or seen.flags & Flag.SEALED or seen.fragment != seen.fragments - 1:
            return
        end = len(seen.payload) - (CRC_SIZE if seen.flags & Flag.CRC else 0)
        whole = len(seen.payload) == seen.length - seen.fragment * seen.fragment_size
        if whole and end >= TRAILER.size:
            history.trailer = Trailer.decode(seen.payload[end - TRAILER.size : end])

    # ---- within a node -------------------------------------------------------------------------------------------

    def _within(self, seen: Sighting) -> None:
        """Take what a node's inner taps say of a request that came in."""
        key = (seen.source, seen.destination, seen.session, seen.request)
        key = self._sealed.get((seen.session, seen.request), key)  # behind the seal it has another source
        entry = self._open.get(key)
        if seen.tap == "classified" and seen.reason:
            if entry is not None:
                self._note(entry.history, Event(seen.time_ns, Kind.DROPPED, seen.fragment, status=seen.reason))
        elif seen.tap == "dla" and entry is not None:
            self._note(entry.history, Event(seen.time_ns, Kind.BEGAN))

    def _note(self, history: RequestHistory, event: Event) -> None:
        history.counts[event.kind] += 1
        if event.kind is Kind.RETRANSMITTED:
            history.causes[event.cause] += 1
        if len(history.events) < self._limits.events:
            history.events.append(event)


def histories(sightings: Iterable[Sighting], analysis: Analysis) -> Iterator[RequestHistory]:
    """Yield the histories of all requests, each when nothing more is expected of it."""
    for seen in sightings:
        yield from analysis.take(seen)
    yield from analysis.finish()
