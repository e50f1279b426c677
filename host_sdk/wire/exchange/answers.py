"""What became of requests: settled ones as a structure of arrays, and what discovery found."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from host_sdk.wire.errors import NapuError

NO_BODIES: NDArray[np.uint8] = np.empty((0, 0), np.uint8)


class Answers:
    """Requests that were settled together, with answers of equal size, or one that failed.

    Attributes:
        peer: Who answered, or should have.
        tokens: int64 [n], as they were submitted with.
        bodies: uint8 [n, size]; without rows where the requests failed.
        trailers: TRAILER_DTYPE [n]; None where the answers have none.
        latency_ns: int64 [n], from the first transmission to the answer.
        transmissions: int64 [n], times that each request was sent, at least in part.
        error: Why they failed; None for answers with status OK.
        replied: Whether the error is what the appliance answered to this very request.
    """

    __slots__ = ("bodies", "error", "latency_ns", "peer", "replied", "tokens", "trailers", "transmissions")

    def __init__(
        self,
        peer: int,
        tokens: NDArray[np.int64],
        latency_ns: NDArray[np.int64],
        transmissions: NDArray[np.int64],
        bodies: NDArray[np.uint8] = NO_BODIES,
        error: NapuError | None = None,
    ) -> None:
        self.peer, self.tokens, self.bodies, self.error = peer, tokens, bodies, error
        self.latency_ns, self.transmissions = latency_ns, transmissions
        self.trailers: NDArray[np.void] | None = None
        self.replied = False

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def token(self) -> int:
        """The first token, or the only one."""
        return int(self.tokens[0])

    @classmethod
    def failed(cls, peer: int, token: int, error: NapuError, transmissions: int = 0) -> "Answers":
        """Return one request that failed."""
        return cls(peer, np.array([token]), np.zeros(1, np.int64), np.array([transmissions]), error=error)


@dataclass(frozen=True, slots=True)
class Announced:
    """An answer to a DISCOVER; with no body when its time is over."""

    token: int
    peer: int
    body: bytes | None


Event = Answers | Announced
