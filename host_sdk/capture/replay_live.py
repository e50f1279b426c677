"""Replay to an appliance that is there, at the capture's pace or a multiple of it."""

import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from host_sdk.capture.replay import Plan
from host_sdk.capture.replayer import Replayer, match_handles, mtu_for, send_pdus
from host_sdk.wire.links.base import Link

OPENED_NS = 1_000_000_000  # that an answer to an OPEN is waited for before frames of its session are sent
QUIET_NS = 500_000_000  # after which nothing more is expected
DRAIN_NS = 5_000_000_000


@dataclass(frozen=True, slots=True)
class LiveRun:
    """What came of a replay to an appliance.

    Attributes:
        replies: Receiver and PDU of everything that came back, with the capture's ids.
        lost: Handles of the capture for which no pipeline was found.
        frames: Frames that were sent.
        unsent: Frames that the link did not take.
        latest_ns: ns by which the latest batch was later than it should have been.
    """

    replies: tuple[tuple[str, bytes], ...]
    lost: tuple[int, ...]
    frames: int
    unsent: int
    latest_ns: int


class _Course:
    """One replay under way."""

    def __init__(self, link: Link, peer: int, replayer: Replayer, now: Callable[[], int]) -> None:
        self._link, self._peer, self._replayer, self._now = link, peer, replayer, now
        self.sent = self.unsent = 0

    def send(self, pdus: list[bytes]) -> None:
        taken = send_pdus(self._link, pdus, self._peer)
        self.sent += taken
        self.unsent += len(pdus) - taken

    def receive(self) -> bool:
        """Take what has arrived; return whether there was anything."""
        batch = self._link.receive()
        for index in range(len(batch)):
            if int(batch.peers[index]) == self._peer:
                pdu = batch.pdu(index).tobytes()
                self._replayer.take(self._replayer.peer_of(pdu), pdu)
        return len(batch) > 0

    def until(self, time_ns: int, done: Callable[[], bool] = lambda: False) -> None:
        """Take what arrives until a time, or until something is done."""
        while not done() and (left := time_ns - self._now()) > 0:
            if self._link.wait(left):
                self.receive()

    def drain(self) -> None:
        """Take what still arrives, until nothing does for a while."""
        end = self._now() + DRAIN_NS
        while self._now() < end and self._link.wait(QUIET_NS):
            self.receive()


def replay_live(
    plan: Plan,
    link: Link,
    peer: int,
    served: Iterable[Mapping[str, object]],
    *,
    speed: float = 1.0,
    now: Callable[[], int] = time.monotonic_ns,
    generator: random.Random | None = None,
) -> LiveRun:
    """Send a capture's frames to an appliance, and take what it answers.

    Request ids are moved by a random number, so that nothing of an earlier replay is answered again.

    Args:
        plan: The capture.
        link: Where the appliance is.
        peer: Its key there.
        served: Its pipelines, as :func:`host_sdk.capture.replayer.match_handles` takes them.
        speed: How many times as fast as in the capture.
        now: Monotonic ns.
        generator: Source of that number; the system's by default.

    Raises:
        LinkError: The link is gone.
    """
    handles, lost = match_handles(plan, served)
    shift = (generator or random.SystemRandom()).getrandbits(61)
    replayer = Replayer(plan, handles, shift)
    course = _Course(link, peer, replayer, now)
    for _, pdu in replayer.openings(min(link.mtu, mtu_for(plan))):
        course.send([pdu])
    openings = course.sent
    begin, first, latest = now(), plan.batches[0].time_ns, 0
    for batch in plan.batches:
        if replayer.awaits(batch):
            course.until(now() + OPENED_NS, lambda batch=batch: not replayer.awaits(batch))  # type: ignore[misc]
        due = begin + round((batch.time_ns - first) / speed)
        course.until(due)
        latest = max(latest, now() - due)
        course.send([pdu for _, pdu in replayer.there(batch)])
        course.receive()
    course.drain()
    return LiveRun(tuple(replayer.replies), tuple(lost), course.sent - openings, course.unsent, latest)
