"""Histories in words, and what they come to together."""

import heapq
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from host_sdk.capture.frames import format_peer
from host_sdk.capture.history import Cause, Event, Kind, RequestHistory
from host_sdk.wire.schema import STAGES, DropReason, Flag, Opcode, Status

MAX_LATENCIES = 4_000_000  # that quantiles are made of; of further ones only the number is known
# Remarkable kinds and how much each weighs where anomalies are ranked; others are how things go.
WEIGHTS = {
    Kind.RETRANSMITTED: 4,
    Kind.ANSWER_LATE: 4,
    Kind.DROPPED: 4,
    Kind.FRAGMENT_LATE: 3,
    Kind.ANSWER_FRAGMENT_LATE: 3,
    Kind.ANSWER_LOST: 3,
    Kind.UNKNOWN: 3,
    Kind.CANCEL: 3,
    Kind.DAMAGED: 3,
    Kind.ANSWER_DAMAGED: 3,
    Kind.PAUSED: 2,
    Kind.ANSWERED_AGAIN: 2,
    Kind.REORDERED: 1,
    Kind.DUPLICATED: 1,
    Kind.ANSWER_DUPLICATED: 1,
    Kind.WORKING: 1,
}
# Told of by their number.
_SUMMED = (
    *(Kind.RETRANSMITTED, Kind.PAUSED, Kind.DUPLICATED, Kind.ANSWER_DUPLICATED, Kind.WORKING),
    *(Kind.ANSWERED_AGAIN, Kind.DAMAGED, Kind.ANSWER_DAMAGED),
)
_UNANSWERED, _REFUSED = 100, 10
_OUTCOMES = ("answered", "refused", "unanswered", "cancelled", "incomplete")


def code_name(codes: type[Opcode] | type[Status] | type[DropReason], code: int) -> str:
    """Return the name of a code; of one that is not known, its number."""
    try:
        return codes(code).name
    except ValueError:
        return f"{code:#x}"


def duration(ns: int) -> str:
    """Return a time as people write it: ``412 µs``, ``1.5 ms``, ``3.2 s``."""
    for unit, size in (("s", 10**9), ("ms", 10**6), ("µs", 1000)):
        if ns >= size:
            value = ns / size
            return f"{value:.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"
    return f"{ns} ns"


def outcome(history: RequestHistory) -> str:
    """Return what became of a request: one of answered, refused, unanswered, cancelled, incomplete.

    Incomplete is one whose beginning was not captured.
    """
    if not history.is_complete:
        return "incomplete"
    if history.ended_ns is None:
        return "cancelled" if history.counts[Kind.CANCEL] else "unanswered"
    return "answered" if history.status == Status.OK else "refused"


def _where(event: Event) -> str:
    return "" if event.fragment is None else f" fragment {event.fragment}"


def describe_event(event: Event) -> str:
    """Return an event in words; a loss is said to be inferred."""
    where, after, kind = _where(event), duration(event.after_ns), event.kind
    if kind is Kind.RETRANSMITTED:
        loss = "; lost behind this point (inferred)" if event.cause is Cause.MISSING else ""
        return f"sent again{where} after {after}: {event.cause.value}{loss}"
    if kind is Kind.PAUSED:
        return f"{code_name(Status, event.status)}" + (f", to try again after {after}" if event.after_ns else "")
    if kind is Kind.ANSWERED:
        return f"answered {code_name(Status, event.status)}"
    if kind is Kind.DROPPED:
        return f"dropped{where} by the node: {code_name(DropReason, event.status)}"
    texts = {
        Kind.FRAGMENT_LATE: f"fragment {event.fragment} passed only when the responder missed it: lost before this "
        "point (inferred)",
        Kind.REORDERED: f"reordered{where}: it passed behind a later one",
        Kind.DUPLICATED: f"duplicated{where}: a copy after {after}, sooner than anybody sends again (inferred)",
        Kind.WORKING: "WORKING: the responder has it whole",
        Kind.GRANT: "GRANT: the responder said what it has",
        Kind.UNKNOWN: "UNKNOWN: the responder does not know it any more",
        Kind.RESEND: "RESEND: the requester asked for the rest of its answer",
        Kind.CANCEL: "CANCEL: the requester gave it up",
        Kind.DAMAGED: "passed with a wrong CRC: damaged before this point",
        Kind.ANSWER_DAMAGED: "an answer passed with a wrong CRC, which nobody takes: damaged before this point",
        Kind.BEGAN: "its batch began",
        Kind.ANSWER_FRAGMENT_LATE: f"answer{where} passed only when the requester missed it: lost before this point "
        "(inferred)",
        Kind.ANSWER_LOST: f"answer{where} sent again after {after}: lost behind this point (inferred)",
        Kind.ANSWERED_AGAIN: f"answered again {after} after the last time",
        Kind.ANSWER_DUPLICATED: f"answer duplicated{where}: a copy after {after} that nobody asked for (inferred)",
        Kind.ANSWER_LATE: "the answer came when it had been given up"
        if not event.after_ns
        else f"the answer passed {after} after the deadline",
    }
    return texts.get(kind, kind.value)


def reasons(history: RequestHistory, *, dla_tapped: bool) -> list[str]:
    """Return why a request went as it did, in a few words each; nothing for one that simply was answered.

    Args:
        history: The request's.
        dla_tapped: Whether the capture would show that its batch began.
    """
    counts = history.counts
    found = _sent_again(history)
    found += [describe_event(event) for event in history.events if event.kind in WEIGHTS and event.kind not in _SUMMED]
    paused = Counter(code_name(Status, event.status) for event in history.events if event.kind is Kind.PAUSED)
    found += [f"{name} {_times(count)}" for name, count in paused.items()]
    for kind, text in (
        (Kind.DUPLICATED, "frame duplicated"),
        (Kind.ANSWER_DUPLICATED, "answer duplicated"),
        (Kind.DAMAGED, "damaged before this point"),
        (Kind.ANSWER_DAMAGED, "answer damaged before this point"),
        (Kind.WORKING, "WORKING"),
        (Kind.ANSWERED_AGAIN, "duplicate answered again"),
    ):
        if counts[kind]:
            found.append(f"{text} {_times(counts[kind])}")
    if history.status == Status.DEADLINE_EXCEEDED:
        found.append(_deadline(history, dla_tapped=dla_tapped))
    elif history.status not in (None, Status.OK):
        found.append(f"refused: {code_name(Status, int(history.status or 0))}")
    if history.ended_ns is None and history.is_complete:
        found.append("no final answer passed")
    if not history.is_complete:
        found.append("its beginning was not captured")
    kept = len(history.events)
    if (total := sum(counts.values())) > kept:
        found.append(f"and {total - kept} more events")
    return found


def _sent_again(history: RequestHistory) -> list[str]:
    """Return what was sent again and after how long, those for one cause together."""
    causes: dict[Cause, list[str]] = {}
    for event in history.events:
        if event.kind is Kind.RETRANSMITTED:
            causes.setdefault(event.cause, []).append(f"{duration(event.after_ns)}{_of(event)}")
    loss = {Cause.MISSING: "; lost behind this point (inferred)"}
    return [
        f"sent again after {', '.join(times)}: {cause.value}{loss.get(cause, '')}" for cause, times in causes.items()
    ]


def _of(event: Event) -> str:
    return "" if event.fragment is None else f" (fragment {event.fragment})"


def _deadline(history: RequestHistory, *, dla_tapped: bool) -> str:
    limit = f"deadline of {duration(history.deadline_ns)}"
    if history.counts[Kind.BEGAN]:
        return f"{limit} missed between stages: its batch had begun"
    return f"{limit} missed in queue" if dla_tapped else f"{limit} missed at the responder, in queue or between stages"


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def history_fields(history: RequestHistory, *, dla_tapped: bool) -> dict[str, Any]:
    """Return a history as plain data."""
    latency, trailer = history.latency_ns, history.trailer
    return {
        "request": history.request,
        "session": history.session,
        "requester": format_peer(history.requester, udp=history.udp),
        "responder": format_peer(history.responder, udp=history.udp),
        "opcode": code_name(Opcode, history.opcode) if history.opcode else None,
        "pipeline": history.pipeline,
        "class": "once" if history.flags & Flag.ONCE else "datagram" if history.opcode == Opcode.INFER else None,
        "first_frame": history.first_frame,
        "frames": history.frames,
        "fragments": history.fragments,
        "began_ns": history.began_ns,
        "latency_us": None if latency is None else latency / 1000,
        "deadline_us": history.deadline_ns / 1000 or None,
        "outcome": outcome(history),
        "status": None if history.status is None else code_name(Status, history.status),
        "reasons": reasons(history, dla_tapped=dla_tapped),
        "stages_ns": dict(zip(STAGES, trailer.measured_ns, strict=True)) if trailer else None,
        "events": [
            {"time_ns": event.time_ns, "kind": event.kind.value, "text": describe_event(event)}
            for event in history.events
        ],
    }


@dataclass(order=True, slots=True)
class _Ranked:
    weight: tuple[int, int, int]
    history: RequestHistory = field(compare=False)


class Summary:
    """What many histories come to; keeps the most remarkable of them, and latencies.

    Args:
        top: Histories that are kept.

    Attributes:
        outcomes: Requests by what became of them.
        inferences: Likewise, INFERs alone.
        opcodes: Requests by what was asked.
        statuses: Final answers by status.
        events: Events by kind.
        causes: Frames of requests that were sent again, by why.
        remarkable: Requests to which anything happened but that they were answered.
    """

    def __init__(self, top: int) -> None:
        self._top, self._number = top, 0
        self._heap: list[_Ranked] = []
        self._times, self._latencies = array("q"), array("q")
        self._stages: dict[str, array[int]] = {stage: array("Q") for stage in STAGES}
        self.outcomes: Counter[str] = Counter(dict.fromkeys(_OUTCOMES, 0))
        self.inferences: Counter[str] = Counter(dict.fromkeys(_OUTCOMES, 0))
        self.opcodes: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()
        self.events: Counter[Kind] = Counter()
        self.causes: Counter[Cause] = Counter()
        self.remarkable = 0

    def take(self, history: RequestHistory) -> None:
        """Count a history."""
        self._number += 1
        self.outcomes[outcome(history)] += 1
        if history.opcode == Opcode.INFER:
            self.inferences[outcome(history)] += 1
        self.events.update(history.counts)
        self.causes.update(history.causes)
        if history.opcode:
            self.opcodes[code_name(Opcode, history.opcode)] += 1
        if history.status is not None:
            self.statuses[code_name(Status, history.status)] += 1
        if history.latency_ns is not None and history.opcode == Opcode.INFER and len(self._latencies) < MAX_LATENCIES:
            self._times.append(history.began_ns)
            self._latencies.append(history.latency_ns)
            if history.trailer:
                for stage, value in zip(STAGES, history.trailer.measured_ns, strict=True):
                    self._stages[stage].append(value)
        weight = rank(history)
        self.remarkable += weight > 0
        ranked = _Ranked((weight, history.latency_ns or 0, -self._number), history)
        if weight and len(self._heap) < self._top:
            heapq.heappush(self._heap, ranked)
        elif weight and self._heap and self._heap[0] < ranked:
            heapq.heapreplace(self._heap, ranked)

    @property
    def requests(self) -> int:
        """Histories that were counted."""
        return self._number

    def top(self) -> list[RequestHistory]:
        """Return the most remarkable histories, the most remarkable first."""
        return [ranked.history for ranked in sorted(self._heap, reverse=True)]

    def latencies(self) -> tuple[np.ndarray[Any, np.dtype[np.int64]], np.ndarray[Any, np.dtype[np.int64]]]:
        """Return when INFER requests began and how long they took, int64 [n] each, ns."""
        return np.array(self._times, np.int64), np.array(self._latencies, np.int64)

    def fields(self) -> dict[str, Any]:
        """Return the totals as plain data."""
        _, latencies = self.latencies()
        quantiles = np.quantile(latencies, (0.5, 0.9, 0.99, 1.0)).tolist() if len(latencies) else []
        return {
            "requests": self._number,
            "outcomes": dict(self.outcomes),
            "inferences": dict(self.inferences),
            "opcodes": dict(self.opcodes.most_common()),
            "statuses": dict(self.statuses.most_common()),
            "events": {kind.value: count for kind, count in self.events.most_common()},
            "sent_again": {
                **{cause.name.lower(): count for cause, count in self.causes.most_common()},
                Cause.UNEXPLAINED.name.lower(): self.causes[Cause.UNEXPLAINED],
            },
            "remarkable": self.remarkable,
            "latency_us": dict(zip(("p50", "p90", "p99", "max"), [value / 1000 for value in quantiles], strict=False)),
            "stages_us": {
                stage: float(np.median(np.array(values, np.uint64))) / 1000
                for stage, values in self._stages.items()
                if len(values)
            },
        }


def rank(history: RequestHistory) -> int:
    """Return how remarkable a history is: 0 for a request that simply was answered."""
    weight = sum(WEIGHTS.get(kind, 0) * count for kind, count in history.counts.items())
    how = outcome(history)
    if how in ("unanswered", "cancelled"):
        weight += _UNANSWERED
    elif how == "refused":
        weight += _REFUSED
    return weight


def honesty(*, lost: int, tapped: bool, sealed: bool) -> Iterator[str]:
    """Yield what has to be said of what a capture can tell.

    Args:
        lost: Frames that it says it lost itself.
        tapped: Whether it was made within a node.
        sealed: Whether frames were sealed.
    """
    point = "the node's taps" if tapped else "one point"
    yield f"captured at {point}: what was lost elsewhere on the way is inferred from what the ends did next"
    if lost:
        yield f"the capture itself lost {lost} frames: what seems to have been lost may only not have been captured"
    if sealed:
        yield "some frames are sealed: what they carry is not known here, their headers are"
