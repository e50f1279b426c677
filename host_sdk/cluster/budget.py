"""A bucket of tokens, so that what a client asks for again stays a part of what it is asked for."""

_FLOOR_PER_S = 10.0  # so that a client with few requests can ask again at all


class Budget:
    """How many requests may be sent that nobody asked for.

    Args:
        share: Tokens for each request.
        most: Tokens that it holds at most, and begins with.
        now: Time in ns.
    """

    def __init__(self, share: float, most: float, now: int) -> None:
        self._share, self._most, self._tokens, self._at = share, most, most, now

    def earn(self, requests: int) -> None:
        """Take in that so many requests were asked for."""
        self._tokens = min(self._most, self._tokens + requests * self._share)

    def spend(self, now: int) -> bool:
        """Take a token; return whether there was one."""
        if self._share:
            self._tokens = min(self._most, self._tokens + (now - self._at) / 1e9 * _FLOOR_PER_S)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
