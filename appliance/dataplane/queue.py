"""The queue of one pipeline: waiting requests as a structure of arrays, and which of them run next."""

import numpy as np
from numpy.typing import NDArray

NEVER = np.iinfo(np.int64).max

JOB_DTYPE = np.dtype(
    [
        ("peer", np.uint64),
        ("request", np.uint64),
        ("arrival", np.int64),  # ns on the node's clock
        ("deadline", np.int64),  # ns on the node's clock, NEVER for none
        ("sequence", np.int64),  # order of arrival
        ("session", np.uint32),
        ("wire_bytes", np.uint32),  # of the request, headers included
        ("rx_ns", np.uint32),  # measured from the first frame's arrival to the queue
        ("flags", np.uint16),
        ("fragment_size", np.uint16),  # of the reply
        ("priority", np.uint8),
    ]
)


class JobQueue:
    """Waiting requests of one pipeline, bounded.

    Tensors wait in one array, [depth, input size], written by one copy for a batch; media, whose sizes vary, wait as
    bytes.

    Args:
        depth: Requests that can wait.
        input_size: Bytes of every body; None for media.
    """

    def __init__(self, depth: int, input_size: int | None) -> None:
        self._jobs = np.zeros(depth, JOB_DTYPE)
        self._waiting = np.zeros(depth, np.bool_)
        self._free = np.arange(depth - 1, -1, -1, dtype=np.intp)  # a stack
        self._free_count = depth
        self._sequence = 0
        self._tensors = None if input_size is None else np.zeros((depth, input_size), np.uint8)
        self._media: dict[int, bytes] = {}
        self._earliest_arrival = NEVER
        self._earliest_deadline = NEVER

    def __len__(self) -> int:
        return len(self._jobs) - self._free_count

    @property
    def depth(self) -> int:
        """How many requests can wait."""
        return len(self._jobs)

    @property
    def room(self) -> int:
        """How many more requests can wait."""
        return self._free_count

    def push(self, jobs: NDArray[np.void], bodies: NDArray[np.uint8] | list[bytes]) -> None:
        """Queue requests, at most ``room`` of them.

        Args:
            jobs: JOB_DTYPE [n]; their sequence is set here.
            bodies: uint8 [n, input size] for tensors, else one bytes each.
        """
        count = len(jobs)
        slots = self._free[self._free_count - count : self._free_count].copy()
        self._free_count -= count
        jobs["sequence"] = np.arange(self._sequence, self._sequence + count)
        self._sequence += count
        self._jobs[slots] = jobs
        self._waiting[slots] = True
        self._earliest_arrival = min(self._earliest_arrival, int(jobs["arrival"].min()))
        self._earliest_deadline = min(self._earliest_deadline, int(jobs["deadline"].min()))
        if self._tensors is not None:
            self._tensors[slots] = bodies
        else:
            self._media.update(zip(slots.tolist(), bodies, strict=True))

    def ready_at(self, max_batch: int, max_delay_ns: int, service_ns: int) -> int | None:
        """Return when the next batch shall start, in ns on the node's clock; None while nothing waits.

        Args:
            max_batch: A batch of so many waits no longer.
            max_delay_ns: How long a request waits for others.
            service_ns: What a batch takes: it starts early enough for the first deadline.
        """
        count = len(self)
        if count == 0:
            return None
        if count >= max_batch:
            return self._earliest_arrival
        return min(self._earliest_arrival + max_delay_ns, self._earliest_deadline - service_ns)

    def expired(self, now: int) -> NDArray[np.void]:
        """Take out the requests whose deadline has passed, JOB_DTYPE [n]."""
        if now < self._earliest_deadline:
            return self._jobs[:0]
        return self._drop(np.flatnonzero(self._waiting & (self._jobs["deadline"] <= now)))

    def pop(self, limit: int) -> tuple[NDArray[np.void], NDArray[np.uint8] | list[bytes]]:
        """Take out the next requests, at most ``limit``: higher priority first, then in order of arrival.

        Returns:
            JOB_DTYPE [n], and their bodies as :meth:`push` takes them.
        """
        slots = np.flatnonzero(self._waiting)
        waiting = self._jobs[slots]
        order = np.lexsort((waiting["sequence"], -waiting["priority"].astype(np.int16)))[:limit]
        slots = slots[order]
        if self._tensors is not None:
            return self._release(slots), self._tensors[slots]
        return self._release(slots), [self._media.pop(slot) for slot in slots.tolist()]

    def clear(self) -> NDArray[np.void]:
        """Take out every request, JOB_DTYPE [n]."""
        return self._drop(np.flatnonzero(self._waiting))

    def _drop(self, slots: NDArray[np.intp]) -> NDArray[np.void]:
        if self._tensors is None:
            for slot in slots.tolist():
                del self._media[slot]
        return self._release(slots)

    def _release(self, slots: NDArray[np.intp]) -> NDArray[np.void]:
        jobs = self._jobs[slots]
        self._waiting[slots] = False
        self._free[self._free_count : self._free_count + len(slots)] = slots
        self._free_count += len(slots)
        left = self._jobs[self._waiting]
        self._earliest_arrival = int(left["arrival"].min(initial=NEVER))
        self._earliest_deadline = int(left["deadline"].min(initial=NEVER))
        return jobs
