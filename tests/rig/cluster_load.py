"""A steady load on a cluster, and what became of each request: ``python -m tests.rig.cluster_load``.

Run where the cluster's wire is. One JSON object a line: on standard input ``{"phase": NAME}`` and ``{"stop": true}``,
on standard output what is so far, twice a second, and at the end what came of requests by phase.
"""

import argparse
import asyncio
import json
import os
import sys
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from host_sdk.cli.demo_images import HeldOut, held_out
from host_sdk.cluster.aio import AsyncNapuCluster
from host_sdk.results import Inference
from host_sdk.wire.errors import NapuError

PIPELINE = "digits"
MOST_OUTSTANDING = 256
TELL_S = 0.5
EXAMPLES = 20
PATIENCE_S = 10.0  # beyond what a request may take: what has not ended then is lost


@dataclass
class Phase:
    """What became of the requests that were sent in a phase.

    Attributes:
        sent: How many.
        right: Answered, with exactly what an appliance said of the same image before anything had happened.
        wrong: Answered with anything else.
        errors: Ended with an error, by its name.
        by: Appliances that answered, by address.
        longest_ms: What the slowest answer took.
    """

    sent: int = 0
    right: int = 0
    wrong: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    by: Counter[str] = field(default_factory=Counter)
    longest_ms: float = 0.0


def tensors(answer: Inference) -> list[Any]:
    """Return what an appliance said, to be compared."""
    return [answer.label, *(list(values) for _, values in sorted(answer.outputs.items()))]


class Load:
    """The load of one client.

    Args:
        napu: The client.
        images: What is asked.
        rate: Requests a second.
    """

    def __init__(self, napu: AsyncNapuCluster, images: list[HeldOut], rate: float) -> None:
        self._napu, self._images, self._rate = napu, images, rate
        self.phases: dict[str, Phase] = {"quiet": Phase()}
        self.current = self.phases["quiet"]
        self.examples: list[str] = []
        self.broken: list[str] = []
        self.stopped = asyncio.Event()
        self._reference: list[list[Any]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def learn(self) -> None:
        """Ask for each image once, while all is well."""
        answers = await asyncio.gather(*(self._napu.infer(PIPELINE, image.jpeg) for image in self._images))
        self._reference = [tensors(answer) for answer in answers]

    def enter(self, phase: str) -> None:
        """Count what is sent from now on to a phase."""
        self.current = self.phases.setdefault(phase, Phase())

    async def run(self) -> None:
        """Send at the rate until it is stopped, then wait for what is outstanding."""
        loop = asyncio.get_running_loop()
        number, due = 0, loop.time()
        while not self.stopped.is_set():
            due = max(due + 1 / self._rate, loop.time() - TELL_S)  # what could not be sent in time is not caught up
            await asyncio.sleep(max(0.0, due - loop.time()))
            if len(self._tasks) < MOST_OUTSTANDING:
                task = asyncio.create_task(self._ask(number % len(self._images), self.current))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                number += 1
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=PATIENCE_S)

    async def _ask(self, number: int, phase: Phase) -> None:
        phase.sent += 1
        begun = asyncio.get_running_loop().time()
        try:
            answer = await self._napu.infer(PIPELINE, self._images[number].jpeg, once=True)
        except NapuError as error:
            phase.errors[type(error).__name__] += 1
            self._keep(f"{type(error).__name__}: {error}")
            return
        phase.by[answer.appliance] += 1
        phase.longest_ms = max(phase.longest_ms, (asyncio.get_running_loop().time() - begun) * 1e3)
        if tensors(answer) == self._reference[number]:
            phase.right += 1
        else:
            phase.wrong += 1
            self._keep(f"{answer.appliance} says {tensors(answer)} of {self._images[number].name}")

    def _keep(self, example: str) -> None:
        if len(self.examples) < EXAMPLES:
            self.examples.append(example)

    def break_(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Note what nobody awaited: an answer that came twice to a caller, or a fault of the client."""
        self.broken.append(f"{context.get('message')}: {context.get('exception')!r}"[:500])

    def so_far(self) -> dict[str, Any]:
        """Return what became of all requests."""
        phases = self.phases.values()
        return {
            "sent": sum(phase.sent for phase in phases),
            "right": sum(phase.right for phase in phases),
            "wrong": sum(phase.wrong for phase in phases),
            "errors": sum((phase.errors for phase in phases), Counter()),
            "by": sum((phase.by for phase in phases), Counter()),
            "outstanding": len(self._tasks),
        }


def tell(line: dict[str, Any]) -> None:
    """Write a line to whoever has started this."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


async def _listen(load: Load) -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        said = json.loads(line)
        if "phase" in said:
            load.enter(said["phase"])
        if said.get("stop"):
            break
    load.stopped.set()


async def _tell_often(load: Load, napu: AsyncNapuCluster) -> None:
    while True:
        states = {member.address: member.state for member in await napu.members()}
        tell(load.so_far() | {"states": states})
        await asyncio.sleep(TELL_S)


async def _run(arguments: argparse.Namespace) -> None:
    async with AsyncNapuCluster(arguments.link) as napu:
        load = Load(napu, held_out(arguments.images), arguments.rate)
        asyncio.get_running_loop().set_exception_handler(load.break_)
        while len(await napu.members()) < arguments.appliances:  # whoever has started this has a limit
            await napu.refresh()
        await load.learn()
        tell({"pid": os.getpid()})
        telling, listening = asyncio.create_task(_tell_often(load, napu)), asyncio.create_task(_listen(load))
        await load.run()
        for task in (telling, listening):
            task.cancel()
        whole = load.so_far()
        tell(
            whole
            | {
                "phases": {name: vars(phase) for name, phase in load.phases.items()},
                "lost": whole["sent"] - whole["right"] - whole["wrong"] - sum(whole["errors"].values()),
                "examples": load.examples,
                "broken": load.broken,
                "tally": asdict(napu.tally),
            }
        )


def main() -> None:
    """Run the load until it is told to stop, or nobody is there any more to tell it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--link", default="packet:any")
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--appliances", type=int, default=1)
    asyncio.run(_run(parser.parse_args()))


if __name__ == "__main__":
    main()
