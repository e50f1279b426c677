"""The worlds that are explored: small ones in the suite, larger ones by hand."""

from dataclasses import dataclass

from tests.wire.explorer.channels import Bag, Channel, Ether, Pipe
from tests.wire.explorer.scenario import Fault, Scenario, Shape

ALL = frozenset(Fault)
ONE, TWO, THREE = Shape(), Shape(2, 2), Shape(3, 3)
DATAGRAM = Shape(1, 2, once=False)


@dataclass(frozen=True)
class World:
    """A scenario, the network in it, and what it is there for."""

    scenario: Scenario
    channel: Channel
    about: str


def _ether(about: str, *requests: Shape, faults: frozenset[Fault] = frozenset(), **more: int | bool) -> World:
    return World(Scenario(requests, faults=faults, **more), Ether(), about)  # type: ignore[arg-type]


SMALL = {  # the quickest first
    "narrow": _ether("a window of one", ONE, ONE, faults=ALL, window=1, credits=1),
    "fragments": _ether("two fragments each way, every fault", TWO, faults=ALL),
    "no room": _ether("room to keep one answer", ONE, ONE, ONE, kept=1),
    "out of order": World(
        Scenario((THREE, Shape(2, 1, once=False))), Bag(9, 0, 0), "reordered, but nothing gets lost, no timeouts"
    ),
    "one slot": _ether(
        "both classes where a datagram's id would meet the slot of the other",
        *(ONE, Shape(1, 1, once=False)),
        window=1,
        faults=frozenset({Fault.GIVE_UP}),
    ),
    "in order": World(Scenario((THREE, THREE, Shape(3, 3, once=False))), Pipe(), "nothing gets lost, no timeouts"),
    "refused": _ether("three in a window of two, refused", ONE, ONE, ONE, faults=frozenset({Fault.BUSY})),
    "displaced": _ether("three in a window of two, displaced", ONE, ONE, ONE, faults=frozenset({Fault.DISPLACE})),
    "restart": _ether("three in a window of two, restarts", ONE, ONE, ONE, faults=frozenset({Fault.RESTART})),
    "neighbours": _ether("two requests of two fragments each way", TWO, TWO),
    "resumed": _ether("an earlier requester's frames are on their way", ONE, ONE, ONE, earlier=1, early=True),
    "given up": _ether("two fragments and a neighbour, given up", TWO, ONE, faults=frozenset({Fault.GIVE_UP})),
    "pair": _ether("two requests, every fault", ONE, ONE, faults=ALL),
    "classes": _ether("*once* and *datagram* side by side", ONE, DATAGRAM, faults=frozenset({Fault.DISPLACE})),
    "asked early": World(
        Scenario((TWO, ONE), early=True, faults=frozenset({Fault.BUSY, Fault.GIVE_UP})), Ether(), "RESEND from nowhere"
    ),
    "budget": World(Scenario((ONE, ONE), faults=frozenset({Fault.BUSY})), Bag(4, 2, 2), "losses and copies, counted"),
}
LARGE = {
    "three": _ether("three in a window of two, every fault", ONE, ONE, ONE, faults=ALL),
    "four": _ether(
        "four in a window of two", ONE, ONE, ONE, ONE, faults=frozenset({Fault.BUSY, Fault.DISPLACE, Fault.RESTART})
    ),
    "long": _ether("three fragments each way, every fault", THREE, faults=ALL),
    "terse": World(
        Scenario((THREE,), faults=ALL, chatty=False, patient=False), Ether(), "as few GRANT and RESEND as may be"
    ),
    "long neighbour": _ether("two fragments and a neighbour, every fault", TWO, ONE, faults=ALL),
    "both classes": _ether("*once* and *datagram*, every fault", ONE, DATAGRAM, faults=ALL),
    "resumed, faults": _ether("an earlier requester, every fault", ONE, ONE, ONE, faults=ALL, earlier=1),
    "no room, faults": _ether("room to keep one answer, every fault", ONE, ONE, ONE, faults=ALL, kept=1),
    "two earlier": _ether(
        "an earlier requester left two", ONE, TWO, ONE, ONE, earlier=2, faults=frozenset({Fault.GIVE_UP, Fault.RESTART})
    ),
    "two long": _ether("two of two fragments each way, every fault", TWO, TWO, faults=ALL),
    "four, faults": _ether("four in a window of two, every fault", ONE, ONE, ONE, ONE, faults=ALL),
    "wide": _ether("five in a window of four", *(ONE,) * 5, window=4, credits=4, faults=frozenset({Fault.BUSY})),
    "counted": World(Scenario((THREE, ONE)), Bag(6, 2, 3), "losses and copies, counted, of long messages"),
}
WORLDS = {**SMALL, **LARGE}
