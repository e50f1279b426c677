"""Answers in several fragments, from the first that arrives until the message is whole."""

from dataclasses import dataclass

import numpy as np

from host_sdk.wire.errors import FrameError
from host_sdk.wire.exchange.arrived import Arrived
from host_sdk.wire.exchange.reassembly import Reassembler
from host_sdk.wire.header import Header
from host_sdk.wire.message import Message, decode_message
from host_sdk.wire.schema import DropReason, Flag


@dataclass(slots=True)
class _Partial:
    """An unfinished answer.

    Attributes:
        header: Of its fragments.
        news: Fragments that have arrived since the last RESEND.
        bound: Fragments from this one on are not sent without another RESEND.
    """

    header: Header
    news: int
    bound: int


class Collector:
    """The unfinished answers of one window, by the slots of their requests.

    Args:
        peer: Who sends them.
        opcode: Theirs.
        fragments: How many of an answer may be sent without being asked for.
        reassembler: Where their bytes are.
    """

    def __init__(self, peer: int, opcode: int, fragments: int, reassembler: Reassembler) -> None:
        self._peer, self._opcode, self._fragments, self._reassembler = peer, opcode, fragments, reassembler
        self._partials: dict[int, _Partial] = {}

    def __bool__(self) -> bool:
        return bool(self._partials)

    def add(self, slot: int, header: Header, payload: bytes, now: int) -> tuple[Message | None, bool]:
        """Take a fragment; return the message if it is whole now, and whether it is time to ask for what is missing.

        Raises:
            FrameError: The fragment does not fit those before it, or the message is damaged.
        """
        partial = self._partials.get(slot)
        if partial is None:
            partial = self._partials[slot] = _Partial(header, 0, self._fragments)
        partial.header = header
        try:
            whole = self._reassembler.add(self._peer, header, payload, now)
        except FrameError as error:
            if error.reason is not DropReason.FRAGMENT_DUPLICATE:
                raise
            return None, partial.news == 0  # else it was asked for, and what is missing may be on its way
        if whole is not None:
            return decode_message(header, whole.payload), False
        partial.news += 1
        # Only answers to ONCE requests are kept, and wait to be asked for what is behind their first fragments.
        waits = bool(header.flags & Flag.ONCE) and partial.bound < header.fragments
        stalls = waits and partial.news >= self._fragments
        return None, stalls or header.fragment == header.fragments - 1

    def arrived(self, slot: int) -> Arrived | None:
        """Return what a RESEND of an unfinished answer says; None where nothing of it has arrived."""
        partial = self._partials.get(slot)
        if partial is None:
            return None
        have = self._reassembler.have(self._peer, partial.header)
        if have is None:  # it was given up for its age, or was damaged
            have = np.zeros(partial.header.fragments, np.bool_)
        arrived = Arrived.of(self._opcode, have, self._fragments)
        partial.news, partial.bound = 0, arrived.base + arrived.window
        return arrived

    def forget(self, slot: int) -> None:
        """Give an unfinished answer up, if there is one."""
        partial = self._partials.pop(slot, None)
        if partial:
            header = partial.header
            self._reassembler.forget(self._peer, header.session, header.request, header.opcode)
