"""Asking an appliance's dataplane for a sign of life, without a session and without work for it."""

from collections.abc import Callable

from host_sdk.wire.exchange.arrived import Arrived
from host_sdk.wire.exchange.notices import notice
from host_sdk.wire.exchange.slots import HIGHEST_BIT
from host_sdk.wire.header import Header
from host_sdk.wire.schema import Flag, Opcode

_MOST = 4096  # whose answers are waited for


class Probes:
    """The last probe of each appliance, and when one was answered last.

    A probe is a RESEND of a request that never was, which the dataplane answers with UNKNOWN, in whatever session.

    Args:
        draw: Gives random bits, for ids.
    """

    def __init__(self, draw: Callable[[int], int]) -> None:
        self._draw = draw
        self._last: dict[int, int] = {}
        self._answered: dict[int, int] = {}

    def ask(self, peer: int) -> bytes:
        """Return the PDU of a new probe, which takes the place of the one before."""
        number = self._draw(62) | HIGHEST_BIT
        if len(self._last) >= _MOST:
            self._last.clear()
            self._answered.clear()
        self._last[peer] = number
        about = Header(Opcode.RESEND, number, Flag.CRC, session=self._draw(32) or 1)
        return notice(Opcode.RESEND, about, Arrived(Opcode.RESULT, 0, 1).encode())

    def take(self, peer: int, number: int, now: int) -> bool:
        """Take an UNKNOWN from a peer; return whether it answers its probe, which is over then."""
        if self._last.get(peer) != number:
            return False
        del self._last[peer]
        self._answered[peer] = now
        return True

    def answered_ns(self, peer: int) -> int:
        """Return when a probe was answered last, in ns; 0 where none was."""
        return self._answered.get(peer, 0)
