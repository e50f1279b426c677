"""Answers in several fragments, from the first that arrives until the message is whole."""

from dataclasses import dataclass

import numpy as np

from host_sdk.wire.exchange.arrived import Arrived
from host_sdk.wire.exchange.fragments import Fragments
from host_sdk.wire.exchange.pace import RequesterLimits, RoundTrip
from host_sdk.wire.exchange.reassembly import Reassembler
from host_sdk.wire.header import Header
from host_sdk.wire.message import Message, decode_message
from host_sdk.wire.schema import Flag


@dataclass(slots=True)
class _Partial:
    """An unfinished answer.

    Attributes:
        header: Of its fragments.
        wanted: Fragments that were asked for, or are sent unasked.
        bound: Fragments from this one on are not sent without another RESEND.
        news: Fragments that have arrived since the last RESEND.
        asked: When that was sent, ns; None where none was.
        measures: Whether what comes next tells how long it takes to get what was asked for.
    """

    header: Header
    wanted: int
    bound: int
    news: int = 0
    asked: int | None = None
    measures: bool = False


class Collector:
    """The unfinished answers of one window, by the slots of their requests.

    Args:
        peer: Who sends them.
        opcode: Theirs.
        limits: How many fragments may be sent unasked, and be asked for.
        reassembler: Where their bytes are.
        trip: How long it takes until what was asked for comes.
    """

    def __init__(
        self, peer: int, opcode: int, limits: RequesterLimits, reassembler: Reassembler, trip: RoundTrip
    ) -> None:
        self._peer, self._opcode, self._limits, self._reassembler = peer, opcode, limits, reassembler
        self._trip = trip
        self._partials: dict[int, _Partial] = {}

    def __bool__(self) -> bool:
        return bool(self._partials)

    def add(self, slot: int, fragments: Fragments, now: int) -> tuple[Message | None, bool]:
        """Take fragments; return the message if it is whole now, and whether it is time to ask for what is missing.

        Raises:
            FrameError: They do not fit those before them, or the message is damaged.
        """
        header, unasked = fragments.header, self._limits.fragments
        partial = self._partials.get(slot)
        if partial is None:
            partial = self._partials[slot] = _Partial(header, unasked, unasked)
        partial.header = header
        taken = self._reassembler.take(self._peer, fragments, now)
        if taken.whole is not None:
            return decode_message(header, taken.whole.payload), False
        if not taken.new:
            return None, False  # what was asked for may be on its way; if not, its timeout tells
        if partial.asked is not None and partial.measures:
            self._trip.measure(now - partial.asked)
        partial.measures = False
        partial.news += taken.new
        # Only answers to ONCE requests are kept, and wait to be asked for what is behind their first fragments.
        waits = bool(header.flags & Flag.ONCE) and partial.bound < header.fragments
        stalls = waits and (partial.news >= partial.wanted or int(fragments.indices.max()) >= partial.bound - 1)
        return None, stalls or fragments.has_last

    def ask(self, slot: int, now: int) -> Arrived | None:
        """Return what a RESEND of an unfinished answer says; None where nothing of it has arrived."""
        partial = self._partials.get(slot)
        if partial is None:
            return None
        header = partial.header
        most = max(self._limits.fragments, self._limits.asked_fragments // len(self._partials))
        arrived = self._reassembler.arrived(self._peer, header, most)
        if arrived is None:  # it was given up for its age, or was damaged
            arrived = Arrived(self._opcode, 0, most)
        partial.measures = partial.asked is None or partial.news > 0  # else what comes may have been asked for before
        partial.bound = min(arrived.base + arrived.window, header.fragments)
        indices = np.arange(arrived.base, partial.bound)
        partial.wanted = len(indices) - int(np.count_nonzero(arrived.among(indices)))
        partial.news, partial.asked = 0, now
        return arrived

    def forget(self, slot: int) -> None:
        """Give an unfinished answer up, if there is one."""
        partial = self._partials.pop(slot, None)
        if partial:
            header = partial.header
            self._reassembler.forget(self._peer, header.session, header.request, header.opcode)
