"""What can befall an appliance in a container, and how it ends: each really happens to the container's processes."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.rig.container_lab import FLASH_BYTES, MEMORY_BYTES, Victim
from tests.rig.usage import group_memory

FILLER: Final = "/flash/FILL"  # no object of flash can be named so
AHEAD_S: Final = 3600
_MARGIN_BYTES: Final = 8 << 20
_PERIOD_US: Final = 100_000
_SLOW_US: Final = 2_000  # of each period: 2 % of a core
_LOOK_S: Final = 0.05
_ENOUGH_S: Final = 20.0
_STOP_S: Final = 2


class FaultError(Exception):
    """A fault did not happen, or an appliance did not do with it what it has to; the message says which."""


@dataclass(frozen=True)
class Fault:
    """Something that befalls an appliance.

    Attributes:
        name: What it is called.
        meaning: What happens, in a few words.
        begin: Makes it happen; when this returns, it has.
        end: Lets go. The appliance comes back by itself.
        ends_process: Whether the node's process does not outlive it.
    """

    name: str
    meaning: str
    begin: Callable[[Victim], None]
    end: Callable[[Victim], None]
    ends_process: bool = False


def wait_until(condition: Callable[[], bool], what: str, seconds: float = _ENOUGH_S) -> None:
    """Wait until something is so.

    Raises:
        FaultError: It is not, in time.
    """
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise FaultError(f"not within {seconds:g} s: {what}")
        time.sleep(_LOOK_S)


def _await_another(victim: Victim, pid: int) -> None:
    wait_until(lambda: victim.pid not in (0, pid), f"{victim.node} is started again")


def send(victim: Victim, number: signal.Signals) -> int:
    """Send a signal to the node's process; return its id.

    Raises:
        FaultError: There is no process.
    """
    pid = victim.pid
    if pid <= 0:  # which to the kernel means the sender and its whole group
        raise FaultError(f"{victim.node} has no process that {number.name} could be sent to")
    os.kill(pid, number)
    return pid


def _kill(victim: Victim) -> None:
    # Not by the engine: its own kill counts as wanted, and takes the restart policy away.
    _await_another(victim, send(victim, signal.SIGKILL))


def _nothing(_: Victim) -> None:
    """Let go of nothing: the engine starts it again."""


def _pause(victim: Victim) -> None:
    victim.lab.pause(victim.node)


def _resume(victim: Victim) -> None:
    victim.lab.resume(victim.node)


def _stop(victim: Victim) -> None:
    send(victim, signal.SIGSTOP)


def _continue(victim: Victim) -> None:
    send(victim, signal.SIGCONT)


def _restart(victim: Victim) -> None:
    before = victim.pid
    victim.container.restart(timeout=_STOP_S)
    _await_another(victim, before)


def _unplug(victim: Victim) -> None:
    before = interfaces(victim.pid)
    victim.lab.unplug(victim.node)
    wait_until(lambda: len(interfaces(victim.pid)) < len(before), f"the interface of {victim.node} is gone")


def _plug(victim: Victim) -> None:
    victim.lab.plug(victim.node)


def interfaces(pid: int) -> list[str]:
    """Return the names of a process's network interfaces, without lo."""
    lines = Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]
    return [name for line in lines if (name := line.partition(":")[0].strip()) != "lo"]


def _fill(victim: Victim) -> None:
    """Write until the file system of flash has no room."""
    _, told = victim.run("dd", "if=/dev/zero", f"of={FILLER}", "bs=64k")
    if "No space left on device" not in told:
        raise FaultError(f"flash of {victim.node} is not full after {FLASH_BYTES} bytes: {told}")


def _empty(victim: Victim) -> None:
    victim.run("rm", "-f", FILLER)


def _turn_clock(victim: Victim) -> None:
    victim.set_clock(AHEAD_S)
    wait_until(lambda: clock_ahead(victim) > AHEAD_S / 2, f"the clock of {victim.node} is ahead")


def _turn_back(victim: Victim) -> None:
    victim.set_clock(0)
    wait_until(lambda: clock_ahead(victim) < AHEAD_S / 2, f"the clock of {victim.node} is right")


def clock_ahead(victim: Victim) -> float:
    """Return how many seconds the clock in a container is ahead of this machine's."""
    return float(victim.run("date", "+%s")[1]) - time.time()


def _run_out_of_memory(victim: Victim) -> None:
    """Take the room that the node needs from it, until the kernel kills it.

    What is taken is in a file of /tmp, which counts as the container's and belongs to no process.
    """
    before = victim.pid
    limit = group_memory(before) + _MARGIN_BYTES
    victim.container.update(mem_limit=limit, memswap_limit=limit)
    victim.run("dd", "if=/dev/zero", "of=/tmp/FILL", "bs=64k", "count=900")
    wait_until(lambda: victim.pid != before, f"the kernel kills {victim.node}, which is out of memory")


def _give_memory(victim: Victim) -> None:
    victim.container.update(mem_limit=MEMORY_BYTES, memswap_limit=MEMORY_BYTES)


def _slow(victim: Victim) -> None:
    victim.container.update(cpu_period=_PERIOD_US, cpu_quota=_SLOW_US)


def _quicken(victim: Victim) -> None:
    victim.container.update(cpu_period=_PERIOD_US, cpu_quota=-1)


FAULTS: Final = {
    fault.name: fault
    for fault in (
        Fault("kill", "SIGKILL of the node; its restart policy starts it again", _kill, _nothing, ends_process=True),
        Fault("pause", "all processes frozen, then thawed", _pause, _resume),
        Fault("stop", "SIGSTOP of the node, then SIGCONT", _stop, _continue),
        Fault("restart", "restarted by the engine", _restart, _nothing, ends_process=True),
        Fault("disconnect", "taken off the network, then put back under another interface name", _unplug, _plug),
        Fault("flash full", "the file system of flash filled, then emptied", _fill, _empty),
        Fault("clock", "its clock an hour ahead, then right again", _turn_clock, _turn_back),
        Fault("memory", "its memory limit reached: killed by the kernel", _run_out_of_memory, _give_memory, True),
        Fault("slow", "2 % of a core, then all of it", _slow, _quicken),
    )
}
