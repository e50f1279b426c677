"""DISCOVER: a question whose every answer counts, until its time is over."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from host_sdk.wire.exchange.answers import Announced, Event
from host_sdk.wire.header import Header
from host_sdk.wire.message import Message, encode_message, fragment_frames
from host_sdk.wire.schema import HEADER_SIZE, MIN_MTU, Status


@dataclass(slots=True)
class _Gathering:
    token: int
    peer: int
    pdu: bytes
    expires: int
    due: int
    rto: int


class Gatherings:
    """All that are under way.

    Args:
        events: Where answers and ends are put.
        draw: Gives random bits, for ids.
        first_rto_ns: When the question is asked again.
    """

    def __init__(self, events: list[Event], draw: Callable[[int], int], first_rto_ns: int) -> None:
        self._events, self._draw, self._first_rto = events, draw, first_rto_ns
        self._open: dict[int, _Gathering] = {}  # by request id

    def __len__(self) -> int:
        return len(self._open)

    def begin(self, token: int, peer: int, header: Header, body: bytes, now: int, expires: int) -> None:
        """Ask a peer, or everybody."""
        number = self._draw(64) or 1
        message = Message(replace(header, request=number), body)
        (pdu,) = fragment_frames(*encode_message(message, MIN_MTU - HEADER_SIZE))
        self._open[number] = _Gathering(token, peer, pdu, expires, now, self._first_rto)

    def cancel(self, token: int) -> None:
        """Forget a question."""
        for number in [number for number, gathering in self._open.items() if gathering.token == token]:
            del self._open[number]

    def clear(self) -> None:
        """Forget all."""
        self._open.clear()

    def knows(self, number: int) -> bool:
        """Return whether a question of this id is open."""
        return number in self._open

    def take(self, peer: int, message: Message) -> None:
        """Take a whole answer to an open question."""
        if message.header.status == Status.OK:
            self._events.append(Announced(self._open[message.header.request].token, peer, message.body))

    def times(self) -> Iterator[int]:
        """Yield when to_send has work."""
        for gathering in self._open.values():
            yield min(gathering.expires, gathering.due)

    def to_send(self, now: int) -> Iterator[tuple[int, bytes]]:
        """Yield peer and PDU of what is to be asked now, and end what is over."""
        for number, gathering in list(self._open.items()):
            if now >= gathering.expires:
                del self._open[number]
                self._events.append(Announced(gathering.token, gathering.peer, None))
            elif now >= gathering.due:
                gathering.due, gathering.rto = now + gathering.rto, 2 * gathering.rto
                yield gathering.peer, gathering.pdu
