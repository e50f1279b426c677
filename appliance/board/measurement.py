"""The measurement register: extended by the board alone with what it measures, and the log of what that was."""

from host_sdk.wire.attest.events import EMPTY, MAX_EVENTS, Event, extended


class Measurement:
    """The register and its log. Used by the board's thread alone; nothing on the bus writes it.

    Attributes:
        value: The register, 32 bytes.
        log: Number of the log since power-on; 0 before the first.
        events: The canonical bytes of each event of the log.
    """

    def __init__(self) -> None:
        self.value = EMPTY
        self.log = 0
        self.events: list[bytes] = []

    @property
    def room(self) -> int:
        """Events that the log still takes."""
        return MAX_EVENTS - len(self.events)

    def begin(self) -> None:
        """Begin a new log, at a register of zeros."""
        self.value, self.events = EMPTY, []
        self.log += 1

    def extend(self, event: Event) -> None:
        """Extend the register with an event, for which there is room."""
        data = event.encode()
        self.value = extended(self.value, data)
        self.events.append(data)
