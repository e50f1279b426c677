"""The queue of one pipeline: waiting requests as a structure of arrays, which of them run next, and who gets room."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from appliance.dataplane.ranks import ranks
from appliance.dataplane.tenants import TAG_BITS, FairTags
from host_sdk.wire.schema import CRC_SIZE

NEVER = np.iinfo(np.int64).max

JOB_DTYPE = np.dtype(
    [
        ("peer", np.uint64),
        ("request", np.uint64),
        ("arrival", np.int64),  # ns on the node's clock
        ("deadline", np.int64),  # ns on the node's clock, NEVER for none
        ("answer", np.int64),  # where the answer is kept, -1 for none
        ("session", np.uint32),
        ("wire_bytes", np.uint32),  # of the request, headers included
        ("rx_ns", np.uint32),  # measured from the first frame's arrival to the queue
        ("slot", np.int32),  # of the session in the session table
        ("flags", np.uint16),
        ("fragment_size", np.uint16),  # of the reply
        ("tenant", np.uint16),  # index in the tenant table
        ("priority", np.uint8),
    ],
    align=True,
)
_RECORD = np.dtype((np.void, JOB_DTYPE.itemsize))  # a job in one piece, for gather and scatter
_LOWEST = 255  # a job's level is this minus its priority, so that the first to run has the lowest
_TAG_MASK = (1 << TAG_BITS) - 1


@dataclass(frozen=True, slots=True)
class Admission:
    """What became of requests that asked for room.

    Attributes:
        refused: Which of them found none, ascending, intp [n].
        evicted: Requests that waited and gave way, JOB_DTYPE [m].
    """

    refused: NDArray[np.intp]
    evicted: NDArray[np.void]


_ALL_ADMITTED = Admission(np.empty(0, np.intp), np.empty(0, JOB_DTYPE))


class JobQueue:
    """Waiting requests of one pipeline, bounded.

    Tensors wait in one array, written by one copy for a batch, or by the caller into rows that it reserved; media,
    whose sizes vary, wait as bytes. Waiting requests are kept in the order in which they will run, so that the next
    batch is a slice: higher priority first, then tenants in turns by weight, then in order of arrival.

    Args:
        depth: Requests that can wait.
        input_size: Bytes of every body; None for media.
        weights: Of each tenant, float64 [n]; None for a single one.

    Attributes:
        store: The rows that tensors wait in, each with room for a CRC behind it, contiguous,
            uint8 [depth, input size + 4]; for media [depth, 0].
    """

    def __init__(self, depth: int, input_size: int | None, weights: NDArray[np.float64] | None = None) -> None:
        self._jobs = np.zeros(depth, JOB_DTYPE)
        self._records = self._jobs.view(_RECORD)
        self._free = np.arange(depth - 1, -1, -1, dtype=np.intp)  # a stack
        self._free_count = depth
        self._keys = np.zeros(2 * depth, np.int64)  # of waiting jobs, ascending: level, then fair tag
        self._order = np.zeros(2 * depth, np.intp)  # their slots
        self._head = self._tail = 0  # what waits in _keys and _order
        self._tags = FairTags(np.ones(1) if weights is None else weights)
        self.store = np.zeros((depth, 0 if input_size is None else input_size + CRC_SIZE), np.uint8)
        self._tensors: NDArray[np.void] | None = None
        if input_size is not None:
            tensor = np.dtype((np.void, input_size))
            self._tensors = np.ndarray((depth,), tensor, self.store.data, 0, self.store.strides[:1])
        self._media: dict[int, bytes] = {}
        self._earliest: tuple[int, int] | None = None  # arrival and deadline; None where they have to be found

    def __len__(self) -> int:
        return self._tail - self._head

    @property
    def depth(self) -> int:
        """How many requests can wait."""
        return len(self._jobs)

    @property
    def room(self) -> int:
        """How many more requests can wait."""
        return self._free_count

    # ---- in ------------------------------------------------------------------------------------------------------

    def admit(
        self, jobs: NDArray[np.void], bodies: NDArray[np.generic] | list[bytes], most: int | None = None
    ) -> Admission:
        """Queue requests as far as there is room, if need be in place of others.

        Where there is not enough, higher priority has it before lower. Of the priority at which it ends, tenants have
        it by weight, all that each has waiting counted, and leave what they do not use to the others; of one tenant,
        the earlier before the later. What was admitted gives way only to what is worth more, newest first.

        Args:
            jobs: JOB_DTYPE [n], contiguous.
            bodies: As :meth:`push` takes them.
            most: How many may wait so that none waits too long; one always may, and none that waits gives way because
                this became smaller. None for as many as there is room for.
        """
        waiting, room = len(self), self._free_count
        if most is not None:
            room = min(room, max(0, max(1, most) - waiting))
        if len(jobs) <= room:
            self.push(jobs, bodies)
            return _ALL_ADMITTED
        chosen = self._chosen(jobs, waiting + room)
        old, new = chosen[:waiting], chosen[waiting:]
        evicted = _ALL_ADMITTED.evicted if old.all() else self._remove(~old)
        kept = np.flatnonzero(new)
        if len(kept):
            taken = jobs.view(_RECORD)[kept].view(JOB_DTYPE)
            self.push(taken, [bodies[index] for index in kept] if isinstance(bodies, list) else bodies[kept])
        return Admission(np.flatnonzero(~new), evicted)

    def _chosen(self, jobs: NDArray[np.void], limit: int) -> NDArray[np.bool_]:
        """Return which of those that wait, in their order, and of ``jobs`` behind them have room, bool [n]."""
        levels = np.concatenate((self._keys[self._head : self._tail] >> TAG_BITS, _levels(jobs)))
        tenants = np.concatenate((self._jobs["tenant"][self._order[self._head : self._tail]], jobs["tenant"]))
        order = levels.argsort(kind="stable")
        levels, tenants = levels[order], tenants[order]
        worth = (levels << TAG_BITS) + ranks(tenants) * self._tags.costs[tenants]
        chosen = np.zeros(len(order), np.bool_)
        chosen[order[worth.argsort(kind="stable")[:limit]]] = True
        return chosen

    def push(self, jobs: NDArray[np.void], bodies: NDArray[np.generic] | list[bytes]) -> None:
        """Queue requests, at most ``room`` of them.

        Args:
            jobs: JOB_DTYPE [n], contiguous.
            bodies: uint8 [n, input size] or void of that size [n] for tensors, else one bytes each.
        """
        slots = self._take(len(jobs))
        if isinstance(bodies, list):
            self._media.update(zip(slots.tolist(), bodies, strict=True))
        elif self._tensors is not None:
            raw = bodies if bodies.ndim == 1 else np.ascontiguousarray(bodies).view(self._tensors.dtype)[:, 0]
            self._tensors[slots] = raw
        self.commit(slots, jobs)

    def reserve(self, count: int) -> NDArray[np.intp]:
        """Take rows of ``store`` out of the room, to be filled and committed, or released.

        No more than half of them are reserved at once, so that requests that never become whole leave room for others.

        Returns:
            Their indices, intp [n], fewer than ``count`` where there is no more room, and none for media.
        """
        if self._tensors is None:
            return self._free[:0]
        reserved = self.depth - self._free_count - len(self)
        return self._take(max(0, min(count, self._free_count, max(1, self.depth // 2) - reserved)))

    def commit(self, slots: NDArray[np.intp], jobs: NDArray[np.void]) -> None:
        """Queue requests whose bodies are in the rows reserved for them.

        Args:
            slots: Indices of rows, intp [n].
            jobs: JOB_DTYPE [n], contiguous.
        """
        count = len(jobs)
        if count == 0:
            return
        self._records[slots] = jobs.view(_RECORD)
        if self._tail + count > len(self._keys):
            self._compact()
        new = (_levels(jobs) << TAG_BITS) + self._tags.take(jobs["tenant"])
        begin, end = self._head, self._tail + count
        if self._tail > begin:  # what runs before all of the new ones stays where it is
            begin += int(self._keys[begin : self._tail].searchsorted(new.min(), "right"))
        if self._tail > begin:
            new = np.concatenate((self._keys[begin : self._tail], new))
            slots = np.concatenate((self._order[begin : self._tail], slots))
        if len(new) > 1:
            merged = new.argsort(kind="stable")  # of sorted runs, which takes linear time
            new, slots = new[merged], slots[merged]
        self._keys[begin:end], self._order[begin:end] = new, slots
        self._tail = end
        self._earliest = None

    def release(self, slots: NDArray[np.intp]) -> None:
        """Give back rows that were reserved and not committed."""
        self._free[self._free_count : self._free_count + len(slots)] = slots
        self._free_count += len(slots)

    # ---- when ----------------------------------------------------------------------------------------------------

    def ready_at(self, max_batch: int, max_delay_ns: int, service_ns: int) -> int | None:
        """Return when the next batch shall start, in ns on the node's clock; None while nothing waits.

        Args:
            max_batch: A batch of so many waits no longer.
            max_delay_ns: How long a request waits for others.
            service_ns: What a batch takes: it starts early enough for the first deadline.
        """
        if self._tail == self._head:
            return None
        arrival, deadline = self._firsts()
        if len(self) >= max_batch:
            return arrival
        return min(arrival + max_delay_ns, deadline - service_ns)

    def _firsts(self) -> tuple[int, int]:
        """Return the earliest arrival and the earliest deadline of those that wait."""
        if self._earliest is None:
            slots = self._order[self._head : self._tail]
            arrivals, deadlines = self._jobs["arrival"][slots], self._jobs["deadline"][slots]
            self._earliest = int(arrivals.min(initial=NEVER)), int(deadlines.min(initial=NEVER))
        return self._earliest

    # ---- out -----------------------------------------------------------------------------------------------------

    def pop(self, limit: int) -> tuple[NDArray[np.void], NDArray[np.uint8] | list[bytes]]:
        """Take out the next requests, at most ``limit``.

        Returns:
            JOB_DTYPE [n], and their bodies: uint8 [n, input size] for tensors, else one bytes each.
        """
        end = min(self._head + limit, self._tail)
        slots = self._order[self._head : end]
        jobs: NDArray[np.void] = self._records[slots].view(JOB_DTYPE)
        bodies: NDArray[np.uint8] | list[bytes]
        if self._tensors is None:
            bodies = [self._media.pop(slot) for slot in slots.tolist()]
        else:
            bodies = self._tensors[slots].view(np.uint8).reshape(len(slots), self._tensors.itemsize)
        if end < self._tail:  # else all begin anew
            self._tags.serve(jobs["tenant"], self._keys[self._head : end] & _TAG_MASK)
        self._head = end
        self._gone(slots)
        return jobs, bodies

    def expired(self, now: int) -> NDArray[np.void]:
        """Take out the requests whose deadline has passed, JOB_DTYPE [n]."""
        if self._tail == self._head or now < self._firsts()[1]:
            return _ALL_ADMITTED.evicted
        return self._remove(self._jobs["deadline"][self._order[self._head : self._tail]] <= now)

    def cancel(self, session: int, request: int) -> NDArray[np.void]:
        """Take out the requests of a session that have this id, JOB_DTYPE [n]: one, none, or several copies."""
        slots = self._order[self._head : self._tail]
        hits = (self._jobs["request"][slots] == np.uint64(request)) & (self._jobs["session"][slots] == session)
        return self._remove(hits) if hits.any() else _ALL_ADMITTED.evicted

    def clear(self) -> NDArray[np.void]:
        """Take out every request, JOB_DTYPE [n]."""
        return self._remove(np.ones(len(self), np.bool_))

    def _remove(self, chosen: NDArray[np.bool_]) -> NDArray[np.void]:
        """Take some of those that wait, bool [n] in their order, out without service."""
        waiting = slice(self._head, self._tail)
        keys, order, left = self._keys[waiting], self._order[waiting], ~chosen
        slots, keys, order = order[chosen], keys[left], order[left]
        self._tail = self._head + len(order)
        self._keys[self._head : self._tail], self._order[self._head : self._tail] = keys, order
        jobs: NDArray[np.void] = self._records[slots].view(JOB_DTYPE)
        if self._tensors is None:
            for slot in slots.tolist():
                del self._media[slot]
        self._tags.withdraw(self._jobs["tenant"][order], keys & _TAG_MASK)
        self._gone(slots)
        return jobs

    def _take(self, count: int) -> NDArray[np.intp]:
        self._free_count -= count
        return self._free[self._free_count : self._free_count + count].copy()

    def _gone(self, slots: NDArray[np.intp]) -> None:
        self.release(slots)
        self._earliest = None
        if self._head == self._tail:
            self._head = self._tail = 0
            self._tags.reset()

    def _compact(self) -> None:
        """Move what waits to the beginning of its arrays, and its tags to the beginning of theirs."""
        waiting, count = slice(self._head, self._tail), len(self)
        tags = self._keys[waiting] & _TAG_MASK
        self._keys[:count] = self._keys[waiting] - tags + self._tags.rebase(tags)
        self._order[:count] = self._order[waiting]
        self._head, self._tail = 0, count


def _levels(jobs: NDArray[np.void]) -> NDArray[np.int64]:
    return _LOWEST - jobs["priority"].astype(np.int64)
