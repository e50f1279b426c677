"""The load on an appliance: a process beside it that sends INFER requests in batches and never waits.

``python -m host_sdk.bench.load LINK PIPELINE [TARGET]``: says that it is ready in one line of JSON, then answers each
line of JSON on standard input with one on standard output:

- ``{"op": "check", "inputs": FILE, "expected": [hex, …]}``: asks for each input alone, then for several at once, and
  compares; answers ``checked``.
- ``{"op": "load", …}``: the fields of :class:`host_sdk.bench.system.Load`; answers those of a sample.
"""

import json
import sys
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from host_sdk.bench.arrivals import poisson_arrivals
from host_sdk.bench.histogram import LatencyHistogram
from host_sdk.bench.loops import Answered, Clock, closed_loop, open_loop
from host_sdk.bench.prepared import PreparedWindow
from host_sdk.client import NapuClient
from host_sdk.engine import Engine
from host_sdk.wire.errors import DeviceError, NapuError
from host_sdk.wire.exchange.answers import Answers
from host_sdk.wire.header import Header
from host_sdk.wire.links.auto import open_link
from host_sdk.wire.schema import Flag, Opcode

_TIMEOUT_NS = 5_000_000_000
_TOGETHER = 8  # requests of a check that are outstanding at once
_RING = 4096  # requests that are told apart; a power of two, more than are ever outstanding
_FIRST_TOKEN = 1 << 32  # below are those of the engine's own requests


class Sender:
    """An engine, an appliance and a pipeline; gives tokens that were never used before.

    Args:
        engine: Joined to the link; its owner closes it.
        peer: The appliance.
        pipeline: Handle of the pipeline.
    """

    def __init__(self, engine: Engine, peer: int, pipeline: int) -> None:
        self.engine, self._peer, self._pipeline = engine, peer, pipeline
        self._token = _FIRST_TOKEN

    def submit(self, bodies: NDArray[np.uint8], flags: int) -> NDArray[np.int64]:
        """Queue a request for each body, uint8 [n, size], and return their tokens, int64 [n]."""
        tokens = np.arange(self._token, self._token + len(bodies))
        self._token += len(bodies)
        header = Header(Opcode.INFER, 0, flags, pipeline=self._pipeline)
        self.engine.infer(self._peer, header, bodies, tokens, _TIMEOUT_NS)
        return tokens

    def prepared(self, body: bytes, flags: int, clock: Clock) -> PreparedWindow:
        """Return a window of requests that were serialised before."""
        header = Header(Opcode.INFER, 0, flags, pipeline=self._pipeline)
        return PreparedWindow(self.engine.link, self._peer, header, body, clock)

    def turn(self) -> list[Answers]:
        """Send and receive what there is, without waiting; return what has become of requests."""
        self.engine.flush()
        self.engine.drain()
        return [event for event in self.engine.events() if isinstance(event, Answers)]


class EngineWindow:
    """Requests with one body, outstanding at one appliance.

    Args:
        sender: What they are sent by.
        body: What each carries.
        flags: Of each.
        clock: Gives the time in ns.

    Attributes:
        outstanding: Requests that have come to no end.
        room: Requests that may be outstanding.
        lost: Requests that failed, for whatever reason.
        sent_again: Requests that had to be sent more than once.
    """

    def __init__(self, sender: Sender, body: bytes, flags: int, clock: Clock) -> None:
        self._sender, self._flags, self._clock = sender, flags, clock
        self.room = sender.engine.requester.limits.window
        self._bodies = np.tile(np.frombuffer(body, np.uint8), (self.room, 1))
        self._due = np.zeros(_RING, np.int64)
        self._tokens = np.zeros(_RING, np.int64)  # outstanding in each place; 0 is none
        self.outstanding = self.lost = self.sent_again = 0

    def submit(self, due_ns: NDArray[np.int64]) -> None:
        """Send requests; see the protocol."""
        tokens = self._sender.submit(self._bodies[: len(due_ns)], self._flags)
        places = tokens % _RING
        self._due[places], self._tokens[places] = due_ns, tokens
        self.outstanding += len(due_ns)
        self._sender.engine.flush()

    def receive(self) -> Answered | None:
        """Take answers; see the protocol."""
        events = self._sender.turn()
        if not events:
            return None
        now = self._clock()
        good = [self._take(answers) for answers in events]
        return Answered(np.concatenate(good), now)

    def _take(self, answers: Answers) -> NDArray[np.int64]:
        """Return when those of the requests that were answered well were due."""
        places = answers.tokens % _RING
        self.outstanding -= len(answers)
        self._tokens[places] = 0
        self.sent_again += int(np.count_nonzero(answers.transmissions > 1))
        if answers.error:
            self.lost += len(answers)
            return np.empty(0, np.int64)
        return self._due[places]

    def abandon(self) -> None:
        """Give up what is outstanding, as lost."""
        for token in self._tokens[self._tokens > 0].tolist():
            self._sender.engine.cancel(token)
        self.lost += self.outstanding
        self.outstanding = 0
        self._sender.engine.flush()


class Generator:
    """Checks an appliance and puts loads on it.

    Args:
        sender: To the appliance and the pipeline.
        clock: Gives the time in ns.
    """

    def __init__(self, sender: Sender, clock: Clock) -> None:
        self._sender, self._clock = sender, clock
        self._body = b""

    def check(self, inputs: NDArray[np.generic], expected: list[bytes]) -> int:
        """Compare the answers to inputs, asked one by one and several at once; the first is what loads will send.

        Returns:
            How many inputs there are.

        Raises:
            DeviceError: An answer is not what was expected, or none comes.
        """
        bodies = np.ascontiguousarray(inputs).view(np.uint8).reshape(len(inputs), -1)
        for together in (1, _TOGETHER):
            for begin in range(0, len(bodies), together):
                answers = self._ask(bodies[begin : begin + together])
                if answers != expected[begin : begin + together]:
                    raise DeviceError(
                        f"the answers to inputs from {begin} on, {together} at once, are not those in process"
                    )
        self._body = bodies[0].tobytes()
        return len(expected)

    def _ask(self, bodies: NDArray[np.uint8]) -> list[bytes]:
        """Return the answers to requests that are outstanding at once."""
        tokens = self._sender.submit(bodies, Flag.ONCE | Flag.CRC)
        found: dict[int, bytes] = {}
        end = self._clock() + 2 * _TIMEOUT_NS
        while len(found) < len(bodies) and self._clock() < end:
            for answers in self._sender.turn():
                if answers.error:
                    raise DeviceError(f"a request failed: {answers.error}") from answers.error
                found.update((token, row.tobytes()) for token, row in zip(answers.tokens, answers.bodies, strict=True))
        return [found.get(token, b"") for token in tokens]

    def _window(self, flags: int) -> "PreparedWindow | EngineWindow":
        """Return a window of requests that were serialised before; where each has a CRC of its own, of the SDK's."""
        if flags & Flag.CRC or not flags & Flag.ONCE:
            return EngineWindow(self._sender, self._body, flags, self._clock)
        return self._sender.prepared(self._body, flags, self._clock)

    def load(self, task: dict[str, Any]) -> dict[str, Any]:
        """Put the load that ``task`` describes on the appliance; return the fields of a sample."""
        window = self._window(task["flags"])
        start = self._clock()
        begin = start + int(task["warmup_s"] * 1e9)
        end = begin + int(task["seconds"] * 1e9)
        if task["mode"] == "closed":
            answered = closed_loop(window, min(task["concurrency"], window.room), end, self._clock)
        else:
            arrivals = poisson_arrivals(task["rate_per_s"], task["warmup_s"] + task["seconds"], task["seed"])
            answered = open_loop(window, arrivals + start, self._clock)
        if isinstance(window, PreparedWindow):
            window.close()
        counts = {"lost": window.lost, "sent_again": window.sent_again}
        return {**summarise(answered, begin, end, by_due=task["mode"] == "open"), **counts}


def summarise(answered: list[Answered], begin_ns: int, end_ns: int, *, by_due: bool) -> dict[str, Any]:
    """Return rate and latencies of what happened between two times.

    Args:
        answered: What was answered.
        begin_ns: Beginning of the time.
        end_ns: Its end.
        by_due: Count the requests that were due then, not those whose answers came then.
    """
    due = np.concatenate([np.empty(0, np.int64), *(each.due_ns for each in answered)])
    came = np.repeat([each.now_ns for each in answered], [len(each.due_ns) for each in answered]).astype(np.int64)
    when = due if by_due else came
    counted = (when >= begin_ns) & (when < end_ns)
    histogram = LatencyHistogram()
    histogram.add((came - due)[counted])
    quantiles = histogram.quantiles()
    return {
        "inferences_per_s": len(histogram) * 1e9 / (end_ns - begin_ns),
        "quantiles_us": [quantiles.p50_us, quantiles.p99_us, quantiles.p999_us],
        "requests": len(histogram),
    }


def _answer(generator: Generator, task: dict[str, Any]) -> dict[str, Any]:
    try:
        if task["op"] == "load":
            return generator.load(task)
        expected = [bytes.fromhex(output) for output in task["expected"]]
        return {"checked": generator.check(np.load(task["inputs"]), expected)}
    except NapuError as error:
        return {"error": str(error)}


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def _find(spec: str, targets: list[str], pipeline: str) -> tuple[str, int]:
    """Return the address of the appliance and the handle of its pipeline.

    Raises:
        NapuError: There is none, or it has no such pipeline.
    """
    with NapuClient(spec, targets) as client:
        found = targets or [appliance.address for appliance in client.discover()]
        if not found:
            raise DeviceError("no appliance answered the broadcast")
        for known in client.pipelines(found[0]):
            if known.name == pipeline:
                return found[0], known.handle
    raise DeviceError(f"appliance {found[0]} has no pipeline {pipeline}")


def main() -> None:
    """Find the appliance and its pipeline, then serve line after line until there are no more."""
    spec, pipeline, *targets = sys.argv[1:]
    try:
        target, handle = _find(spec, targets, pipeline)
        engine = Engine(open_link(spec).link, now=time.perf_counter_ns)
    except NapuError as error:
        _say({"error": str(error)})
        return
    try:
        generator = Generator(Sender(engine, engine.link.parse_address(target), handle), time.perf_counter_ns)
        _say({"link": engine.link.kind, "appliance": target})
        for line in sys.stdin:
            _say(_answer(generator, json.loads(line)))
    finally:
        engine.close()


if __name__ == "__main__":
    main()
