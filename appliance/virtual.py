"""A device in this process, on a switch in memory and a clock that is set.

The same frames at the same times give the same bytes back.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn, Self

from appliance.board.flash import Flash
from appliance.clock import VirtualClock
from appliance.device import Device, DeviceOptions
from appliance.profile import Profile
from host_sdk.wire.links.base import Link
from host_sdk.wire.links.memory import MemoryLink, MemorySwitch

START_NS = 1_000_000_000  # what the clock shows at first
ADDRESS = 0x0200_0000_0001
QUEUE = 4096  # frames that wait for a port
TICK_NS = 1_000_000  # between looks at what was due and is not done
MOST_STEPS = 100_000  # at one moment of virtual time; far more than there is ever to do


class VirtualDevice:
    """A device without firmware, seeded, its one DLA core inline; nothing in it depends on the machine's clock.

    Operations of the control plane are answered UNAVAILABLE and discovery is not answered, as both are the firmware's.
    Also a context manager that closes it.

    Args:
        profile: The hardware.
        packages: Pipelines that it serves, in the order in which they get their handles.
        seed: Of session ids.
        mtu: Bytes of the largest PDU.
        wrap: Puts another link around its port, as one with faults; gets the port and the clock in ns.

    Attributes:
        device: The device.
        clock: Its clock.
        switch: Where peers attach.
        on_step: Called after everything that the device did.

    Raises:
        ConfigError: A package cannot be served.
    """

    def __init__(
        self,
        profile: Profile,
        packages: Sequence[bytes],
        *,
        seed: int = 0,
        mtu: int = 1500,
        wrap: Callable[[Link, Callable[[], int]], Link] | None = None,
    ) -> None:
        self.clock, self.switch, self._mtu = VirtualClock(START_NS), MemorySwitch(), mtu
        self.on_step: Callable[[], object] = lambda: None
        with ExitStack() as stack:
            directory = Path(stack.enter_context(TemporaryDirectory(prefix="napu-virtual-")))
            port: Link = self.switch.attach(ADDRESS, mtu=mtu, queue=QUEUE)
            if wrap:
                port = wrap(port, self.clock.now_ns)
            flash = Flash(directory, profile.limits.flash_bytes)
            self.device = Device(profile, port, flash, _no_firmware, self.clock, DeviceOptions(seed=seed))
            stack.callback(self.device.close)
            for package in packages:
                self.device.load_pipeline(package)
            self._stack = stack.pop_all()

    @property
    def address(self) -> int:
        """Peer key of its port."""
        return ADDRESS

    def attach(self, address: int | None = None) -> MemoryLink:
        """Return a port for a peer of the device."""
        return self.switch.attach(address, mtu=self._mtu, queue=QUEUE)

    def step(self) -> bool:
        """Take one batch of frames and do what is due; return whether there was anything."""
        busy = self.device.step()
        if busy:
            self.on_step()
        return busy

    def settle(self) -> None:
        """Do all that is to be done now.

        Raises:
            RuntimeError: There is no end to it.
        """
        for _ in range(MOST_STEPS):
            if not self.step():
                return
        raise RuntimeError(f"the device is not done after {MOST_STEPS} steps at one moment")

    def advance_to(self, time_ns: int) -> None:
        """Let time go by, and do what becomes due until then, each at its time."""
        if time_ns <= self.clock.now_ns():
            return
        while (timer := self.device.next_timer()) is not None and timer <= time_ns and self.clock.now_ns() < time_ns:
            # What gives up unfinished messages runs now and then only, so that a timer may be in the past.
            self.clock.advance_to(min(timer if timer > self.clock.now_ns() else self.clock.now_ns() + TICK_NS, time_ns))
            self.settle()
        self.clock.advance_to(time_ns)

    def close(self) -> None:
        """Give everything back; a second call does nothing."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _no_firmware(_bus: int, _irq: int, _epoch: int) -> NoReturn:
    raise OSError("a virtual device has no firmware")
