"""Scripted appliances on a switch in memory, and clients of them as one."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Any

from host_sdk.cluster.aio import AsyncNapuCluster
from host_sdk.cluster.client import NapuCluster
from host_sdk.cluster.policy import ClusterPolicy
from host_sdk.operations import Timeout
from host_sdk.results import Inference
from host_sdk.wire.exchange.pace import RequesterLimits
from host_sdk.wire.links.memory import MemorySwitch
from tests.rig.frames import Pdu
from tests.rig.scripted import IDENTITY, Scripted, reply_to

BODY = b"abcd"
BRISK = RequesterLimits(window=64, first_rto_ns=20_000_000)
PATIENT = {"suspect_after": 100, "down_after": 100}  # so that a busy machine makes no appliance seem to be gone
MORTAL = {"suspect_after": 1, "down_after": 5}  # for tests in which one is
CANCEL = 0x20


class Rack:
    """Scripted appliances a, b, … on one switch."""

    def __init__(self, running: ExitStack) -> None:
        self.switch, self._running = MemorySwitch(), running
        self.appliances: dict[str, Scripted] = {}

    def add(self, name: str, device: str = "") -> Scripted:
        appliance = Scripted(self.switch)
        appliance.control["identity"] = {**IDENTITY, "device": device or f"device-{name}", "name": name}
        self.appliances[name] = self._running.enter_context(appliance)
        return appliance

    def cluster(self, *, request: float = 5.0, target: Any = None, **policy: Any) -> NapuCluster:
        timeout = Timeout(request, 1.0, 0.05)
        chosen = ClusterPolicy(**{"refresh": 0.2, "quiet": 0.2, **PATIENT, **policy})
        return NapuCluster(self.switch.attach(), target, timeout=timeout, limits=BRISK, policy=chosen)

    def asynchronous(self, use: Callable[[AsyncNapuCluster], Awaitable[Any]], **policy: Any) -> Any:
        async def main() -> Any:
            timeout, chosen = (
                Timeout(5.0, 1.0, 0.05),
                ClusterPolicy(**{"refresh": 0.2, "quiet": 0.2, **PATIENT, **policy}),
            )
            link = self.switch.attach()
            async with AsyncNapuCluster(link, timeout=timeout, limits=BRISK, policy=chosen) as cluster:
                return await asyncio.wait_for(use(cluster), 20)

        return asyncio.run(main())

    def first_says(self, answer: Callable[[Pdu], list[Pdu]], body: bytes = BODY) -> list[str]:
        """Have whoever gets the first request answer it so, and all else well.

        Args:
            answer: What it says.
            body: What that request holds: another one, where copies of those before may still be on their way.

        Returns:
            Where its name will be put.
        """
        first: list[str] = []
        about: list[int] = []

        def script(name: str) -> Callable[[Pdu], list[Pdu]]:
            def infer(asked: Pdu) -> list[Pdu]:
                if not first and asked.payload[:4] == body:
                    first.append(name)
                    about.append(asked.request)
                mine = first == [name] and about == [asked.request]
                return answer(asked) if mine else [reply_to(asked, asked.payload[:4])]

            return infer

        for name, appliance in self.appliances.items():
            appliance.infer = script(name)
        return first


def answered_by(results: list[Any]) -> set[str]:
    assert all(isinstance(result, Inference) for result in results), results
    return {result.appliance for result in results}


def working(asked: Pdu) -> list[Pdu]:
    """Return what an appliance says that has a request whole."""
    return [Pdu(0xA0, b"", asked.request, asked.flags, asked.session, priority=asked.priority, tail=1000)]
