"""Notices from requesters: CANCEL, SETTLE, RESEND."""

import numpy as np

from appliance.dataplane.answers import PENDING
from appliance.dataplane.copies import Copies
from appliance.dataplane.landing import Landing
from appliance.dataplane.refusal import answer_header
from appliance.dataplane.replies import ReplyWriter
from appliance.dataplane.service import Service
from appliance.dataplane.sessions import SLOT_MASK
from appliance.dataplane.state import State
from host_sdk.wire.errors import FrameError
from host_sdk.wire.exchange.arrived import Arrived
from host_sdk.wire.exchange.states import SLOT_RULES, SlotAction, SlotEvent
from host_sdk.wire.header import Header
from host_sdk.wire.message import Message, is_bare
from host_sdk.wire.schema import MAX_ARRIVED_BITS, DropReason, Flag, Opcode, Status


class Notices:
    """Does what requesters' notices ask for.

    Args:
        state: Sessions, answers, counters.
        copies: Gives answers again.
        landing: Where requests of many frames are collected.
        service: Where requests wait and run.
        replies: Where the answer CANCELLED goes.
    """

    def __init__(
        self,
        state: State,
        copies: Copies,
        landing: Landing,
        service: Service,
        replies: ReplyWriter,
    ) -> None:
        self._state, self._copies, self._landing, self._service = state, copies, landing, service
        self._replies = replies

    def take(self, peer: int, message: Message, now: int) -> None:
        """Take one notice that was counted as accepted."""
        header = message.header
        known = self._state.sessions.find(header.session, peer, now)
        if known and is_bare(header) and self._state.sessions.checked[header.session & SLOT_MASK]:
            self._state.counters.move(DropReason.NOT_KNOWN)
        elif header.opcode == Opcode.RESEND:
            self._resend(peer, message, known)
        elif not known or header.opcode not in (Opcode.CANCEL, Opcode.SETTLE):
            self._state.counters.move(DropReason.NOT_KNOWN)
        elif header.opcode == Opcode.SETTLE:
            self._state.answers.settle(
                header.session & SLOT_MASK, header.request, message.body[: MAX_ARRIVED_BITS // 8]
            )
        elif not self._cancel(peer, header):
            self._state.counters.move(DropReason.NOT_KNOWN)

    def _place(self, header: Header) -> int:
        return self._state.answers.place(header.session & SLOT_MASK, header.request)

    def _resend(self, peer: int, message: Message, known: bool) -> None:
        """Give what is missing of an answer."""
        header = message.header
        try:
            arrived = Arrived.decode(message.body)
        except FrameError:
            self._state.counters.move(DropReason.NOT_KNOWN)
            return
        if not known or not header.flags & Flag.ONCE:
            self._copies.unknown(peer, header)
            return
        place = self._place(header)
        action, _ = SLOT_RULES[self._state.answers.state(place, header.request), SlotEvent.RESEND]
        if action == SlotAction.MISSING:
            self._copies.replay(peer, header, place, arrived)
        elif action == SlotAction.WORKING:
            self._copies.notice(peer, header, Opcode.WORKING)
        elif action == SlotAction.UNKNOWN:
            self._copies.unknown(peer, header)
        else:
            self._state.counters.move(DropReason.NOT_KNOWN)

    def _cancel(self, peer: int, header: Header) -> bool:
        """End a request; return whether there was anything to do about it."""
        if not header.flags & Flag.ONCE:
            return self._service.cancel(header.session, header.request) or self._forget(peer, header)
        place = self._place(header)
        action, _ = SLOT_RULES[self._state.answers.state(place, header.request), SlotEvent.CANCEL]
        if action == SlotAction.END:
            self._service.cancel(header.session, header.request)
        elif action == SlotAction.REMEMBER:
            begun = self._landing.cancel(place, header.request) or self._forget(peer, header)
            self._remember(peer, header, place, tell=begun)
        return action != SlotAction.DROP_NOT_KNOWN

    def _forget(self, peer: int, header: Header) -> bool:
        """Give up the fragments of a request that has not arrived whole."""
        return self._state.reassembler.forget(peer, header.session, header.request, Opcode.INFER)

    def _remember(self, peer: int, header: Header, place: int, *, tell: bool) -> None:
        """Keep CANCELLED as the answer to a request that has not come, or not whole."""
        answers, slots = self._state.answers, np.array([header.session & SLOT_MASK])
        request = Header(Opcode.INFER, header.request, header.flags, header.session, priority=header.priority)
        reply = self._replies.encode(Message(answer_header(request, Status.CANCELLED, self._state.credits)))
        if not answers.admit(slots, len(reply))[0]:
            return
        number = np.array([header.request], np.uint64)
        answers.take(slots, np.array([place]), number, PENDING)
        answers.keep(np.array([place]), number, np.frombuffer(reply, np.dtype((np.void, len(reply)))))
        if tell:
            self._replies.message(peer, Message(answer_header(request, Status.CANCELLED, self._state.credits)))
