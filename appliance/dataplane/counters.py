"""Every frame and every answer is counted under exactly one reason or status."""

import numpy as np
from numpy.typing import NDArray

from host_sdk.wire.schema import DropReason, Status

_STATUSES = {int(status): index for index, status in enumerate(Status)}
_STATUS_INDEX = np.zeros(max(_STATUSES) + 1, np.intp)
_STATUS_INDEX[list(_STATUSES)] = list(_STATUSES.values())


class Counters:
    """Counters of one dataplane.

    ``rx_frames`` is always the sum of the frames under each DropReason, ACCEPTED among them. Written by the
    dataplane's thread alone; a snapshot from another thread may lie within a batch.
    """

    def __init__(self) -> None:
        self._frames = np.zeros(len(DropReason), np.uint64)
        self._answers = np.zeros(len(Status), np.uint64)
        self.batches = 0
        self.inferences = 0
        self.fast_answers = 0
        self._accepted = 0  # plain, as is the one before: adding to an array's element takes ten times as long
        self.discoveries = 0
        self.energy_nj = 0
        self.tx_dropped = 0
        self.replays = 0
        self.notices = 0
        self.expired_in_queue = 0
        self.expired_before_dla = 0
        self.expired_after_dla = 0
        self.evicted = 0
        self.sessions_expired = 0

    def frames(self, reasons: NDArray[np.uint8]) -> None:
        """Count a batch of frames by their DropReason, uint8 [n]."""
        self._frames += np.bincount(reasons, minlength=len(DropReason)).astype(np.uint64)

    def answered(self, count: int) -> None:
        """Count requests that the fast path answered OK."""
        self.fast_answers += count

    def refused(self, count: int, frames: int, status: Status) -> None:
        """Count requests that the fast path refused, and their frames as accepted."""
        self._accepted += frames
        self._answers[_STATUSES[status]] += np.uint64(count)

    def dropped(self, reason: DropReason, count: int) -> None:
        """Count frames that nobody has counted yet under a reason."""
        self._frames[reason] += np.uint64(count)

    def move(self, reason: DropReason, count: int = 1) -> None:
        """Count frames that were accepted at first glance under the reason found later."""
        self._frames[DropReason.ACCEPTED] -= np.uint64(count)
        self._frames[reason] += np.uint64(count)

    def unaccept(self, count: int = 1) -> None:
        """Take back frames that were counted as accepted: another room counts them."""
        self._accepted -= count  # which :meth:`accept` may give back

    def accept(self, count: int = 1) -> None:
        """Count frames as accepted."""
        self._accepted += count

    def answers(self, statuses: NDArray[np.uint16]) -> None:
        """Count a batch of answers by their status, uint16 [n]."""
        self._answers += np.bincount(_STATUS_INDEX[statuses], minlength=len(Status)).astype(np.uint64)

    def answer(self, status: int) -> None:
        """Count one answer."""
        self._answers[_STATUSES.get(status, _STATUSES[Status.INTERNAL])] += np.uint64(1)

    def snapshot(self) -> dict[str, int]:
        """Return every counter by its name."""
        frames = {f"frames_{reason.name.lower()}": int(self._frames[reason]) for reason in DropReason}
        frames["frames_accepted"] += self._accepted
        answers = {f"answers_{status.name.lower()}": int(self._answers[_STATUSES[status]]) for status in Status}
        answers["answers_ok"] += self.fast_answers
        return {
            "rx_frames": sum(frames.values()),
            **frames,
            **answers,
            "batches": self.batches,
            "inferences": self.inferences,
            "fast_answers": self.fast_answers,
            "discoveries": self.discoveries,
            "energy_nj": self.energy_nj,
            "tx_dropped": self.tx_dropped,
            "replays": self.replays,
            "notices": self.notices,
            "expired_in_queue": self.expired_in_queue,
            "expired_before_dla": self.expired_before_dla,
            "expired_after_dla": self.expired_after_dla,
            "evicted": self.evicted,
            "sessions_expired": self.sessions_expired,
        }
