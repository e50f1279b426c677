"""Three networks between the two sides: one that does anything for ever, one with a budget of faults, one without any.

A network is a value that holds frames by their numbers; frames for the responder and for the requester alike.
"""

from collections.abc import Iterator
from typing import Protocol

Net = int | tuple[int, ...] | tuple[tuple[int, ...], int, int] | tuple[tuple[int, ...], tuple[int, ...]]


class Channel(Protocol):
    """What may happen to frames.

    Attributes:
        sure: Whether everything comes to its end without the frames and timeouts that a budget has no more of.
    """

    sure: bool

    def begin(self) -> Net: ...

    def deliveries(self, net: Net) -> Iterator[tuple[int, Net]]:
        """Give every frame that may arrive next, and what is left in the network then."""

    def losses(self, net: Net) -> Iterator[tuple[int, Net]]:
        """Give every frame that may get lost, and what is left then; none where a loss makes no difference."""

    def add(self, net: Net, frames: tuple[int, ...]) -> Net | None:
        """Take frames; None where they go beyond what is explored."""

    def timeout(self, net: Net) -> Net | None:
        """Return the network after a timeout; None where no more are explored."""

    def without(self, net: Net, dead: int) -> Net:
        """Return the network without frames that change nothing any more; their numbers are the bits of ``dead``."""


class Ether:
    """Every frame that was ever sent may arrive at any time, any number of times, or never: nothing is worse."""

    sure = True

    def begin(self) -> int:
        return 0

    def deliveries(self, net: int) -> Iterator[tuple[int, int]]:
        rest = net
        while rest:
            low = rest & -rest
            yield low.bit_length() - 1, net
            rest ^= low

    def losses(self, net: int) -> Iterator[tuple[int, int]]:  # noqa: ARG002 - a frame need not arrive
        return iter(())

    def add(self, net: int, frames: tuple[int, ...]) -> int:
        for frame in frames:
            net |= 1 << frame
        return net

    def timeout(self, net: int) -> int:
        return net

    def without(self, net: int, dead: int) -> int:
        return net & ~dead


class Bag:
    """At most ``flight`` frames at a time, in any order; ``faults`` losses and copies, ``timeouts`` timeouts in all."""

    def __init__(self, flight: int, faults: int, timeouts: int) -> None:
        self.flight, self.faults, self.timeouts = flight, faults, timeouts
        self.sure = faults == 0

    def begin(self) -> tuple[tuple[int, ...], int, int]:
        return (), self.faults, self.timeouts

    def deliveries(
        self, net: tuple[tuple[int, ...], int, int]
    ) -> Iterator[tuple[int, tuple[tuple[int, ...], int, int]]]:
        frames, faults, timeouts = net
        for at, frame in enumerate(frames):
            if at and frames[at - 1] == frame:
                continue
            yield frame, ((*frames[:at], *frames[at + 1 :]), faults, timeouts)
            if faults:
                yield frame, (frames, faults - 1, timeouts)

    def losses(self, net: tuple[tuple[int, ...], int, int]) -> Iterator[tuple[int, tuple[tuple[int, ...], int, int]]]:
        frames, faults, timeouts = net
        for at, frame in enumerate(frames if faults else ()):
            if not at or frames[at - 1] != frame:
                yield frame, ((*frames[:at], *frames[at + 1 :]), faults - 1, timeouts)

    def add(
        self, net: tuple[tuple[int, ...], int, int], frames: tuple[int, ...]
    ) -> tuple[tuple[int, ...], int, int] | None:
        if not frames:
            return net
        flying = tuple(sorted((*net[0], *frames)))
        return None if len(flying) > self.flight else (flying, net[1], net[2])

    def timeout(self, net: tuple[tuple[int, ...], int, int]) -> tuple[tuple[int, ...], int, int] | None:
        frames, faults, timeouts = net
        return (frames, faults, timeouts - 1) if timeouts else None

    def without(self, net: tuple[tuple[int, ...], int, int], dead: int) -> tuple[tuple[int, ...], int, int]:
        frames, faults, timeouts = net
        return tuple(frame for frame in frames if not dead >> frame & 1), faults, timeouts


class Pipe:
    """Frames arrive in the order in which they were sent, all of them, and nobody's patience ends."""

    sure = True

    def begin(self) -> tuple[int, ...]:
        return ()

    def deliveries(self, net: tuple[int, ...]) -> Iterator[tuple[int, tuple[int, ...]]]:
        if net:
            yield net[0], net[1:]

    def losses(self, net: tuple[int, ...]) -> Iterator[tuple[int, tuple[int, ...]]]:  # noqa: ARG002
        return iter(())

    def add(self, net: tuple[int, ...], frames: tuple[int, ...]) -> tuple[int, ...]:
        return (*net, *frames)

    def timeout(self, net: tuple[int, ...]) -> None:  # noqa: ARG002
        return None

    def without(self, net: tuple[int, ...], dead: int) -> tuple[int, ...]:
        return tuple(frame for frame in net if not dead >> frame & 1)
