"""What a running lab can do, whatever made it.

Labs of network namespaces (:mod:`host_sdk.lab.lab`) and of containers (:mod:`host_sdk.lab.docker.lab`) can all of it;
commands and tests know labs by :class:`RunningLab` alone.
"""

import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from host_sdk.lab.ring import Entry
from host_sdk.lab.state import LabState
from host_sdk.lab.topology import Topology

Progress = Callable[[str], None]  # is told in a few words what has just been done


@dataclass(frozen=True, slots=True)
class LinkCounters:
    """What went over a node's cable since it was laid, as the node sees it.

    Attributes:
        frames_in: Frames that came to the node.
        bytes_in: Bytes of them, with their Ethernet headers.
        frames_out: Frames that it sent.
        bytes_out: Bytes of them.
    """

    frames_in: int
    bytes_in: int
    frames_out: int
    bytes_out: int

    def turned(self) -> "LinkCounters":
        """Return the same as the other end of the cable sees it."""
        return LinkCounters(self.frames_out, self.bytes_out, self.frames_in, self.bytes_in)


class FrameRing(Protocol):
    """Frames of one point, as a capture takes them: see :class:`host_sdk.lab.ring.Ring`, which is one.

    Attributes:
        dropped: Frames that were lost so far, as of the last :meth:`taken`.
    """

    dropped: int

    def fileno(self) -> int:
        """Return the descriptor that polls readable when frames are there."""

    def entries(self) -> Iterator[tuple[memoryview, list[Entry]]]:
        """Yield frames: the memory that they are in, and where; valid until the next is asked for."""

    def stop(self) -> None:
        """Take no further frames; those taken before are still to be read."""

    def taken(self) -> int:
        """Return how many frames were taken so far; updates :attr:`dropped`."""

    def close(self) -> None:
        """Give everything back."""


class RunningLab(Protocol):
    """A running lab. All methods raise ConfigError where there is no such node, ClosedError where the lab has ended.

    Attributes:
        name: Its name.
        driver: What made it.
    """

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def driver(self) -> str:
        """What made it."""

    def status(self) -> LabState:
        """Return how the lab is."""

    def topology(self) -> Topology:
        """Return what the lab was made from."""

    def inside(self, node: str, command: Sequence[str]) -> list[str]:
        """Return the command line that runs a command in a node's network namespace, with the files of this machine.

        Where that cannot be had, as with containers of an engine on another machine, it is :meth:`exec_command`'s.
        """

    def exec_command(self, node: str, command: Sequence[str]) -> list[str]:
        """Return the command line that runs a command in a node: with its network, its files and its user."""

    def logs(self, node: str, *, follow: bool = False) -> Iterator[str]:
        """Yield the lines of a node's output; with ``follow`` go on until it ends."""

    def faults(self, node: str, faults_in: str | None = None, faults_out: str | None = None) -> tuple[str, str]:
        """Change the damage that an appliance does to frames, from now on; return what it is then."""

    def signal(self, node: str, number: signal.Signals) -> None:
        """Send a signal to a node's process."""

    def pause(self, node: str) -> None:
        """Stop a node, with all its processes, until it is resumed."""

    def resume(self, node: str) -> None:
        """Let a paused node go on."""

    def unplug(self, node: str) -> None:
        """Pull the cable of a node out of the switch."""

    def plug(self, node: str) -> None:
        """Put the cable of an unplugged node back."""

    def ring(self, point: str) -> FrameRing | None:
        """Begin to capture at the switch or at a node's cable; None where that is done :meth:`inside`."""

    def counters(self) -> dict[str, LinkCounters]:
        """Return by node what went over its cable; of nodes that run."""

    def down(self) -> None:
        """End the lab; nothing of it is left. One that has ended already is no error."""
