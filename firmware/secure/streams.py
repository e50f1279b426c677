"""The streams that there are: bounded in number, in age, and in how many a second may begin."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from firmware.services.access import Bucket
from host_sdk.wire.errors import BusyError
from host_sdk.wire.secure.channel import Channel

_SECOND_NS = 1_000_000_000
Key = tuple[int, int]  # peer, and the number that it gave the stream


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """Bounds.

    Attributes:
        half_open: Streams whose handshake is under way; the oldest makes room.
        half_open_each: Of them, those of one peer.
        established: Streams of users who are known; the one that was idle for longest makes room.
        established_each: Of them, those of one certificate.
        handshake_ns: Age at which one that is half open ends.
        idle_ns: Time without a request after which one ends.
        rate: Handshakes that begin in a second.
        rate_each: Of them, those of one peer.
        peers: Peers whose rate is remembered.
    """

    half_open: int = 64
    half_open_each: int = 8
    established: int = 128
    established_each: int = 16
    handshake_ns: int = 10 * _SECOND_NS
    idle_ns: int = 300 * _SECOND_NS
    rate: int = 200
    rate_each: int = 20
    peers: int = 1024


@dataclass(slots=True)
class Stream:
    """One stream.

    Attributes:
        received: Bytes of records that have come.
        sent: Bytes of records that were sent.
        used: When it was last used, in ns; while it is half open, when it began.
        digest: Of the records that came last.
        answer: What they were answered with.
        answered_at: Where in the stream of answers that begins.
    """

    key: Key
    channel: Channel
    used: int
    received: int = 0
    sent: int = 0
    last: int = -1
    digest: bytes = b""
    answer: bytes = b""
    answered_at: int = 0


@dataclass(slots=True)
class StreamTable:
    """All streams.

    Attributes:
        half_open: By key, those that began first at the front.
        established: By key, those idle for longest at the front.
    """

    limits: StreamLimits
    half_open: OrderedDict[Key, Stream] = field(default_factory=OrderedDict)
    established: OrderedDict[Key, Stream] = field(default_factory=OrderedDict)
    _all: Bucket | None = None
    _each: OrderedDict[int, Bucket] = field(default_factory=OrderedDict)

    def __len__(self) -> int:
        return len(self.half_open) + len(self.established)

    def find(self, key: Key, now: int) -> Stream | None:
        """Return a stream; those whose time is over have ended."""
        self._expire(self.half_open, now - self.limits.handshake_ns)
        self._expire(self.established, now - self.limits.idle_ns)
        return self.half_open.get(key) or self.established.get(key)

    def begin(self, key: Key, make: Callable[[], Channel], now: int) -> Stream:
        """Add a stream, half open.

        Raises:
            BusyError: Too many have begun within a second.
        """
        peer = key[0]
        self._take_rate(peer, now)
        mine = [other for other in self.half_open if other[0] == peer]
        if len(mine) >= self.limits.half_open_each:
            del self.half_open[mine[0]]
        elif len(self.half_open) >= self.limits.half_open:
            self.half_open.popitem(last=False)
        stream = self.half_open[key] = Stream(key, make(), now)
        return stream

    def establish(self, stream: Stream) -> None:
        """Move a stream, whose user is known now, to the established ones."""
        self.half_open.pop(stream.key, None)
        subject = stream.channel.subject
        mine = [key for key, other in self.established.items() if other.channel.subject == subject]
        if len(mine) >= self.limits.established_each:
            del self.established[mine[0]]
        elif len(self.established) >= self.limits.established:
            self.established.popitem(last=False)
        self.established[stream.key] = stream

    def use(self, stream: Stream, now: int) -> None:
        """Note that an established stream is in use."""
        if stream.key in self.established:
            stream.used = now
            self.established.move_to_end(stream.key)

    def end(self, stream: Stream) -> None:
        """Forget a stream."""
        self.half_open.pop(stream.key, None)
        self.established.pop(stream.key, None)

    def _take_rate(self, peer: int, now: int) -> None:
        each = self._each.pop(peer, None) or Bucket(self.limits.rate_each, now)
        self._each[peer] = each
        if len(self._each) > self.limits.peers:
            self._each.popitem(last=False)
        # A peer's own bound comes first, so that what is over it takes nothing from the others.
        if not each.take(now):
            raise BusyError(f"more than {self.limits.rate_each} streams of one peer begin in a second")
        self._all = self._all or Bucket(self.limits.rate, now)
        if not self._all.take(now):
            raise BusyError(f"more than {self.limits.rate} streams begin in a second")

    @staticmethod
    def _expire(streams: OrderedDict[Key, Stream], before: int) -> None:
        while streams and next(iter(streams.values())).used < before:
            streams.popitem(last=False)
