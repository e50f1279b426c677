"""What copies of *once* requests get that are known already: word that they are worked on, or the answer again."""

import numpy as np

from appliance.dataplane.answers import LongAnswer
from appliance.dataplane.replies import ReplyWriter
from appliance.dataplane.sessions import SLOT_MASK
from appliance.dataplane.state import State
from host_sdk.wire.exchange.arrived import Arrived
from host_sdk.wire.exchange.states import SLOT_RULES, SlotAction, SlotEvent
from host_sdk.wire.header import Header
from host_sdk.wire.message import Message
from host_sdk.wire.schema import DropReason, Flag, Opcode

WORKING_RETRY = 50  # in units of 100 µs: when a requester may ask again


class Copies:
    """Answers copies, and sends notices.

    Args:
        state: Answers and counters.
        replies: Where answers and notices go.
    """

    def __init__(self, state: State, replies: ReplyWriter) -> None:
        self._state, self._replies = state, replies

    def known(self, peer: int, header: Header, place: int, count: int = 1) -> None:
        """Do about frames of a copy, counted as accepted, what :data:`SLOT_RULES` says."""
        counters = self._state.counters
        action, _ = SLOT_RULES[self._state.answers.state(place, header.request), SlotEvent.REQUEST]
        if action == SlotAction.DROP_OUTDATED:
            counters.move(DropReason.OUTDATED, count)
            return
        counters.move(DropReason.DUPLICATE, count)
        if action == SlotAction.WORKING:
            self.notice(peer, header, Opcode.WORKING, retry_after=WORKING_RETRY)
        elif action == SlotAction.REPLAY:
            self.replay(peer, header, place)

    def replay(self, peer: int, header: Header, place: int, arrived: Arrived | None = None) -> None:
        """Send a kept answer again: whole or, if it is long, its first fragments; or those that have not arrived."""
        answer = self._state.answers.kept(place)
        if not isinstance(answer, LongAnswer):
            self._replies.again(peer, answer)
            return
        slot = header.session & SLOT_MASK
        which = np.arange(min(answer.header.fragments, int(self._state.sessions.reply_fragments[slot])))
        if arrived:
            which = np.arange(arrived.base, min(arrived.base + arrived.window, answer.header.fragments))
            which = which[~arrived.among(which)]
        self._replies.fragments(peer, answer.header, answer.payload, which)

    def notice(self, peer: int, header: Header, opcode: Opcode, body: bytes = b"", retry_after: int = 0) -> None:
        """Send a notice about a request."""
        about = Header(
            opcode,
            header.request,
            flags=header.flags & (Flag.CRC | Flag.ONCE),
            session=header.session,
            priority=header.priority,
            credits=self._state.credits if header.session else 0,
            retry_after=retry_after,
        )
        self._replies.message(peer, Message(about, body))
        self._state.counters.notices += 1

    def unknown(self, peer: int, header: Header) -> None:
        """Tell that nothing is known of a request."""
        self.notice(peer, header, Opcode.UNKNOWN)
