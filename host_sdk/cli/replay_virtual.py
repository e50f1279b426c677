"""Replay to a virtual device: the capture's frames at the capture's times, and nothing else."""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from appliance.profile import Profile
from appliance.virtual import START_NS, VirtualDevice
from host_sdk.capture.replay import Plan
from host_sdk.capture.replayer import Replayer, match_handles, mtu_for, send_pdus
from host_sdk.capture.tapped import PcapWriter
from host_sdk.wire.errors import ConfigError
from host_sdk.wire.links.base import BURST, Link
from host_sdk.wire.links.ethernet import parse_mac

LEAD_NS = 1_000_000_000  # from when the device begins to the first frame
DRAIN_NS = 5_000_000_000  # after the last one, for what is still queued and for messages that are given up


@dataclass(frozen=True, slots=True)
class VirtualRun:
    """What came of a virtual replay.

    Attributes:
        replies: Receiver and PDU of everything that the device sent, in order, with the capture's ids.
        digest: SHA-256 of times, receivers and PDUs, hex: the same wherever the replay is the same.
        lost: Handles of the capture for which no pipeline was found.
        frames: Frames that the device was sent.
    """

    replies: tuple[tuple[str, bytes], ...]
    digest: str
    lost: tuple[int, ...]
    frames: int


class _Hosts:
    """The peers of the capture, at the switch of the device."""

    def __init__(self, device: VirtualDevice, replayer: Replayer, peers: Sequence[str], out: PcapWriter | None) -> None:
        self._device, self._replayer, self._out = device, replayer, out
        self.ports: dict[str, Link] = {}
        for peer in peers:
            try:
                address: int | None = parse_mac(peer)
            except ConfigError:
                address = None  # of UDP
            self.ports[peer] = device.attach(None if address == device.address else address)
        self._digest = hashlib.sha256()
        self.offset_ns = 0

    def send(self, frames: Sequence[tuple[str, bytes]]) -> None:
        """Let frames arrive as one batch, in their order."""
        at = 0
        while at < len(frames):
            peer, end = frames[at][0], at
            while end < len(frames) and frames[end][0] == peer:
                end += 1
            send_pdus(self.ports[peer], [pdu for _, pdu in frames[at:end]], self._device.address)
            at = end

    def collect(self) -> None:
        """Take what the device has sent."""
        now = self._device.clock.now_ns() + self.offset_ns
        for peer, port in self.ports.items():
            while len(batch := port.receive()):
                for index in range(len(batch)):
                    pdu = self._replayer.take(peer, batch.pdu(index).tobytes())
                    if pdu is None:
                        continue
                    self._digest.update(f"{now} {peer} {len(pdu)}\n".encode() + pdu)
                    if self._out:
                        self._out.write(now, self._device.address, port.address, pdu)

    def close(self) -> None:
        for port in self.ports.values():
            port.close()

    def digest(self) -> str:
        return self._digest.hexdigest()


def replay_virtual(
    plan: Plan,
    profile: Profile,
    packages: Sequence[bytes],
    seed: int = 0,
    out: Path | None = None,
    progress: Callable[[int], object] = lambda _: None,
) -> VirtualRun:
    """Send a capture's frames to a virtual device at their times.

    Args:
        plan: The capture.
        profile: The device's hardware.
        packages: Its pipelines.
        seed: Of its session ids.
        out: Pcap file for what it sends, at the capture's times; none by default.
        progress: Told of each batch how many frames it had.

    Raises:
        ConfigError: A package cannot be served.
    """
    mtu = mtu_for(plan)
    with ExitStack() as stack:
        device = stack.enter_context(VirtualDevice(profile, packages, seed=seed, mtu=mtu))
        handles, lost = match_handles(plan, device.device.pipelines())
        replayer = Replayer(plan, handles)
        writer = PcapWriter(out) if out else None
        if writer:
            stack.callback(writer.close)
        hosts = _Hosts(device, replayer, plan.peers, writer)
        stack.callback(hosts.close)
        hosts.offset_ns = plan.batches[0].time_ns - START_NS - LEAD_NS
        device.on_step = hosts.collect
        openings = replayer.openings(mtu)
        for at in range(0, len(openings), BURST):
            hosts.send(openings[at : at + BURST])
            device.settle()
        for batch, following in zip(plan.batches, (*plan.batches[1:], None), strict=True):
            device.advance_to(batch.time_ns - hosts.offset_ns)
            hosts.send(replayer.there(batch))
            if following and following.time_ns == batch.time_ns:  # then the device took it before all else was done
                device.step()
            else:
                device.settle()
            progress(len(batch.frames))
        device.advance_to(device.clock.now_ns() + DRAIN_NS)
        sent = sum(len(batch.frames) for batch in plan.batches)
        return VirtualRun(tuple(replayer.replies), hosts.digest(), tuple(lost), sent)
