"""How a cluster client treats its appliances and its requests."""

from dataclasses import dataclass

from host_sdk.wire.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ClusterPolicy:
    """What a cluster client does, and how soon. Times are in seconds.

    Attributes:
        strict: End a request whose appliance is gone with UncertainError, instead of asking another one: it is then
            executed at most once over the whole cluster.
        hedge: Send a second copy of a request to another appliance when it has waited longer than this quantile of
            the answers so far, as 0.95; None for never.
        hedge_after: The same, after a fixed time.
        hedge_budget: Second copies for each request, at most.
        retry_budget: Requests that are asked for again elsewhere at once for each request, at most; what is over it
            waits, as it would with one appliance.
        refresh: Between two rounds of discovery, give or take a fifth.
        quiet: Silence of an appliance after which it is asked for a sign of life.
        suspect_after: Timeouts in a row without a word, after which an appliance gets nothing new.
        down_after: Timeouts in a row after which what it had goes elsewhere.
        forget_after: How long an appliance that is not listed, or no more, is remembered when it is down.
    """

    strict: bool = False
    hedge: float | None = None
    hedge_after: float | None = None
    hedge_budget: float = 0.1
    retry_budget: float = 0.2
    refresh: float = 2.0
    quiet: float = 1.0
    suspect_after: int = 1
    down_after: int = 5
    forget_after: float = 60.0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: One is out of range; the message says which and what it may be.
        """
        if self.hedge is not None and not 0.5 <= self.hedge < 1:
            raise ConfigError(f"hedge {self.hedge}; it is a quantile from 0.5 to below 1, or use hedge_after")
        if self.hedge_after is not None and not self.hedge_after > 0:
            raise ConfigError(f"hedge_after {self.hedge_after} s; it must be more than 0")
        if self.hedge is not None and self.hedge_after is not None:
            raise ConfigError("hedge and hedge_after are two ways to say when; give one")
        if self.strict and self.hedges:
            raise ConfigError("a hedged request is executed twice, which strict forbids; give one of them")
        for name in ("hedge_budget", "retry_budget"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} {getattr(self, name)}; it must be 0 to 1")
        if not 1 <= self.suspect_after <= self.down_after:
            raise ConfigError("suspect_after must be at least 1, and down_after not less")
        for name in ("refresh", "quiet", "forget_after"):
            if not getattr(self, name) >= 0.01:
                raise ConfigError(f"{name} {getattr(self, name)} s; it must be at least 0.01")

    @property
    def hedges(self) -> bool:
        """Whether second copies are sent at all."""
        return self.hedge is not None or self.hedge_after is not None
