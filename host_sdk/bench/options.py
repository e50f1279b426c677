"""What a run of the benchmark was asked for."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Chosen:
    """What to measure, and how.

    Attributes:
        systems: Names; none are all that can be had, or with ``quick`` the fastest appliance.
        repeats: Of each point.
        seconds: That one load counts.
        quick: Few points, to see that all works.
        seed: Of inputs and arrivals.
        mtu: Bytes of the largest PDU on the cables of appliances' labs.
    """

    systems: tuple[str, ...]
    repeats: int
    seconds: float
    quick: bool
    seed: int
    mtu: int
