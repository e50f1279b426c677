"""A link with the faults of a bad cable: any other one, wrapped."""

import contextlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from host_sdk.wire.errors import ClosedError, ConfigError, LinkError
from host_sdk.wire.header import gather_headers
from host_sdk.wire.links.base import BURST, FrameBatch, Link, LinkStatistics, records
from host_sdk.wire.links.faults import Faults
from host_sdk.wire.links.held import HeldFrames
from host_sdk.wire.links.mmsg import count_drops
from host_sdk.wire.links.waiting import Timer, Waiter
from host_sdk.wire.schema import HEADER_SIZE

Clock = Callable[[], int]
_RETRY_NS = 500_000  # pause before frames that the link had no buffers for are offered again
# Numbers drawn for each frame, always all of them, so that one fault's chance does not change what another does.
_DRAWS = 9
_LOSS, _STATE, _DUPLICATE, _CUT, _CUT_AT, _FLIP, _FLIP_AT, _LATE, _JITTER = range(_DRAWS)


class FaultyLink:
    """A link on which frames are lost, damaged, doubled, late, or out of order, as :class:`Faults` say.

    The same faults, seed, frames and times give the same faults, however the frames are divided into batches. What
    happened is counted: in the drops as ``fault_lost``, ``fault_nth``, ``fault_fragment``, ``fault_blackhole`` and
    ``fault_queue_full``, in the statistics' ``faults`` as ``duplicated``, ``truncated``, ``flipped``, ``reordered`` and
    ``delayed``, behind ``rx_`` or ``tx_``. A frame that is lost on the way out was sent, for its owner.

    Frames that are late are copied. Those on the way out leave while the owner receives, sends or waits. While nothing
    is to happen on the way out, the owner writes into the wrapped link's own buffers.

    Args:
        link: What carries the frames; closed with this one.
        faults_out: Faults of what is sent; can be set anew at any time, frames that are on their way stay so.
        faults_in: Faults of what is received; likewise.
        seed: Of the generators, one for each direction; 0 or more.
        clock: Monotonic ns.
        queue: Frames that are held at most, for each direction; those beyond are dropped.

    Raises:
        ConfigError: Seed or queue are out of range.
    """

    def __init__(
        self, link: Link, faults_out: Faults, faults_in: Faults, seed: int, clock: Clock, *, queue: int = 4096
    ) -> None:
        if seed < 0:
            raise ConfigError(f"the seed of faults is 0 or more, not {seed}")
        if queue < 2 * BURST:
            raise ConfigError(f"a link with faults needs a queue of {2 * BURST} frames or more, not {queue}")
        self._link, self._clock = link, clock
        self.kind, self.mtu, self.smallest = link.kind, link.mtu, link.smallest
        self.capacity = link.capacity
        self.format_address, self.parse_address = link.format_address, link.parse_address
        out_seed, in_seed = np.random.SeedSequence(seed).spawn(2)
        self._out = _Direction(faults_out, np.random.default_rng(out_seed), clock(), HeldFrames(queue, link.mtu))
        self._in = _Direction(faults_in, np.random.default_rng(in_seed), clock(), HeldFrames(queue, link.mtu))
        self._slab: NDArray[np.uint8] = np.zeros(BURST * link.mtu, np.uint8)
        self._starts = np.arange(BURST, dtype=np.int64) * link.mtu
        self._rx_frames = self._rx_bytes = 0
        self._retry_at = 0
        self._waiter: Waiter | None = None
        self._timer: Timer | None = None
        self._timer_at: int | None = None
        self._closed = False

    @property
    def address(self) -> int:
        """Peer key of this end, which a link that follows its interface may change."""
        return self._link.address

    @property
    def faults_out(self) -> Faults:
        """Faults of what is sent."""
        return self._out.faults

    @faults_out.setter
    def faults_out(self, faults: Faults) -> None:
        self._out.begin(faults, self._clock())

    @property
    def faults_in(self) -> Faults:
        """Faults of what is received."""
        return self._in.faults

    @faults_in.setter
    def faults_in(self, faults: Faults) -> None:
        self._in.begin(faults, self._clock())

    def receive(self) -> FrameBatch:
        """Return the PDUs that have arrived and got through, up to BURST.

        Raises:
            LinkError: The link is gone.
        """
        now = self._clock()
        self._send_due(now)
        batch = self._link.receive()
        if len(batch):
            batch = self._in.pass_on(batch, now)
        if len(self._in.held):  # then whatever came went there as well
            batch = self._in.held.take(now, BURST)
        self._set_timer()
        self._rx_frames += len(batch)
        self._rx_bytes += int(np.add.reduce(batch.lengths))
        return batch

    def allocate(self, count: int) -> FrameBatch:
        """Return up to ``count`` buffers to write PDUs into."""
        self._check_open()
        if self._out.passes_all:
            return self._link.allocate(count)
        count = min(count, BURST)
        empty = np.zeros(count, np.int64)
        return FrameBatch(self._slab, self._starts[:count], empty, np.zeros(count, np.uint64))

    def send(self, batch: FrameBatch) -> int:
        """Send an allocated batch, or its first frames, and return how many the cable or the kernel took.

        Raises:
            LinkError: The link is gone.
        """
        self._check_open()
        if batch.memory is not self._slab:  # the link's own, as nothing was to happen to them
            return self._link.send(batch)
        now = self._clock()
        passed = self._out.pass_on(batch, now) if len(batch) else batch
        refused = 0
        if len(passed):
            buffers = self._link.allocate(len(passed))
            refused = self._hand_over(passed.first(len(buffers)), buffers)
            if len(buffers) < len(passed):
                self._out.postpone(passed.after(len(buffers)), now)
        self._send_due(now)
        self._set_timer()
        return len(batch) - refused

    def _send_due(self, now: int) -> None:
        """Send the held frames that are due, as many as the link has buffers for."""
        held = self._out.held
        while len(held) and now >= self._retry_at and (due := held.next_due()) is not None and due <= now:
            buffers = self._link.allocate(BURST)
            if not len(buffers):
                self._retry_at = now + _RETRY_NS
            else:
                self._hand_over(held.take(now, len(buffers)), buffers)

    def _hand_over(self, batch: FrameBatch, buffers: FrameBatch) -> int:
        """Copy frames into the link's buffers, as many or more, and send them; return how many were refused."""
        if not len(batch):
            return 0
        buffers = buffers.first(len(batch))
        width = max(int(batch.lengths.max()), 1)
        records(buffers.memory, width)[buffers.starts] = records(batch.memory, width)[batch.starts]
        buffers.lengths[:] = batch.lengths
        buffers.peers[:] = batch.peers
        return len(batch) - self._link.send(buffers)

    def next_timer(self) -> int | None:
        """Return when the next held frame is due, ns by the clock; None where none is held."""
        due_out, due_in = self._out.held.next_due(), self._in.held.next_due()
        if due_out is not None:
            due_out = max(due_out, self._retry_at)
        return min((due for due in (due_out, due_in) if due is not None), default=None)

    def fileno(self) -> int:
        """Return the descriptor that polls readable when frames have arrived or a held one is due."""
        self._check_open()
        if self._waiter is None:
            self._timer = Timer()
            self._waiter = Waiter(self._link.fileno(), self._timer.fileno())
            self._set_timer()
        return self._waiter.fileno()

    def _set_timer(self) -> None:
        if self._timer is None:
            return
        at = self.next_timer()
        if at != self._timer_at:
            self._timer.set(None if at is None else at - self._clock())
            self._timer_at = at

    def wait(self, timeout_ns: int | None) -> bool:
        """Wait until frames have arrived, at most ``timeout_ns`` (None: for ever); return whether they have.

        Meanwhile held frames are sent when they are due. That a frame has arrived does not mean that it gets through.

        Raises:
            LinkError: The link is gone.
        """
        self._check_open()
        left = timeout_ns
        while True:
            now = self._clock()
            self._send_due(now)
            self._set_timer()
            due = self._in.held.next_due()
            if due is not None and due <= now:
                return True
            timer = self.next_timer()
            pause = left if timer is None else timer - now if left is None else min(timer - now, left)
            if self._link.wait(pause):
                return True
            if left is not None and pause is not None and (left := left - pause) <= 0:
                due = self._in.held.next_due()
                return due is not None and due <= self._clock()
            if timer is None or self._clock() < timer:  # a signal ended it
                return False

    def expect(self, frames: int) -> None:
        """Return at once: it cannot be told how many frames wait."""

    def statistics(self) -> LinkStatistics:
        """Return the counters so far: frames sent as the link has them, frames received as the owner got them."""
        counted = self._link.statistics()
        counted.rx_frames, counted.rx_bytes = self._rx_frames, self._rx_bytes
        for drops, prefix, direction in ((counted.rx_drops, "rx", self._in), (counted.tx_drops, "tx", self._out)):
            for reason, number in direction.drops.items():
                count_drops(drops, reason, number)
            for fault, number in direction.changed.items():
                count_drops(counted.faults, f"{prefix}_{fault}", number)
        return counted

    def close(self) -> None:
        """Send what is held, now, and close the link; a second call does nothing."""
        if self._closed:
            return
        with contextlib.suppress(LinkError):  # of a link that is gone they are lost
            while len(self._out.held) and len(buffers := self._link.allocate(BURST)):
                self._hand_over(self._out.held.take(None, len(buffers)), buffers)
        self._closed = True
        if self._waiter is not None and self._timer is not None:
            self._waiter.close()
            self._timer.close()
        self._link.close()

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(f"the link with faults at {self.format_address(self.address)} is closed")


class _Direction:
    """What becomes of the frames of one direction.

    Attributes:
        faults: What happens to them.
        held: Those that wait.
        drops: Frames lost, by reason.
        changed: Frames that were delivered otherwise than they were, by fault.
    """

    def __init__(self, faults: Faults, generator: np.random.Generator, now: int, held: HeldFrames) -> None:
        self._generator = generator
        self.held = held
        self.drops: dict[str, int] = {}
        self.changed: dict[str, int] = {}
        self._bad = 0  # state of the Gilbert-Elliott model
        self._line_free_at = 0
        self.begin(faults, now)

    def begin(self, faults: Faults, now: int) -> None:
        """Apply faults from now on."""
        self.faults = faults
        self._idle = faults == Faults()
        self._began = now
        self._seen = self._fragments_lost = 0

    @property
    def passes_all(self) -> bool:
        """Whether every frame goes through as it is, and at once."""
        return self._idle and not len(self.held)

    def pass_on(self, batch: FrameBatch, now: int) -> FrameBatch:
        """Let a batch of one frame or more through, and return what passes at once.

        When frames are held, or have to be copied, none passes at once: all are held, some of them due already.
        """
        if self._idle:
            return self.postpone(batch, now) if len(self.held) else batch
        draws = self._generator.random((len(batch), _DRAWS))
        chosen = self._survivors(batch, draws, now)
        if self.faults.duplicate:
            twice = draws[chosen, _DUPLICATE] < self.faults.duplicate
            self._count("duplicated", twice)
            chosen = np.repeat(chosen, 1 + twice)
        draws = draws[chosen]
        starts, lengths, peers = batch.starts[chosen], batch.lengths[chosen], batch.peers[chosen]
        passed = FrameBatch(batch.memory, starts, self._truncate(lengths, draws), peers)
        flipped = (draws[:, _FLIP] < self.faults.flip) & (lengths > 0)
        if self.faults.holds or len(self.held) or len(chosen) > BURST or flipped.any():
            return self._hold(passed, draws, flipped, now)
        return passed

    def _survivors(self, batch: FrameBatch, draws: NDArray[np.float64], now: int) -> NDArray[np.int64]:
        """Return the indices of the frames that are not lost."""
        faults, count, first = self.faults, len(draws), self._seen + 1
        self._seen += count
        if faults.blackhole and faults.blackhole[0] <= now - self._began < faults.blackhole[1]:
            count_drops(self.drops, "fault_blackhole", count)
            return np.empty(0, np.int64)
        kept = np.ones(count, bool)
        if faults.nth:
            kept[[number - first for number in faults.nth if first <= number < first + count]] = False
            count_drops(self.drops, "fault_nth", count - int(np.count_nonzero(kept)))
        if faults.fragment:
            kept[self._given_fragments(batch, kept)] = False
        chance = self._loss_chances(draws[:, _STATE]) if faults.burst_enter else faults.loss
        lost = kept & (draws[:, _LOSS] < chance)
        count_drops(self.drops, "fault_lost", int(np.count_nonzero(lost)))
        return np.flatnonzero(kept & ~lost)

    def _given_fragments(self, batch: FrameBatch, kept: NDArray[np.bool_]) -> NDArray[np.intp]:
        """Return the indices of the frames that are lost as they carry a given fragment."""
        whole = kept & (batch.lengths >= HEADER_SIZE)
        if not whole.any():  # then the memory may be shorter than a header
            return np.empty(0, np.intp)
        given = np.flatnonzero(whole & np.isin(gather_headers(batch)["fragment"], list(self.faults.fragment)))
        if self.faults.fragment_times:
            given = given[: self.faults.fragment_times - self._fragments_lost]
        self._fragments_lost += len(given)
        count_drops(self.drops, "fault_fragment", len(given))
        return given

    def _loss_chances(self, draws: NDArray[np.float64]) -> NDArray[np.float64]:
        """Move the Gilbert-Elliott model on by a frame for each draw and return the chance of loss for each."""
        faults = self.faults
        # Low draws lead to the bad state, high ones to the good one, so that the last such draw tells the state.
        turns = np.where(draws < faults.burst_enter, 1, np.where(draws >= 1 - faults.burst_leave, 0, -1))
        last = np.maximum.accumulate(np.where(turns >= 0, np.arange(len(turns)), -1))
        bad = np.where(last >= 0, turns[last], self._bad)
        self._bad = int(bad[-1])
        return np.where(bad, faults.burst_loss, faults.loss)

    def _truncate(self, lengths: NDArray[np.int64], draws: NDArray[np.float64]) -> NDArray[np.int64]:
        if not self.faults.truncate:
            return lengths
        cut = (draws[:, _CUT] < self.faults.truncate) & (lengths > 1)
        self._count("truncated", cut)
        return np.where(cut, 1 + (draws[:, _CUT_AT] * (lengths - 1)).astype(np.int64), lengths)

    def _hold(self, batch: FrameBatch, draws: NDArray[np.float64], flipped: NDArray[np.bool_], now: int) -> FrameBatch:
        """Copy frames, damage them, and let them wait; return none."""
        room, held, faults = self.held.room, self.held, self.faults
        count_drops(self.drops, "fault_queue_full", max(len(batch) - room, 0))
        batch, draws, flipped = batch.first(room), draws[:room], flipped[:room]
        if not len(batch):
            return batch
        rows, dues = held.add(batch), self._dues(batch.lengths, draws, now)
        for index in np.flatnonzero(flipped).tolist():
            held.flip(rows[index], int(draws[index, _FLIP_AT] * (int(batch.lengths[index]) << 3)))
        late = draws[:, _LATE] < faults.reorder
        for kind, chosen in (("flipped", flipped), ("reordered", late), ("delayed", dues > now)):
            self._count(kind, chosen)
        for row, due, behind in zip(rows, dues.tolist(), late.tolist(), strict=True):
            if behind:
                held.schedule_late(row, due + faults.reorder_ns, faults.reorder_frames)
            else:
                held.schedule(row, due)
        return batch.first(0)

    def _dues(self, lengths: NDArray[np.int64], draws: NDArray[np.float64], now: int) -> NDArray[np.int64]:
        """Return when each frame is through the cable, ns."""
        faults = self.faults
        dues = np.full(len(lengths), now, np.int64)
        if faults.rate:
            took = np.cumsum(-(-lengths * 8_000_000_000 // faults.rate))
            dues = max(now, self._line_free_at) + took
            self._line_free_at = int(dues[-1])
        return dues + faults.delay_ns + (draws[:, _JITTER] * faults.jitter_ns).astype(np.int64)

    def postpone(self, batch: FrameBatch, now: int) -> FrameBatch:
        """Hold frames that nothing happens to but that they must wait; return none."""
        count_drops(self.drops, "fault_queue_full", max(len(batch) - self.held.room, 0))
        batch = batch.first(self.held.room)
        for row in self.held.add(batch) if len(batch) else ():
            self.held.schedule(row, now)
        return batch.first(0)

    def _count(self, fault: str, chosen: NDArray[np.bool_]) -> None:
        count_drops(self.changed, fault, int(np.count_nonzero(chosen)))
