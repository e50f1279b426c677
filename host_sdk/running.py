"""An operation under way, moved on by the events of the requests that it yields."""

from typing import Any

from host_sdk.engine import Engine
from host_sdk.operations import Operation
from host_sdk.wire.exchange.answers import Announced, Event


class Running:
    """An operation under way: the request it waits for, and what it came to.

    Attributes:
        token: Of the request that it waits for; None when it has come to something.
        result: What it returned.
        error: What it raised; a NapuError, or where the caller's own argument was of a wrong type, anything.
    """

    def __init__(self, engine: Engine, operation: Operation[Any]) -> None:
        self._engine, self._operation = engine, operation
        self._events: list[Event] = []
        self.token: int | None = None
        self.result: Any = None
        self.error: Exception | None = None
        self._advance(None)

    @property
    def done(self) -> bool:
        """Whether it has come to something."""
        return self.token is None

    def take(self, event: Event) -> None:
        """Take an event of its request."""
        self._events.append(event)
        if not (isinstance(event, Announced) and event.body is not None):
            events, self._events = self._events, []
            self._advance(events)

    def _advance(self, events: list[Event] | None) -> None:
        try:
            request = next(self._operation) if events is None else self._operation.send(events)
            self.token = self._engine.submit(request)
        except StopIteration as stop:
            self.token, self.result = None, stop.value
        except Exception as error:  # noqa: BLE001 - raised again where the caller waits, whatever it is
            self.token, self.error = None, error
