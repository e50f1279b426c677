"""A lab whose cable damages frames both ways, and what its capture tells: ``python -m tests.system.faulty_lab``.

Pictures are inferred by *once* requests over a cable that loses, doubles, reorders and flips bits in both directions.
Held against it are: every request is answered exactly once, with the label that it has over a clean cable; the node
executed as many; the capture lost nothing; ``napu explain`` explains every retransmission; and, with ``--replay``, two
virtual replays of the capture are the same, byte for byte. A table says so; the exit status is 0 when all of it held.
"""

import argparse
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from host_sdk.cli.demo_images import held_out
from host_sdk.cli.lab import make_topology, with_node_commands
from host_sdk.cli.output import INSIDE
from host_sdk.client import NapuClient
from host_sdk.lab.lab import Lab
from host_sdk.operations import InferOptions, Timeout
from host_sdk.results import Inference

FAULTS = "loss=5%,duplicate=2%,reorder=5%,flip=1%"
NODE, PIPELINE = "napu1", "digits"
IMAGES = 500
PER_SECOND = 150  # requests that are answered at the very least, which bounds the whole run
_NAPU = (sys.executable, "-m", "host_sdk.cli.main")


@dataclass(frozen=True, slots=True)
class Check:
    """Something that was held against the run.

    Attributes:
        name: What.
        expected: What it has to be.
        found: What it was.
    """

    name: str
    expected: object
    found: object

    @property
    def held(self) -> bool:
        """Whether it was so."""
        return self.expected == self.found


# ---- on the host of the lab ------------------------------------------------------------------------------------------


def ask(count: int) -> dict[str, Any]:
    """Infer ``count`` pictures as the lab's host; return how many times each label came for each, and what failed."""
    pictures = [item.jpeg for item in held_out(IMAGES)]
    labels: list[Counter[str]] = [Counter() for _ in pictures]
    errors: Counter[str] = Counter()
    with NapuClient("packet:eth0", timeout=Timeout(request=60.0, control=60.0)) as napu:
        began, before = time.monotonic(), napu.stats()["hardware"]
        items = (pictures[index % len(pictures)] for index in range(count))
        answers = napu.infer_many(PIPELINE, items, options=InferOptions(once=True), return_errors=True)
        for index, answer in enumerate(answers):
            if isinstance(answer, Inference):
                labels[index % len(pictures)][str(answer.label)] += 1
            else:
                errors[str(answer)] += 1
        seconds, after = time.monotonic() - began, napu.stats()["hardware"]
    return {
        "labels": labels,
        "errors": errors,
        "seconds": seconds,
        "executed": after["inferences"] - before["inferences"],
    }


# ---- outside ---------------------------------------------------------------------------------------------------------


def asked(lab: Lab, count: int) -> dict[str, Any]:
    """Have pictures inferred from the host of a lab."""
    command = [sys.executable, "-m", "tests.system.faulty_lab", "--as-host", str(count)]
    bound = 60 + count / PER_SECOND
    environment = {**os.environ, INSIDE: lab.name}
    done = subprocess.run(
        lab.inside("host", command), capture_output=True, text=True, timeout=bound, check=False, env=environment
    )
    if done.returncode:
        raise RuntimeError(f"the host ended with {done.returncode}\n{done.stderr}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@contextlib.contextmanager
def captured(lab: Lab, file: Path) -> Iterator[dict[str, Any]]:
    """Capture at the host's link until the end of the block; what the capture says of itself is there then."""
    command = [*_NAPU, "capture", str(file), "--lab", lab.name, "--at", "host", "--json"]
    report: dict[str, Any] = {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr
            line = process.stderr.readline()  # that it has begun
            if "capturing at" not in line:
                raise RuntimeError(f"no capture: {line}{process.stderr.read()}")
            yield report
            time.sleep(1.0)
        finally:
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=120)
    report |= json.loads(output)


def napu(*arguments: str, bound: float) -> dict[str, Any]:
    """Run a command, whatever its status; return the JSON that it prints."""
    done = subprocess.run([*_NAPU, *arguments, "--json"], capture_output=True, text=True, timeout=bound, check=False)
    if not done.stdout:
        raise RuntimeError(f"napu {' '.join(arguments)}: status {done.returncode}\n{done.stderr}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def infer(name: str, requests: int, seed: int, file: Path) -> Iterator[Check]:
    """Bring a lab up, infer over its clean cable and then, captured, over the damaged one."""
    with Lab.up(with_node_commands(make_topology(name, 1, 1500, "auto", "napu-s", ("", "", seed)))) as lab:
        clean = asked(lab, IMAGES)
        lab.faults(NODE, FAULTS, FAULTS)
        with captured(lab, file) as report:
            said = asked(lab, requests)
        lab.faults(NODE, "", "")
    answered = sum(sum(labels.values()) for labels in said["labels"])
    right = sum(labels.get(next(iter(truth)), 0) for labels, truth in zip(said["labels"], clean["labels"], strict=True))
    yield Check("answered over the clean cable", IMAGES, sum(sum(labels.values()) for labels in clean["labels"]))
    yield Check("answered", requests, answered)
    yield Check("answered as over the clean cable", requests, right)
    yield Check("errors", {}, said["errors"])
    yield Check("executed by the node", requests, said["executed"])
    yield Check("frames that the capture lost", 0, report["dropped"])
    yield Check("seconds", *[round(said["seconds"], 1)] * 2)


def explain(file: Path, requests: int) -> Iterator[Check]:
    """Have every request of a capture explained."""
    totals = napu("explain", str(file), bound=60 + requests / PER_SECOND)["totals"]
    inferred = totals["inferences"]
    yield Check("INFERs in the capture that were answered", requests, inferred["answered"])
    yield Check("INFERs in the capture with another end", 0, sum(inferred.values()) - inferred["answered"])
    again = totals["sent_again"]
    for cause, count in again.items():
        if cause != "unexplained":
            yield Check(f"sent again: {cause}", count, count)
    yield Check("sent again for no reason that the capture shows", 0, again["unexplained"])


def replay(file: Path, requests: int) -> Iterator[Check]:
    """Replay a capture twice."""
    digests, replies, answers = [], [], []
    for turn in (1, 2):
        out = file.with_suffix(f".replies-{turn}.pcap")
        began = time.monotonic()
        done = napu("replay", str(file), "--virtual", "--out", str(out), bound=60 + requests / PER_SECOND)
        yield Check(f"replay {turn}, seconds", *[round(time.monotonic() - began, 1)] * 2)
        digests.append(done["digest"])
        replies.append(hashlib.sha256(out.read_bytes()).hexdigest())
        answers.append(done["answers"])
    yield Check("second replay, digest", digests[0], digests[1])
    yield Check("second replay, file of replies", replies[0], replies[1])
    for name in ("different", "missing", "extra"):
        yield Check(f"answers {name} in the replay", 0, answers[0][name])


def run(requests: int, seed: int, file: Path, *, replays: bool) -> Iterator[Check]:
    """Do all of it, and yield what was held against it.

    Args:
        requests: Over the damaged cable.
        seed: Of the damage.
        file: Of the capture.
        replays: Whether it is replayed.
    """
    yield from infer(f"faulty-{os.getpid()}", requests, seed, file)
    yield from explain(file, requests)
    if replays:
        yield from replay(file, requests)


def main() -> None:
    """Run, print the table, and say by the exit status whether all held."""
    parser = argparse.ArgumentParser(prog="python -m tests.system.faulty_lab", description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1, help="of the damage")
    parser.add_argument("--replay", action="store_true", help="replay the capture twice, too")
    parser.add_argument("--capture", type=Path, help="keep the capture here, and the replies beside it")
    parser.add_argument("--as-host", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.as_host is not None:
        sys.stdout.write(json.dumps(ask(options.as_host)))
        return
    failed = 0
    with tempfile.TemporaryDirectory() as directory:
        file = options.capture or Path(directory) / "faulty.pcapng"
        for check in run(options.requests, options.seed, file, replays=options.replay):
            failed += not check.held
            wrong = "" if check.held else f"   EXPECTED {check.expected}"
            sys.stdout.write(f"{check.name:<60} {check.found!s:>12}{wrong}\n")
            sys.stdout.flush()
    sys.stdout.write(f"{'all held' if not failed else f'{failed} did not hold'}\n")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
