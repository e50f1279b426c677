"""The boot state on the chip: two copies, of which always the older is replaced, and the journal of an update."""

from dataclasses import replace

from firmware.boot.layout import RECORD_SIZE, Chip, Layout
from firmware.boot.state import SEQUENCES, BootState, decode_state, encode_state
from host_sdk.wire.errors import DeviceError

_MARK = 0x00  # one byte of the journal: a block of the slot is whole
_BLANK = 0xFF


class StateStore:
    """The boot state of one board, read when this is made.

    Args:
        chip: The flash.
        layout: Of the chip.

    Attributes:
        state: The newest state; one with two empty slots where there is none.
        lost: Whether there is none.
    """

    def __init__(self, chip: Chip, layout: Layout) -> None:
        self._chip, self._layout = chip, layout
        self._raw = [chip.read(address, RECORD_SIZE) for address in layout.states]
        copies = [_decoded(raw) for raw in self._raw]
        self._valid = [copy is not None for copy in copies]
        first, second = copies
        self._at = int(second is not None and (first is None or second.newer_than(first)))
        newest = copies[self._at]
        self.lost = newest is None
        self.state = newest or BootState()
        self._marks = self._base = 0  # marks in the journal, and the progress that they come on top of
        if newest is not None:
            self._base, self._marks = newest.progress, self._count_marks()
            self.state = replace(newest, progress=self._base + self._marks)

    def settle(self) -> None:
        """Make what was read what will be read again, whatever a cut of the power left unstable; do this first.

        The newest copy is programmed once more, which changes no bit that is stable; a copy that is neither a state nor
        erased goes.
        """
        if not self.lost:
            self._chip.program(self._layout.states[self._at], self._raw[self._at])
        for address, raw, valid in zip(self._layout.states, self._raw, self._valid, strict=True):
            if not valid and raw.strip(bytes([_BLANK])):
                self._chip.erase(address)

    def save(self, state: BootState) -> None:
        """Write a state, with the next sequence number, in place of the older copy.

        Until all of it is written the newest copy is the one before.
        """
        state = replace(state, sequence=(self.state.sequence + 1) % SEQUENCES)
        at = self._at if self.lost else 1 - self._at
        raw = encode_state(state)
        self._write_copy(self._layout.states[at], raw)
        self._at, self._raw[at], self._valid[at], self.lost = at, raw, True, False
        self._base, self._marks = state.progress, 0
        self.state = state

    def mark(self) -> None:
        """Note that one more block of the slot that is being written is whole."""
        unit = self._chip.unit
        start = self._marks // unit * unit
        self._marks += 1
        data = bytes([_MARK]) * (self._marks - start)
        address = self._layout.states[self._at] + RECORD_SIZE + start
        self._chip.program(address, data.ljust(unit, bytes([_BLANK])))
        self.state = replace(self.state, progress=self._base + self._marks)

    def _write_copy(self, address: int, raw: bytes) -> None:
        self._chip.erase(address)
        self._chip.program(address, raw)

    def _count_marks(self) -> int:
        journal = self._chip.read(self._layout.states[self._at] + RECORD_SIZE, self._layout.block_size - RECORD_SIZE)
        return len(journal) - len(journal.lstrip(bytes([_MARK])))


def _decoded(raw: bytes) -> BootState | None:
    try:
        return decode_state(raw)
    except DeviceError:
        return None
