"""How fast a requester asks, and when it asks again."""

from dataclasses import dataclass

from host_sdk.wire.schema import FIRST_FRAGMENTS


@dataclass(frozen=True, slots=True)
class RequesterLimits:
    """How a requester paces itself.

    Attributes:
        window: Requests outstanding at one appliance at most, whatever credit it grants.
        fragments: Fragments of an answer that it may send before it is asked for more.
        asked_fragments: Fragments that it is asked for at once, of all long answers of one session together.
        first_rto_ns: Retransmission timeout before the round trip is known; and of CONTROL, which may take its time.
        min_rto_ns: Smallest retransmission timeout.
        max_rto_ns: Largest one, that back-off ends at.
        hand_back: Whether an inference that is refused with BUSY or UNAVAILABLE fails at once, so that its owner can
            ask another appliance; else the same one is asked again until the time is over.
    """

    window: int = 64
    fragments: int = FIRST_FRAGMENTS
    asked_fragments: int = 512
    first_rto_ns: int = 250_000_000
    min_rto_ns: int = 10_000_000
    max_rto_ns: int = 1_000_000_000
    hand_back: bool = False


class RoundTrip:
    """The retransmission timeout of requests to one appliance, by RFC 6298.

    Args:
        limits: Its bounds.
        measures: Whether round trips count; else it stays at the first one.

    Attributes:
        smoothed_ns: Smoothed round trip; None before the first is measured.
        variation_ns: How much it varies.
        rto_ns: Timeout of a request that is sent now.
    """

    def __init__(self, limits: RequesterLimits, *, measures: bool = True) -> None:
        self._limits, self._measures = limits, measures
        self.smoothed_ns: int | None = None
        self.variation_ns = 0
        self.rto_ns = limits.first_rto_ns

    def measure(self, sample_ns: int) -> None:
        """Take the round trip of a request that was sent once (section 2)."""
        if not self._measures:
            return
        if self.smoothed_ns is None:
            self.smoothed_ns, self.variation_ns = sample_ns, sample_ns // 2
        else:
            self.variation_ns += (abs(self.smoothed_ns - sample_ns) - self.variation_ns) // 4
            self.smoothed_ns += (sample_ns - self.smoothed_ns) // 8
        estimate = self.smoothed_ns + 4 * self.variation_ns
        self.rto_ns = min(max(estimate, self._limits.min_rto_ns), self._limits.max_rto_ns)

    def back_off(self, rto_ns: int) -> int:
        """Return twice a timeout that has passed.

        Those to come have it as well until one is measured (5.5, 5.7), as far as a round trip that has grown unseen
        needs it; beyond, WORKING and BUSY say what a network of strangers would have to guess.
        """
        doubled = min(2 * rto_ns, self._limits.max_rto_ns)
        if self._measures:
            self.rto_ns = max(self.rto_ns, min(doubled, 10 * self._limits.min_rto_ns))
        return doubled


class Silence:
    """How long an appliance has said nothing to what it was asked.

    Attributes:
        heard_ns: When anything came from it that belongs to us; 0 before.
        rounds: Retransmission timeouts since then, one after the other: those of many requests that run at the same
            time are one.
    """

    def __init__(self) -> None:
        self.heard_ns = self.rounds = self._round_end = 0

    def heard(self, now: int) -> None:
        """Note that something came."""
        self.heard_ns = now
        self.rounds = self._round_end = 0

    def unanswered(self, now: int, due: int) -> None:
        """Note that a timeout has passed, and when the next one of the same request will have."""
        if now >= self._round_end:
            self.rounds += 1
            self._round_end = due


@dataclass(frozen=True, slots=True)
class Bounds:
    """What holds for the requests of a session, as its OPENED says, or for those outside.

    Attributes:
        session: Its number; 0 stands for requests outside sessions.
        following: The first *once* id.
        credits: Requests that may be outstanding.
        window: How far the ids of unsettled *once* requests may lie apart; a power of two.
        fragments: Fragments of its requests that may be under way.
        fragment_size: Bytes of a message in one PDU.
    """

    session: int
    following: int
    credits: int
    window: int
    fragments: int
    fragment_size: int
