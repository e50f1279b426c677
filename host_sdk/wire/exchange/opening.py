"""Opening a session: which of a few PDU sizes gets through, and what the appliance says that holds in it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgpack

from host_sdk.wire.errors import NapuError, RemoteProtocolError, status_error
from host_sdk.wire.exchange.course import TRANSIENT
from host_sdk.wire.exchange.pace import Bounds, RequesterLimits
from host_sdk.wire.header import Header
from host_sdk.wire.message import Message, encode_message, fragment_frames, fragment_size_for
from host_sdk.wire.schema import (
    CRC_SIZE,
    HEADER_SIZE,
    MAX_FRAGMENT_SIZE,
    MAX_MESSAGE,
    MAX_SESSION_WINDOW,
    MIN_MTU,
    RETRY_AFTER_UNIT_US,
    Flag,
    Opcode,
    Status,
)

PATH_MTUS = (8972, 3400, 1500, 1472, 1280, MIN_MTU)  # that are tried where the link's own does not get through
_TRIES = 2  # of each
_MAX_CREDITS = 255
_SMALLEST_MESSAGE = 65536


@dataclass(frozen=True, slots=True)
class Opened:
    """A session that was opened or resumed.

    Attributes:
        bounds: What holds in it.
        base: Id of the OPEN that opened it.
        max_message: Bytes of the longest message that the appliance takes.
    """

    bounds: Bounds
    base: int
    max_message: int

    @classmethod
    def parse(cls, reply: Message, fragment_size: int) -> "Opened":
        """Read an OPENED with status OK.

        Raises:
            RemoteProtocolError: It is none.
        """
        try:
            said = msgpack.unpackb(reply.body, strict_map_key=True)
        except (ValueError, msgpack.exceptions.UnpackException) as error:
            raise RemoteProtocolError(f"OPENED is no msgpack: {error}") from None
        if not isinstance(said, dict) or not reply.header.session:
            raise RemoteProtocolError("OPENED is no map, or names session 0")
        granted = _number(said, "credits", 1, _MAX_CREDITS)
        window = _number(said, "window", granted, MAX_SESSION_WINDOW)
        base = _number(said, "base", 1, (1 << 63) - 1)
        if window & (window - 1):
            raise RemoteProtocolError(f"OPENED: a window of {window} is no power of two")
        bounds = Bounds(
            session=reply.header.session,
            following=_number(said, "next", base + 1, (1 << 63) - 1),
            credits=granted,
            window=window,
            fragments=_number(said, "fragments", 1, MAX_FRAGMENT_SIZE),
            fragment_size=fragment_size,
        )
        return cls(bounds, base, _number(said, "max_message", _SMALLEST_MESSAGE, MAX_MESSAGE))


def _number(said: dict[Any, Any], key: str, low: int, high: int) -> int:
    value = said.get(key)
    if type(value) is not int or not low <= value <= high:
        raise RemoteProtocolError(f"OPENED: {key} is {value!r}; it must be {low} to {high}")
    return value


class Opening:
    """Sends OPENs until one is answered.

    Each is as long as the PDUs that it hopes for; when two of a size get no answer, the next smaller size is tried, and
    after the smallest the largest again, less often: the appliance may just not have been there.

    Args:
        sizes: Bytes of PDUs to try, the best first.
        limits: Timeouts, and fragments of answers.
        draw: Gives random bits, for ids.
        resume: The session to go on with; 0 for a new one.
        tenant: On whose behalf.

    Attributes:
        due: When the next OPEN is to be sent.
        path_mtu: The size that was answered; 0 before.
        refusal: The last answer that said: not now.
        asked: OPENs that were sent.
    """

    def __init__(
        self, sizes: tuple[int, ...], limits: RequesterLimits, draw: Callable[[int], int], resume: int, tenant: str
    ) -> None:
        self._sizes, self._limits, self._draw, self._resume, self._tenant = sizes, limits, draw, resume, tenant
        self.due = self.path_mtu = self.asked = 0
        self.refusal: NapuError | None = None
        self._sent: dict[int, tuple[int, int, int]] = {}  # by id: size, first sent, transmissions
        self._round, self._tries, self._rto = 0, 0, limits.first_rto_ns
        self._number = 0

    def to_send(self, now: int) -> list[bytes]:
        """Return the OPEN to send now, if it is time."""
        if now < self.due:
            return []
        if self._tries == _TRIES and not self.path_mtu:
            self._tries, self._number, self._round = 0, 0, self._round + 1
            if self._round % len(self._sizes) == 0:
                self._rto = min(2 * self._rto, self._limits.max_rto_ns)
        size = self.path_mtu or self._sizes[self._round % len(self._sizes)]
        if not self._number:
            self._number = self._draw(62) or 1  # leaves room for the ids that count on from it
        self._tries += 1
        self.asked += 1
        self.due = now + self._rto
        _, began, transmissions = self._sent.get(self._number, (size, now, 0))
        self._sent[self._number] = (size, began, transmissions + 1)
        return [self._open(self._number, size)]

    def _open(self, number: int, size: int) -> bytes:
        content: dict[str, Any] = {"fragment_size": fragment_size_for(size), "fragments": self._limits.fragments}
        content |= {"tenant": self._tenant} if self._tenant else {}
        content |= {"resume": self._resume} if self._resume else {}
        unpadded = len(msgpack.packb({**content, "padding": bytes(256)})) - 256
        content["padding"] = bytes(size - HEADER_SIZE - CRC_SIZE - unpadded)
        message = Message(Header(Opcode.OPEN, number, Flag.CRC), msgpack.packb(content))
        (pdu,) = fragment_frames(*encode_message(message, fragment_size_for(size)))
        return pdu

    def knows(self, number: int) -> bool:
        """Return whether an OPEN of this id was sent."""
        return number in self._sent

    def take(self, reply: Message, now: int) -> Opened | None:
        """Take a whole and sound answer; return the session, None where it said: not now.

        Raises:
            NapuError: The appliance refuses, or says what makes no sense.
        """
        header = reply.header
        self.path_mtu = self._sent[header.request][0]
        if header.status == Status.OK:
            return Opened.parse(reply, fragment_size_for(self.path_mtu))
        detail = reply.body.decode("utf-8", "replace")
        error = status_error(header.status, detail, header.retry_after * RETRY_AFTER_UNIT_US / 1e6)
        if header.status not in TRANSIENT:
            raise error
        self.refusal, self._number = error, header.request
        self.due = now + (header.retry_after * RETRY_AFTER_UNIT_US * 1000 or self._rto)
        return None

    def round_trip(self, number: int, now: int) -> int | None:
        """Return how long the answer to an OPEN took; None where it was sent more than once."""
        _, began, transmissions = self._sent[number]
        return now - began if transmissions == 1 else None


def path_sizes(link_mtu: int, remembered: int | None, overhead: int = 0) -> tuple[int, ...]:
    """Return the PDU sizes to try at an appliance: what got through before, or the link's own, then smaller ones.

    Args:
        link_mtu: Bytes of the link's largest PDU.
        remembered: What got through before; None where nothing has.
        overhead: Bytes by which the link makes these PDUs longer, beside what its own MTU tells.
    """
    largest = min(remembered or link_mtu, HEADER_SIZE + MAX_FRAGMENT_SIZE)
    return (largest, *(size - overhead for size in PATH_MTUS if size - overhead < largest))
