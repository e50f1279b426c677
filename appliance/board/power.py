"""The power of a board, which may be cut before, inside or after any operation of a chip."""

import random
from dataclasses import dataclass
from enum import Enum

from host_sdk.wire.errors import PowerCutError


class Operation(Enum):
    """What a chip does; each is one chance for the power to be cut."""

    READ = "read"
    PROGRAM = "program"
    ERASE = "erase"
    BLOW = "blow"


class Moment(Enum):
    """When the power is cut: before the operation has changed anything, while it does, or when it is done."""

    BEFORE = "before"
    INSIDE = "torn"
    AFTER = "after"


@dataclass(frozen=True, slots=True)
class Cut:
    """One loss of power.

    Attributes:
        moment: When.
        tearing: Decides what an operation that is cut inside leaves behind, and how what it left unstable reads.
    """

    moment: Moment
    tearing: random.Random


class PowerSupply:
    """Power that never fails. All chips of one board share one; tests derive supplies that fail.

    Attributes:
        on: Whether there is power.
    """

    def __init__(self) -> None:
        self.on = True

    def cut(self, operation: Operation) -> Cut | None:  # noqa: ARG002 - for those that derive from this
        """Decide whether the power fails at this operation."""
        return None

    def power_on(self) -> None:
        """Bring the power back."""
        self.on = True

    def draw(self, operation: Operation) -> Cut | None:
        """Take the power for one operation; chips call this before they change anything.

        Returns:
            A cut inside or after the operation, after which the chip calls :meth:`fail`; None where there is none.

        Raises:
            PowerCutError: There is no power, or it was cut before the operation.
        """
        if not self.on:
            raise PowerCutError("the board has no power")
        cut = self.cut(operation)
        if cut and cut.moment is Moment.BEFORE:
            self.fail(operation)
        return cut

    def fail(self, operation: Operation) -> None:
        """Take the power away.

        Raises:
            PowerCutError: Always.
        """
        self.on = False
        raise PowerCutError(f"the power was cut during {operation.value}")
