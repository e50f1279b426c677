"""Devices that take something wrong: each hears what it should not, or not what it should."""

from collections.abc import Callable

from host_sdk.conformance.frames import CRC, EXTENDED, ONCE, Reply
from host_sdk.wire.links.base import BROADCAST
from host_sdk.wire.schema import HEADER_SIZE, KNOWN_FLAGS, Opcode
from tests.conformance.alter import field, lost, of, on, single, with_crc, with_fields
from tests.conformance.device import Alter

_INFER = of(Opcode.INFER)
_SOMEBODY = 0x02_00_00_00_77_77  # whom no port has


def _always(make: Callable[[bytes], bytes]) -> Alter:
    return on(lambda _: True, make)


def _cut(pdu: bytes) -> bytes:
    """Cut off what is behind the fragment."""
    return pdu if len(pdu) < HEADER_SIZE else pdu[: len(pdu) - max(0, Reply.parse(pdu).excess)]


def _filled(pdu: bytes) -> bytes:
    """Fill up what is missing of a header and its fragment."""
    pdu = pdu.ljust(HEADER_SIZE, b"\x01")
    return pdu + bytes(max(0, -Reply.parse(pdu).excess))


def _some_fragment(pdu: bytes) -> bytes:
    """Make the best of an impossible fragment."""
    here = Reply.parse(pdu)
    if here.version < 0 or (here.fragment_size and here.fragment < here.fragments):
        return pdu
    body = len(pdu) - HEADER_SIZE
    return with_fields(pdu, fragment=0, fragment_size=max(1, body), length=body)


def _from_broadcast(peer: int, pdu: bytes) -> list[tuple[int, bytes]]:
    return [(_SOMEBODY if peer == BROADCAST else peer, pdu)]


def _to_broadcast(peer: int, pdu: bytes) -> list[tuple[int, bytes]]:
    return [(BROADCAST if peer == _SOMEBODY else peer, pdu)]


def _right_crc(pdu: bytes) -> bytes:
    return with_crc(pdu) if len(pdu) > HEADER_SIZE and single(pdu) else pdu


def _crc_of_strange_opcodes(pdu: bytes) -> bytes:
    return _right_crc(pdu) if field(pdu, "opcode") not in set(Opcode) else pdu


def _repeated(pdu: bytes) -> tuple[bytes, bytes]:
    return pdu, pdu


class InOrder:
    """Loses the fragments that come before one that they should come behind."""

    def __init__(self) -> None:
        self._next: dict[bytes, int] = {}

    def __call__(self, peer: int, pdu: bytes) -> list[tuple[int, bytes]]:
        here = Reply.parse(pdu)
        if here.opcode not in (Opcode.INFER, Opcode.CONTROL) or here.fragments == 1:
            return [(peer, pdu)]
        wanted = self._next.get(pdu[4:16], 0)
        if here.fragment > wanted:
            return []
        self._next[pdu[4:16]] = max(wanted, here.fragment + 1)
        return [(peer, pdu)]


class FirstHeader:
    """Takes the fragments of a request under the header of the first of them."""

    def __init__(self, *, key: slice = slice(4, 16), kept: slice = slice(0, HEADER_SIZE)) -> None:
        self._first: dict[bytes, bytes] = {}
        self._key, self._kept = key, kept

    def __call__(self, peer: int, pdu: bytes) -> list[tuple[int, bytes]]:
        here = Reply.parse(pdu)
        if here.fragments == 1 or not here.request:
            return [(peer, pdu)]
        first = self._first.setdefault(pdu[self._key], pdu[:HEADER_SIZE])
        head = pdu[: self._kept.start] + first[self._kept] + pdu[self._kept.stop : HEADER_SIZE]
        return [(peer, head[:24] + pdu[24:26] + head[26:] + pdu[HEADER_SIZE:])]


class OnceMore:
    """Gives every fragment that comes a second time up, together with its message: the next one is of another."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()

    def __call__(self, peer: int, pdu: bytes) -> list[tuple[int, bytes]]:
        here = Reply.parse(pdu)
        if here.fragments == 1:
            return [(peer, pdu)]
        if pdu[:HEADER_SIZE] not in self._seen:
            self._seen.add(pdu[:HEADER_SIZE])
            return [(peer, pdu)]
        return [(peer, with_fields(pdu, priority=77))]


class ByAnnouncement:
    """Sets memory aside for what headers of CONTROLs announce, and drops fragments when there is none left."""

    def __init__(self) -> None:
        self._held: dict[bytes, int] = {}

    def __call__(self, peer: int, pdu: bytes) -> list[tuple[int, bytes]]:
        here = Reply.parse(pdu)
        if here.opcode in (Opcode.INFER, Opcode.CONTROL) and here.fragments > 1:
            self._held[pdu[4:16]] = here.length
            if sum(self._held.values()) > 1 << 26:
                return []
        return [(peer, pdu)]


class Numbers:
    """Loses INFERs whose ids are not above the highest of their session."""

    def __init__(self) -> None:
        self._highest: dict[int, int] = {}

    def __call__(self, peer: int, pdu: bytes) -> list[tuple[int, bytes]]:
        if field(pdu, "opcode") == Opcode.INFER and field(pdu, "flags") & ONCE:
            session, request = field(pdu, "session"), field(pdu, "request")
            if request < self._highest.get(session, 0):
                return []
            self._highest[session] = request
        return [(peer, pdu)]


def _map_with(*keys: bytes) -> Callable[[bytes], bool]:
    return lambda pdu: any(key in pdu for key in keys)


# By name: the rules that each breaks, what becomes of what comes to the device, and of what it sends.
HEARD: dict[str, tuple[str, Callable[[], Alter], Alter | None]] = {
    "takes every version": ("N-011", lambda: _always(lambda pdu: b"\x01" + pdu[1:] if pdu else pdu), None),
    "takes replies for requests": (
        "N-012",
        lambda: on(lambda p: field(p, "opcode") > 0x80, lambda p: with_fields(p, opcode=field(p, "opcode") & 0x7F)),
        None,
    ),
    "cuts off trailing bytes": ("N-008 N-002", lambda: _always(_cut), None),
    "fills up what was truncated": ("N-026", lambda: _always(_filled), None),
    "makes the best of impossible fragments": ("N-025", lambda: _always(_some_fragment), None),
    "answers the broadcast address": ("N-009", lambda: _from_broadcast, _to_broadcast),
    "passes over unknown flags": (
        "N-034",
        lambda: on(of(), lambda p: with_fields(p, flags=field(p, "flags") & KNOWN_FLAGS)),
        None,
    ),
    "never checks a CRC of one frame": ("N-048", lambda: _always(_right_crc), None),
    "looks at the opcode before the CRC": ("N-047", lambda: _always(_crc_of_strange_opcodes), None),
    "takes fragments in order alone": ("N-027", InOrder, None),
    "tells fragments apart by request alone": ("N-028", lambda: FirstHeader(key=slice(8, 16), kept=slice(4, 8)), None),
    "takes fragments under the first one's header": ("N-030", FirstHeader, None),
    "gives messages up for copies of a fragment": ("N-029", OnceMore, None),
    "sets memory aside for announcements": ("N-091", ByAnnouncement, None),
    "takes once requests in order alone": ("N-111", Numbers, None),
    "refuses requests with extensions": (
        "N-042",
        lambda: on(lambda pdu: bool(field(pdu, "flags") & EXTENDED), lost),
        None,
    ),
    "never looks at deadlines": ("N-078", lambda: on(_INFER, lambda pdu: with_fields(pdu, deadline=0)), None),
    "finds every deadline passed": (
        "N-078",
        lambda: on(lambda p: _INFER(p) and field(p, "deadline") > 0, lambda p: with_fields(p, deadline=1)),
        None,
    ),
    "takes no deadline for one of a µs": (
        "N-078",
        lambda: on(lambda p: _INFER(p) and field(p, "deadline") == 0, lambda p: with_fields(p, deadline=500)),
        None,
    ),
    "takes once requests without a CRC for others": (
        "N-145",
        lambda: on(lambda p: field(p, "flags") & (ONCE | CRC) == ONCE, lambda p: with_fields(p, flags=0)),
        None,
    ),
    "passes CANCEL over": ("N-105 N-106", lambda: on(of(Opcode.CANCEL), lost), None),
    "passes SETTLE over": ("N-111", lambda: on(of(Opcode.SETTLE), lost), None),
    "passes RESEND over": ("N-117 N-111", lambda: on(of(Opcode.RESEND), lost), None),
    "answers an unknown notice": (
        "N-100",
        lambda: on(lambda pdu: field(pdu, "opcode") in (0x23, 0x3F), lambda p: with_fields(p, opcode=Opcode.CLOSE)),
        None,
    ),
    "executes once requests at every copy": (
        "N-111 N-112 N-113",
        lambda: on(_INFER, lambda p: with_fields(p, flags=field(p, "flags") & ~ONCE)),
        on(of(Opcode.RESULT), lambda p: with_fields(p, flags=field(p, "flags") | ONCE)),
    ),
    "takes datagram requests twice": (
        "N-105 N-098",
        lambda: on(lambda p: _INFER(p) and not field(p, "flags") & ONCE, _repeated),
        None,
    ),
    "refuses an INFER with credits": (
        "N-014",
        lambda: on(lambda p: _INFER(p) and field(p, "credits") > 0, lambda p: with_fields(p, pipeline=0)),
        None,
    ),
    "refuses keys that it does not know": ("N-057", lambda: on(_map_with(b"weather"), lost), None),
    "hears no DISCOVER without a CRC": (
        "N-055",
        lambda: on(lambda p: field(p, "opcode") == Opcode.DISCOVER and not field(p, "flags") & CRC, lost),
        None,
    ),
    "hears no PDU of more than 575 bytes": ("N-004", lambda: on(lambda pdu: len(pdu) > 575, lost), None),
}
