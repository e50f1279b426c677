"""The host's part of ``napu demo --docker``, run in the lab's host: images at a steady rate to all appliances as one.

``python -m host_sdk.cli.demo_cluster_host``: one JSON object a line on standard output; the last has the result.
"""

import asyncio
import json
import sys
from collections import Counter
from dataclasses import asdict, dataclass, field
from itertools import cycle, islice
from typing import Annotated, Any

import typer

from host_sdk.cli.demo_images import HeldOut, held_out
from host_sdk.cluster.aio import AsyncNapuCluster
from host_sdk.wire.errors import NapuError

PIPELINE = "digits"
MOST_IMAGES = 500  # that the model has not seen; more are sent by sending these again
TELL_EVERY = 50


@dataclass(slots=True)
class Course:
    """What became of the images so far.

    Attributes:
        appliances: Appliance of each answer, in order of arrival.
        right: Answers with the true label.
        errors: What was said of those that were lost.
        latencies_us: Of the answers.
    """

    appliances: list[str] = field(default_factory=list)
    right: int = 0
    errors: list[str] = field(default_factory=list)
    latencies_us: list[float] = field(default_factory=list)


def main(
    images: Annotated[int, typer.Option()],
    rate: Annotated[float, typer.Option()],
    link: Annotated[str, typer.Option()] = "packet:any",
) -> None:
    """Send images to all appliances that are there, and say what became of them."""
    try:
        result = asyncio.run(_run(link, images, rate))
    except NapuError as error:
        result = {"error": str(error)}
    _tell(result)


def _tell(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


async def _run(link: str, images: int, rate: float) -> dict[str, Any]:
    course = Course()
    async with AsyncNapuCluster(link) as napu:
        before = await napu.members()
        _tell({"members": [asdict(member) for member in before]})
        loop = asyncio.get_running_loop()
        start = loop.time()
        async with asyncio.TaskGroup() as tasks:
            for index, item in enumerate(islice(cycle(held_out(MOST_IMAGES)), images)):
                await asyncio.sleep(max(0.0, start + index / rate - loop.time()))
                tasks.create_task(_infer(napu, item, course))
        return {
            "sent": images,
            "right": course.right,
            "errors": course.errors,
            "answered_by": Counter(course.appliances),
            "moved": napu.tally.moved,
            "latency_us": sorted(course.latencies_us),
            "seconds": loop.time() - start,
        }


async def _infer(napu: AsyncNapuCluster, item: HeldOut, course: Course) -> None:
    try:
        answer = await napu.infer(PIPELINE, item.jpeg)
    except NapuError as error:
        course.errors.append(f"{item.name}: {error}")
        return
    course.appliances.append(answer.appliance)
    course.right += answer.label == item.label
    course.latencies_us.append(answer.latency_us)
    if len(course.appliances) % TELL_EVERY == 0:
        _tell({"answered": len(course.appliances)})


if __name__ == "__main__":
    typer.run(main)
