"""The limit: the model in this process and nothing around it.

``python inprocess.py MODEL``: one JSON object for each line on standard input, answered by one in a line on standard
output. It says first what the model takes and gives; then

- ``{"op": "outputs", "inputs": FILE}`` (.npy, [n, *shape]) answers ``{"outputs": [hex, …]}``, each run alone;
- ``{"op": "run", "batch": N, "seconds": S}`` answers how many inferences were run, in how many ns.
"""

import json
import sys
import time
from typing import Any

import numpy as np
from batched_model import BatchedModel

MAX_BATCH = 32
_TURN = 16  # invocations between two looks at the clock


def run(model: BatchedModel, batch: int, seconds: float) -> dict[str, Any]:
    """Run the model for a time, and give inferences, ns, and p50, p99 and p999 of an invocation in ns.

    A quarter of the time goes to invocations that are timed one by one, the rest to those that are counted.
    """
    shape, dtype = model.input["shape"][1:], model.input["dtype"]
    inputs = np.random.default_rng(0).integers(0, 100, (batch, *shape)).astype(dtype)
    times: list[int] = []
    last = time.perf_counter_ns()
    begin = last + int(seconds * 0.25e9)
    while last < begin:
        model.invoke(inputs)
        now = time.perf_counter_ns()
        times.append(now - last)
        last = now
    turns, begin = 0, last
    while last < begin + int(seconds * 0.75e9):
        for _ in range(_TURN):
            model.invoke(inputs)
        turns += 1
        last = time.perf_counter_ns()
    quantiles = np.percentile(times, (50, 99, 99.9)).tolist()
    return {"inferences": turns * _TURN * batch, "elapsed_ns": last - begin, "quantiles_ns": quantiles}


def describe(model: BatchedModel) -> dict[str, Any]:
    """Return shapes, element types and quantisation of input and output."""
    tensors = {"input": model.input, "output": model.output}
    return {
        name: {
            "shape": [int(size) for size in details["shape"][1:]],
            "dtype": np.dtype(details["dtype"]).name,
            "quantisation": [float(details["quantization"][0]), int(details["quantization"][1])],
        }
        for name, details in tensors.items()
    } | {"max_batch": model.max_batch}


def answer(model: BatchedModel, asked: dict[str, Any]) -> dict[str, Any]:
    """Do what is asked."""
    if asked["op"] == "run":
        return run(model, int(asked["batch"]), float(asked["seconds"]))
    inputs = np.load(asked["inputs"])
    return {"outputs": [model.invoke(inputs[index : index + 1]).tobytes().hex() for index in range(len(inputs))]}


def main() -> None:
    """Serve one line after the other until there are no more."""
    model = BatchedModel(sys.argv[1], MAX_BATCH)
    sys.stdout.write(json.dumps(describe(model)) + "\n")
    sys.stdout.flush()
    for line in sys.stdin:
        sys.stdout.write(json.dumps(answer(model, json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
